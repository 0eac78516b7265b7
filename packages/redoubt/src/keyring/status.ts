import type { KeysPool } from './keks.ts'

/** Days after which a key should be rotated at the latest (docs/runbooks/key-rotation.md has the reasons). */
export const rotateAfterDays = { root: 365, keyEncryptionKey: 365, data: 365, index: 730, tokenSign: 90, otherSigning: 365, caller: 1 } as const

/** One line of the status: a version of a key, or for keys that are many (data keys) all of one state. */
export type KeyStatus = {
  readonly level: 'root' | 'key-encryption' | 'data' | 'index' | 'signing' | 'caller'
  /** The name `redoubt keys rotate` takes. */
  readonly name: string
  readonly version: string
  /** pending: known, not used yet. closed: opens, and nothing new comes under it. verifies: signs no more. */
  readonly state: 'active' | 'pending' | 'decrypt_only' | 'closed' | 'verifies' | 'public half' | 'destroyed'
  readonly since: Date | null
  readonly provider: string
  readonly keyRef: string
  /** What depends on it, in words. */
  readonly dependants: string
  /** Only of what is active. */
  readonly rotateBy: Date | null
}

type Row = Omit<KeyStatus, 'rotateBy' | 'version'> & { readonly version: string | number; readonly days: number | null }

/** A number and what it counts, in SQL; counted once, since that can be a look at a whole table. */
function counted(count: string, one: string, many = `${one}s`): string {
  return `regexp_replace(${count} || ' ${many}', '^1 ${many}$', '1 ${one}')`
}

const queries: readonly string[] = [
  // Old roots: those that wrap only what is not active. Which versions a service itself has, it alone tells.
  `select 'root' as level, 'root' as name, '' as version, case when bool_or(k.state = 'active') then 'active' else 'decrypt_only' end as state, min(k.created_at) as since,
     k.provider, k.key_ref as "keyRef", ${counted('count(*)', 'key-encryption key')} as dependants, case when bool_or(k.state = 'active') then ${rotateAfterDays.root} end as days
   from keys.key_encryption_keys k where k.state <> 'destroyed' group by k.provider, k.key_ref order by min(k.created_at) desc`,
  `select 'key-encryption' as level, 'kek:' || k.purpose as name, k.version, k.state, k.created_at as since, k.provider, k.key_ref as "keyRef",
     case k.purpose when 'data' then ${counted('d.data_keys', 'data key')} when 'index' then ${counted('d.index_keys', 'index key')} else ${counted('d.purpose_keys', 'signing key')} end as dependants,
     case when k.state = 'active' then ${rotateAfterDays.keyEncryptionKey} end as days
   from keys.key_encryption_keys k cross join lateral keys.kek_dependants(k.id) d order by k.purpose, k.version desc`,
  // The oldest decides: of a million keys, one that is due makes the rotation due.
  `select 'data' as level, 'data' as name, ${counted('count(*)', 'key')} as version, case d.state when 'retiring' then 'closed' else d.state end as state, min(d.created_at) as since,
     '' as provider, 'kek:data' as "keyRef", case d.state when 'active' then 'all new values' else 'old values: redoubt reencrypt' end as dependants,
     case when d.state = 'active' then ${rotateAfterDays.data} end as days
   from keys.data_keys d group by d.state order by d.state`,
  `select 'index' as level, 'index:' || i.table_id || '.' || i.column_id as name, i.version,
     case when i.use_from > now() then 'pending' when i.version = max(i.version) filter (where i.use_from <= now()) over of_column then 'active' else 'decrypt_only' end as state,
     i.created_at as since, '' as provider, 'kek:index' as "keyRef",
     case when i.use_from > now() then 'written from ' || to_char(i.use_from at time zone 'UTC', 'HH24:MI:SS') || ' UTC' else coalesce(${counted('guard.key_version_dependants(i.table_id, i.column_id, i.version)', 'hash', 'hashes')} || ' of its version', 'rows of its version') end as dependants,
     case when i.version = max(i.version) over of_column then ${rotateAfterDays.index} end as days
   from keys.index_keys i window of_column as (partition by i.table_id, i.column_id) order by i.table_id, i.column_id, i.version desc`,
  `select 'signing' as level, p.purpose as name, p.version, case when p.holds = 'public' then 'public half' when p.use_from > now() then 'pending'
       when p.version = max(p.version) filter (where p.use_from <= now() and p.holds = 'private') over of_purpose then 'active' else 'verifies' end as state,
     p.created_at as since, '' as provider, 'kek:purpose' as "keyRef",
     case when p.use_from > now() then 'signs from ' || to_char(p.use_from at time zone 'UTC', 'HH24:MI:SS') || ' UTC' else 'what it signed' end as dependants,
     case when p.version = max(p.version) over of_purpose then case when p.purpose like 'token-sign%' then ${rotateAfterDays.tokenSign} else ${rotateAfterDays.otherSigning} end end as days
   from keys.purpose_keys p window of_purpose as (partition by p.purpose) order by p.purpose, p.version desc`,
  `select 'caller' as level, 'caller' as name, '' as version, 'active' as state, c.first_ends - interval '26 hours' as since, '' as provider, '' as "keyRef",
     ${counted('c.live', 'key')} || ' of running processes' as dependants, ${rotateAfterDays.caller} as days from guard.caller_keys_summary() c where c.live > 0`,
]

/** @param pool of the keys role @returns every key there is, from the root down; nothing that is secret */
export async function keyStatus(pool: KeysPool): Promise<readonly KeyStatus[]> {
  const status: KeyStatus[] = []
  for (const text of queries) {
    for (const { days, version, ...row } of await pool.query<Row>({ text, values: [] })) {
      status.push({ ...row, version: String(version), rotateBy: days === null || row.since === null ? null : new Date(row.since.getTime() + days * 86_400_000) })
    }
  }
  return status
}
