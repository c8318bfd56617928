// The one way to the control plane. Types come from its OpenAPI document; no request is written by hand.

import createClient from 'openapi-fetch'
import type { components, paths } from './schema'

export type Schemas = components['schemas']
export type Site = Schemas['SiteView']
export type Machine = Schemas['MachineView']
export type Instance = Schemas['InstanceView']
export type Job = Schemas['JobView']
export type Image = Schemas['ImageView']
export type Event = Schemas['Event']
export type Permission = Schemas['Permission']

/** What the control plane refused, in its own words. `code` is stable, `message` is for people. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message)
  }
}

let csrf = ''
let onExpired: () => void = () => {}

/** The session's second half, sent with each changing request. */
export function useCsrf(token: string): void {
  csrf = token
}

/** The same, for what is sent without {@link api}. */
export const csrfToken = (): string => csrf

/** What to do when the session has ended. */
export function whenExpired(act: () => void): void {
  onExpired = act
}

export const api = createClient<paths>({ baseUrl: '/' })

api.use({
  onRequest({ request }) {
    if (request.method !== 'GET') request.headers.set('X-CSRF-Token', csrf)
    return request
  },
  onResponse({ request, response }) {
    const own = new URL(request.url).pathname
    if (response.status === 401 && own !== '/api/v1/login' && own !== '/api/v1/setup') onExpired()
    return response
  },
})

type Answer<T> = { data?: T; error?: unknown; response: Response }

/** The answer's body, or a thrown {@link Refusal}. */
export async function body<T>(request: Promise<Answer<T>>): Promise<T> {
  const { data, error, response } = await request
  if (response.ok) return data as T
  const said = (error ?? {}) as Partial<Schemas['Problem']>
  throw new Refusal(
    response.status,
    said.code ?? 'unreachable',
    said.detail ?? said.title ?? `HTTP ${response.status}`,
  )
}
