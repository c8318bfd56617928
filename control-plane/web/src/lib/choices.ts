// What filters and forms let one choose from.

import { useQuery } from '@tanstack/vue-query'
import { computed } from 'vue'
import { useI18n } from 'vue-i18n'
import { api, body } from '@/api/client'
import { useSession } from '@/stores/session'

const MOST = { limit: 1000 }

export function useSites() {
  const session = useSession()
  const { data } = useQuery({
    queryKey: ['sites', 'choices'],
    queryFn: () => body(api.GET('/api/v1/sites', { params: { query: MOST } })),
    enabled: () => session.can('sites.read'),
  })
  return computed(() => data.value?.items.map((site) => ({ value: site.id, text: site.id })) ?? [])
}

export function useMachineTypes() {
  const session = useSession()
  const { data } = useQuery({
    queryKey: ['machine-types', 'choices'],
    queryFn: () => body(api.GET('/api/v1/machine-types')),
    enabled: () => session.can('machines.read'),
  })
  return computed(() => data.value?.items.map((type) => ({ value: type.name, text: type.name })) ?? [])
}

export function useProjects() {
  const session = useSession()
  const { data } = useQuery({
    queryKey: ['projects', 'choices'],
    queryFn: () => body(api.GET('/api/v1/projects', { params: { query: MOST } })),
    enabled: () => session.can('projects.read'),
  })
  return computed(() => data.value?.items.map((project) => ({ value: project.id, text: project.id })) ?? [])
}

export function useImages() {
  const { data } = useQuery({
    queryKey: ['images', 'choices'],
    queryFn: () => body(api.GET('/api/v1/images', { params: { query: MOST } })),
  })
  return computed(() => data.value?.items.filter((image) => !image.deprecated) ?? [])
}

export const MACHINE_STATES = [
  'discovered',
  'enrolled',
  'inspecting',
  'available',
  'allocated',
  'erasing',
  'maintenance',
  'quarantined',
  'retired',
] as const
export const INSTANCE_STATES = [
  'requested',
  'installing',
  'running',
  'stopping',
  'stopped',
  'starting',
  'restarting',
  'reinstalling',
  'rescuing',
  'rescue',
  'erasing',
  'released',
  'failed',
] as const
export const JOB_STATES = ['queued', 'running', 'done', 'failed', 'cancelled'] as const

/** States with their words in the reader's language. */
export function useStates(states: readonly string[]) {
  const { t } = useI18n()
  return computed(() => states.map((state) => ({ value: state, text: t(`state.${state}`) })))
}
