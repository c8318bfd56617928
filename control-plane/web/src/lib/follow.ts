// Something that is followed at the control plane: each news is waited for there, none is asked for by the clock.

import { onScopeDispose, ref, toValue, watch, type MaybeRefOrGetter, type Ref } from 'vue'
import { Refusal } from '@/api/client'

/** How long the control plane is asked to wait for news, in seconds. */
export const WAIT_S = 30
const AGAIN_MS = 2000

/** Asks for the next news; `true` when there is no more to come. */
export type Next = (signal: AbortSignal) => Promise<boolean>

/** Follows what `id` names, from its begin whenever that changes; `begin` gives the first question of each. */
export function useFollowed(
  id: MaybeRefOrGetter<string>,
  begin: (id: string) => Next,
): { error: Ref<unknown>; again: () => void } {
  const error = ref<unknown>(null)
  let stop = new AbortController()

  async function follow(next: Next, signal: AbortSignal): Promise<void> {
    let ended = false
    while (!signal.aborted && !ended) {
      try {
        ended = await next(signal)
        if (!signal.aborted) error.value = null
      } catch (failed) {
        if (signal.aborted) return
        error.value = failed
        if (failed instanceof Refusal && failed.status < 500) return
        await new Promise((again) => setTimeout(again, AGAIN_MS))
      }
    }
  }

  function again(): void {
    stop.abort()
    stop = new AbortController()
    const wanted = toValue(id)
    if (wanted) void follow(begin(wanted), stop.signal)
  }

  watch(() => toValue(id), again, { immediate: true })
  onScopeDispose(() => stop.abort())
  return { error, again }
}
