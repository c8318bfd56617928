// The present, renewed once a second for all who show a span. It stands still while nobody looks.

import { onScopeDispose, ref, type Ref } from 'vue'
import { useI18n } from 'vue-i18n'
import { span } from './words'

const now = ref(Date.now())
let users = 0
let ticking: ReturnType<typeof setInterval> | undefined

export function useNow(): Ref<number> {
  users += 1
  now.value = Date.now()
  ticking ??= setInterval(() => {
    if (!document.hidden) now.value = Date.now()
  }, 1000)
  onScopeDispose(() => {
    users -= 1
    if (users > 0) return
    clearInterval(ticking)
    ticking = undefined
  })
  return now
}

/** Spans and points of time in the reader's language. */
export function useTimes() {
  const { t, locale } = useI18n()
  const spanText = (ms: number) => {
    const { unit, n } = span(ms)
    return t(`unit.${unit}`, { n })
  }
  const dateText = (at: string | number) =>
    new Intl.DateTimeFormat(locale.value === 'zh' ? 'zh-CN' : 'en-GB', {
      dateStyle: 'medium',
      timeStyle: 'medium',
    }).format(new Date(at))
  return { spanText, dateText }
}
