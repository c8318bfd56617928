import './nonce'
import './style.css'
import { QueryClient, VueQueryPlugin } from '@tanstack/vue-query'
import { createPinia } from 'pinia'
import { createApp } from 'vue'
import { Refusal, whenExpired } from './api/client'
import App from './App.vue'
import { i18n } from './i18n'
import { makeRouter } from './router'
import { useSession } from './stores/session'

const router = makeRouter()
const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // Events say what is old; only what could not be asked at all is asked again by itself.
      staleTime: 60_000,
      refetchOnWindowFocus: false,
      retry: (count, error) => !(error instanceof Refusal && error.status < 500) && count < 3,
    },
  },
})
const app = createApp(App)
app.use(createPinia()).use(i18n).use(VueQueryPlugin, { queryClient: queries }).use(router)

whenExpired(() => {
  const session = useSession()
  if (!session.me) return
  session.forget()
  queries.clear()
  const here = router.currentRoute.value
  if (!here.meta.open) void router.push({ path: '/login', query: { next: here.fullPath } })
})

app.mount('#app')
