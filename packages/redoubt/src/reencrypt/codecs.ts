import { createHmac, timingSafeEqual } from 'node:crypto'
import { isUtf8 } from 'node:buffer'
import type { KeyObject } from 'node:crypto'
import { KEY_BYTES, secretKey } from '../aead.ts'
import { openLegacyGcm, openLegacySalted } from '../aead/legacy.ts'
import type { LegacyForm, LegacySource } from '../tables.ts'

/** Why a legacy value could not be read: a class, never anything of the value. */
export type DecodeFailure = 'empty' | 'unknown_form' | 'malformed' | 'does_not_open' | 'not_text' | 'not_accepted'
export type Decoded = { readonly value: Buffer } | { readonly refused: DecodeFailure }

/** A form of an older system: whether a text looks like it, and what it says. */
type Codec = { recognises(text: string): boolean; read(text: string): Buffer | DecodeFailure }

const base64Pattern = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/
const hexPattern = /^(?:[0-9a-f]{2})+$/i

/** Only what an encoder writes: a text cut off in its middle, or with a stray character, is not base64. */
function strictBase64(text: string): Buffer | null {
  if (!base64Pattern.test(text)) return null
  const bytes = Buffer.from(text, 'base64')
  return bytes.toString('base64') === text ? bytes : null
}

function base64Codec(): Codec {
  return { recognises: (text) => base64Pattern.test(text), read: (text) => strictBase64(text) ?? 'malformed' }
}

function plaintextCodec(): Codec {
  return { recognises: () => true, read: (text) => Buffer.from(text, 'utf8') }
}

/** A 32-byte key in hexadecimal or base64. @throws TypeError naming the setting */
function keyFrom(name: string, secret: string): KeyObject {
  const bytes = hexPattern.test(secret) && secret.length === 2 * KEY_BYTES ? Buffer.from(secret, 'hex') : strictBase64(secret)
  if (bytes?.length !== KEY_BYTES) throw new TypeError(`reencrypt: ${name} must be 32 bytes in hexadecimal or base64`)
  return secretKey(bytes)
}

const gcmPrefix = 'gcm:v1:'

/** The readings a part may have; the tag decides which was meant. */
function readings(part: string): readonly Buffer[] {
  const base64 = strictBase64(part)
  return [...(hexPattern.test(part) ? [Buffer.from(part, 'hex')] : []), ...(base64 === null ? [] : [base64])]
}

/**
 * `gcm:v1:` and the nonce, then ciphertext and tag in either order, or all three in one part (nonce, ciphertext, tag).
 * Systems that wrote this by hand differ in order and encoding; a reading that was not meant does not authenticate.
 */
function gcmCodec(key: KeyObject): Codec {
  function opened(nonce: Buffer, one: Buffer, other: Buffer): Buffer | null {
    return openLegacyGcm(key, nonce, one, other) ?? openLegacyGcm(key, nonce, other, one)
  }
  return {
    recognises: (text) => text.startsWith(gcmPrefix),
    read(text) {
      const parts = text.slice(gcmPrefix.length).split(':')
      if (parts.length === 1) {
        const all = readings(parts[0] ?? '').filter(({ length }) => length >= 28)
        for (const bytes of all) {
          const value = openLegacyGcm(key, bytes.subarray(0, 12), bytes.subarray(12, -16), bytes.subarray(-16))
          if (value !== null) return value
        }
        return all.length === 0 ? 'malformed' : 'does_not_open'
      }
      if (parts.length !== 3) return 'malformed'
      const [nonces, ones, others] = parts.map((part) => (part === '' ? [Buffer.alloc(0)] : readings(part))) as [readonly Buffer[], readonly Buffer[], readonly Buffer[]]
      if (nonces.length === 0 || ones.length === 0 || others.length === 0) return 'malformed'
      for (const nonce of nonces) for (const one of ones) for (const other of others) {
        const value = opened(nonce, one, other)
        if (value !== null) return value
      }
      return 'does_not_open'
    },
  }
}

/** Base64 of `Salted__`, whatever the salt. */
const saltedPrefix = 'U2FsdGVkX1'

function cryptoJsCodec(passphrase: string): Codec {
  const bytes = Buffer.from(passphrase, 'utf8')
  return {
    recognises: (text) => text.startsWith(saltedPrefix),
    read(text) {
      const sealed = strictBase64(text)
      if (sealed === null || sealed.length < 32 || sealed.length % 16 !== 0) return 'malformed'
      return openLegacySalted(bytes, sealed) ?? 'does_not_open'
    },
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function jsonOf(part: string): unknown {
  try {
    return JSON.parse(Buffer.from(part, 'base64url').toString('utf8'))
  } catch {
    return undefined
  }
}

/** A JWT (RFC 7519) signed with HS256. Its time of expiry is not asked: it was a container, not a permission. */
function jwtCodec(secret: string, claim: string): Codec {
  return {
    recognises: (text) => text.startsWith('eyJ') && text.split('.').length === 3,
    read(text) {
      const [head = '', body = '', signature = ''] = text.split('.')
      if (![head, body, signature].every((part) => /^[\w-]+$/.test(part))) return 'malformed'
      const header = jsonOf(head)
      // Signed by anything else, or by nothing, it proves nothing (RFC 8725 §3.1).
      if (!isRecord(header) || header['alg'] !== 'HS256') return 'malformed'
      const made = createHmac('sha256', secret).update(`${head}.${body}`).digest()
      const given = Buffer.from(signature, 'base64url')
      if (given.length !== made.length || !timingSafeEqual(given, made)) return 'does_not_open'
      const payload = jsonOf(body)
      const value = isRecord(payload) ? payload[claim] : undefined
      return typeof value === 'string' && value !== '' ? Buffer.from(value, 'utf8') : 'malformed'
    },
  }
}

/** The old secret of a form, as the declaration names it. */
export type Secrets = (setting: string) => string

function codecOf(form: LegacyForm, source: LegacySource, secrets: Secrets): Codec {
  const setting = source.secrets?.[form] ?? ''
  switch (form) {
    case 'plaintext':
      return plaintextCodec()
    case 'base64':
      return base64Codec()
    case 'gcm-v1':
      return gcmCodec(keyFrom(setting, secrets(setting)))
    case 'cryptojs':
      return cryptoJsCodec(secrets(setting))
    case 'jwt-hs256':
      return jwtCodec(secrets(setting), source.claim ?? '')
  }
}

/**
 * What reads the values of a legacy column. The first form that recognises a text decides: a value that looks like
 * ciphertext and does not open is refused, never taken for something else.
 * @param secrets gives the old secrets by the name of their setting; called once for each
 * @throws TypeError when a secret does not have the form it needs
 */
export function openDecoder(source: LegacySource, secrets: Secrets): (stored: Buffer) => Decoded {
  const codecs = source.forms.map((form) => codecOf(form, source, secrets))
  const emptyIsText = source.forms.at(-1) === 'plaintext'
  return (stored) => {
    if (stored.length === 0 && !emptyIsText) return { refused: 'empty' }
    if (!isUtf8(stored)) return { refused: 'malformed' }
    const text = stored.toString('utf8')
    const codec = codecs.find((one) => one.recognises(text))
    if (codec === undefined) return { refused: 'unknown_form' }
    const read = codec.read(text)
    if (typeof read === 'string') return { refused: read }
    if (!isUtf8(read)) return { refused: 'not_text' }
    if (source.accept === undefined) return { value: read }
    const accepted = source.accept(read.toString('utf8'))
    read.fill(0)
    return accepted === null ? { refused: 'not_accepted' } : { value: Buffer.from(accepted, 'utf8') }
  }
}
