// Lists by pages: one page after another is asked for as the reader comes near the end.

import { useInfiniteQuery, keepPreviousData } from '@tanstack/vue-query'
import { computed, type Ref } from 'vue'

export interface PageOf<T> {
  items: T[]
  next?: string | null
}

export type Fetch<T> = (query: Record<string, string | number>) => Promise<PageOf<T>>

/** Rows of one page. */
export const PAGE = 100
/** Rows of one page of a download. */
const DOWNLOAD_PAGE = 1000

export function useRows<T>(key: string, filters: Ref<Record<string, string>>, fetch: Fetch<T>) {
  const query = useInfiniteQuery({
    queryKey: [key, 'list', filters],
    queryFn: ({ pageParam }) =>
      fetch({ ...filters.value, limit: PAGE, ...(pageParam === '' ? {} : { cursor: pageParam }) }),
    initialPageParam: '',
    getNextPageParam: (last) => last.next ?? undefined,
    placeholderData: keepPreviousData,
  })
  const rows = computed(() => query.data.value?.pages.flatMap((page) => page.items as T[]) ?? [])

  /** All that fits, however many pages it is. */
  async function all(): Promise<T[]> {
    const found: T[] = []
    let cursor: string | null | undefined = ''
    do {
      const page: PageOf<T> = await fetch({
        ...filters.value,
        limit: DOWNLOAD_PAGE,
        ...(cursor === '' ? {} : { cursor: cursor as string }),
      })
      found.push(...page.items)
      cursor = page.next
    } while (cursor)
    return found
  }

  return { rows, query, all }
}
