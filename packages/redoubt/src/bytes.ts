import { randomFillSync } from 'node:crypto'

const hex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))
const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** 128 ids' worth: a call for random bytes costs as much as ten ids. */
const pool = Buffer.allocUnsafe(1_280)
let used = pool.length

/** The next bytes of the pool, which are given out once. */
function take(length: number): Buffer {
  if (used + length > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  return pool.subarray(used, (used += length))
}

/**
 * Random bytes of the CSPRNG that nobody can guess, where the same ones twice give nothing away: a salt, the id of a
 * token. They come from memory (a machine that was cloned while running may give some of them twice), so never a key, a
 * nonce or a token.
 * @param length at most 64
 */
export function saltBytes(length: number): Buffer {
  if (!Number.isInteger(length) || length < 1 || length > 64) throw new TypeError('saltBytes: length must be a whole number from 1 to 64')
  return Buffer.from(take(length))
}

/**
 * A new row id: UUID version 7 (RFC 9562 §5.7), so that ids made by the app keep B-trees compact.
 * The 74 random bits come from the CSPRNG; the millisecond in front is not a secret.
 */
export function newId(now: number = Date.now()): string {
  const r = take(10)
  const at = (i: number): number => r[i] ?? 0
  const h = (byte: number): string => hex[byte & 0xff] ?? ''
  const high = Math.floor(now / 0x1_0000)
  return (
    `${h(high >>> 24)}${h(high >>> 16)}${h(high >>> 8)}${h(high)}-${h(now >>> 8)}${h(now)}-` +
    `${h(0x70 | (at(0) & 0x0f))}${h(at(1))}-${h(0x80 | (at(2) & 0x3f))}${h(at(3))}-` +
    `${h(at(4))}${h(at(5))}${h(at(6))}${h(at(7))}${h(at(8))}${h(at(9))}`
  )
}

/** True for the canonical small-letter text of a UUID. */
export function isUuid(text: string): boolean {
  return uuidPattern.test(text)
}

/**
 * The 16 bytes of a UUID.
 * @throws TypeError when the text is not a canonical UUID
 */
export function uuidBytes(id: string): Buffer {
  if (!uuidPattern.test(id)) throw new TypeError('uuidBytes: id must be a canonical UUID')
  return Buffer.from(id.replaceAll('-', ''), 'hex')
}

/**
 * Joins parts so that no two lists give the same bytes: each part behind its length (4 bytes, big endian).
 * Plain joining lets an attacker move a byte over the seam (moto reads {a:'bc'} and {ab:'c'} as equal).
 */
export function framed(parts: readonly (Buffer | string)[]): Buffer {
  let length = 0
  for (const part of parts) length += 4 + Buffer.byteLength(part)
  const out = Buffer.allocUnsafe(length)
  let at = 0
  for (const part of parts) {
    const bytes = typeof part === 'string' ? out.write(part, at + 4) : part.copy(out, at + 4)
    at = out.writeUInt32BE(bytes, at) + bytes
  }
  return out
}
