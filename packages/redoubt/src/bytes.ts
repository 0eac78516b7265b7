import { randomFillSync } from 'node:crypto'

const digits = Array.from('0123456789abcdef', (digit) => digit.charCodeAt(0))
const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** 128 ids' worth: a call for random bytes costs as much as ten ids. */
const pool = Buffer.allocUnsafe(1_280)
let used = pool.length

/** Where the next bytes of the pool begin, which are given out once. */
function next(length: number): number {
  if (used + length > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  const from = used
  used += length
  return from
}

/**
 * Random bytes of the CSPRNG that nobody can guess, where the same ones twice give nothing away: a salt, the id of a
 * token. They come from memory (a machine that was cloned while running may give some of them twice), so never a key, a
 * nonce or a token.
 * @param length at most 64
 */
export function saltBytes(length: number): Buffer {
  if (!Number.isInteger(length) || length < 1 || length > 64) throw new TypeError('saltBytes: length must be a whole number from 1 to 64')
  const from = next(length)
  return Buffer.from(pool.subarray(from, from + length))
}

/** The text of the last id, in which the next one is written: put together of strings it would cost three times as much. */
const lastId = Buffer.from('00000000-0000-7000-8000-000000000000', 'latin1')
/** The millisecond that stands in it. */
let stamped = 0

function write(at: number, byte: number): void {
  lastId[at] = digits[(byte >>> 4) & 0x0f] ?? 0
  lastId[at + 1] = digits[byte & 0x0f] ?? 0
}

function stamp(now: number): void {
  const high = Math.floor(now / 0x1_0000)
  write(0, high >>> 24)
  write(2, high >>> 16)
  write(4, high >>> 8)
  write(6, high)
  write(9, now >>> 8)
  write(11, now)
  stamped = now
}

/**
 * A new row id: UUID version 7 (RFC 9562 §5.7), so that ids made by the app keep B-trees compact.
 * The 74 random bits come from the CSPRNG; the millisecond in front is not a secret.
 */
export function newId(now: number = Date.now()): string {
  const from = next(10)
  if (now !== stamped) stamp(now)
  write(14, 0x70 | ((pool[from] ?? 0) & 0x0f))
  write(16, pool[from + 1] ?? 0)
  write(19, 0x80 | ((pool[from + 2] ?? 0) & 0x3f))
  write(21, pool[from + 3] ?? 0)
  for (let i = 4; i < 10; i++) write(16 + 2 * i, pool[from + i] ?? 0)
  return lastId.toString('latin1')
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
