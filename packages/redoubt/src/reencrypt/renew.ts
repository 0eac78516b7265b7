import type { KeyObject } from 'node:crypto'
import { freshNonce } from '../aead.ts'
import type { DataKey, IndexKey, KeyScope } from '../keyring.ts'
import { blindIndexInto, INDEX_BYTES } from '../seal.ts'
import { fitsPage, openInPage, OVERHEAD_BYTES, sealInPage, version, type PagePlace } from '../seal/wire.ts'
import { arrayHead, BYTEA, HEAD, UUID } from './arrays.ts'
import { SUBJECT_AT, TENANT_AT } from './page.ts'

/** What of a table a renewer has to know; numbers and names alone, so that it can be told to another thread. */
export type RenewTable = {
  readonly table: number
  /** Tenant of every row; null where each row names its own. */
  readonly tenant: string | null
  /** Columns of a page. */
  readonly columns: number
  /** Sealed columns with their place in the page, and those of their indexes. */
  readonly parts: readonly { readonly at: number; readonly column: number; readonly keep: string; readonly indexes: readonly { readonly at: number; readonly column: number }[] }[]
}

/** Its id as `keyIdText` writes it: a Buffer would take the pool it is part of along to another thread. */
export type RenewKey = { readonly id: string; readonly key: KeyObject }
/** A key as the values of a page name it, and the one that its scope is sealed under now. Null: there is none. */
export type RenewFact = { readonly number: number; readonly active: boolean; readonly scope: KeyScope; readonly opening: RenewKey | null; readonly sealing: RenewKey | null }
type Known = Omit<RenewFact, 'opening' | 'sealing'> & { readonly opening: DataKey | null; readonly sealing: DataKey | null }

export type RenewPage = {
  readonly packed: Uint8Array
  readonly places: Int32Array
  /** For each row and each sealed column of it the number of its fact, -1 for none. */
  readonly facts: Int32Array
  /** Facts that were not told before, or of which more is known now. */
  readonly told: readonly RenewFact[]
  /** Facts below this number are believed no more. */
  readonly floor: number
  readonly indexKeys: ReadonlyMap<number, readonly IndexKey[]>
}

/** What came of a page: parameters of its batch as they are sent, in PostgreSQL's binary form. */
export type Renewed = {
  /** Rows that are changed: one element of each array. */
  readonly rows: number
  readonly ids: Uint8Array
  readonly olds: readonly Uint8Array[]
  readonly news: readonly Uint8Array[]
  readonly already: number
  readonly absent: number
  /** Places in `facts` of the keys under which values were sealed, each key once. */
  readonly held: Int32Array
  /** Rows with anything out of the ordinary: renewal.ts looks at them one by one. */
  readonly left: Int32Array
}

/** Renews pages of one table, here or in a thread of its own. */
export type Renewer = { renew(page: RenewPage): Renewed | Promise<Renewed>; close(): Promise<void> }

/** Whether an index of this version is the one that is written now; or a later one, by a process whose clock is ahead. */
export function isNewest(written: number, keys: readonly IndexKey[]): boolean {
  return keys[0] !== undefined && written >= keys[0].version && keys.some((key) => key.version === written)
}

function dataKey(key: RenewKey | null, scope: KeyScope): DataKey | null {
  return key === null ? null : { id: Buffer.from(key.id, 'latin1'), key: key.key, scope }
}

/**
 * Re-encryption of whole pages from bytes to bytes: 30 of the 40 µs a row took were objects made for each row and
 * value, and their collection. Only rows in which everything is in order are written; whatever is not, is left for
 * renewal.ts, which knows why.
 */
