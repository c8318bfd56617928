import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import type { Permission } from '@/api/client'
import { MOVES, movesFrom, PLACES, WAYS } from '@/lib/life'
import { groupsOf } from '@/nav'
import { concerns } from '@/stores/live'
import { allows } from '@/stores/session'

const tenant = [{ scope: 'project:shop', permissions: ['instances.read', 'instances.write'] as Permission[] }]

describe('rights', () => {
  it('hold where they were given', () => {
    expect(allows(tenant, 'instances.write', { project: 'shop' })).toBe(true)
    expect(allows(tenant, 'instances.write', { project: 'other' })).toBe(false)
    expect(allows(tenant, 'instances.write')).toBe(true)
    expect(allows(tenant, 'machines.read')).toBe(false)
    expect(allows([{ scope: 'global', permissions: ['sites.write'] }], 'sites.write', { site: 'bj-1' })).toBe(
      true,
    )
    expect(
      allows([{ scope: 'site:bj-1', permissions: ['sites.write'] }], 'sites.write', { site: 'sh-1' }),
    ).toBe(false)
  })

  it('shape the navigation: no group without a page', () => {
    const names = (face: 'operations' | 'console', permissions: Permission[]) =>
      groupsOf(face, (permission) => permissions.includes(permission)).flatMap((group) =>
        group.pages.map((page) => page.name),
      )
    expect(names('console', ['instances.read'])).toEqual(['instances'])
    expect(names('operations', ['machines.read', 'audit.read'])).toEqual([
      'machines',
      'discovered',
      'machineTypes',
      'stock',
      'audit',
    ])
    expect(groupsOf('operations', () => false)).toEqual([])
  })
})

describe('a machine’s life', () => {
  /** The control plane’s own table. */
  const table =
    readFileSync('../src/workflow/state.rs', 'utf8').split('MACHINE_MOVES')[1]?.split('];')[0] ?? ''
  const rows = [...table.matchAll(/\(M::(\w+), E::(\w+), M::(\w+)\)/g)].map(([, from, by, to]) => [
    from,
    by,
    to,
  ])
  const word: Record<string, string> = {
    Shelve: 'shelve',
    Unshelve: 'unshelve',
    Maintain: 'maintenance',
    Quarantine: 'quarantine',
    Return: 'return',
    Retire: 'retire',
  }

  it('is drawn as the control plane has it', () => {
    expect(rows.length).toBeGreaterThan(20)
    const theirs = rows
      .filter(([from, , to]) => from !== to)
      .map(([from, by, to]) => `${from?.toLowerCase()} ${word[by ?? ''] ?? 'work'} ${to?.toLowerCase()}`)
    expect(new Set(WAYS.map((way) => way.join(' ')))).toEqual(new Set(theirs))
    for (const [from, , to] of WAYS) expect([from, to].every((state) => state in PLACES)).toBe(true)
  })

  it('offers what may be done by hand', () => {
    expect(movesFrom('available')).toEqual(['shelve', 'maintenance', 'quarantine', 'retire'])
    expect(movesFrom('allocated')).toEqual(['quarantine'])
    expect(movesFrom('retired')).toEqual([])
    expect(MOVES.every((move) => WAYS.some(([, by]) => by === move))).toBe(true)
  })
})

describe('events', () => {
  it('make old what they are about', () => {
    expect(concerns({ kind: 'job.failed' })).toContain('instance')
    expect(concerns({ kind: 'site.online' })).toContain('overview')
    expect(concerns({ kind: 'of.a.later.version' })).toEqual(['events', 'timeline'])
  })
})
