/** A column of a table. */
export interface Column<T> {
  /** Also the name of the slot that shows it otherwise than as text. */
  key: string
  label: string
  /** What stands in it, in downloads too. */
  text: (row: T) => string
  /** The word by which the control plane sorts it. */
  sort?: string
  /** Left out where the page is narrow. */
  wide?: boolean
  right?: boolean
}
