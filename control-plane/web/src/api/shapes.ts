// What the control plane passes on from sites as they told it: the OpenAPI document calls these plain objects, and
// docs/PROTOCOL.md says their shapes. For reading only.

export interface Disk {
  serial?: string
  wwn?: string
  model?: string
  size_bytes: number
  kind: string
}

export interface Neighbour {
  chassis: string
  port: string
  description?: string
  system?: string
  vlan?: number
}

export interface Nic {
  name: string
  mac: string
  speed_mbit?: number
  link: boolean
  neighbour?: Neighbour
}

export interface Inventory {
  firmware?: string
  manufacturer?: string
  product?: string
  serial?: string
  uuid?: string
  cpu?: string
  threads: number
  memory_bytes: number
  nics: Nic[]
  disks: Disk[]
}

export interface Bmc {
  driver: string
  address: string
  username: string
}

/** How a machine's BMC was when it was last asked. */
export interface BmcState {
  power: 'on' | 'off' | 'unknown'
  seen_at: string
  manufacturer?: number
  product?: number
  firmware?: string
  security?: string
}

export interface Failure {
  code: string
  message: string
  transient?: boolean
}

export interface Step {
  id: string
  state: 'pending' | 'running' | 'done' | 'failed'
  attempt: number
  started_at?: string
  progressed_at?: string
  finished_at?: string
  progress?: { done_bytes: number; total_bytes: number }
  failure?: Failure
}

/** Something that was seen of a machine at its site. */
export interface Seen {
  at: string
  source: string
  code: string
  text: string
}
