import { createHmac, randomBytes } from 'node:crypto'
import { framed } from '../../bytes.ts'
import type { IndexKey } from '../../keyring.ts'

/** Codes made at once; all earlier ones end with that. */
const recoveryCodes = 10
/** Crockford's base32: no I, L, O or U, so that what is written on paper is read back. */
const letters = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

/** New codes of 80 random bits, as `XXXX-XXXX-XXXX-XXXX`. */
export function newRecoveryCodes(): readonly string[] {
  return Array.from({ length: recoveryCodes }, () =>
    Array.from(randomBytes(16), (byte) => letters[byte % 32] ?? '').join('').replaceAll(/(.{4})(?=.)/g, '$1-'))
}

/** A code as typed, in its one form; undefined for what cannot be one. */
export function canonicalRecovery(typed: string): string | undefined {
  const code = typed.toUpperCase().replaceAll(/[\s-]/g, '').replaceAll('O', '0').replaceAll(/[IL]/g, '1')
  return /^[0-9A-HJKMNP-TV-Z]{16}$/.test(code) ? code : undefined
}

/**
 * What is stored: version of the key (1 byte), then HMAC-SHA-256 (docs/formats.md). 80 random bits need no slow hash, and
 * without the key a stolen table explains nothing.
 */
export function recoveryHash(key: IndexKey, user: string, canonical: string): Buffer {
  return Buffer.concat([Buffer.from([key.version]), createHmac('sha256', key.key).update(framed(['redoubt recovery code', user, canonical])).digest()])
}
