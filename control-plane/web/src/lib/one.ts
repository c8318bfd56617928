// One object by its id, asked for again when an event says that it changed.

import { useQuery } from '@tanstack/vue-query'
import type { MaybeRefOrGetter } from 'vue'
import { toValue } from 'vue'

export function useOne<T>(key: string, id: MaybeRefOrGetter<string>, fetch: (id: string) => Promise<T>) {
  return useQuery({
    queryKey: [key, id],
    queryFn: () => fetch(toValue(id)),
    enabled: () => toValue(id) !== '',
  })
}
