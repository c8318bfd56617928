// How the list of machines does when there are very many: until it can be used, and while it is scrolled. Figures only.

import { check, launch, settled, signIn, visitor } from './browser.mjs'

const { SLIPWAY_URL: url, SLIPWAY_NAME: name, SLIPWAY_PASSWORD: password } = process.env
const SCROLLS = 20
const browser = await launch()
const page = await visitor(browser, url)
const tell = (what, ms) => process.stdout.write(`${what.padEnd(44)}${ms.toFixed(0).padStart(7)} ms\n`)

async function timed(act) {
  const begun = performance.now()
  await act()
  return performance.now() - begun
}
const rows = () => page.locator('tbody tr:not([aria-hidden])')

try {
  await signIn(page, name, password)
  await settled(page)
  const cold = await timed(async () => {
    await page.goto('/machines')
    await rows().nth(10).waitFor()
    await page.getByRole('searchbox', { name: 'Filter' }).fill('')
  })
  tell('machines, loaded anew, until it can be used', cold)
  await page.locator('nav').getByRole('link', { name: 'Jobs' }).click()
  await rows().nth(10).waitFor()
  const warm = await timed(async () => {
    await page.locator('nav').getByRole('link', { name: 'Machines', exact: true }).click()
    await rows().nth(10).waitFor()
  })
  tell('machines, from another page', warm)
  const filtered = await timed(async () => {
    await page.getByRole('searchbox', { name: 'Filter' }).fill('m-1050000')
    await page.waitForURL('**q=m-1050000')
    await page.getByText('1 shown').waitFor()
  })
  tell('filtered by a name, typing pause included', filtered)
  await page.goto('/machines')
  await rows().nth(10).waitFor()
  const times = []
  for (let count = 0; count < SCROLLS; count += 1) {
    const before = await page.locator('table').getAttribute('aria-rowcount')
    times.push(
      await timed(async () => {
        await page.locator('.box').evaluate((box) => (box.scrollTop = box.scrollHeight))
        await page.waitForFunction((was) => document.querySelector('table').ariaRowCount !== was, before)
      }),
    )
  }
  times.sort((a, b) => a - b)
  tell(`scrolled to the end ${SCROLLS} times, median`, times[SCROLLS / 2])
  tell('slowest of them', times.at(-1))
  check((await rows().count()) < 120, 'all rows are in the document')
  process.stdout.write(
    `${await page.locator('table').getAttribute('aria-rowcount')} rows loaded, ${await rows().count()} in the document\n`,
  )
  check(page.faults.length === 0, page.faults.join('\n'))
} catch (error) {
  process.stdout.write(`${error.stack}\n${page.faults.join('\n')}\n`)
  process.exitCode = 1
} finally {
  await browser.close()
}
