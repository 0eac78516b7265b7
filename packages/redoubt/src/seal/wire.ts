import { encrypt, decrypt, KEY_ID_BYTES, NONCE_BYTES, TAG_BYTES } from '../aead.ts'
import type { DataKey } from '../keyring.ts'
import type { Sealed } from '../tables.ts'

/** Where a sealed value stands. Immutable numbers, not SQL names, so that tables and columns can be renamed. */
export type Place = {
  readonly tenant: string
  /** Number of the table in tables.ts, 1 to 65535. */
  readonly table: number
  /** Number of the column in its table, 1 to 65535. */
  readonly column: number
  /** Id of the row (UUID), made by the app before the insert. */
  readonly row: string
  /** Id of the data subject (UUID) whose key seals the row. */
  readonly subject: string
}

/** First byte of every sealed value; a reader knows exactly the versions it lists. */
export const version = 1
export const NONCE_AT = 1 + KEY_ID_BYTES
const HEADER_BYTES = NONCE_AT + NONCE_BYTES
/** Bytes that sealing adds to a value, whatever its length. */
export const OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES

const TABLE_AT = HEADER_BYTES
const COLUMN_AT = TABLE_AT + 2
const ROW_AT = COLUMN_AT + 2
const SUBJECT_AT = ROW_AT + 16
const TENANT_AT = SUBJECT_AT + 16
const TENANT_BYTES = 600

/** One scratch for all AADs: built and used within one synchronous call. */
const aadScratch = Buffer.alloc(TENANT_AT + TENANT_BYTES)
const headerScratch = aadScratch.subarray(0, HEADER_BYTES)
const nonceScratch = aadScratch.subarray(NONCE_AT, HEADER_BYTES)
/** The tag of a value that is being opened: a view of it costs more than its sixteen bytes. */
const tagScratch = Buffer.alloc(TAG_BYTES)

/** The AAD in the scratch. A new view for each value takes as long as sealing a hundred bytes of it; tenants are mostly the last one again. */
let aad = aadScratch.subarray(0, TENANT_AT)

function aadOf(end: number): Buffer {
  if (aad.length !== end) aad = aadScratch.subarray(0, end)
  return aad
}

/** Value of a small hex digit by character code; 16 for everything else. */
const digits = new Uint8Array(128).fill(16)
for (let value = 0; value < 16; value++) digits[value.toString(16).charCodeAt(0)] = value

function digitAt(text: string, at: number): number {
  return digits[text.charCodeAt(at)] ?? 16
}

/** Writes the 16 bytes of a canonical UUID, whose length has been seen; false when it is none. By hand: this runs for every row. */
function writeUuid(id: string, at: number): boolean {
  let wrong = 0
  for (let from = 0, to = at; from < 36; ) {
    if (from === 8 || from === 13 || from === 18 || from === 23) {
      if (id.charCodeAt(from++) !== 45) return false
      continue
    }
    const high = digitAt(id, from++)
    const low = digitAt(id, from++)
    wrong |= high | low
    aadScratch[to++] = (high << 4) | low
  }
  return wrong < 16
}

function writeNumber(value: number, at: number): boolean {
  aadScratch[at] = value >> 8
  aadScratch[at + 1] = value & 0xff
  return Number.isInteger(value) && value > 0 && value < 0x1_0000
}

/** What stands in the scratch, written by these functions alone: the columns of a row come one after another, and mostly of one person. */
let rowStanding = ''
let subjectStanding = ''
let tenantStanding = ''
let tenantEnd = 0

function writeRow(id: string): boolean {
  // An empty one is none: nothing stands there.
  if (id.length !== 36) return false
  if (id === rowStanding) return true
  rowStanding = ''
  if (!writeUuid(id, ROW_AT)) return false
  rowStanding = id
  return true
}

function writeRowBytes(page: Buffer, from: number): void {
  rowStanding = ''
  for (let i = 0; i < 16; i++) aadScratch[ROW_AT + i] = page[from + i] as number
}

function writeSubject(id: string): boolean {
  if (id.length !== 36) return false
  if (id === subjectStanding) return true
  subjectStanding = ''
  if (!writeUuid(id, SUBJECT_AT)) return false
  subjectStanding = id
  return true
}

/** @returns where the AAD ends; 0 for what is no tenant */
function writeTenant(tenant: string): number {
  const { length } = tenant
  // At most three bytes for each UTF-16 unit: what is shorter than a third of the scratch cannot be cut off.
  if (length === 0 || length > TENANT_BYTES / 3) return 0
  if (tenant === tenantStanding) return tenantEnd
  tenantEnd = TENANT_AT + aadScratch.write(tenant, TENANT_AT)
  tenantStanding = tenant
  return tenantEnd
}

/**
 * Writes the AAD behind the header that is in the scratch already: header | table | column | row | subject | tenant.
 * Everything before the tenant has a fixed length, so no two places give the same bytes.
 * @returns the length, or the name of the argument that is no place
 */
function writePlace({ tenant, table, column, row, subject }: Place): number | keyof Place {
  if (!writeNumber(table, TABLE_AT)) return 'table'
  if (!writeNumber(column, COLUMN_AT)) return 'column'
  if (!writeRow(row)) return 'row'
  if (!writeSubject(subject)) return 'subject'
  return writeTenant(tenant) || 'tenant'
}

/**
 * Seals under the nonce that `drawNonce` writes. seal.ts is the only caller outside the tests of the frozen vectors:
 * a nonce used twice under one key gives away both plaintexts and the power to forge.
 * @throws TypeError naming the argument that does not fit
 */
