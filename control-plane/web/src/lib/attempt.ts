// Something that a press tries: that it is under way, and what was refused.
import { ref, type Ref } from 'vue'

export interface Attempt<A extends unknown[]> {
  /** Whether it is under way; it is not begun twice. */
  working: Ref<boolean>
  /** Why the last one failed, or null. */
  error: Ref<unknown>
  /** Tries it; never throws. */
  go: (...given: A) => Promise<void>
}

export function useAttempt<A extends unknown[]>(act: (...given: A) => Promise<unknown>): Attempt<A> {
  const working = ref(false)
  const error = ref<unknown>(null)
  async function go(...given: A): Promise<void> {
    if (working.value) return
    working.value = true
    error.value = null
    try {
      await act(...given)
    } catch (refused) {
      error.value = refused
    } finally {
      working.value = false
    }
  }
  return { working, error, go }
}
