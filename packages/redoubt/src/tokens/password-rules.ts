import { isBreached } from './breached.ts'

/**
 * Code points, after normalisation (NIST SP 800-63B-4 §3.1.1.2: no rules of composition, no forced change, 64 is the
 * least that must be taken). Twelve at least: between its 8 for a password beside a second factor and 15 for one alone.
 */
export const passwordLength = { least: 12, most: 128 } as const

/** Why a password is refused, as the rule of its field. */
export type PasswordRule = 'min' | 'max' | 'breached' | 'personal'

/**
 * The rule a new password breaks, if any.
 * @param password normalised
 * @param personal what others know of the person: address, names. Their parts of four letters or more are looked for
 */
export function brokenRule(password: string, personal: readonly string[]): PasswordRule | undefined {
  // Cheap bound first: a code point is at most two units.
  if (password.length > 2 * passwordLength.most) return 'max'
  const points = [...password].length
  if (points < passwordLength.least) return 'min'
  if (points > passwordLength.most) return 'max'
  if (isBreached(password)) return 'breached'
  return isPersonal(password.toLowerCase(), personal) ? 'personal' : undefined
}

/** Made of the person's own words: what remains without them is too short to be a password of its own. */
function isPersonal(password: string, personal: readonly string[]): boolean {
  const words = personal.flatMap((text) => text.normalize('NFC').toLowerCase().split(/[^\p{L}\p{N}]+/u)).filter((word) => [...word].length >= 4)
  const rest = [...new Set(words)].toSorted((a, b) => b.length - a.length).reduce((text, word) => text.replaceAll(word, ''), password)
  return rest !== password && [...rest.replace(/[^\p{L}\p{N}]/gu, '')].length < 8
}
