import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { KeyService } from '../kms.ts'
import { newDataKey } from './data-keys.ts'
import { newIndexKey, type IndexedColumn } from './index-keys.ts'
import { kekColumns, openKeks, operator, type Kek, type KekPurpose, type KekRow, type KeysPool } from './keks.ts'
import { newPurposeKey, type Purpose } from './purpose-keys.ts'
import { rewrapAll } from './rewrap.ts'
import type { KeyUsage } from './usage.ts'

/**
 * Milliseconds after which every process knows of a rotation: five minutes for which what was read is believed
 * (keyring.ts, lifetimes.dataKey), and one for what is under way. A new index or signing key is used from then on.
 */
export const noticedAfter = 6 * 60_000

export type RotationSettings = {
  /** A pool of the keys role. */
  readonly pool: KeysPool
  readonly service: KeyService
  readonly realm: string
  readonly emit: Emit
  readonly usage: KeyUsage
  /** Milliseconds in which all running processes know of a new version. Default: noticedAfter; less where their lifetimes are less. */
  readonly overlap?: number
}

/** Which data keys: all active ones, or those of a person, or those made before a moment, or those without an older version that was not retired. */
export type DataKeysWanted = { readonly tenant?: string; readonly subject?: string; readonly before?: Date; readonly unrotated?: boolean }

export type Rotation = {
  /**
   * A new version of a key-encryption key; all that the older ones wrap is wrapped under it. Where an interrupted
   * rotation has left something under an older version, that one is finished and no further version made.
   * @param progress is told after each batch how many keys were wrapped anew
   */
  keyEncryptionKey(purpose: KekPurpose, progress?: (rewrapped: number) => void): Promise<{ readonly key: string; readonly finished: boolean; readonly rewrapped: number }>
  /**
   * A new active version of each data key wanted; the old ones go on opening what they sealed. New values are sealed
   * under the new ones: here at once, in other processes within the overlap. May be interrupted and repeated: with
   * `unrotated`, or with `before` a fixed moment, each key is replaced once.
   * @returns how many keys have a new version
   */
  dataKeys(wanted: DataKeysWanted, progress?: (rotated: number) => void): Promise<number>
  /** How many of the data keys wanted were rotated before and not retired since, and the moment of the last of these. */
  rotatedDataKeys(wanted: Pick<DataKeysWanted, 'tenant' | 'subject'>): Promise<{ readonly keys: number; readonly last: Date | null }>
  /** A new version of a column's blind-index key: looked up at once, written after the overlap. @throws Refusal conflict while an earlier one is not retired */
  indexKey(column: IndexedColumn): Promise<{ readonly version: number }>
  /**
   * A new key pair of a purpose: verifies at once, signs after the overlap.
   * @param atOnce true signs at once; processes that do not know it yet refuse it for as long as the overlap
   */
  purposeKey(purpose: Purpose, atOnce?: boolean): Promise<{ readonly kid: string }>
  close(): void
}

const batchSize = 500

