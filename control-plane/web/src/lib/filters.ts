// Filters of a list live in the page's address: what is seen can be sent to somebody else.

import { computed, type ComputedRef } from 'vue'
import { useRoute, useRouter } from 'vue-router'

export interface Filters {
  /** What is given, and not empty. */
  given: ComputedRef<Record<string, string>>
  get: (name: string) => string
  set: (name: string, value: string) => void
  clear: () => void
  /** Replaces all of them by those of a saved view. */
  use: (query: string) => void
  /** As they stand in the address. */
  text: ComputedRef<string>
}

export function useFilters(names: string[]): Filters {
  const route = useRoute()
  const router = useRouter()
  const given = computed(() => {
    const found: Record<string, string> = {}
    for (const name of names) {
      const value = route.query[name]
      if (typeof value === 'string' && value !== '') found[name] = value
    }
    return found
  })
  const put = (query: Record<string, string>) => void router.replace({ query })
  return {
    given,
    get: (name) => given.value[name] ?? '',
    set: (name, value) => {
      const query = { ...given.value, [name]: value }
      if (value === '') delete query[name]
      put(query)
    },
    clear: () => put({}),
    use: (query) => put(Object.fromEntries(new URLSearchParams(query))),
    text: computed(() => new URLSearchParams(given.value).toString()),
  }
}
