// A machine's states and the moves between them. A test holds them against the control plane's own table
// (`workflow/state.rs`).

/** Column and line of each state in the diagram. */
export const PLACES: Record<string, [number, number]> = {
  discovered: [0, 0],
  enrolled: [1, 0],
  inspecting: [0, 1],
  available: [2, 0],
  allocated: [3, 0],
  erasing: [4, 0],
  maintenance: [1.5, 1],
  quarantined: [2.5, 1],
  retired: [2, 2],
}

/** What an operator does. */
export const MOVES = ['shelve', 'unshelve', 'maintenance', 'quarantine', 'return', 'retire'] as const
export type Move = (typeof MOVES)[number]

const held = ['enrolled', 'inspecting', 'available', 'maintenance', 'quarantined']
const from = (states: string[], move: Move | 'work', to: string): [string, Move | 'work', string][] =>
  states.filter((state) => state !== to).map((state) => [state, move, to])

/** From where, by what, to where; `work` is what instances' jobs do. */
export const WAYS: [string, Move | 'work', string][] = [
  ...from(['discovered', 'inspecting', 'available', 'maintenance', 'quarantined'], 'shelve', 'enrolled'),
  ...from(['enrolled', 'inspecting'], 'unshelve', 'available'),
  ...from(held, 'maintenance', 'maintenance'),
  ...from(held, 'quarantine', 'quarantined'),
  ...from(['maintenance', 'quarantined'], 'return', 'available'),
  ...from(['discovered', ...held], 'retire', 'retired'),
  ['available', 'work', 'allocated'],
  ['allocated', 'work', 'erasing'],
  ['allocated', 'work', 'available'],
  ['allocated', 'work', 'quarantined'],
  ['erasing', 'work', 'available'],
  ['erasing', 'work', 'quarantined'],
]

/** What may be done by hand with a machine in this state. One in use may be marked to be quarantined afterwards. */
export function movesFrom(state: string): Move[] {
  const moves = MOVES.filter((move) => WAYS.some(([at, by]) => at === state && by === move))
  return state === 'allocated' ? ['quarantine'] : moves
}

/** The ways that the diagram shows at all times: the usual life. Those from the present state come in addition. */
export const USUAL: [string, string][] = [
  ['discovered', 'enrolled'],
  ['enrolled', 'available'],
  ['available', 'allocated'],
  ['allocated', 'erasing'],
]
