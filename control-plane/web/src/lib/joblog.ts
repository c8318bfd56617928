// A job's log, followed: each new part of it is waited for at the control plane, none is asked for by the clock.

import { onScopeDispose, ref, shallowRef, toValue, watch, type MaybeRefOrGetter } from 'vue'
import { api, body, Refusal, type Schemas } from '@/api/client'

/** How long the control plane is asked to wait for more, in seconds. */
const WAIT_S = 30
const AGAIN_MS = 2000

export type Part = Schemas['LogView']

/** The log with one more part. What is missing before it is told where it is. */
export function grown(log: string, part: Part, gap: (bytes: number) => string): string {
  if (part.missing === 0) return log + part.text
  const begin = log === '' || log.endsWith('\n') ? log : `${log}\n`
  return `${begin}${gap(part.missing)}\n${part.text}`
}

export function useJobLog(id: MaybeRefOrGetter<string>, gap: (bytes: number) => string) {
  const text = shallowRef('')
  const ended = ref(false)
  const error = ref<unknown>(null)
  let stop = new AbortController()

  async function follow(job: string, signal: AbortSignal): Promise<void> {
    let after = 0
    let first = true
    while (!signal.aborted && !ended.value) {
      try {
        const params = { path: { job }, query: { after, wait_s: first ? 0 : WAIT_S } }
        const part: Part = await body(api.GET('/api/v1/jobs/{job}/log', { params, signal }))
        if (signal.aborted) return
        error.value = null
        text.value = grown(text.value, part, gap)
        ended.value = part.ended
        first = false
        after = part.next
      } catch (failed) {
        if (signal.aborted) return
        error.value = failed
        if (failed instanceof Refusal && failed.status < 500) return
        await new Promise((again) => setTimeout(again, AGAIN_MS))
      }
    }
  }

  function begin(): void {
    stop.abort()
    stop = new AbortController()
    text.value = ''
    ended.value = false
    const wanted = toValue(id)
    if (wanted) void follow(wanted, stop.signal)
  }

  watch(() => toValue(id), begin, { immediate: true })
  onScopeDispose(() => stop.abort())
  return { text, ended, error }
}
