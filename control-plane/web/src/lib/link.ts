// How a site's link stands.

export interface Linked {
  joined: boolean
  online: boolean
  revoked_at?: string | null
}

export function linkOf(site: Linked): 'revoked' | 'notJoined' | 'online' | 'offline' {
  if (site.revoked_at) return 'revoked'
  if (!site.joined) return 'notJoined'
  return site.online ? 'online' : 'offline'
}
