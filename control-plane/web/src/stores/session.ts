// Who is signed in, and what they may do. What is hidden here is refused by the control plane as well.

import { defineStore } from 'pinia'
import { computed, ref } from 'vue'
import { api, body, useCsrf, type Permission, type Schemas } from '@/api/client'

/** Where something is to be done; nothing given means anywhere. */
export interface Where {
  site?: string
  project?: string
}

/** Whether these grants let somebody do `permission` there. */
export function allows(held: Schemas['HeldView'][], permission: Permission, where: Where = {}): boolean {
  const anywhere = where.site === undefined && where.project === undefined
  return held.some(
    ({ scope, permissions }) =>
      permissions.includes(permission) &&
      (anywhere ||
        scope === 'global' ||
        (where.site !== undefined && scope === `site:${where.site}`) ||
        (where.project !== undefined && scope === `project:${where.project}`)),
  )
}

export const useSession = defineStore('session', () => {
  const me = ref<Schemas['Me'] | null>(null)
  const held = computed(() => me.value?.held ?? [])
  /** Operators are those who hold something beyond projects. */
  const isOperator = computed(() => held.value.some(({ scope }) => !scope.startsWith('project:')))

  async function load(): Promise<boolean> {
    const { data } = await api.GET('/api/v1/me')
    me.value = data ?? null
    useCsrf(data?.csrf ?? '')
    return data !== undefined
  }

  async function logIn(name: string, password: string): Promise<void> {
    await body(api.POST('/api/v1/login', { body: { name, password } }))
    await load()
  }

  async function logOut(): Promise<void> {
    await api.POST('/api/v1/logout')
    forget()
  }

  function forget(): void {
    me.value = null
    useCsrf('')
  }

  const can = (permission: Permission, where?: Where) => allows(held.value, permission, where)

  return { me, isOperator, load, logIn, logOut, forget, can }
})
