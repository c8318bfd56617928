// Tables as CSV (RFC 4180), with the guard that spreadsheets need.

/** A cell. What a spreadsheet would take for a formula is told to be text. */
function cell(text: string): string {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

/** Rows with their heads, ended by CR LF each. */
export function csv(heads: string[], rows: string[][]): string {
  return [heads, ...rows].map((row) => row.map(cell).join(',') + '\r\n').join('')
}

/** Lets the browser save a text as a file. */
export function download(name: string, text: string, kind = 'text/csv'): void {
  const url = URL.createObjectURL(new Blob([text], { type: `${kind};charset=utf-8` }))
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  URL.revokeObjectURL(url)
}
