// Sizes, spans and times as people read them. Pure: the present is an argument.

const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** Bytes with three figures at most: `1.5 GiB`. */
export function size(bytes: number): string {
  let step = 0
  let amount = bytes
  while (amount >= 1024 && step < SIZES.length - 1) {
    amount /= 1024
    step += 1
  }
  const figures = amount >= 100 || step === 0 || Number.isInteger(amount) ? 0 : 1
  return `${amount.toFixed(figures)} ${SIZES[step]}`
}

/** A disk's bytes as its maker counts them: `480 GB`. */
export function diskSize(bytes: number): string {
  const steps: [number, string][] = [
    [1e12, 'TB'],
    [1e9, 'GB'],
    [1e6, 'MB'],
  ]
  for (const [one, word] of steps) {
    if (bytes >= one) return `${Number((bytes / one).toPrecision(3))} ${word}`
  }
  return `${bytes} B`
}

/** A span in its greatest whole unit. */
export interface Span {
  unit: 'seconds' | 'minutes' | 'hours' | 'days'
  n: number
}

/** How long so many milliseconds are. Below a minute in seconds, below an hour in minutes, below two days in hours. */
export function span(ms: number): Span {
  const seconds = Math.max(0, Math.round(ms / 1000))
  if (seconds < 60) return { unit: 'seconds', n: seconds }
  if (seconds < 3600) return { unit: 'minutes', n: Math.floor(seconds / 60) }
  if (seconds < 172_800) return { unit: 'hours', n: Math.floor(seconds / 3600) }
  return { unit: 'days', n: Math.floor(seconds / 86_400) }
}

/** Rate and remaining time of something that was at `done` of `total` bytes, `elapsed` milliseconds after its start. */
export function pace(
  done: number,
  total: number,
  elapsed: number,
): { perSecond: number; leftMs: number } | null {
  if (elapsed < 500 || done <= 0) return null
  const perSecond = (done / elapsed) * 1000
  return { perSecond, leftMs: ((total - done) / perSecond) * 1000 }
}

/** Key-and-value text, one `NAME=VALUE` a line, as a map; `null` if a line is not one. */
export function labels(text: string): Record<string, string> | null {
  const pairs: Record<string, string> = {}
  for (const line of text.split('\n').map((line) => line.trim())) {
    if (line === '') continue
    const at = line.indexOf('=')
    if (at < 1) return null
    pairs[line.slice(0, at)] = line.slice(at + 1)
  }
  return pairs
}

/** The lines that are not empty. */
export function lines(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
}
