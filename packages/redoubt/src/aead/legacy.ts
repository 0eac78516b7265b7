import { createDecipheriv, createHash } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { secretKey, TAG_BYTES } from '../aead.ts'

/**
 * Ciphers of older systems, for the import of what they left (reencrypt/codecs.ts). They open and never encrypt: new
 * values are sealed by seal.ts alone.
 */

/**
 * AES-256-GCM as many wrote it by hand: no AAD, a nonce of 12 or 16 bytes.
 * @returns the plaintext, or null when nonce, tag or key do not fit
 */
export function openLegacyGcm(key: KeyObject, nonce: Buffer, ciphertext: Buffer, tag: Buffer): Buffer | null {
  if ((nonce.length !== 12 && nonce.length !== 16) || tag.length !== TAG_BYTES) return null
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
  decipher.setAuthTag(tag)
  const plaintext = decipher.update(ciphertext)
  try {
    decipher.final()
    return plaintext
  } catch {
    plaintext.fill(0)
    return null
  }
}

const saltedMagic = Buffer.from('Salted__', 'latin1')

function md5(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('md5')
  for (const part of parts) hash.update(part)
  return hash.digest()
}

/**
 * AES-256-CBC as CryptoJS.AES.encrypt(text, passphrase) and `openssl enc -aes-256-cbc -md md5` write it: `Salted__`,
 * 8 bytes of salt, ciphertext; key and IV by EVP_BytesToKey with MD5 and one iteration. It authenticates nothing: about
 * one wrong value in 256 has a padding that fits, so whoever imports holds the text against what it should look like.
 * @returns the plaintext, or null when form or padding do not fit
 */
export function openLegacySalted(passphrase: Buffer, bytes: Buffer): Buffer | null {
  const ciphertext = bytes.subarray(16)
  if (!bytes.subarray(0, 8).equals(saltedMagic) || ciphertext.length === 0 || ciphertext.length % 16 !== 0) return null
  const salt = bytes.subarray(8, 16)
  const first = md5(passphrase, salt)
  const second = md5(first, passphrase, salt)
  const iv = md5(second, passphrase, salt)
  const decipher = createDecipheriv('aes-256-cbc', secretKey(Buffer.concat([first, second])), iv)
  first.fill(0)
  second.fill(0)
  const head = decipher.update(ciphertext)
  try {
    return Buffer.concat([head, decipher.final()])
  } catch {
    return null
  } finally {
    head.fill(0)
  }
}
