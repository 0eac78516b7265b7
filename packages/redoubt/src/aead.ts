import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, randomFillSync } from 'node:crypto'
import type { KeyObject } from 'node:crypto'

/**
 * The only file that calls createCipheriv and createDecipheriv: AES-256-GCM (NIST SP 800-38D) and nothing else.
 * It stands on the line of the doors, below seal.ts, because the local key service and the keyring wrap keys with
 * the same primitive and may not import what stands after them. seal.ts owns the wire form of values.
 */
const algorithm = 'aes-256-gcm'
/** Said in full: without it Node's decipher accepts a tag of 4 bytes, forged after 2^32 tries. */
const gcm = { authTagLength: 16 } as const

export const NONCE_BYTES = 12
export const TAG_BYTES = 16
export const KEY_BYTES = 32
export const KEY_ID_BYTES = 16

const poolBytes = 32 * NONCE_BYTES
const poolMilliseconds = 1000
const pool = Buffer.allocUnsafeSlow(poolBytes)
let used = poolBytes
let filledAt = 0
let armed = false

function emptyPool(): void {
  used = poolBytes
  armed = false
}

/**
 * Writes a fresh random nonce (96 bits) into `into` at `at`.
 * Nonces are drawn 32 at a time, and what is left is dropped at the end of the event loop's turn or after one
 * second: a machine resumed twice from one snapshot would otherwise hand out the same nonces under the same key.
 */
export function freshNonce(into: Buffer, at: number): void {
  const now = Date.now()
  if (used === poolBytes || now - filledAt >= poolMilliseconds || now < filledAt) {
    randomFillSync(pool)
    used = 0
    filledAt = now
    if (!armed) {
      armed = true
      setImmediate(emptyPool).unref()
    }
  }
  for (let i = 0; i < NONCE_BYTES; i++) into[at + i] = pool[used + i] ?? 0
  used += NONCE_BYTES
}

/**
 * Turns 32 bytes into a KeyObject and zeroes the bytes.
 * Always a KeyObject: a Buffer given as key costs 17 to 22 µs a call on Node 24, and stays readable in a heap dump.
 * @throws TypeError when it is not 32 bytes
 */
export function secretKey(bytes: Buffer): KeyObject {
  if (bytes.length !== KEY_BYTES) throw new TypeError('secretKey: bytes must be 32 bytes')
  const key = createSecretKey(bytes)
  bytes.fill(0)
  return key
}

/**
 * The name of a key: the first 16 bytes of HKDF-SHA-256(key, no salt, info "redoubt key id").
 * It commits to the key: without it one AES-GCM ciphertext can be built that opens under two keys.
 */
export function keyId(key: KeyObject): Buffer {
  return Buffer.from(hkdfSync('sha256', key, '', 'redoubt key id', KEY_ID_BYTES))
}

/**
 * @param aad what the ciphertext is bound to; never empty
 * @param plaintext bytes, or text taken as UTF-8; may be empty
 * @throws TypeError when the AAD is empty or the nonce is not 12 bytes
 */
export function encrypt(
  key: KeyObject,
  nonce: Buffer,
  aad: Buffer,
  plaintext: Buffer | string,
): { readonly ciphertext: Buffer; readonly tag: Buffer } {
  if (aad.length === 0) throw new TypeError('encrypt: aad must not be empty')
  if (nonce.length !== NONCE_BYTES) throw new TypeError('encrypt: nonce must be 12 bytes')
  const cipher = createCipheriv(algorithm, key, nonce, gcm)
  cipher.setAAD(aad)
  const ciphertext = typeof plaintext === 'string' ? cipher.update(plaintext, 'utf8') : cipher.update(plaintext)
  cipher.final()
  return { ciphertext, tag: cipher.getAuthTag() }
}

/**
 * The plaintext, or null when anything at all does not fit: why is not told, since the reason is what an
 * attacker with a decryption oracle would learn from.
 * @throws TypeError when the AAD is empty
 */
export function decrypt(key: KeyObject, nonce: Buffer, aad: Buffer, ciphertext: Buffer, tag: Buffer): Buffer | null {
  if (aad.length === 0) throw new TypeError('decrypt: aad must not be empty')
  if (nonce.length !== NONCE_BYTES || tag.length !== TAG_BYTES) return null
  const decipher = createDecipheriv(algorithm, key, nonce, gcm)
  decipher.setAuthTag(tag)
  decipher.setAAD(aad)
  const plaintext = decipher.update(ciphertext)
  try {
    decipher.final()
    return plaintext
  } catch {
    plaintext.fill(0)
    return null
  }
}

/** First byte of a wrapped key; the form is in docs/formats.md, "wrapped key". */
const wrapVersion = 1
const wrapOverhead = 1 + NONCE_BYTES + TAG_BYTES

/** A key (or private key) encrypted under another: version (1) | nonce (12) | ciphertext | tag (16). */
export function wrapKey(under: KeyObject, aad: Buffer, secret: Buffer): Buffer {
  const head = Buffer.allocUnsafe(1 + NONCE_BYTES)
  head[0] = wrapVersion
  freshNonce(head, 1)
  const { ciphertext, tag } = encrypt(under, head.subarray(1), aad, secret)
  return Buffer.concat([head, ciphertext, tag])
}

/** The wrapped secret, or null when it was not wrapped under this key with this AAD. The caller zeroes it. */
export function unwrapKey(under: KeyObject, aad: Buffer, wrapped: Buffer): Buffer | null {
  if (wrapped.length <= wrapOverhead || wrapped[0] !== wrapVersion) return null
  const end = wrapped.length - TAG_BYTES
  return decrypt(
    under,
    wrapped.subarray(1, 1 + NONCE_BYTES),
    aad,
    wrapped.subarray(1 + NONCE_BYTES, end),
    wrapped.subarray(end),
  )
}
