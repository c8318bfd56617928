// One set of colours for Naive UI and for our own styles (style.css has the same names). Contrast is at least 4.5 to 1.

import { darkTheme, type GlobalTheme, type GlobalThemeOverrides } from 'naive-ui'

const font =
  'system-ui, "Segoe UI", Roboto, "Liberation Sans", "Noto Sans SC", "PingFang SC", "WenQuanYi Zen Hei", sans-serif'
const shared = { fontFamily: font, borderRadius: '6px', fontSize: '14px' }

const light: GlobalThemeOverrides = {
  common: {
    ...shared,
    primaryColor: '#12508c',
    primaryColorHover: '#1a66b0',
    primaryColorPressed: '#0d3d6c',
    primaryColorSuppl: '#1a66b0',
    successColor: '#1b6b3a',
    warningColor: '#8a5300',
    errorColor: '#b3261e',
    infoColor: '#12508c',
    textColor3: '#5b6472',
    placeholderColor: '#66707e',
    borderColor: '#d5dae1',
    bodyColor: '#f5f7f9',
  },
}

const dark: GlobalThemeOverrides = {
  common: {
    ...shared,
    primaryColor: '#7db8f2',
    primaryColorHover: '#9ccaf6',
    primaryColorPressed: '#5ea3e6',
    primaryColorSuppl: '#7db8f2',
    successColor: '#6fce94',
    warningColor: '#f0b357',
    errorColor: '#ff8f86',
    infoColor: '#7db8f2',
    textColor3: '#a3adba',
    placeholderColor: '#97a1ae',
    bodyColor: '#12161b',
    cardColor: '#1a2027',
    modalColor: '#1f262e',
    popoverColor: '#262e38',
  },
  Button: {
    textColorPrimary: '#0b1a29',
    textColorHoverPrimary: '#0b1a29',
    textColorPressedPrimary: '#0b1a29',
    textColorFocusPrimary: '#0b1a29',
    textColorError: '#2b0603',
    textColorHoverError: '#2b0603',
    textColorPressedError: '#2b0603',
    textColorFocusError: '#2b0603',
  },
}

/** What Naive UI is to look like. */
export function themeOf(isDark: boolean): { theme: GlobalTheme | null; overrides: GlobalThemeOverrides } {
  return isDark ? { theme: darkTheme, overrides: dark } : { theme: null, overrides: light }
}
