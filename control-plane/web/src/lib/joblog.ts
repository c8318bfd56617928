// A job's log, followed: each new part of it is waited for at the control plane.

import { ref, shallowRef, type MaybeRefOrGetter } from 'vue'
import { api, body, type Schemas } from '@/api/client'
import { useFollowed, WAIT_S } from './follow'

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
  const { error } = useFollowed(id, (job) => {
    text.value = ''
    ended.value = false
    let after = 0
    let first = true
    return async (signal) => {
      const params = { path: { job }, query: { after, wait_s: first ? 0 : WAIT_S } }
      const part: Part = await body(api.GET('/api/v1/jobs/{job}/log', { params, signal }))
      if (signal.aborted) return true
      text.value = grown(text.value, part, gap)
      ended.value = part.ended
      first = false
      after = part.next
      return part.ended
    }
  })
  return { text, ended, error }
}
