// Every page's address. Pages are loaded when they are first opened.

import { createRouter, createWebHistory, type Router } from 'vue-router'
import { useSession } from '@/stores/session'

const page = (path: string, component: () => Promise<unknown>) => ({ path, component })

export const pages = [
  page('/', () => import('@/pages/Overview.vue')),
  page('/sites', () => import('@/pages/Sites.vue')),
  page('/sites/:id', () => import('@/pages/Site.vue')),
  page('/machines', () => import('@/pages/Machines.vue')),
  page('/machines/:id', () => import('@/pages/Machine.vue')),
  page('/discovered', () => import('@/pages/Discovered.vue')),
  page('/machine-types', () => import('@/pages/MachineTypes.vue')),
  page('/stock', () => import('@/pages/Stock.vue')),
  page('/images', () => import('@/pages/Images.vue')),
  page('/instances', () => import('@/pages/Instances.vue')),
  page('/instances/new', () => import('@/pages/NewInstance.vue')),
  page('/instances/:id', () => import('@/pages/Instance.vue')),
  page('/jobs', () => import('@/pages/Jobs.vue')),
  page('/jobs/:id', () => import('@/pages/Job.vue')),
  page('/projects', () => import('@/pages/Projects.vue')),
  page('/projects/:id', () => import('@/pages/Project.vue')),
  page('/users', () => import('@/pages/Users.vue')),
  page('/users/:id', () => import('@/pages/User.vue')),
  page('/roles', () => import('@/pages/Roles.vue')),
  page('/audit', () => import('@/pages/Audit.vue')),
  page('/events', () => import('@/pages/Events.vue')),
  page('/alerts', () => import('@/pages/Alerts.vue')),
  page('/webhooks', () => import('@/pages/Webhooks.vue')),
  page('/signing-keys', () => import('@/pages/SigningKeys.vue')),
  page('/account', () => import('@/pages/Account.vue')),
  page('/welcome', () => import('@/pages/Welcome.vue')),
  page('/:rest(.*)*', () => import('@/pages/Missing.vue')),
]

const open = [
  page('/login', () => import('@/pages/Login.vue')),
  page('/setup', () => import('@/pages/Setup.vue')),
]

export function makeRouter(): Router {
  const router = createRouter({
    history: createWebHistory(),
    routes: [...open.map((route) => ({ ...route, meta: { open: true } })), ...pages],
  })
  router.beforeEach(async (to) => {
    const session = useSession()
    if (to.meta.open || session.me || (await session.load())) return true
    return { path: '/login', query: to.fullPath === '/' ? {} : { next: to.fullPath } }
  })
  // A new page begins at its top, and at its heading for those who do not see it.
  router.afterEach((to, from) => {
    if (to.path === from.path) return
    window.scrollTo(0, 0)
    void Promise.resolve().then(() =>
      document.querySelector<HTMLElement>('main')?.focus({ preventScroll: true }),
    )
  })
  return router
}
