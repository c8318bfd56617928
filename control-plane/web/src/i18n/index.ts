// Texts in every language. English is the pattern: another language that lacks a text does not compile.

import { createI18n } from 'vue-i18n'
import { en } from './en'
import { zh } from './zh'

export const LANGUAGES = ['en', 'zh'] as const
export type Language = (typeof LANGUAGES)[number]

/** The shape of all texts: that of English, with any words. */
export type Texts<T> = { [K in keyof T]: T[K] extends string ? string : Texts<T[K]> }

export const i18n = createI18n({
  legacy: false,
  locale: 'en',
  fallbackLocale: 'en',
  messages: { en, zh: zh satisfies Texts<typeof en> },
})
