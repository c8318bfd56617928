// One job, followed: each new report of it is waited for at the control plane.

import { shallowRef, type MaybeRefOrGetter } from 'vue'
import { api, body, type Job } from '@/api/client'
import { useFollowed, WAIT_S } from './follow'

const isOver = (job: Job) => job.finished_at !== null && job.finished_at !== undefined

export function useJob(id: MaybeRefOrGetter<string>) {
  const job = shallowRef<Job | null>(null)
  const { error, again } = useFollowed(id, (wanted) => {
    let known: Job | null = null
    return async (signal) => {
      const query: { after_revision?: number; wait_s?: number } =
        known === null ? {} : { after_revision: known.revision, wait_s: WAIT_S }
      const params = { path: { job: wanted }, query }
      known = await body(api.GET('/api/v1/jobs/{job}', { params, signal }))
      if (!signal.aborted) job.value = known
      return isOver(known)
    }
  })
  return { job, error, again }
}
