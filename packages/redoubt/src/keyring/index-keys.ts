import { randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { KEY_BYTES, keyId, secretKey, unwrapKey, wrapKey } from '../aead.ts'
import { framed } from '../bytes.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { openCache, type Clock } from './cache.ts'
import { kekColumns, type Kek, type KekRow, type Keks, type KeysPool } from './keks.ts'

/** One version of a column's blind-index key. */
export type IndexKey = { readonly version: number; readonly key: KeyObject }

type Column = { readonly table: number; readonly column: number }
type IndexRow = KekRow & { readonly version: number; readonly key_id: Buffer; readonly wrapped: Buffer; readonly state: string }

const select = {
  name: 'redoubt_keys_select_index',
  text: `select i.version, i.key_id, i.wrapped, i.state, ${kekColumns} from keys.index_keys i
    join keys.key_encryption_keys k on k.id = i.kek_id where i.table_id = $1 and i.column_id = $2 order by i.version desc`,
}
const insert = {
  name: 'redoubt_keys_insert_index',
  text: `insert into keys.index_keys (table_id, column_id, version, key_id, kek_id, wrapped)
    values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning version`,
}

function aadOf(kek: Kek, { table, column }: Column, version: number, id: Buffer): Buffer {
  return framed(['redoubt index key', kek.id, id, String(table), String(column), String(version)])
}

export type IndexKeys = { of(column: Column): Promise<readonly IndexKey[]>; clear(): void }

/** Keys of blind indexes: per column, never shared, so that equal values of two columns have unequal indexes. */
export function openIndexKeys(settings: {
  readonly pool: KeysPool
  readonly keks: Keks
  readonly emit: Emit
  readonly lifetime: number
  readonly uses: number
  readonly clock: Clock
}): IndexKeys {
  const { pool, keks, emit } = settings

  async function unwrap(row: IndexRow, column: Column): Promise<IndexKey> {
    const kek = await keks.of(row, 'index')
    const bytes = unwrapKey(kek.key, aadOf(kek, column, row.version, row.key_id), row.wrapped)
    if (bytes?.length !== KEY_BYTES) throw new Refusal('key_refused', { detail: 'an index key is not the one its row names' })
    const key = secretKey(bytes)
    if (!keyId(key).equals(row.key_id)) throw new Refusal('key_refused', { detail: 'an index key is not the one its row names' })
    return Object.freeze({ version: row.version, key })
  }

  async function make(column: Column): Promise<void> {
    const version = 1
    const kek = await keks.active('index')
    const bytes = randomBytes(KEY_BYTES)
    const id = keyId(secretKey(Buffer.from(bytes)))
    const wrapped = wrapKey(kek.key, aadOf(kek, column, version, id), bytes)
    bytes.fill(0)
    const made = await pool.query({ ...insert, values: [column.table, column.column, version, id, kek.id, wrapped] })
    if (made.length > 0) emit({ type: 'key.created', key: id.toString('hex'), purpose: 'index' })
  }

  async function load(column: Column): Promise<readonly IndexKey[]> {
    for (let attempt = 0; attempt < 2; attempt++) {
      const rows = await pool.query<IndexRow>({ ...select, values: [column.table, column.column] })
      if (rows.some(({ state }) => state === 'active')) return Object.freeze(await Promise.all(rows.map((row) => unwrap(row, column))))
      if (rows.length > 0) break
      await make(column)
    }
    throw new Refusal('key_refused', { detail: 'no index key of this column is active' })
  }

  const cache = openCache<Column, readonly IndexKey[]>({
    name: ({ table, column }) => `${table}/${column}`,
    load: (columns) => Promise.all(columns.map((column) => load(column).catch((error: Error) => error))),
    lifetime: settings.lifetime,
    uses: settings.uses,
    entries: 1024,
    clock: settings.clock,
  })

  return {
    async of(column) {
      const [keys] = await cache.find([column])
      if (keys === undefined) throw new Refusal('key_refused')
      return keys
    },
    clear: () => cache.clear(),
  }
}
