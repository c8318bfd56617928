import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { en } from '@/i18n/en'
import { zh } from '@/i18n/zh'

type Tree = { [key: string]: string | Tree }

/** Every text under its key, as `act.save`. */
function flat(tree: Tree, before = ''): Map<string, string> {
  const found = new Map<string, string>()
  for (const [key, value] of Object.entries(tree)) {
    if (typeof value === 'string') found.set(before + key, value)
    else for (const [below, text] of flat(value, `${before}${key}.`)) found.set(below, text)
  }
  return found
}

const sources = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((file) => /\.(vue|ts)$/.test(file) && !file.includes('i18n/') && !file.endsWith('.d.ts'))
  .map((file) => readFileSync(join('src', file), 'utf8'))
const english = flat(en)
const chinese = flat(zh)
const places = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort()

describe('texts', () => {
  it('are the same in every language', () => {
    expect([...chinese.keys()].sort()).toEqual([...english.keys()].sort())
  })

  it('are translated, but for names and units', () => {
    const same = [...english].filter(([key, text]) => chinese.get(key) === text && /[a-z]{3}/.test(text))
    const names = ['app.name', 'source.driver', 'nav.webhooks', 'instance.userData']
    expect(same.map(([key]) => key).filter((key) => !names.includes(key))).toEqual([])
  })

  it('have the same places for values', () => {
    for (const [key, text] of english) expect(places(chinese.get(key) ?? ''), key).toEqual(places(text))
  })

  it('are there for every key that a page names', () => {
    const named = sources.flatMap((source) =>
      [...source.matchAll(/\bte?\(\s*'([\w.-]+)'/g)].map(([, key]) => key ?? ''),
    )
    expect(named.length).toBeGreaterThan(300)
    expect(named.filter((key) => !english.has(key))).toEqual([])
  })

  it('are used', () => {
    const text = sources.join('\n')
    const groups = [...text.matchAll(/`([\w.]+\.)\$\{/g)].map(([, group]) => group ?? '')
    const unused = [...english.keys()].filter(
      (key) => !text.includes(key) && !groups.some((group) => key.startsWith(group)),
    )
    expect(unused).toEqual([])
  })

  it('are there for every group that a page puts a word behind', () => {
    const groups = sources.flatMap((source) =>
      [...source.matchAll(/\bt\(\s*`([\w.]+)\.\$\{/g)].map(([, key]) => `${key}.`),
    )
    expect(groups.length).toBeGreaterThan(15)
    const keys = [...english.keys()]
    expect(groups.filter((group) => !keys.some((key) => key.startsWith(group)))).toEqual([])
  })
})
