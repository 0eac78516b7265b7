import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/**
 * Passwords that attackers try first, as a Bloom filter: 49,233 of the most frequent in published breaches, from
 * @zxcvbn-ts/language-common 4.1.3 (MIT). 115 KiB; of 10,000 passwords that are not in the list about one is taken for
 * one that is, and none of the list is missed. `test/support/breached-list.ts` makes the file.
 */
const file = new URL('./breached.bloom', import.meta.url)

/** Bits of the filter, and how many of them each password sets: 1.9 bytes a password give one in 10,000. */
export const bloom = { bits: 115 * 1024 * 8, hashes: 13 } as const

/** The bits of a password: two 32-bit parts of SHA-256, combined (Kirsch and Mitzenmacher, 2006). */
export function positionsOf(password: string): readonly number[] {
  const digest = createHash('sha256').update(password, 'utf8').digest()
  const [first, second] = [digest.readUInt32BE(0), digest.readUInt32BE(4)]
  // Below 2^36: exact.
  return Array.from({ length: bloom.hashes }, (_, i) => (first + i * second) % bloom.bits)
}

let filter: Buffer | undefined

function listed(password: string): boolean {
  filter ??= readFileSync(file)
  if (filter.length * 8 !== bloom.bits) throw new TypeError('breached.bloom is not the file that test/support/breached-list.ts makes')
  const bits = filter
  return positionsOf(password).every((at) => ((bits[at >> 3] ?? 0) & (1 << (at & 7))) !== 0)
}

/** Letters people put digits and signs for; guessing programs undo it first. */
const leet: Readonly<Record<string, string>> = { '0': 'o', '1': 'i', '3': 'e', '4': 'a', '5': 's', '7': 't', '@': 'a', $: 's', '!': 'i' }

/**
 * Whether a password is one of the list, or one with little done to it: capitals, up to six digits or signs around it,
 * written twice or thrice, letters replaced by their look-alikes. Also one character or a run repeated throughout.
 */
export function isBreached(password: string): boolean {
  const small = password.toLowerCase()
  const inner = small.replace(/^[^\p{L}]{0,6}(?=\p{L})/u, '').replace(/(?<=\p{L})[^\p{L}]{0,6}$/u, '')
  const forms = new Set([small, inner])
  for (const form of [small, inner]) forms.add(form.replace(/^(.+?)\1+$/su, '$1'))
  for (const form of forms) forms.add([...form].map((letter) => leet[letter] ?? letter).join(''))
  return new Set(small).size < 3 || isRun(small) || [...forms].some((form) => form.length > 2 && listed(form))
}

/** 123456789012, abcdefghijklm and their reverse. */
function isRun(text: string): boolean {
  const steps = [...text].slice(1).map((letter, i) => (letter.codePointAt(0) ?? 0) - (text.codePointAt(i) ?? 0))
  const odd = steps.filter((step) => step !== steps[0] && step !== -9 && step !== 9)
  return Math.abs(steps[0] ?? 0) === 1 && odd.length === 0
}
