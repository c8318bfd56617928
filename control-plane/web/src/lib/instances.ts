// What may be done with an instance, and how it is asked for.

import { api, body, type Instance } from '@/api/client'

export const POWER = ['start', 'stop', 'restart'] as const
export type Power = (typeof POWER)[number]

const FROM: Record<Power | 'rescue' | 'reinstall' | 'password' | 'release', string[]> = {
  start: ['stopped', 'rescue'],
  stop: ['running', 'rescue'],
  restart: ['running'],
  rescue: ['running', 'stopped'],
  reinstall: ['running', 'stopped', 'failed', 'rescue'],
  password: ['running', 'stopped'],
  release: ['running', 'stopped', 'failed', 'rescue', 'requested'],
}

/** Whether it can be done with an instance in this state; a lock forbids all that changes it. */
export function may(what: keyof typeof FROM, instance: Pick<Instance, 'state' | 'locked'>): boolean {
  return !instance.locked && FROM[what].includes(instance.state)
}

const at = (instance: string) => ({ path: { instance } })

export function power(instance: string, verb: Power) {
  switch (verb) {
    case 'start':
      return body(api.POST('/api/v1/instances/{instance}/start', { params: at(instance) }))
    case 'stop':
      return body(api.POST('/api/v1/instances/{instance}/stop', { params: at(instance) }))
    case 'restart':
      return body(api.POST('/api/v1/instances/{instance}/restart', { params: at(instance) }))
  }
}

export const release = (instance: string) =>
  body(api.DELETE('/api/v1/instances/{instance}', { params: at(instance) }))

export const lock = (instance: string, locked: boolean) =>
  body(api.PATCH('/api/v1/instances/{instance}', { params: at(instance), body: { locked } }))
