/**
 * Refuses options nobody reads: a misspelt security option that silently does nothing is the danger (helmet's rule).
 * @throws TypeError naming the option
 */
export function onlyKnown(where: string, options: object, known: readonly string[]): void {
  if (options === null || typeof options !== 'object') throw new TypeError(`${where}: options must be an object`)
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) throw new TypeError(`${where}: there is no option ${key}`)
  }
}

/**
 * A whole number inside its bounds.
 * @throws TypeError naming the option
 */
export function whole(where: string, value: number, from: number, to: number): number {
  if (!Number.isInteger(value) || value < from || value > to) {
    throw new TypeError(`${where} must be a whole number from ${from} to ${to}`)
  }
  return value
}
