/** Fewest characters and fewest bits (estimated) a secret must have in production. */
export type Strength = { readonly characters: number; readonly bits: number }

/** 32 characters of hex carry 128 bits; NIST SP 800-131A asks for 112. */
export const keyStrength: Strength = { characters: 32, bits: 96 }
/** A database password is checked by a server that can slow a guesser down (SCRAM), so less is enough. */
export const passwordStrength: Strength = { characters: 16, bits: 48 }

/**
 * Words that stand in samples and tutorials. The long ones count anywhere: a random base64 key of 44 characters
 * contains a given six letters once in 30 million. The short ones count only between separators.
 */
const longWords =
  /change.?(?:me|this|it)|secret|passw(?:or|o)?r?d|example|placeholder|replace|insert|qwerty|letmein|foobar|dontuse|yourkey|development|123456789|987654321|abcdefgh/i
const shortWords =
  /(?:^|[-_. ])(?:your|xxx+|todo|fixme|none|null|undefined|dummy|demo|test|testing|sample|local|admin|root|default|fake)(?:$|[-_. ])/i
const filler = /x{5,}|(.)\1{7,}|^<.*>$|^\$\{.*\}$|^\{\{.*\}\}$|\.\.\./i

function shannonBits(text: string): number {
  const counts = new Map<string, number>()
  for (const character of text) counts.set(character, (counts.get(character) ?? 0) + 1)
  let bits = 0
  for (const count of counts.values()) bits -= count * Math.log2(count / text.length)
  return bits
}

function isPeriodic(text: string): boolean {
  const period = (text + text).indexOf(text, 1)
  return period < text.length
}

/** Half of all steps go to the same or the neighbouring character: aaaa, 1234, fedc. Random hex: one step in six. */
function isSequence(text: string): boolean {
  let steps = 0
  for (let i = 1; i < text.length; i++) {
    if (Math.abs(text.charCodeAt(i) - text.charCodeAt(i - 1)) <= 1) steps++
  }
  return steps * 2 >= text.length
}

/** True for what samples, tutorials and demonstrations use where a secret belongs. */
function isPlaceholder(text: string): boolean {
  return longWords.test(text) || shortWords.test(text) || filler.test(text)
}

/**
 * What makes this text unfit as a secret, or null. The answer never contains any of it.
 * The bits are an upper bound from the frequency of characters: they find weak text, they do not prove strong text.
 */
export function weaknessOf(text: string, strength: Strength): string | null {
  if (isPlaceholder(text)) return 'looks like a placeholder or demo value'
  if (text.length < strength.characters) return `is shorter than ${strength.characters} characters`
  if (isPeriodic(text) || isSequence(text)) return 'has too little entropy (it repeats or counts)'
  if (shannonBits(text) < strength.bits) return `has too little entropy (under ${strength.bits} bits)`
  return null
}
