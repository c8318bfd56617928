// One job, followed: each new report of it is waited for at the control plane, none is asked for by the clock.

import { onScopeDispose, ref, shallowRef, toValue, watch, type MaybeRefOrGetter } from 'vue'
import { api, body, Refusal, type Job } from '@/api/client'

/** How long the control plane is asked to wait for something new, in seconds. */
const WAIT_S = 30
const AGAIN_MS = 2000

const isOver = (job: Job) => job.finished_at !== null && job.finished_at !== undefined

export function useJob(id: MaybeRefOrGetter<string>) {
  const job = shallowRef<Job | null>(null)
  const error = ref<unknown>(null)
  let stop = new AbortController()

  async function follow(wanted: string, signal: AbortSignal): Promise<void> {
    let known: Job | null = null
    while (!signal.aborted && (known === null || !isOver(known))) {
      try {
        const query: { after_revision?: number; wait_s?: number } =
          known === null ? {} : { after_revision: known.revision, wait_s: WAIT_S }
        const params = { path: { job: wanted }, query }
        known = await body(api.GET('/api/v1/jobs/{job}', { params, signal }))
        error.value = null
        if (!signal.aborted) job.value = known
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
    const wanted = toValue(id)
    if (wanted) void follow(wanted, stop.signal)
  }

  watch(() => toValue(id), begin, { immediate: true })
  onScopeDispose(() => stop.abort())
  return { job, error, again: begin }
}
