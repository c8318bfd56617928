// From a new control plane to an instance that is given back, by the UI alone; then a tenant's eyes, and a control plane
// that is killed under open pages. The lab outside the browser is asked for by `wish:` lines.

import { mkdir } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { check, launch, signIn, visitor } from './browser.mjs'

const { SLIPWAY_URL: url, SLIPWAY_FACTS: facts, SLIPWAY_SHOTS: shots } = process.env
const { setup, password, network, server, image, machine } = JSON.parse(facts)
const LONG = 240_000
const begun = Date.now()

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
async function wish(line) {
  process.stdout.write(`wish: ${line}\n`)
  const { value } = await answers.next()
  check(value === 'granted', `no answer to ${line}`)
}
const tell = (text) => process.stdout.write(`${((Date.now() - begun) / 1000).toFixed(1)} s ${text}\n`)

let down = false
const browser = await launch()
await mkdir(`${shots}/story`, { recursive: true })
/** While the control plane is down, what fails fails for that; a page that is not signed in yet is told so. */
const tolerate = (fault) => down || /status of 401/.test(fault)
const page = await visitor(browser, url, { tolerate })
const shot = (name) => page.screenshot({ path: `${shots}/story/${name}.png`, fullPage: true })
const button = (name) => page.getByRole('button', { name, exact: true })
const state = (word, timeout) => page.locator(`main header [data-state=${word}]`).waitFor({ timeout })

async function setUp() {
  await page.goto('/')
  await page.waitForURL('**/setup')
  await page.getByLabel('Set-up token').fill(setup)
  await page.getByLabel('Name').fill('ann')
  await page.getByLabel('Password').fill(password)
  await shot('setup')
  await page.keyboard.press('Enter')
  await page.waitForURL('**/welcome')
  tell('set up')
}

async function firstSite() {
  const step = page.locator('[data-step=site]')
  await step.getByLabel('Name', { exact: true }).fill('bj-1')
  await step.getByLabel('Network', { exact: true }).fill(network)
  await step.getByLabel('Edge’s address').fill(server)
  await step.getByLabel('Discovery pool').fill('192.0.2.201-192.0.2.250')
  await shot('welcome')
  await step.getByRole('button', { name: 'Add site' }).click()
  await button('Make a join token').click()
  const told = await page.locator('[data-step=join] pre').innerText()
  await shot('token')
  await wish(`join ${told.trim()}`)
  await page.locator('[data-step=join] [data-state=online]').waitFor({ timeout: 60_000 })
  tell('the edge has joined; the page says online by itself')
}

async function firstImage() {
  await button('Upload image').click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('File').setInputFiles(image)
  await dialog.getByLabel('Name').fill('tiny')
  await dialog.getByRole('button', { name: 'Upload image' }).click()
  await dialog.waitFor({ state: 'detached', timeout: 60_000 })
  tell('the image is uploaded')
}

async function firstMachine() {
  await button('Add machine').click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Name', { exact: true }).fill(machine.name)
  await dialog.getByLabel('Site').selectOption('bj-1')
  await dialog.getByLabel('MAC addresses').fill(machine.mac)
  await dialog.getByLabel('Firmware').selectOption(machine.firmware)
  await dialog.getByLabel('BMC address').fill(machine.bmc)
  await dialog.getByLabel('BMC user').fill(machine.user)
  await dialog.getByLabel('BMC password').fill(machine.password)
  await shot('machine-new')
  await dialog.getByRole('button', { name: 'Add', exact: true }).click()
  await dialog.waitFor({ state: 'detached' })
  tell('the machine is added')
}

/** The wizard; then its install is watched on the instance's page, which is never loaded again. */
async function install() {
  await page.locator('[data-step=install]').getByRole('link', { name: 'New instance' }).click()
  await page.getByLabel('Name', { exact: true }).fill('first')
  await page.getByLabel('Project').selectOption('default')
  await page.getByLabel('Site').selectOption('bj-1')
  await button('Next').click()
  await page.getByLabel('Image').selectOption({ index: 0 })
  await button('Next').click()
  await button('Next').click()
  await shot('check')
  await button('Create').click()
  await page.waitForURL(/instances\/[0-9a-f-]{36}/)
  await state('installing', 30_000)
  const seen = new Set()
  const running = page.locator('[aria-live] li.running strong')
  const over = state('running', LONG).then(() => true)
  let done = false
  while (!done) {
    for (const step of await running.allInnerTexts()) seen.add(step)
    done = await Promise.race([over, page.waitForTimeout(200).then(() => false)])
  }
  await shot('installed')
  check(seen.size >= 4, `only these steps were seen under way: ${[...seen].join(', ')}`)
  tell(`installed; seen live: ${[...seen].join(', ')}`)
}

