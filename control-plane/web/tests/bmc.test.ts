import { describe, expect, it } from 'vitest'
import { asks, maker } from '@/lib/bmc'

const bmc = { driver: 'ipmi', address: '192.0.2.101:623', username: 'admin' }
const seen = { power: 'on' as const, seen_at: '2026-11-22T00:00:00Z' }

describe('what may be asked of a BMC', () => {
  it('is all of a machine that nobody holds', () => {
    expect(asks({ state: 'available', live_job: null, bmc })).toEqual(['read', 'on', 'off', 'restart'])
    expect(asks({ state: 'quarantined', live_job: null, bmc })).toContain('off')
  })

  it('is a read alone of an instance’s machine', () => {
    expect(asks({ state: 'allocated', live_job: null, bmc })).toEqual(['read'])
  })

  it('is nothing where it would be refused', () => {
    expect(asks({ state: 'available', live_job: 'j', bmc })).toEqual([])
    expect(asks({ state: 'available', live_job: null, bmc: null })).toEqual([])
    expect(asks({ state: 'retired', live_job: null, bmc })).toEqual([])
  })
})

describe('the maker of a BMC', () => {
  it('has a name if it is a known one', () => {
    expect(maker({ ...seen, manufacturer: 674, product: 256 })).toBe('Dell (256)')
    expect(maker({ ...seen, manufacturer: 99999 })).toBe('IANA 99999')
    expect(maker(seen)).toBeUndefined()
    expect(maker(null)).toBeUndefined()
  })
})
