// What this browser remembers: language, theme and face.

import { defineStore } from 'pinia'
import { computed, ref, watch } from 'vue'
import { i18n, LANGUAGES, type Language } from '@/i18n'

export type Theme = 'light' | 'dark' | 'system'
export type Face = 'operations' | 'console'

function kept<T extends string>(name: string, words: readonly T[], otherwise: T) {
  const word = localStorage.getItem(`slipway.${name}`) as T | null
  const value = ref<T>(word !== null && words.includes(word) ? word : otherwise)
  watch(value, (now) => localStorage.setItem(`slipway.${name}`, now))
  return value
}

export const useSettings = defineStore('settings', () => {
  const browsers: Language = navigator.language.startsWith('zh') ? 'zh' : 'en'
  const language = kept<Language>('language', LANGUAGES, browsers)
  const theme = kept<Theme>('theme', ['light', 'dark', 'system'], 'system')
  const face = kept<Face>('face', ['operations', 'console'], 'operations')
  const dark = window.matchMedia('(prefers-color-scheme: dark)')
  const systemIsDark = ref(dark.matches)
  dark.addEventListener('change', (now) => (systemIsDark.value = now.matches))
  const isDark = computed(() => theme.value === 'dark' || (theme.value === 'system' && systemIsDark.value))

  watch(
    [language, isDark],
    () => {
      i18n.global.locale.value = language.value
      document.documentElement.lang = language.value === 'zh' ? 'zh-CN' : 'en'
      document.documentElement.dataset.theme = isDark.value ? 'dark' : 'light'
    },
    { immediate: true },
  )
  return { language, theme, face, isDark }
})