export function openRenewer({ table, tenant: theOne, columns, parts }: RenewTable): (page: RenewPage) => Renewed {
  const known = new Map<number, Known>()
  let floor = 0
  // Ids, then what was read of each column, then what comes in its place. Kept from page to page: ciphertext alone.
  const arrays = Array.from({ length: 1 + 2 * columns }, () => Buffer.alloc(0))
  const ends = new Int32Array(arrays.length)
  const starts = new Int32Array(arrays.length)
  const width = 1 + columns

  function none(array: number): void {
    const end = ends[array] as number
    const into = arrays[array] as Buffer
    into[end] = into[end + 1] = into[end + 2] = into[end + 3] = 0xff
    ends[array] = end + 4
  }

  function room(array: number, length: number): number {
    const at = (ends[array] as number) + 4
    ;(arrays[array] as Buffer).writeInt32BE(length, at - 4)
    ends[array] = at + length
    return at
  }

  /** A value of the page stands behind its length, just as an element of an array does. */
  function copied(array: number, page: Buffer, value: number, length: number): void {
    const end = ends[array] as number
    page.copy(arrays[array] as Buffer, end, value - 4, value + length)
    ends[array] = end + 4 + length
  }

  function finished(array: number, oid: number, rows: number): Uint8Array {
    const buffer = arrays[array] as Buffer
    return Uint8Array.prototype.slice.call(buffer, 0, arrayHead(buffer, oid, rows) ?? (ends[array] as number))
  }

  return ({ packed, places, facts, told, floor: now, indexKeys }) => {
    if (now > floor) {
      known.clear()
      floor = now
    }
    for (const { opening, sealing, ...fact } of told) known.set(fact.number, { ...fact, opening: dataKey(opening, fact.scope), sealing: dataKey(sealing, fact.scope) })
    const page = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength)
    const count = places.length / width
    const most = HEAD + page.length + count * (8 + INDEX_BYTES)
    for (let n = 0; n < arrays.length; n++) if ((arrays[n] as Buffer).length < most) arrays[n] = Buffer.allocUnsafeSlow(most + (most >> 2))
    ends.fill(HEAD)
    const held = new Map<number, number>()
    const left: number[] = []
    let [rows, already, absent] = [0, 0, 0]
    let tenant = theOne ?? ''
    let tenantAt = -1

    /** The letters of the tenant are read when they are not those of the row before. */
    function tenantOf(at: number): string {
      if (theOne !== null) return theOne
      const end = at + 4 + page.readInt32BE(at)
      if (tenantAt < 0 || page.compare(page, tenantAt, tenantAt + (end - at), at, end) !== 0) tenant = page.toString('utf8', at + 4, end)
      tenantAt = at
      return tenant
    }

    function current(stored: number, keys: readonly IndexKey[]): boolean {
      return stored >= 0 && page.readInt32BE(stored - 4) > 0 && isNewest(page[stored] as number, keys)
    }

    /** What is to be done with one value: 0 nothing, 1 written, -1 not ours to say. */
    function part(n: number, p: number, place: PagePlace): -1 | 0 | 1 {
      const { at, keep, indexes } = parts[p] as RenewTable['parts'][number]
      const value = places[n * width + 1 + at] as number
      const length = page.readInt32BE(value - 4)
      const fact = known.get(facts[n * parts.length + p] as number)
      if (fact === undefined || length < OVERHEAD_BYTES || page[value] !== version || fact.scope.keep !== keep || !fitsPage(fact.scope, place)) return -1
      let stale = false
      for (const index of indexes) {
        const stored = places[n * width + 1 + index.at] as number
        const keys = indexKeys.get(index.column) ?? []
        if (keys.length > 0 && !current(stored, keys)) stale = true
      }
      if (fact.active && !stale) return 0
      if (!fact.active && fact.sealing === null) return -1
      const plaintext = fact.opening === null ? null : openInPage(fact.opening, place, value, value + length)
      if (plaintext === null) return -1
      copied(1 + at, page, value, length)
      if (fact.active || fact.sealing === null) none(1 + columns + at)
      else {
        const into = room(1 + columns + at, length)
        sealInPage(fact.sealing, place, plaintext, freshNonce, arrays[1 + columns + at] as Buffer, into)
        held.set(fact.number, n * parts.length + p)
      }
      for (const index of indexes) {
        const stored = places[n * width + 1 + index.at] as number
        const keys = indexKeys.get(index.column) ?? []
        const [newest] = keys
        if (newest === undefined || current(stored, keys)) {
          none(1 + index.at)
          none(1 + columns + index.at)
          continue
        }
        if (stored < 0) none(1 + index.at)
        else copied(1 + index.at, page, stored, page.readInt32BE(stored - 4))
        const into = room(1 + columns + index.at, INDEX_BYTES)
        blindIndexInto(newest, { tenant: place.tenant, table, column: index.column }, plaintext, arrays[1 + columns + index.at] as Buffer, into)
      }
      plaintext.fill(0)
      return 1
    }

    for (let n = 0; n < count; n++) {
      const row = places[n * width] as number
      const of = tenantOf(row + TENANT_AT)
      starts.set(ends)
      let [changed, seen, other] = [false, false, false]
      for (let p = 0; p < parts.length && !other; p++) {
        const { at, column, indexes } = parts[p] as RenewTable['parts'][number]
        let did: -1 | 0 | 1 = 0
        if ((places[n * width + 1 + at] as number) >= 0) {
          seen = true
          did = part(n, p, { tenant: of, table, column, page, rowAt: row, subjectAt: row + SUBJECT_AT })
        }
        if (did === 1) changed = true
        else if (did === -1) other = true
        else for (const where of [at, ...indexes.map((index) => index.at)]) {
          none(1 + where)
          none(1 + columns + where)
        }
      }
      if (changed && !other) {
        const into = room(0, 16)
        page.copy(arrays[0] as Buffer, into, row, row + 16)
        rows++
        continue
      }
      ends.set(starts)
      if (other) left.push(n)
      else if (seen) already++
      else absent++
    }
    return {
      rows, already, absent,
      ids: finished(0, UUID, rows),
      olds: Array.from({ length: columns }, (_, n) => finished(1 + n, BYTEA, rows)),
      news: Array.from({ length: columns }, (_, n) => finished(1 + columns + n, BYTEA, rows)),
      held: Int32Array.from(held.values()),
      left: Int32Array.from(left),
    }
  }
}