const kekRows = { name: 'redoubt_keys_rotate_keks', text: `select ${kekColumns}, k.state as kek_state from keys.key_encryption_keys k where k.purpose = $1 order by k.version desc` }
const activeDataKeys = {
  name: 'redoubt_keys_rotate_select_data',
  text: `select d.key_id, d.tenant, d.subject, d.keep from keys.data_keys d
    where d.state = 'active' and d.created_at < $1 and ($2::text is null or d.tenant = $2) and ($3::uuid is null or d.subject = $3) and d.key_id > $4
      and not exists (select from keys.erased e where e.tenant = d.tenant and e.subject = d.subject and e.keep = d.keep)
      and not ($6 and exists (select from keys.data_keys o where o.tenant = d.tenant and o.subject = d.subject and o.keep = d.keep and o.version < d.version))
    order by d.key_id limit $5`,
}
const rotatedDataKeys = {
  name: 'redoubt_keys_rotate_rotated_data',
  text: `select count(*)::int as keys, max(d.created_at) as last from keys.data_keys d
    where d.state = 'active' and ($1::text is null or d.tenant = $1) and ($2::uuid is null or d.subject = $2)
      and exists (select from keys.data_keys o where o.tenant = d.tenant and o.subject = d.subject and o.keep = d.keep and o.version < d.version)`,
}
const rotateDataKeys = { name: 'redoubt_keys_rotate_data', text: 'select keys.rotate_data_keys($1, $2, $3, $4) as made' }
const indexVersions = { name: 'redoubt_keys_rotate_select_index', text: 'select i.version from keys.index_keys i where i.table_id = $1 and i.column_id = $2 order by i.version desc' }
const rotateIndexKey = { name: 'redoubt_keys_rotate_index', text: 'select keys.rotate_index_key($1, $2, $3, $4, $5, $6, $7) as done' }
const newestPurposeKey = { name: 'redoubt_keys_rotate_select_purpose', text: 'select max(p.version) as version from keys.purpose_keys p where p.purpose = $1' }
const rotatePurposeKey = { name: 'redoubt_keys_rotate_purpose', text: 'select keys.rotate_purpose_key($1, $2, $3, $4, $5, $6, $7) as done' }

type ActiveKey = { readonly key_id: Buffer; readonly tenant: string; readonly subject: string; readonly keep: string }
type Done = { readonly done: boolean }

function faster(): Refusal {
  return new Refusal('conflict', { detail: 'somebody else rotated this key at the same time: look at `redoubt keys status`' })
}

/**
 * Rotation of the keys below the root (the root itself: keyring/move). Every step is one statement of its own: what is
 * interrupted at any point leaves keys that open everything, and is finished by doing it again.
 */
