// A browser with its guards: an error on the console, a failed request or one to a stranger fails the test.

import { chromium } from 'playwright-core'

export const LANGUAGES = ['en', 'zh']
export const THEMES = ['light', 'dark']

/** Debian's own Chromium. As root it has no sandbox of its own; what it loads is ours alone. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.SLIPWAY_CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--force-color-profile=srgb'],
  })
}

/**
 * A page of a new browser profile at `url`, with what went wrong on it in `page.faults`.
 * `tolerate` may say of a fault that it belongs to the test, as when the control plane is killed.
 */
export async function visitor(
  browser,
  url,
  { language = 'en', theme = 'light', width = 1280, height = 720, tolerate = () => false } = {},
) {
  const context = await browser.newContext({ viewport: { width, height }, baseURL: url, colorScheme: theme })
  await context.addInitScript(
    ([words, tone]) => {
      // What the visitor chooses on a page stays chosen.
      if (!localStorage.getItem('slipway.language')) localStorage.setItem('slipway.language', words)
      if (!localStorage.getItem('slipway.theme')) localStorage.setItem('slipway.theme', tone)
    },
    [language, theme],
  )
  const page = await context.newPage()
  page.setDefaultTimeout(15_000)
  page.faults = []
  const note = (fault) => {
    if (!tolerate(fault)) page.faults.push(fault)
  }
  page.on('console', (message) => message.type() === 'error' && note(`console: ${message.text()}`))
  page.on('pageerror', (error) => note(`script: ${error.message}`))
  page.on('requestfailed', (request) => {
    const why = request.failure()?.errorText ?? ''
    // A page that is left gives up what it was waiting for.
    if (why !== 'net::ERR_ABORTED') note(`request: ${request.url()} ${why}`)
  })
  page.on('request', (request) => {
    const to = new URL(request.url())
    if (!['data:', 'blob:'].includes(to.protocol) && to.origin !== new URL(url).origin)
      note(`stranger: ${request.url()}`)
  })
  return page
}

export async function signIn(page, name, password) {
  await page.goto('/login')
  await page.locator('input[name=username]').fill(name)
  await page.locator('input[name=password]').fill(password)
  await page.keyboard.press('Enter')
  await page.locator('main#content').waitFor()
}

/** Waits until nothing on the page is being loaded. */
export async function settled(page) {
  await page.locator('h1').first().waitFor()
  await page.waitForFunction(() => !document.querySelector('.n-skeleton'))
  await page.evaluate(() => document.fonts.ready)
}

export function check(condition, what) {
  if (!condition) throw new Error(what)
}