export function sealWith(key: DataKey, place: Place, plaintext: Buffer | string, drawNonce: (into: Buffer, at: number) => void): Sealed {
  const { scope } = key
  if (scope.tenant !== place.tenant || scope.subject !== place.subject) {
    throw new TypeError('seal: key belongs to another tenant or subject than place')
  }
  aadScratch[0] = version
  for (let i = 0; i < KEY_ID_BYTES; i++) aadScratch[1 + i] = key.id[i] as number
  drawNonce(aadScratch, NONCE_AT)
  const end = writePlace(place)
  if (typeof end === 'string') throw new TypeError(`seal: place.${end} is not acceptable`)
  const { ciphertext, tag } = encrypt(key.key, nonceScratch, aadOf(end), plaintext)
  const sealed = Buffer.allocUnsafe(OVERHEAD_BYTES + ciphertext.length)
  sealed.set(headerScratch)
  sealed.set(ciphertext, HEADER_BYTES)
  sealed.set(tag, HEADER_BYTES + ciphertext.length)
  return sealed as Sealed
}

/** Bytes that could be a sealed value of a version this reader knows. */
export function looksSealed(sealed: Buffer): boolean {
  return Buffer.isBuffer(sealed) && sealed.length >= OVERHEAD_BYTES && sealed[0] === version
}

/** A place whose row and subject stand in a page of a job: 16 bytes of the one, 36 letters of the other. */
export type PagePlace = Pick<Place, 'tenant' | 'table' | 'column'> & { readonly page: Buffer; readonly rowAt: number; readonly subjectAt: number }

/** Whether a key of this tenant and subject may open and seal here. */
export function fitsPage({ tenant, subject }: Pick<Place, 'tenant' | 'subject'>, { tenant: of, page, subjectAt }: PagePlace): boolean {
  if (tenant !== of || subject.length !== 36) return false
  let other = 0
  for (let i = 0; i < 36; i++) other |= subject.charCodeAt(i) ^ (page[subjectAt + i] as number)
  return other === 0
}

/** `subject` is that of a key that fits the page. Row ids need not be texts for this: two strings less for each value. */
function writePagePlace({ tenant, table, column, page, rowAt }: PagePlace, subject: string): number | keyof Place {
  if (!writeNumber(table, TABLE_AT)) return 'table'
  if (!writeNumber(column, COLUMN_AT)) return 'column'
  writeRowBytes(page, rowAt)
  if (!writeSubject(subject)) return 'subject'
  return writeTenant(tenant) || 'tenant'
}

/** Like `openWith`, of the bytes of a page from `from` to `to`. */
export function openInPage(key: DataKey, place: PagePlace, from: number, to: number): Buffer | null {
  const { page } = place
  if (to - from < OVERHEAD_BYTES || page[from] !== version || !fitsPage(key.scope, place)) return null
  let other = 0
  for (let i = 0; i < KEY_ID_BYTES; i++) other |= (page[from + 1 + i] as number) ^ (key.id[i] as number)
  if (other !== 0) return null
  for (let i = 0; i < HEADER_BYTES; i++) aadScratch[i] = page[from + i] as number
  const end = writePagePlace(place, key.scope.subject)
  if (typeof end === 'string') return null
  for (let i = 0; i < TAG_BYTES; i++) tagScratch[i] = page[to - TAG_BYTES + i] as number
  return decrypt(key.key, nonceScratch, aadOf(end), page.subarray(from + HEADER_BYTES, to - TAG_BYTES), tagScratch)
}

/**
 * Like `sealWith`, into the bytes of `into` at `at`, where there is room for OVERHEAD_BYTES more than the plaintext.
 * @returns where it ends
 * @throws TypeError naming the argument that does not fit
 */
export function sealInPage(key: DataKey, place: PagePlace, plaintext: Buffer, drawNonce: (into: Buffer, at: number) => void, into: Buffer, at: number): number {
  if (!fitsPage(key.scope, place)) throw new TypeError('seal: key belongs to another tenant or subject than place')
  aadScratch[0] = version
  for (let i = 0; i < KEY_ID_BYTES; i++) aadScratch[1 + i] = key.id[i] as number
  drawNonce(aadScratch, NONCE_AT)
  const end = writePagePlace(place, key.scope.subject)
  if (typeof end === 'string') throw new TypeError(`seal: place.${end} is not acceptable`)
  const { ciphertext, tag } = encrypt(key.key, nonceScratch, aadOf(end), plaintext)
  const { length } = ciphertext
  if (into.length < at + OVERHEAD_BYTES + length) throw new TypeError('seal: into is too short')
  for (let i = 0; i < HEADER_BYTES; i++) into[at + i] = aadScratch[i] as number
  into.set(ciphertext, at + HEADER_BYTES)
  for (let i = 0; i < TAG_BYTES; i++) into[at + HEADER_BYTES + length + i] = tag[i] as number
  return at + OVERHEAD_BYTES + length
}

/** The plaintext, or null when anything does not fit. */
export function openWith(key: DataKey, place: Place, sealed: Buffer): Buffer | null {
  const { scope } = key
  if (!looksSealed(sealed) || scope.tenant !== place.tenant || scope.subject !== place.subject) return null
  let other = 0
  for (let i = 0; i < KEY_ID_BYTES; i++) other |= (sealed[1 + i] as number) ^ (key.id[i] as number)
  if (other !== 0) return null
  for (let i = 0; i < HEADER_BYTES; i++) aadScratch[i] = sealed[i] as number
  const end = writePlace(place)
  if (typeof end === 'string') return null
  const tagAt = sealed.length - TAG_BYTES
  for (let i = 0; i < TAG_BYTES; i++) tagScratch[i] = sealed[tagAt + i] as number
  return decrypt(key.key, nonceScratch, aadOf(end), sealed.subarray(HEADER_BYTES, tagAt), tagScratch)
}
