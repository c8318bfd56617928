import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import vue from '@vitejs/plugin-vue'
import type { Plugin } from 'vite'
import { defineConfig } from 'vitest/config'

const server = process.env.SLIPWAY_URL ?? 'http://127.0.0.1:8080'

/** Lays a gzip beside each text, so that the control plane has nothing to compress when it answers. */
function gzipped(): Plugin {
  return {
    name: 'gzipped',
    apply: 'build',
    async closeBundle() {
      for (const entry of await readdir('dist', { recursive: true })) {
        if (!/\.(js|css|svg)$/.test(entry)) continue
        const file = join('dist', entry)
        await writeFile(`${file}.gz`, await promisify(gzip)(await readFile(file), { level: 9 }))
      }
    },
  }
}

export default defineConfig({
  plugins: [vue(), gzipped()],
  resolve: { alias: { '@': new URL('./src', import.meta.url).pathname } },
  define: { __INTLIFY_JIT_COMPILATION__: true, __INTLIFY_DROP_MESSAGE_COMPILER__: false },
  build: {
    target: 'es2022',
    // Data URLs in styles would need a wider content security policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { '/api': server, '/docs': server } },
  test: { environment: 'happy-dom', include: ['tests/**/*.test.ts'] },
})