export function openRotation(settings: RotationSettings): Rotation {
  const { pool, service, realm, emit, usage, overlap = noticedAfter } = settings
  if (!Number.isInteger(overlap) || overlap < 0) throw new TypeError('openRotation: overlap must be a whole number of milliseconds')
  const seconds = Math.ceil(overlap / 1000)
  const forever = { lifetime: 60 * 60_000, activeLifetime: 1, uses: 2 ** 20, clock: () => performance.now() }
  const keks = openKeks({ pool, service, realm, emit, usage, by: operator, ...forever })

  async function versionsOf(purpose: KekPurpose): Promise<readonly (KekRow & { readonly kek_state: string })[]> {
    return pool.query<KekRow & { readonly kek_state: string }>({ ...kekRows, values: [purpose] })
  }

  /** Older versions that still wrap something. */
  async function unfinished(purpose: KekPurpose): Promise<readonly KekRow[]> {
    const left: KekRow[] = []
    for (const row of await versionsOf(purpose)) {
      if (row.kek_state !== 'decrypt_only') continue
      const [count] = await pool.query<{ readonly any: boolean }>({ text: 'select data_keys + index_keys + purpose_keys > 0 as any from keys.kek_dependants($1)', values: [row.kek_id] })
      if (count?.any === true) left.push(row)
    }
    return left
  }

  async function rewrapUnder(purpose: KekPurpose, progress: (rewrapped: number) => void): Promise<{ readonly key: Kek; readonly rewrapped: number }> {
    let rewrapped = 0
    const key = await keks.underActive(purpose, async (to) => {
      for (const row of await unfinished(purpose)) {
        const from = await keks.of(row, purpose)
        rewrapped += await rewrapAll(pool, from, to, (count) => progress(rewrapped + count))
      }
      return to
    })
    return { key, rewrapped }
  }

  async function rotateBatch(keys: readonly ActiveKey[]): Promise<number> {
    return keks.underActive('data', async (kek) => {
      const made = keys.map(({ tenant, subject, keep }) => newDataKey(kek, { tenant, subject, keep }))
      const [answer] = await pool.query<{ readonly made: number }>({
        ...rotateDataKeys, values: [keys.map(({ key_id }) => key_id), made.map(({ dataKey }) => dataKey.id), made.map(({ wrapped }) => wrapped), kek.id],
      })
      return answer?.made ?? 0
    })
  }

  /** An erasure, or another rotation, of one of them refuses all: then each goes by itself. */
  async function rotateSome(keys: readonly ActiveKey[]): Promise<number> {
    try {
      return await rotateBatch(keys)
    } catch (error) {
      if (!(error instanceof Refusal && (error.code === 'key_destroyed' || error.code === 'already_exists' || error.code === 'conflict'))) throw error
      if (keys.length === 1) {
        if (error.code === 'conflict') throw error
        return 0
      }
    }
    let rotated = 0
    for (const key of keys) rotated += await rotateSome([key])
    return rotated
  }

  return {
    async keyEncryptionKey(purpose, progress = () => undefined) {
      const finished = (await unfinished(purpose)).length > 0
      if (!finished && (await keks.rotate(purpose)) === null) throw faster()
      const { key, rewrapped } = await rewrapUnder(purpose, progress)
      return { key: key.id.toString('hex'), finished, rewrapped }
    },
    async dataKeys({ tenant, subject, before, unrotated = false }, progress = () => undefined) {
      // Without a bound this would never end: each new key is an active one too.
      const [bound] = await pool.query<{ readonly moment: Date }>({ text: 'select least(now(), $1::timestamptz) as moment', values: [before ?? null] })
      if (bound === undefined) throw new Refusal('database_error')
      let after: Buffer = Buffer.alloc(0)
      let rotated = 0
      for (;;) {
        const keys = await pool.query<ActiveKey>({ ...activeDataKeys, values: [bound.moment, tenant ?? null, subject ?? null, after, batchSize, unrotated] })
        const last = keys.at(-1)
        if (last === undefined) return rotated
        rotated += await rotateSome(keys)
        after = last.key_id
        progress(rotated)
      }
    },
    async rotatedDataKeys({ tenant, subject }) {
      const [found] = await pool.query<{ readonly keys: number; readonly last: Date | null }>({ ...rotatedDataKeys, values: [tenant ?? null, subject ?? null] })
      return found ?? { keys: 0, last: null }
    },
    async indexKey(column) {
      const versions = await pool.query<{ readonly version: number }>({ ...indexVersions, values: [column.table, column.column] })
      const [newest, ...older] = versions
      if (newest === undefined) throw new Refusal('not_found', { detail: 'this column has no blind-index key yet' })
      if (older.length > 0) throw new Refusal('conflict', { detail: 'an earlier rotation of this index key is not finished: recompute its values, then retire the old version' })
      const version = newest.version + 1
      if (version > 255) throw new Refusal('conflict', { detail: 'the 255 versions of this index key are used up' })
      return keks.underActive('index', async (kek) => {
        const { id, wrapped } = newIndexKey(kek, column, version)
        const [answer] = await pool.query<Done>({ ...rotateIndexKey, values: [column.table, column.column, version, id, kek.id, wrapped, seconds] })
        if (answer?.done !== true) throw new Refusal('busy', { detail: faster().detail ?? '' })
        emit({ type: 'key.rotated', key: id.toString('hex'), purpose: 'index' })
        return { version }
      })
    },
    async purposeKey(purpose, atOnce = false) {
      const [newest] = await pool.query<{ readonly version: number | null }>({ ...newestPurposeKey, values: [purpose] })
      if (newest === undefined || newest.version === null) throw new Refusal('not_found', { detail: `there is no signing key for ${purpose} yet` })
      const version = newest.version + 1
      return keks.underActive('purpose', async (kek) => {
        const { kid, wrapped, spki } = newPurposeKey(kek, purpose)
        const [answer] = await pool.query<Done>({ ...rotatePurposeKey, values: [purpose, kid, version, kek.id, wrapped, spki, atOnce ? 0 : seconds] })
        if (answer?.done !== true) throw new Refusal('busy', { detail: faster().detail ?? '' })
        emit({ type: 'key.rotated', key: kid, purpose })
        return { kid }
      })
    },
    close: () => keks.clear(),
  }
}
