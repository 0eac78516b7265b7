import { unwrapKey, wrapKey } from '../aead.ts'
import { Refusal } from '../errors.ts'
import { dataKeyAad } from './data-keys.ts'
import { indexKeyAad } from './index-keys.ts'
import type { Kek, KeysPool } from './keks.ts'
import { purposeKeyAad, type Purpose } from './purpose-keys.ts'

/** A wrapped key as a batch gives it: its place in the order, its bytes, and what makes its AAD. */
type Wrapped = { readonly at: string; readonly wrapped: Buffer }
type DataRow = Wrapped & { readonly key_id: Buffer; readonly tenant: string; readonly subject: string; readonly keep: string }
type IndexRow = Wrapped & { readonly key_id: Buffer; readonly table_id: number; readonly column_id: number; readonly version: number }
type PurposeRow = Wrapped & { readonly purpose: Purpose; readonly kid: string; readonly holds: string }

/**
 * One kind of key: its rows under a key-encryption key in an order, its AAD, and the batch that replaces the wrapping.
 * Replaced is what still stands as it was read; a row that somebody else holds is passed over and met again: an eraser
 * and a batch would wait for each other crosswise.
 */
type Kind<R extends Wrapped> = { readonly select: string; readonly replace: string; readonly aad: (kek: Kek, row: R) => Buffer }

function replaceOf(table: string, key: string): string {
  return `with anew as (select * from unnest($3::text[], $4::bytea[], $5::bytea[]) as m (at, old, new)),
    free as (select ${key} as at from ${table} r where ${key} = any ($3::text[]) and r.kek_id = $1 for no key update skip locked)
    update ${table} r set kek_id = $2, wrapped = anew.new from anew join free using (at)
    where ${key} = anew.at and r.kek_id = $1 and r.wrapped = anew.old returning 1 as one`
}

const dataAt = `encode(r.key_id, 'hex')`
const data: Kind<DataRow> = {
  select: `select ${dataAt} as at, r.wrapped, r.key_id, r.tenant, r.subject, r.keep from keys.data_keys r where r.kek_id = $1 and r.key_id > decode($2, 'hex') order by r.key_id limit $3`,
  replace: `with anew as (select decode(at, 'hex') as key_id, old, new from unnest($3::text[], $4::bytea[], $5::bytea[]) as m (at, old, new)),
    free as (select r.key_id from keys.data_keys r where r.key_id = any (array(select key_id from anew)) and r.kek_id = $1 order by r.key_id for no key update skip locked)
    update keys.data_keys r set kek_id = $2, wrapped = anew.new from anew join free using (key_id)
    where r.key_id = anew.key_id and r.kek_id = $1 and r.wrapped = anew.old returning 1 as one`,
  aad: (kek, row) => dataKeyAad(kek, row.key_id, { tenant: row.tenant, subject: row.subject, keep: row.keep }),
}
const indexAt = `lpad(r.table_id::text, 5, '0') || '.' || lpad(r.column_id::text, 5, '0') || '.' || lpad(r.version::text, 3, '0')`
const index: Kind<IndexRow> = {
  select: `select ${indexAt} as at, r.wrapped, r.key_id, r.table_id, r.column_id, r.version from keys.index_keys r where r.kek_id = $1 and ${indexAt} > $2 order by 1 limit $3`,
  replace: replaceOf('keys.index_keys', indexAt),
  aad: (kek, row) => indexKeyAad(kek, { table: row.table_id, column: row.column_id }, row.version, row.key_id),
}
const purposeAt = `r.purpose || '/' || r.kid`
const purpose: Kind<PurposeRow> = {
  select: `select ${purposeAt} as at, r.wrapped, r.purpose, r.kid, r.holds from keys.purpose_keys r where r.kek_id = $1 and ${purposeAt} > $2 order by 1 limit $3`,
  replace: replaceOf('keys.purpose_keys', purposeAt),
  aad: (kek, row) => purposeKeyAad(kek, row.purpose, row.kid, row.holds === 'public' ? 'public' : 'private'),
}

/** Rows per statement: some hundred kilobytes, and locks for milliseconds. */
const batchSize = 500
/** Rows that others hold are met again in the next pass, after this many milliseconds. */
const pause = 200

function rewrapped(from: Kek, to: Kek, aad: (kek: Kek) => Buffer, wrapped: Buffer): Buffer {
  const bytes = unwrapKey(from.key, aad(from), wrapped)
  if (bytes === null) throw new Refusal('key_refused', { detail: 'a wrapped key does not open under the key-encryption key that its row names' })
  const anew = wrapKey(to.key, aad(to), bytes)
  // Opened once more before the old one is replaced: what is lost here is lost for good.
  const again = unwrapKey(to.key, aad(to), anew)
  const same = again?.equals(bytes) === true
  bytes.fill(0)
  again?.fill(0)
  if (!same) throw new Refusal('key_refused', { detail: 'a key wrapped anew does not open' })
  return anew
}

async function rewrapKind<R extends Wrapped>(pool: KeysPool, kind: Kind<R>, from: Kek, to: Kek, progress: (count: number) => void): Promise<number> {
  let count = 0
  for (;;) {
    let after = ''
    let met = 0
    for (;;) {
      const rows = await pool.query<R>({ text: kind.select, values: [from.id, after, batchSize] })
      const last = rows.at(-1)
      if (last === undefined) break
      met += rows.length
      const anew = rows.map((row) => rewrapped(from, to, (kek) => kind.aad(kek, row), row.wrapped))
      const done = await pool.query({ text: kind.replace, values: [from.id, to.id, rows.map(({ at }) => at), rows.map(({ wrapped }) => wrapped), anew] })
      count += done.length
      after = last.at
      progress(count)
    }
    if (met === 0) return count
    // What was met and not replaced is being erased or rewrapped by somebody else; what is left is met again.
    await new Promise((resolve) => setTimeout(resolve, pause))
  }
}

/**
 * Wraps all that one key-encryption key wraps under another of the same purpose, in batches by compare-and-set, until
 * nothing is left. May be interrupted at any point and done again, and by several at once.
 * @param progress is told after each batch how many keys were wrapped anew
 * @returns how many keys this call has wrapped anew
 * @throws Refusal conflict when `to` is not the active one any more
 */
export async function rewrapAll(pool: KeysPool, from: Kek, to: Kek, progress: (count: number) => void): Promise<number> {
  if (from.purpose !== to.purpose || from.id.equals(to.id)) throw new TypeError('rewrapAll: from and to must be two versions of one purpose')
  switch (from.purpose) {
    case 'data':
      return rewrapKind(pool, data, from, to, progress)
    case 'index':
      return rewrapKind(pool, index, from, to, progress)
    case 'purpose':
      return rewrapKind(pool, purpose, from, to, progress)
  }
}
