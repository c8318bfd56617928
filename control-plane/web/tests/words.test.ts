import { describe, expect, it } from 'vitest'
import { csv } from '@/lib/csv'
import { linkOf } from '@/lib/link'
import { diskSize, labels, lines, pace, size, span } from '@/lib/words'

describe('sizes and spans', () => {
  it('have three figures at most', () => {
    expect([0, 1023, 1024, 1536, 268435456, 1024 ** 4].map(size)).toEqual([
      '0 B',
      '1023 B',
      '1 KiB',
      '1.5 KiB',
      '256 MiB',
      '1 TiB',
    ])
    expect([480_103_981_056, 1_920_383_410_176, 1_048_576].map(diskSize)).toEqual([
      '480 GB',
      '1.92 TB',
      '1.05 MB',
    ])
  })

  it('go to the greater unit at its edge', () => {
    expect(span(59_400)).toEqual({ unit: 'seconds', n: 59 })
    expect(span(60_000)).toEqual({ unit: 'minutes', n: 1 })
    expect(span(3_599_000)).toEqual({ unit: 'minutes', n: 59 })
    expect(span(172_799_000)).toEqual({ unit: 'hours', n: 47 })
    expect(span(172_800_000)).toEqual({ unit: 'days', n: 2 })
    expect(span(-5)).toEqual({ unit: 'seconds', n: 0 })
  })

  it('tell rate and rest only when there is something to tell', () => {
    expect(pace(0, 100, 10_000)).toBeNull()
    expect(pace(50, 100, 100)).toBeNull()
    expect(pace(50, 150, 1000)).toEqual({ perSecond: 50, leftMs: 2000 })
  })
})

describe('forms', () => {
  it('take labels line by line, and refuse what is none', () => {
    expect(labels('rack=a1\n\n zone=x=y ')).toEqual({ rack: 'a1', zone: 'x=y' })
    expect(labels('rack')).toBeNull()
    expect(labels('=x')).toBeNull()
    expect(lines(' a \n\nb')).toEqual(['a', 'b'])
  })
})

describe('downloads', () => {
  it('quote what needs it, and let no cell be a formula', () => {
    expect(
      csv(
        ['a', 'b'],
        [
          ['x,y', '"q"'],
          ['=1+1', '-2'],
        ],
      ),
    ).toBe('a,b\r\n"x,y","""q"""\r\n\'=1+1,\'-2\r\n')
  })
})

describe('a link', () => {
  it('is what is worst about it', () => {
    expect(linkOf({ joined: true, online: true, revoked_at: 'x' })).toBe('revoked')
    expect(linkOf({ joined: false, online: false })).toBe('notJoined')
    expect(linkOf({ joined: true, online: false })).toBe('offline')
    expect(linkOf({ joined: true, online: true })).toBe('online')
  })
})
