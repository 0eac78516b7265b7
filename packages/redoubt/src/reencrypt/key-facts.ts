import { Refusal } from '../errors.ts'
import type { DataKey, Keyring, KeyScope, KeysPool } from '../keyring.ts'
import { KEY_ID_BYTES } from '../aead.ts'
import { byteaArray } from './arrays.ts'

/**
 * What a key id in a value stands for, as far as rows of the key schema say; only opening a value proves it. The opened
 * keys stay with it: asking the keyring again for every page cost as much as opening and sealing. `sealing` is the key
 * that its scope is sealed under now, null where that was erased; undefined: not asked yet. No number is given twice.
 */
export type KeyFact = { readonly number: number; readonly scope: KeyScope; readonly active: boolean; opening: DataKey | null | undefined; sealing: DataKey | null | undefined }

/** The id as a map key: 16 characters, one per byte. */
export function keyIdText(sealed: Buffer): string {
  return sealed.toString('latin1', 1, 1 + KEY_ID_BYTES)
}

export function scopeText({ tenant, subject, keep }: KeyScope): string {
  return `${subject}${keep}/${tenant}`
}

type FactRow = { readonly key_id: Buffer; readonly tenant: string; readonly subject: string; readonly keep: string; readonly active: boolean }

const selectFacts = {
  name: 'redoubt_reencrypt_facts',
  text: `select d.key_id, d.tenant, d.subject, d.keep, d.state = 'active' as active from keys.data_keys d where d.key_id = any ($1::bytea[])`,
}
// All in one value: a proof asks for as many keys as there are people.
const selectActive = {
  name: 'redoubt_reencrypt_active',
  text: `select string_agg(d.key_id || case when d.state = 'active' then '\\x01'::bytea else '\\x00'::bytea end, ''::bytea) as keys from keys.data_keys d where d.key_id = any ($1::bytea[])`,
}
const selectErased = {
  name: 'redoubt_reencrypt_erased',
  text: `select s.n::int4 as n from unnest($1::text[], $2::uuid[], $3::text[]) with ordinality as s (tenant, subject, keep, n)
    join keys.erased e on e.tenant = s.tenant and e.subject = s.subject and e.keep = s.keep`,
}

/** Facts held at a time, each with two opened keys. */
const mostFacts = 50_000
/** Milliseconds a fact is believed, and its keys are used; they are at most one data-key lifetime old when they come here. */
const factLifetime = 60_000

export type KeyFacts = {
  /** Facts of the keys that these values name, in their order; undefined for null, and for a key that does not exist. */
  of(values: readonly (Buffer | null)[]): Promise<readonly (KeyFact | undefined)[]>
  /** The same for key ids as `keyIdText` writes them. */
  byId(ids: readonly (string | null)[]): Promise<readonly (KeyFact | undefined)[]>
  /** The least number of a fact that is still believed. */
  floor(): number
  /** For a proof, asked anew each time: whether the keys that these values name are active; one that does not exist is absent. */
  active(values: readonly Buffer[]): Promise<ReadonlyMap<string, boolean>>
  /** Which of these scopes were erased, by scopeText. */
  erased(scopes: readonly KeyScope[]): Promise<ReadonlySet<string>>
  forget(): void
}

/** @param pool of the keys role */
export function openKeyFacts(pool: KeysPool): KeyFacts {
  const known = new Map<string, KeyFact>()
  let since = performance.now()
  let floor = 0
  let numbers = 0

  function forget(): void {
    known.clear()
    floor = numbers
    since = performance.now()
  }

  async function byId(ids: readonly (string | null)[]): Promise<readonly (KeyFact | undefined)[]> {
    if (performance.now() - since > factLifetime || known.size > mostFacts) forget()
    const missing = new Set<string>()
    const found = ids.map((id) => {
      const fact = id === null ? undefined : known.get(id)
      if (fact === undefined && id !== null) missing.add(id)
      return fact
    })
    if (missing.size === 0) return found
    const now = new Map<string, KeyFact>()
    for (const row of await pool.query<FactRow>({ ...selectFacts, values: [byteaArray([...missing].map((id) => Buffer.from(id, 'latin1')))] })) {
      const fact = { number: numbers++, scope: { tenant: row.tenant, subject: row.subject, keep: row.keep }, active: row.active, opening: undefined, sealing: undefined }
      const id = row.key_id.toString('latin1', 0, KEY_ID_BYTES)
      now.set(id, fact)
      known.set(id, fact)
    }
    return found.map((fact, n) => { const id = ids[n]; return fact ?? (id === null || id === undefined ? undefined : now.get(id)) })
  }

  return {
    of: (values) => byId(values.map((value) => (value === null ? null : keyIdText(value)))),
    byId,
    floor: () => floor,
    async active(values) {
      const ids = new Map<string, Buffer>()
      for (const value of values) ids.set(keyIdText(value), value.subarray(1, 1 + KEY_ID_BYTES))
      const found = new Map<string, boolean>()
      if (ids.size === 0) return found
      const [row] = await pool.query<{ readonly keys: Buffer | null }>({ ...selectActive, values: [byteaArray([...ids.values()])] })
      const keys = row?.keys ?? Buffer.alloc(0)
      for (let at = 0; at < keys.length; at += KEY_ID_BYTES + 1) found.set(keys.toString('latin1', at, at + KEY_ID_BYTES), keys[at + KEY_ID_BYTES] === 1)
      return found
    },
    async erased(scopes) {
      if (scopes.length === 0) return new Set()
      const rows = await pool.query<{ readonly n: number }>({
        ...selectErased, values: [scopes.map(({ tenant }) => tenant), scopes.map(({ subject }) => subject), scopes.map(({ keep }) => keep)],
      })
      return new Set(rows.flatMap(({ n }) => { const scope = scopes[n - 1]; return scope === undefined ? [] : [scopeText(scope)] }))
    },
    forget,
  }
}

/** Every key to seal with; that of a scope that was erased is absent. One statement for all that are not in memory. */
export async function sealingKeys<K>(keyring: Keyring, scopes: ReadonlyMap<K, KeyScope>): Promise<ReadonlyMap<K, DataKey>> {
  const found = new Map<K, DataKey>()
  if (scopes.size === 0) return found
  const wanted = [...scopes.values()]
  const keys = await keyring.keysFor(wanted).catch(async (refusal: unknown): Promise<readonly (DataKey | undefined)[]> => {
    if (!(refusal instanceof Refusal) || refusal.code !== 'key_destroyed') throw refusal
    // One erased subject must not hide the others; asked in one turn, these share one statement again.
    return Promise.all(wanted.map((scope) => keyring.keyFor(scope).catch((one: unknown) => {
      if (one instanceof Refusal && one.code === 'key_destroyed') return undefined
      throw one
    })))
  })
  let n = 0
  for (const name of scopes.keys()) {
    const key = keys[n++]
    if (key !== undefined) found.set(name, key)
  }
  return found
}

/** The keys that values were sealed under, one value for each. */
export async function openingKeys<K>(keyring: Keyring, values: ReadonlyMap<K, Buffer>): Promise<ReadonlyMap<K, DataKey>> {
  const found = new Map<K, DataKey>()
  if (values.size === 0) return found
  const keys = await keyring.byId([...values.values()].map((value) => value.subarray(1, 1 + KEY_ID_BYTES)))
  for (const [name, value] of values) {
    const key = keys.get(value.toString('hex', 1, 1 + KEY_ID_BYTES))
    if (key !== undefined) found.set(name, key)
  }
  return found
}
