import { describe, expect, it } from 'vitest'
import { grown } from '@/lib/joblog'

describe('a log', () => {
  const gap = (bytes: number) => `[${bytes} missing]`
  const part = (text: string, missing = 0) => ({ text, missing, offset: 0, next: 0, ended: false })

  it('grows by its parts, and each gap is told where it is', () => {
    let log = grown('', part('one\n'), gap)
    log = grown(log, part('two\nthr'), gap)
    expect(log).toBe('one\ntwo\nthr')
    expect(grown(log, part('four\n', 7), gap)).toBe('one\ntwo\nthr\n[7 missing]\nfour\n')
    expect(grown('', part('late\n', 7), gap)).toBe('[7 missing]\nlate\n')
  })
})
