// Every page, in both languages and both themes, wide and on a phone: a screenshot, no error, nothing that axe finds
// serious, nothing that overflows.
//   SLIPWAY_URL, SLIPWAY_NAME, SLIPWAY_PASSWORD, SLIPWAY_SHOTS; with words, only pages whose name holds one of them.
//   SLIPWAY_LOOKS: only these, as in "en-light zh-dark phone".

import { mkdir } from 'node:fs/promises'
import { AxeBuilder } from '@axe-core/playwright'
import { LANGUAGES, launch, settled, signIn, THEMES, visitor } from './browser.mjs'

const {
  SLIPWAY_URL: url,
  SLIPWAY_NAME: name,
  SLIPWAY_PASSWORD: password,
  SLIPWAY_SHOTS: folder,
} = process.env
const words = process.argv.slice(2)
const pairs = LANGUAGES.flatMap((language) => THEMES.map((theme) => ({ language, theme })))
const looks = (process.env.SLIPWAY_LOOKS ?? 'en-light en-dark zh-light zh-dark phone').split(' ')
const faults = []

/** The pages: a name, an address, and what is to be done there before one looks. */
async function pages(page) {
  const get = async (path) => (await page.request.get(`${url}${path}`)).json()
  const first = async (path) => (await get(path)).items[0]
  const machine = await first('/api/v1/machines?state=allocated&limit=1')
  const free = await first('/api/v1/machines?state=available&limit=1')
  const site = await first('/api/v1/sites?limit=1')
  const instance = await first('/api/v1/instances?state=running&limit=1')
  const job = await first('/api/v1/jobs?state=done&limit=1')
  const user = await first('/api/v1/users?limit=1')
  const press = (text) => async (at) => at.getByRole('button', { name: text, exact: true }).first().click()
  const tab = (index) => async (at) => at.getByRole('tab').nth(index).click()
  return [
    ['overview', '/'],
    ['welcome', '/welcome'],
    ['sites', '/sites'],
    ['site', `/sites/${site.id}`],
    ['site-settings', `/sites/${site.id}`, press(/^(Settings|设置)$/)],
    ['site-new', '/sites', press(/Add site|添加站点/)],
    ['machines', '/machines'],
    ['machines-narrowed', '/machines?state=retired'],
    ['machine', `/machines/${machine.id}`],
    ['machine-free', `/machines/${free.id}`],
    ['machine-events', `/machines/${machine.id}`, tab(1)],
    ['machine-order', `/machines/${machine.id}`, tab(2)],
    ['machine-new', '/machines', press(/Add machine|添加机器/)],
    ['discovered', '/discovered'],
    ['machine-types', '/machine-types'],
    ['machine-type-new', '/machine-types', press(/Add machine type|添加机型/)],
    ['stock', '/stock'],
    ['images', '/images'],
    ['image-new', '/images', press(/Upload image|上传镜像/)],
    ['instances', '/instances'],
    ['instances-chosen', '/instances', (at) => at.locator('tbody input[type=checkbox]').first().check()],
    ['instance', `/instances/${instance.id}`],
    ['instance-reinstall', `/instances/${instance.id}`, press(/Reinstall|重装/)],
    ['instance-release', `/instances/${instance.id}`, press(/Release|释放/)],
    ['instance-new', '/instances/new'],
    ['jobs', '/jobs'],
    ['job', `/jobs/${job.id}`],
    ['job-log', `/jobs/${job.id}`, tab(1)],
    ['job-order', `/jobs/${job.id}`, tab(3)],
    ['projects', '/projects'],
    ['project', '/projects/default'],
    ['users', '/users'],
    ['user', `/users/${user.id}`],
    ['roles', '/roles'],
    ['role-new', '/roles', press(/Add role|添加角色/)],
    ['audit', '/audit'],
    ['events', '/events'],
    ['alerts', '/alerts'],
    ['alert-new', '/alerts', press(/Add rule|添加规则/)],
    ['webhooks', '/webhooks'],
    ['signing-keys', '/signing-keys'],
    ['account', '/account'],
    ['missing', '/no-such-page'],
    ['machine-missing', '/machines/no-such-machine'],
  ].filter(([name]) => words.length === 0 || words.some((word) => name.includes(word)))
}

/** What of a page is wider than the window, which makes all of it scroll sideways. */
const overflow = (page) =>
  page.evaluate(() => {
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth
    return wide > 1 ? wide : 0
  })

async function judge(page, label) {
  const wide = await overflow(page)
  if (wide > 0) faults.push(`${label}: the page is ${wide} px wider than the window`)
  const found = await new AxeBuilder({ page })
    .withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'])
    .analyze()
  for (const one of found.violations) {
    if (!['serious', 'critical'].includes(one.impact)) continue
    const nodes = one.nodes
      .slice(0, 3)
      .map((node) => `${node.target.join(' ')} ${node.any[0]?.message ?? ''}`)
    faults.push(`${label}: axe ${one.id} (${one.nodes.length}): ${nodes.join(' ; ')}`)
  }
}

async function look(page, [name, path, act], folder) {
  await page.goto(path)
  await settled(page)
  if (act) await act(page)
  await page.waitForTimeout(act ? 350 : 120) // what is opened moves into its place
  await page.screenshot({ path: `${folder}/${name}.png` })
}

/** Looks at every page as one visitor sees it; on the phone only at those that need nothing to be pressed. */
async function walk(page, how) {
  const own = `${folder}/${how}`
  await mkdir(own, { recursive: true })
  await look(page, ['login', '/login'], own)
  await judge(page, `${how} login`)
  await signIn(page, name, password)
  for (const one of await pages(page)) {
    if (how === 'phone' && one[2]) continue
    try {
      await look(page, one, own)
      await judge(page, `${how} ${one[0]}`)
    } catch (error) {
      faults.push(`${how} ${one[0]}: ${error.message.split('\n')[0]}`)
    }
  }
  faults.push(...page.faults.map((fault) => `${how} ${fault}`))
  await page.context().close()
}

/** A refusal is an answer, not a fault, where a page that is not there is asked for. */
const tolerate = (fault) => /status of 404/.test(fault)

const browser = await launch()
try {
  for (const { language, theme } of pairs) {
    const how = `${language}-${theme}`
    if (!looks.includes(how)) continue
    await walk(await visitor(browser, url, { language, theme, tolerate }), how)
  }
  if (looks.includes('phone')) {
    await walk(await visitor(browser, url, { width: 390, height: 844, tolerate }), 'phone')
  }
} finally {
  await browser.close()
}
process.stdout.write([...faults, `${faults.length} faults`].join('\n') + '\n')
process.exitCode = faults.length > 0 ? 1 : 0
