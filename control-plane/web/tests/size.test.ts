import { existsSync, readFileSync, statSync } from 'node:fs'
import { describe, expect, it } from 'vitest'

/** What may be loaded before the first page is seen, compressed. */
const MOST_BYTES = 300 * 1000

/** A script and everything it needs at once. */
function needed(file: string, found = new Set<string>()): Set<string> {
  if (found.has(file)) return found
  found.add(file)
  const text = readFileSync(`dist/assets/${file}`, 'utf8')
  for (const [, other] of text.matchAll(/(?:from|import)\s*"\.\/([\w.-]+\.js)"/g)) needed(other ?? '', found)
  return found
}

describe('the build', () => {
  it('asks for little before the first page is seen', () => {
    expect(existsSync('dist/index.html'), 'run `npm run build`').toBe(true)
    const page = readFileSync('dist/index.html', 'utf8')
    const entry = /src="\/assets\/([\w.-]+\.js)"/.exec(page)?.[1] ?? ''
    const scripts = needed(entry)
    const bytes = [...scripts].reduce((sum, file) => sum + statSync(`dist/assets/${file}.gz`).size, 0)
    expect(bytes).toBeGreaterThan(50_000)
    expect(bytes).toBeLessThan(MOST_BYTES)
  })

  it('asks nobody else', () => {
    const page = readFileSync('dist/index.html', 'utf8')
    expect(page).not.toMatch(/https?:\/\//)
    expect(page).not.toMatch(/<script>|onload=|style=/)
  })
})
