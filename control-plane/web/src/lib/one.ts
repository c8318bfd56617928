// One object by its id, asked for again when an event says that it changed.

import { useQuery } from '@tanstack/vue-query'
import { computed, toValue, type MaybeRefOrGetter } from 'vue'

/** Nothing is asked for while the id is empty. */
export function useOne<T>(key: string, id: MaybeRefOrGetter<string>, fetch: (id: string) => Promise<T>) {
  const known = computed(() => toValue(id))
  return useQuery({
    queryKey: [key, known],
    queryFn: () => fetch(known.value),
    enabled: () => known.value !== '',
  })
}
