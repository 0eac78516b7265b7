import { scrub } from './scrub.ts'

/** Characters of one value that are written; a longer text is cut. */
const mostText = 16_384
/** A cut goes through whatever stands there; as much again is dropped so that half a card number does not remain. */
const margin = 64

/** What a character asks of the pass below. */
const escapes = 1
const digit = 2
const joiner = 3
const suspect = 4
const percent = 5
const middle = 6
const opener = 7
const hint = 8

const asks = new Uint8Array(128).fill(escapes, 0, 32)
const table: readonly (readonly [string, number])[] = [
  ['"\\', escapes],
  ['0123456789', digit],
  [' .-+/\t', joiner],
  ['@', suspect],
  ['%', percent],
  ['yKSv', middle],
  ['bBdD', opener],
  ['=:_', hint],
]
for (const [characters, kind] of table) {
  for (const character of characters) asks[character.charCodeAt(0)] = kind
}

/** Where `=`, `:`, `_` or four digits stand, these words decide whether the scrubber is needed. */
const words = /passw|passph|secret|token|authoriz|cookie|api.?key|cvv|cvc|otp|pin|tan|code|one.?time|verif|_(?:live|test)_|whsec|gh[pousr]_|xox/i
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
/** Middles of eyJ (JWT), AKI and ASI (AWS key ids), hvs (Vault). */
const middles = new Set(['eyJ', 'AKI', 'ASI', 'hvs'])
/** Openers of bearer, basic, BEGIN, dpop. */
const openers = /^(?:bea|bas|beg|dpo)/i

function clean(text: string): string {
  if (text.length <= mostText) return JSON.stringify(scrub(text))
  return JSON.stringify(`${scrub(text.slice(0, mostText + margin)).slice(0, -margin)}…`)
}

/**
 * Short texts already found harmless, as JSON: methods, routes, roles, media types come again with every line. The
 * first ones stay: making room again and again for texts that never return costs more than it saves.
 */
const known = new Map<string, string>()
const mostKnown = 2048
const longestKnown = 80

/**
 * A text as JSON, scrubbed. One pass over the characters decides whether it can be written as it stands, which
 * nearly every text can; the scrubber's patterns cost twenty times as much and see only the others.
 */
export function jsonText(text: string): string {
  if (text.length > longestKnown) return text.length > 1024 ? clean(text) : looked(text)
  if (text.length === 36 && uuid.test(text)) return `"${text}"`
  const found = known.get(text)
  if (found !== undefined) return found
  const json = looked(text)
  if (known.size < mostKnown && json.length === text.length + 2) known.set(text, json)
  return json
}

function looked(text: string): string {
  const { length } = text
  let escape = false
  let look = false
  let run = 0
  for (let i = 0; i < length; i++) {
    const code = text.charCodeAt(i)
    if (code > 127) {
      if (code >= 0xd800) escape = true
      if (code !== 0xa0) run = 0
      continue
    }
    const kind = asks[code]
    if (kind === 0) {
      run = 0
    } else if (kind === digit) {
      if (++run === 4) look = true
      // The shortest IBAN has ten digits in a row (NL), a card number has 13.
      else if (run === 10) return clean(text)
    } else if (kind === joiner) {
      continue
    } else if (kind === hint) {
      look = true
      if (code !== 95) run = 0
    } else if (kind === suspect) {
      return clean(text)
    } else if (kind === percent) {
      if (text.charCodeAt(i + 1) === 52) return clean(text)
    } else if (kind === escapes) {
      escape = true
      if (code !== 9) run = 0
    } else {
      run = 0
      if (kind === middle ? middles.has(text.slice(i - 1, i + 2)) : openers.test(text.slice(i, i + 3))) return clean(text)
    }
  }
  if (look && words.test(text)) return clean(text)
  return escape ? JSON.stringify(text) : `"${text}"`
}
