// A machine's BMC: what may be asked of it, and who made it. The control plane refuses as well; this only keeps what it would refuse
// out of sight.

import type { Schemas } from '@/api/client'
import type { BmcState } from '@/api/shapes'

export type Ask = Schemas['PowerAsk']
type Machine = { state: string; live_job?: string | null; bmc?: object | null }

/** What may be asked of a machine's BMC now: an instance's machine is read and not switched. */
export function asks(machine: Machine): Ask[] {
  if (!machine.bmc || machine.live_job || ['retired', 'erasing'].includes(machine.state)) return []
  return machine.state === 'allocated' ? ['read'] : ['read', 'on', 'off', 'restart']
}

/** Makers by their IANA enterprise numbers, as BMCs tell them. */
const MAKERS: Record<number, string> = {
  2: 'IBM',
  11: 'HP',
  42: 'Oracle',
  343: 'Intel',
  674: 'Dell',
  2011: 'Huawei',
  5771: 'Cisco',
  7244: 'Quanta',
  10368: 'Fujitsu',
  10876: 'Supermicro',
  15370: 'GIGABYTE',
  19046: 'Lenovo',
  25506: 'H3C',
  47196: 'HPE',
}

/** Who made a BMC, with its product number; nothing if it was not asked or does not tell. */
export function maker(state: BmcState | null | undefined): string | undefined {
  if (state?.manufacturer == null) return undefined
  const name = MAKERS[state.manufacturer] ?? `IANA ${state.manufacturer}`
  return state.product == null ? name : `${name} (${state.product})`
}
