import { randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { KEY_BYTES, keyId, secretKey, unwrapKey, wrapKey } from '../aead.ts'
import { framed } from '../bytes.ts'
import type { KeyUser } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { openCache, usedFrom, type Clock } from './cache.ts'
import { kekColumns, type Kek, type KekRow, type Keks, type KeysPool } from './keks.ts'
import type { KeyUsage } from './usage.ts'

/** One version of a column's blind-index key. */
export type IndexKey = { readonly version: number; readonly key: KeyObject }

/** A column with a blind index, by its numbers in tables.ts. */
export type IndexedColumn = { readonly table: number; readonly column: number }
type Wanted = IndexedColumn & { readonly by: KeyUser }
type IndexRow = KekRow & { readonly version: number; readonly key_id: Buffer; readonly wrapped: Buffer; readonly wait: number }
/** A version, and the time of our clock from which values are written with it. */
type Version = { readonly key: IndexKey; readonly from: number }

const select = {
  name: 'redoubt_keys_select_index',
  text: `select i.version, i.key_id, i.wrapped, greatest(0, extract(epoch from i.use_from - now()) * 1000)::float8 as wait, ${kekColumns} from keys.index_keys i
    join keys.key_encryption_keys k on k.id = i.kek_id where i.table_id = $1 and i.column_id = $2 order by i.version desc`,
}
const insert = {
  name: 'redoubt_keys_insert_index',
  text: `insert into keys.index_keys (table_id, column_id, version, key_id, kek_id, wrapped)
    values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning version`,
}

/** What the wrapping of a blind-index key is bound to. */
export function indexKeyAad(kek: Kek, { table, column }: IndexedColumn, version: number, id: Buffer): Buffer {
  return framed(['redoubt index key', kek.id, id, String(table), String(column), String(version)])
}

/** A key of random bytes for a version of a column's index, and its wrapping. */
export function newIndexKey(kek: Kek, column: IndexedColumn, version: number): { readonly id: Buffer; readonly wrapped: Buffer } {
  const bytes = randomBytes(KEY_BYTES)
  const id = keyId(secretKey(Buffer.from(bytes)))
  const wrapped = wrapKey(kek.key, indexKeyAad(kek, column, version, id), bytes)
  bytes.fill(0)
  return { id, wrapped }
}

export type IndexKeys = { of(column: IndexedColumn, by: KeyUser): Promise<readonly IndexKey[]>; clear(): void }

/** Keys of blind indexes: per column, never shared, so that equal values of two columns have unequal indexes. */
export function openIndexKeys(settings: {
  readonly pool: KeysPool
  readonly keks: Keks
  readonly emit: Emit
  readonly usage: KeyUsage
  readonly lifetime: number
  readonly uses: number
  readonly clock: Clock
}): IndexKeys {
  const { pool, keks, emit, usage, clock } = settings

  async function unwrap(row: IndexRow, column: Wanted): Promise<IndexKey> {
    const kek = await keks.of(row, 'index', column.by)
    usage.used(kek.id, 'index', 'unwrap', column.by)
    const bytes = unwrapKey(kek.key, indexKeyAad(kek, column, row.version, row.key_id), row.wrapped)
    if (bytes?.length !== KEY_BYTES) throw new Refusal('key_refused', { detail: 'an index key is not the one its row names' })
    const key = secretKey(bytes)
    if (!keyId(key).equals(row.key_id)) throw new Refusal('key_refused', { detail: 'an index key is not the one its row names' })
    return Object.freeze({ version: row.version, key })
  }

  function make(column: Wanted): Promise<void> {
    return keks.underActive('index', async (kek) => {
      usage.used(kek.id, 'index', 'wrap', column.by)
      const { id, wrapped } = newIndexKey(kek, column, 1)
      const made = await pool.query({ ...insert, values: [column.table, column.column, 1, id, kek.id, wrapped] })
      if (made.length > 0) emit({ type: 'key.created', key: id.toString('hex'), purpose: 'index' })
    }, column.by)
  }

  async function load(column: Wanted): Promise<readonly Version[]> {
    for (let attempt = 0; attempt < 2; attempt++) {
      const rows = await pool.query<IndexRow>({ ...select, values: [column.table, column.column] })
      // Taken after the answer: our clock says that the time has come no sooner than the database's does.
      const read = clock()
      if (rows.length > 0) return Promise.all(rows.map(async (row, at) => ({ key: await unwrap(row, column), from: usedFrom(read, row.wait, at === rows.length - 1) })))
      await make(column)
    }
    throw new Refusal('key_refused', { detail: 'the index key of this column could not be stored' })
  }

  /** The one to write with in front: the newest whose time has come. */
  function ordered(versions: readonly Version[]): readonly IndexKey[] {
    const now = versions.length === 1 ? Infinity : clock()
    const active = versions.find(({ from }) => from <= now)
    if (active === undefined) throw new Refusal('key_refused', { detail: 'no index key of this column is in use yet' })
    return Object.freeze([active.key, ...versions.filter((version) => version !== active).map(({ key }) => key)])
  }

  const cache = openCache<Wanted, readonly Version[]>({
    name: ({ table, column }) => `${table}/${column}`,
    load: (columns) => Promise.all(columns.map((column) => load(column).catch((error: Error) => error))),
    lifetime: settings.lifetime,
    uses: settings.uses,
    entries: 1024,
    clock: settings.clock,
  })

  return {
    async of(column, by) {
      const [versions] = await cache.find([{ ...column, by }])
      if (versions === undefined) throw new Refusal('key_refused')
      usage.used(`index ${column.table}.${column.column}`, 'index', 'open', by)
      return ordered(versions)
    },
    clear: () => cache.clear(),
  }
}
