import { randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { KEY_BYTES, keyId, secretKey, unwrapKey, wrapKey } from '../aead.ts'
import { framed, isUuid, uuidBytes } from '../bytes.ts'
import { ofTheService, type KeyUser } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { openCache, type Clock, type Loaded } from './cache.ts'
import { kekColumns, type Kek, type KekRow, type Keks, type KeysPool } from './keks.ts'
import type { KeyUsage } from './usage.ts'

/** Whose data, and which retention class of it: each has a key of its own, so that each can be erased alone. */
export type KeyScope = { readonly tenant: string; readonly subject: string; readonly keep: string }

/** An opened data key. */
export type DataKey = { readonly id: Buffer; readonly key: KeyObject; readonly scope: KeyScope }

type KeyRow = KekRow & { readonly key_id: Buffer; readonly tenant: string; readonly subject: string; readonly keep: string; readonly wrapped: Buffer }
type Wanted = { readonly scope: KeyScope; readonly by: KeyUser }
type Named = { readonly id: Buffer; readonly by: KeyUser }
type FoundRow = { readonly n: number; readonly erased: boolean } & (KeyRow | { readonly key_id: null })

const keyColumns = `d.key_id, d.tenant, d.subject, d.keep, d.wrapped, ${kekColumns}`

const findActive = {
  name: 'redoubt_keys_find_active',
  text: `select s.n::int4 as n, e.tenant is not null as erased, ${keyColumns}
    from unnest($1::text[], $2::uuid[], $3::text[]) with ordinality as s (tenant, subject, keep, n)
    left join keys.erased e on e.tenant = s.tenant and e.subject = s.subject and e.keep = s.keep
    left join keys.data_keys d on d.tenant = s.tenant and d.subject = s.subject and d.keep = s.keep and d.state = 'active'
    left join keys.key_encryption_keys k on k.id = d.kek_id`,
}
// An erased scope has no key, whatever its rows say: one put back from an old bag stays shut.
const findById = {
  name: 'redoubt_keys_find_by_id',
  text: `select ${keyColumns} from keys.data_keys d join keys.key_encryption_keys k on k.id = d.kek_id
    where d.key_id = any ($1::bytea[]) and not exists (
      select from keys.erased e where e.tenant = d.tenant and e.subject = d.subject and e.keep = d.keep)`,
}
// In one order for everybody: two makers of many keys must not wait for each other.
const insertKeys = {
  name: 'redoubt_keys_insert',
  text: `insert into keys.data_keys (key_id, tenant, subject, keep, kek_id, wrapped)
    select m.key_id, m.tenant, m.subject, m.keep, m.kek_id, m.wrapped
    from unnest($1::bytea[], $2::text[], $3::uuid[], $4::text[], $5::bytea[], $6::bytea[]) as m (key_id, tenant, subject, keep, kek_id, wrapped)
    order by m.tenant, m.subject, m.keep
    on conflict (tenant, subject, keep) where state = 'active' do nothing returning key_id`,
}
const findErased = {
  name: 'redoubt_keys_find_erased',
  text: 'select 1 as one from keys.erased e where e.tenant = $1 and e.subject = $2 and e.keep = $3',
}
const destroyKeys = { name: 'redoubt_keys_destroy', text: 'select keys.destroy_data_keys($1, $2, $3) as key_id' }

function nameOf(scope: KeyScope): string {
  return `${scope.subject}/${scope.keep}/${scope.tenant}`
}

/** @throws TypeError naming what is wrong with the scope */
function checkScope(scope: KeyScope): void {
  if (scope.tenant === '' || scope.tenant.length > 200) throw new TypeError('keyring: tenant must have 1 to 200 characters')
  if (!isUuid(scope.subject)) throw new TypeError('keyring: subject must be a canonical UUID')
  if (!/^[a-z][a-z0-9_-]{0,62}$/.test(scope.keep)) throw new TypeError('keyring: keep must name a retention class')
}

/** What the wrapping of a data key is bound to. */
export function dataKeyAad(kek: Kek, id: Buffer, scope: KeyScope): Buffer {
  return framed(['redoubt data key', kek.id, id, scope.tenant, uuidBytes(scope.subject), scope.keep])
}

/** A key of random bytes for a scope, and its wrapping. */
export function newDataKey(kek: Kek, scope: KeyScope): { readonly wrapped: Buffer; readonly dataKey: DataKey } {
  const bytes = randomBytes(KEY_BYTES)
  const key = secretKey(Buffer.from(bytes))
  const id = keyId(key)
  const wrapped = wrapKey(kek.key, dataKeyAad(kek, id, scope), bytes)
  bytes.fill(0)
  return { wrapped, dataKey: Object.freeze({ id, key, scope: Object.freeze({ ...scope }) }) }
}

export type DataKeys = {
  keysFor(scopes: readonly KeyScope[], by: KeyUser): Promise<readonly DataKey[]>
  byId(ids: readonly Buffer[], by: KeyUser): Promise<ReadonlyMap<string, DataKey>>
  erased(scope: KeyScope): Promise<boolean>
  destroy(scope: KeyScope): Promise<void>
  clear(): void
}

/** Data keys: one per (tenant, subject, retention class), wrapped under a key-encryption key with all of that as AAD. */
export function openDataKeys(settings: {
  readonly pool: KeysPool
  readonly keks: Keks
  readonly emit: Emit
  readonly usage: KeyUsage
  readonly lifetime: number
  readonly uses: number
  readonly entries: number
  readonly clock: Clock
}): DataKeys {
  const { pool, keks, emit, usage, clock } = settings
  const bounds = { lifetime: settings.lifetime, uses: settings.uses, entries: settings.entries, clock }

  /** @throws Refusal key_refused */
  function unwrap(kek: Kek, row: KeyRow, by: KeyUser): DataKey {
    const scope = Object.freeze({ tenant: row.tenant, subject: row.subject, keep: row.keep })
    usage.used(kek.id, row.keep, 'unwrap', by)
    const bytes = unwrapKey(kek.key, dataKeyAad(kek, row.key_id, scope), row.wrapped)
    if (bytes?.length !== KEY_BYTES) throw new Refusal('key_refused', { detail: 'a data key is not the one its row names' })
    const key = secretKey(bytes)
    if (!keyId(key).equals(row.key_id)) throw new Refusal('key_refused', { detail: 'a data key is not the one its row names' })
    return Object.freeze({ id: row.key_id, key, scope })
  }

  /** Each key, or why it does not open, in order. A key-encryption key is asked for once for all the rows that name it. */
  async function settle(rows: readonly { readonly row: KeyRow; readonly by: KeyUser }[]): Promise<readonly (DataKey | Error)[]> {
    const asked = new Map<string, Promise<Kek | Error>>()
    const names = rows.map(({ row, by }) => {
      const name = row.kek_id.toString('latin1')
      if (!asked.has(name)) asked.set(name, keks.of(row, 'data', by).catch((error: Error) => error))
      return name
    })
    const found = new Map<string, Kek | Error>()
    for (const [name, kek] of asked) found.set(name, await kek)
    return rows.map(({ row, by }, n) => {
      const kek = found.get(names[n] ?? '') ?? new Refusal('key_refused')
      if (kek instanceof Error) return kek
      try {
        return unwrap(kek, row, by)
      } catch (error) {
        return error instanceof Error ? error : new Refusal('key_refused', { cause: error })
      }
    })
  }

  function make(wanted: readonly Wanted[]): Promise<readonly DataKey[]> {
    return keks.underActive('data', (kek) => makeUnder(kek, wanted), wanted[0]?.by)
  }

  async function makeUnder(kek: Kek, wanted: readonly Wanted[]): Promise<readonly DataKey[]> {
    const scopes = wanted.map(({ scope }) => scope)
    for (const { scope, by } of wanted) usage.used(kek.id, scope.keep, 'wrap', by)
    const made = scopes.map((scope) => newDataKey(kek, scope))
    const stored = await pool.query<{ readonly key_id: Buffer }>({
      ...insertKeys,
      values: [
        made.map(({ dataKey }) => dataKey.id),
        scopes.map(({ tenant }) => tenant),
        scopes.map(({ subject }) => subject),
        scopes.map(({ keep }) => keep),
        made.map(() => kek.id),
        made.map(({ wrapped }) => wrapped),
      ],
    })
    const ids = new Set(stored.map((row) => row.key_id.toString('hex')))
    const ours = made.map(({ dataKey }) => dataKey).filter(({ id }) => ids.has(id.toString('hex')))
    for (const { id } of ours) emit({ type: 'key.created', key: id.toString('hex'), purpose: 'data' })
    return ours
  }

  async function loadActive(wanted: readonly Wanted[]): Promise<readonly Loaded<DataKey>[]> {
    const found = new Map<string, DataKey | Error>()
    const since = clock()
    const epoch = byIdCache.epoch()
    // Another maker may be faster, or an eraser: what they left is read again, in a statement of its own.
    for (let attempt = 0; attempt < 4; attempt++) {
      const open = wanted.filter(({ scope }) => !found.has(nameOf(scope)))
      if (open.length === 0) break
      const rows = await pool.query<FoundRow>({
        ...findActive,
        values: [open.map(({ scope }) => scope.tenant), open.map(({ scope }) => scope.subject), open.map(({ scope }) => scope.keep)],
      })
      const missing: Wanted[] = []
      const stored: { readonly row: KeyRow; readonly by: KeyUser; readonly name: string }[] = []
      for (const row of rows) {
        const one = open[row.n - 1]
        if (one === undefined) continue
        const name = nameOf(one.scope)
        if (row.erased) found.set(name, new Refusal('key_destroyed'))
        else if (row.key_id === null) missing.push(one)
        else stored.push({ row, by: one.by, name })
      }
      const opened = await settle(stored)
      stored.forEach(({ name }, n) => found.set(name, opened[n] ?? new Refusal('key_refused')))
      if (missing.length === 0) continue
      try {
        for (const dataKey of await make(missing)) found.set(nameOf(dataKey.scope), dataKey)
      } catch (error) {
        if (!(error instanceof Refusal && error.code === 'key_destroyed')) throw error
      }
    }
    return wanted.map(({ scope, by }) => {
      const value = found.get(nameOf(scope))
      if (value !== undefined && !(value instanceof Error)) byIdCache.put({ id: value.id, by }, value, since, epoch)
      return value ?? new Refusal('conflict', { detail: 'the key of this data is being made and erased at once' })
    })
  }

  const byIdCache = openCache<Named, DataKey>({
    ...bounds,
    name: ({ id }) => id.toString('hex'),
    async load(named) {
      const rows = await pool.query<KeyRow>({ ...findById, values: [named.map(({ id }) => id)] })
      const askers = new Map(named.map(({ id, by }) => [id.toString('hex'), by]))
      const names = rows.map(({ key_id }) => key_id.toString('hex'))
      const keys = await settle(rows.map((row, n) => ({ row, by: askers.get(names[n] ?? '') ?? ofTheService })))
      const opened = new Map(names.map((name, n) => [name, keys[n]]))
      return named.map(({ id }) => opened.get(id.toString('hex')))
    },
  })
  const activeCache = openCache<Wanted, DataKey>({ ...bounds, name: ({ scope }) => nameOf(scope), load: loadActive })

  function handedOut(dataKey: DataKey, by: KeyUser): DataKey {
    usage.used(dataKey.id, dataKey.scope.keep, 'open', by)
    return dataKey
  }

  return {
    async keysFor(scopes, by) {
      scopes.forEach(checkScope)
      const found = await activeCache.find(scopes.map((scope) => ({ scope, by })))
      return found.map((dataKey) => handedOut(dataKey ?? refuse(), by))
    },
    async byId(ids, by) {
      const found = await byIdCache.find(ids.map((id) => ({ id, by })))
      const map = new Map<string, DataKey>()
      for (const dataKey of found) if (dataKey !== undefined) map.set(dataKey.id.toString('hex'), handedOut(dataKey, by))
      return map
    },
    async erased(scope) {
      checkScope(scope)
      return (await pool.query({ ...findErased, values: [scope.tenant, scope.subject, scope.keep] })).length > 0
    },
    async destroy(scope) {
      checkScope(scope)
      const gone = (dataKey: DataKey): boolean => nameOf(dataKey.scope) === nameOf(scope)
      try {
        const rows = await pool.query<{ readonly key_id: Buffer }>({ ...destroyKeys, values: [scope.tenant, scope.subject, scope.keep] })
        for (const { key_id } of rows) emit({ type: 'key.destroyed', key: key_id.toString('hex'), purpose: 'data' })
      } finally {
        // Also when the answer got lost: the rows may be gone.
        activeCache.drop(gone)
        byIdCache.drop(gone)
      }
    },
    clear() {
      activeCache.clear()
      byIdCache.clear()
    },
  }
}

function refuse(): never {
  throw new Refusal('key_refused')
}
