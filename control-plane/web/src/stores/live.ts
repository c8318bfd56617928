// One stream of events for the whole page. What an event is about is asked for again; nothing polls.

import { useQueryClient } from '@tanstack/vue-query'
import { defineStore } from 'pinia'
import { ref } from 'vue'
import type { Event } from '@/api/client'

/** How the stream stands. */
export type Link = 'connecting' | 'live' | 'reconnecting' | 'paused'

/** What of the page an event makes old: first words of query keys. */
export function concerns(event: Pick<Event, 'kind'>): string[] {
  const noun = event.kind.split('.')[0] ?? ''
  const touched: Record<string, string[]> = {
    job: ['jobs', 'job', 'instances', 'instance', 'machines', 'machine', 'overview'],
    step: ['job', 'machine'],
    instance: ['instances', 'instance', 'jobs', 'overview', 'machines', 'machine', 'projects'],
    machine: ['machines', 'machine', 'overview', 'stock', 'discovered', 'machine-types'],
    fault: ['machine', 'alerts', 'overview'],
    site: ['sites', 'site', 'overview'],
    machine_type: ['machine-types', 'machines'],
    image: ['images', 'image'],
    alert: ['alerts', 'overview'],
    signing_key: ['signing-keys'],
  }
  return ['events', 'timeline', ...(touched[noun] ?? [])]
}

/** Events that come thick are answered once in so many milliseconds. */
const GATHER_MS = 400
/** Wait before a stream that was closed is opened again, at first and at most. */
const AGAIN_MS = 1000
const AGAIN_MOST_MS = 15_000
/** A page nobody looks at lets go of its connection after so long: browsers have six for each host. */
const HIDDEN_MS = 30_000

export const useLive = defineStore('live', () => {
  const link = ref<Link>('connecting')
  const last = ref(0)
  const queries = useQueryClient()
  let source: EventSource | null = null
  let gathering: ReturnType<typeof setTimeout> | undefined
  let again: ReturnType<typeof setTimeout> | undefined
  let hiding: ReturnType<typeof setTimeout> | undefined
  let wait = AGAIN_MS
  let missed = false
  const old = new Set<string>()

  function renew(words: Iterable<string>): void {
    for (const word of words) old.add(word)
    gathering ??= setTimeout(() => {
      gathering = undefined
      for (const word of old) void queries.invalidateQueries({ queryKey: [word] })
      old.clear()
    }, GATHER_MS)
  }

  function open(): void {
    close()
    source = new EventSource(last.value ? `/api/v1/events?after=${last.value}` : '/api/v1/events')
    source.onopen = () => {
      link.value = 'live'
      wait = AGAIN_MS
      // What has no event, and what was missed before the stream could be resumed, is asked for once.
      if (missed) void queries.invalidateQueries()
      missed = false
    }
    source.onmessage = (message) => take(message.data)
    source.onerror = () => {
      missed = true
      link.value = 'reconnecting'
      if (source?.readyState !== EventSource.CLOSED) return
      again = setTimeout(open, wait)
      wait = Math.min(wait * 2, AGAIN_MOST_MS)
    }
  }

  function take(data: string): void {
    const event = JSON.parse(data) as Event
    last.value = event.seq
    renew(concerns(event))
  }

  function close(): void {
    clearTimeout(again)
    source?.close()
    source = null
  }

  function seen(): void {
    clearTimeout(hiding)
    if (document.hidden) {
      hiding = setTimeout(() => {
        close()
        missed = true
        link.value = 'paused'
      }, HIDDEN_MS)
    } else if (link.value === 'paused') {
      open()
    }
  }

  function start(): void {
    document.addEventListener('visibilitychange', seen)
    open()
  }

  function stop(): void {
    document.removeEventListener('visibilitychange', seen)
    clearTimeout(hiding)
    close()
    link.value = 'connecting'
  }

  return { link, start, stop }
})
