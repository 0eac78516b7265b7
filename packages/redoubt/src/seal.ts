import { createHmac } from 'node:crypto'
import { freshNonce, KEY_ID_BYTES } from './aead.ts'
import { Refusal } from './errors.ts'
import type { DataKey, IndexKey } from './keyring.ts'
import { looksSealed, NONCE_AT, openWith, sealWith, type Place } from './seal/wire.ts'
import type { BlindIndex, Sealed } from './tables.ts'

export type { Place } from './seal/wire.ts'

/**
 * Seals a value for one place (docs/formats.md, "sealed value"; guarantees §3): version | key id | nonce | ciphertext | tag,
 * 45 bytes longer than the value. It opens at this place, under this key, and nowhere else.
 * @param key the data key of the place's tenant and subject
 * @param plaintext bytes, or text taken as UTF-8 (a lone surrogate becomes U+FFFD); may be empty
 * @throws TypeError when the key belongs to another tenant or subject, or the place is malformed
 */
export function seal(key: DataKey, place: Place, plaintext: Buffer | string): Sealed {
  return sealWith(key, place, plaintext, freshNonce)
}

/**
 * Opens a sealed value where it stands.
 * @throws Refusal sealed_value_refused: one and the same whether bytes, key, place or version do not fit
 */
export function open(key: DataKey, place: Place, sealed: Buffer): Buffer {
  const plaintext = openWith(key, place, sealed)
  if (plaintext === null) throw new Refusal('sealed_value_refused')
  return plaintext
}

/**
 * The id of the key that a sealed value names; not yet believed, `open` authenticates it.
 * @throws Refusal sealed_value_refused when these bytes are no sealed value
 */
export function keyIdOf(sealed: Buffer): Buffer {
  if (!looksSealed(sealed)) throw new Refusal('sealed_value_refused')
  return sealed.subarray(NONCE_AT - KEY_ID_BYTES, NONCE_AT)
}

/**
 * Whether a sealed value names the key of this id, without a piece of memory for the asking.
 * @throws Refusal sealed_value_refused when these bytes are no sealed value
 */
export function namesKey(sealed: Buffer, id: Buffer): boolean {
  if (!looksSealed(sealed)) throw new Refusal('sealed_value_refused')
  let other = id.length ^ KEY_ID_BYTES
  for (let i = 0; i < KEY_ID_BYTES; i++) other |= (sealed[NONCE_AT - KEY_ID_BYTES + i] as number) ^ (id[i] as number)
  return other === 0
}

/** What a blind index is of: equal values have equal indexes only here. */
export type IndexPlace = Pick<Place, 'tenant' | 'table' | 'column'>

function isNumber(value: number): boolean {
  return Number.isInteger(value) && value > 0 && value < 0x1_0000
}

/** Longest UTF-16 text whose UTF-8 surely fits behind a two-byte length. */
const tenantUnits = 200
/** Input of the MAC, built and used within one synchronous call. */
const macScratch = Buffer.alloc(2048)
/** The tenant that stands in the scratch: mostly the same one as last time. */
let macTenant = ''
let macTenantBytes = 0

/**
 * The blind index of a value, for equality alone: version of the key (1 byte), then the first 16 bytes of
 * HMAC-SHA-256(key, table | column | length of tenant | tenant | value).
 * The value is taken as it is: whoever wants `A@b` and `a@b` to be equal makes them equal first.
 * @throws TypeError when the version or the place is malformed
 */
export function blindIndex(key: IndexKey, place: IndexPlace, value: Buffer | string): BlindIndex {
  const out = Buffer.allocUnsafe(INDEX_BYTES)
  blindIndexInto(key, place, value, out, 0)
  return out as BlindIndex
}

/** Bytes of a blind index. */
export const INDEX_BYTES = 17

/** Like `blindIndex`, into the INDEX_BYTES bytes of `out` at `at`. */
export function blindIndexInto(key: IndexKey, place: IndexPlace, value: Buffer | string, out: Buffer, at: number): void {
  const { tenant, table, column } = place
  if (!(Number.isInteger(key.version) && key.version > 0 && key.version < 256)) throw new TypeError('blindIndex: key.version must be 1 to 255')
  if (!isNumber(table)) throw new TypeError('blindIndex: place.table must be 1 to 65535')
  if (!isNumber(column)) throw new TypeError('blindIndex: place.column must be 1 to 65535')
  if (tenant === '' || tenant.length > tenantUnits) throw new TypeError('blindIndex: place.tenant must have 1 to 200 characters')
  macScratch[0] = table >> 8
  macScratch[1] = table & 0xff
  macScratch[2] = column >> 8
  macScratch[3] = column & 0xff
  if (tenant !== macTenant) {
    macTenant = tenant
    macTenantBytes = macScratch.write(tenant, 6)
    macScratch[4] = macTenantBytes >> 8
    macScratch[5] = macTenantBytes & 0xff
  }
  const from = 6 + macTenantBytes
  const mac = createHmac('sha256', key.key)
  if (value.length * 3 <= macScratch.length - from) {
    // One update instead of two: each crossing into native code costs as much as the hash itself.
    const end = from + (typeof value === 'string' ? macScratch.write(value, from) : value.copy(macScratch, from))
    mac.update(macScratch.subarray(0, end))
    macScratch.fill(0, from, end)
  } else {
    mac.update(macScratch.subarray(0, from)).update(value)
  }
  // As text of one byte a character: a Buffer would be one more allocation outside the heap for each value.
  const digest = mac.digest('binary')
  out[at] = key.version
  for (let i = 1; i < INDEX_BYTES; i++) out[at + i] = digest.charCodeAt(i - 1)
}
