// The README's tour of the UI by the keyboard alone: nothing here touches a mouse.

import { check, launch, settled, visitor } from './browser.mjs'

const { SLIPWAY_URL: url, SLIPWAY_NAME: name, SLIPWAY_PASSWORD: password } = process.env
const MOST_TABS = 120
const browser = await launch()
const page = await visitor(browser, url, { tolerate: (fault) => /status of 401/.test(fault) })

/** What has the focus, as a reader hears it. */
const focused = () =>
  page.evaluate(() => {
    const at = document.activeElement
    return `${at?.getAttribute('aria-label') ?? ''} ${at?.textContent ?? ''} ${at?.getAttribute('placeholder') ?? ''}`.trim()
  })

/** Tabs on until the focus is on what says `words`; where it is must be seen. */
async function tabTo(words) {
  for (let tabs = 0; tabs < MOST_TABS; tabs += 1) {
    await page.keyboard.press('Tab')
    if (!(words instanceof RegExp ? words.test(await focused()) : (await focused()) === words)) continue
    const marked = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement)
      return (
        style.outlineStyle !== 'none' ||
        style.boxShadow !== 'none' ||
        !!document.activeElement.closest('.n-button')
      )
    })
    check(marked, `the focus on ${words} cannot be seen`)
    return
  }
  throw new Error(`${words} is not reached by ${MOST_TABS} tabs from ${page.url()}`)
}
const press = (key) => page.keyboard.press(key)

try {
  await page.goto('/login')
  await settled(page)
  await page.keyboard.type(name) // the name has the focus from the start
  await press('Tab')
  await page.keyboard.type(password)
  await press('Enter')
  await page.getByRole('heading', { name: 'Overview' }).waitFor()
  await page.locator('main table').waitFor()

  // A page that is opened anew begins with the way past the navigation.
  await page.goto('/')
  await page.locator('main table').waitFor()
  await press('Tab')
  check((await focused()) === 'Skip to the content', `the first stop is ${await focused()}`)
  await press('Enter')
  await tabTo(/^site-000$/)
  await press('Enter')
  await page.getByRole('heading', { name: 'site-000' }).waitFor()

  await press('/')
  await page.keyboard.type('m-001-00')
  await page.getByRole('option').first().waitFor()
  await press('ArrowDown')
  await press('ArrowUp')
  await press('Enter')
  await page.waitForURL('**/machines/**')
  await settled(page)
  check(/m-001-00/.test(await page.locator('h1').innerText()), 'the search led elsewhere')
  await tabTo(/^Boot/)
  await press('ArrowRight')

  await page.evaluate(() => document.querySelector('main').focus())
  await press('/')
  await press('Escape')
  await tabTo('Instances')
  await press('Enter')
  await page.waitForURL('**/instances')
  await page.locator('tbody tr').first().waitFor()
  await tabTo(/^Name$/)
  // The rows of before go with the answer, and the focus with a row that goes.
  const sorted = page.waitForResponse((answer) => /\/api\/v1\/instances\?.*sort=/.test(answer.url()))
  await press('Enter')
  await page.waitForURL('**/instances?sort=**')
  await sorted
  await settled(page)
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))))
  await tabTo(/^i-0000\d$/)
  await press('Enter')
  await page.waitForURL('**/instances/*-*')
  await settled(page)
  await tabTo(/^Release$/)
  await press('Enter')
  await page.getByRole('dialog').waitFor()
  await tabTo(/^$/) // the field of the name
  await page.keyboard.type('not its name')
  const going = page.getByRole('dialog').getByRole('button', { name: 'Release' })
  check(await going.isDisabled(), 'a wrong name lets go ahead')
  await press('Escape')
  await page.getByRole('dialog').waitFor({ state: 'detached' })
  check(page.faults.length === 0, page.faults.join('\n'))
  process.stdout.write('the tour was gone by the keyboard alone\n')
} catch (error) {
  process.stdout.write(`${error.stack}\n${page.faults.join('\n')}\n`)
  process.exitCode = 1
} finally {
  await browser.close()
}