/** Work of this kind; what it is called on its button and on the page of the instance is the same. */
async function workOn(name, after, type) {
  await button(name).first().click()
  const dialog = page.getByRole('dialog')
  if (type) await dialog.getByLabel(/^Type /).fill(type)
  await dialog.getByRole('button', { name, exact: true }).click()
  const job = page.locator('[aria-live] .head').filter({ hasText: new RegExp(`^${name}`, 'i') })
  await job.locator('[data-state=done]').waitFor({ timeout: LONG })
  await state(after, 15_000)
  await shot(name.toLowerCase())
  tell(`${name.toLowerCase()}: ${after}`)
}

/** The control plane dies under the open page, and comes back: the page says so, and catches up by itself. */
async function outage() {
  down = true
  await wish('kill')
  await page.locator('[data-testid=link].reconnecting').waitFor({ timeout: 30_000 })
  await shot('reconnecting')
  await wish('start')
  await page.locator('[data-testid=link].live').waitFor({ timeout: 60_000 })
  down = false
  tell('reconnected after a kill')
}

/** Does something by the API as the administrator whose browser this is. */
async function call(method, path, body) {
  const { csrf } = await (await page.request.get(`${url}/api/v1/me`)).json()
  const headers = { 'x-csrf-token': csrf }
  const answer = await page.request.fetch(`${url}/api/v1/${path}`, { method, headers, data: body })
  check(answer.ok(), `${path}: ${await answer.text()}`)
  return answer.json()
}

/** A tenant of another project, in a browser of their own. */
async function tenant() {
  await call('POST', 'projects', { id: 'shop' })
  const user = await call('POST', 'users', { name: 'ines', password })
  await call('POST', `users/${user.id}/grants`, { role: 'member', scope: 'project:shop' })
  const foreign = await visitor(browser, url, { tolerate: (fault) => /status of (401|403|404)/.test(fault) })
  await signIn(foreign, 'ines', password)
  await foreign.waitForURL('**/projects')
  const links = await foreign.locator('nav a').allInnerTexts()
  check(links.join() === 'My projects,Instances,Jobs,Images,Events', `a tenant sees ${links.join()}`)
  await foreign.getByRole('link', { name: 'shop' }).waitFor()
  check((await foreign.locator('tbody tr').count()) === 1, 'a tenant sees the projects of others')
  await foreign.locator('nav').getByRole('link', { name: 'Instances' }).click()
  await foreign.getByText('No instance yet.').waitFor()
  await foreign.goto('/machines')
  await foreign.getByRole('heading', { name: 'You may not see this' }).waitFor()
  await foreign.screenshot({ path: `${shots}/story/tenant.png` })
  const direct = await foreign.request.get(`${url}/api/v1/machines`)
  check(direct.status() === 403, `the API gave a tenant machines: ${direct.status()}`)
  await foreign.goto(`/instances/${page.url().split('/').at(-1)}`)
  await foreign.getByRole('heading', { name: 'There is no such page' }).waitFor()
  check(foreign.faults.length === 0, foreign.faults.join('\n'))
  await foreign.context().close()
  tell('a tenant sees only what is theirs')
}

try {
  await setUp()
  await firstSite()
  await firstImage()
  await firstMachine()
  await install()
  await workOn('Restart', 'running')
  await outage()
  await workOn('Reinstall', 'running', 'first')
  await tenant()
  await workOn('Release', 'released', 'first')
  check(page.faults.length === 0, page.faults.join('\n'))
} catch (error) {
  await shot('failed').catch(() => {})
  process.stdout.write(`${error.stack}\n${page.faults.join('\n')}\n`)
  process.exitCode = 1
} finally {
  await browser.close()
  process.stdin.destroy()
}
