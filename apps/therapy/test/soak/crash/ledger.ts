import { setTimeout as pause } from 'node:timers/promises'
import { verifyAudit } from 'redoubt/audit/verify'
import type { AnchorKey } from 'redoubt/audit/anchor'
import { openPool, openScriptConnection, type ScriptConnection } from 'redoubt/pg'
import type { Acknowledged } from './clients.ts'
import type { Site } from './site.ts'

/** What must hold of the whole database whenever nothing is being written. Each query gives the rows that break it. */
const rules: readonly (readonly [what: string, sql: string])[] = [
  ['two slots of one therapist overlap', `
    select a.id from therapy.appointments a join therapy.appointments b on b.therapist_id = a.therapist_id and b.id > a.id
      and b.slot && a.slot and a.status <> 'cancelled' and b.status <> 'cancelled'`],
  ['a booked slot without an active care relationship of its two sides', `
    select a.id from therapy.appointments a where a.status = 'booked' and not exists (select from therapy.care_relationships r
      where r.therapist_id = a.therapist_id and r.patient_id = a.patient_id and r.state = 'active')`],
  // A repeated request has an entry of its own, about what the first one made.
  ['a booked slot without an entry of its booking by its patient', `
    select a.id from therapy.appointments a where a.status = 'booked' and not exists (select from redoubt.audit_logs e
      where e.action = 'appointment.booked' and e.outcome = 'done' and e.resource_id = a.id::text and e.actor_id = a.patient_id)`],
  ['an entry of a booking whose slot is not booked by its actor', `
    select e.id from redoubt.audit_logs e where e.action = 'appointment.booked' and e.outcome = 'done' and e.resource_id is not null
      and not exists (select from therapy.appointments a where a.id::text = e.resource_id and a.patient_id = e.actor_id and a.status <> 'available')`],
  ...([['therapy.appointments', 'appointment.created', 'therapist_id'], ['therapy.messages', 'message.sent', 'sender_id'], ['therapy.medical_records', 'record.created', 'therapist_id']] as const).flatMap(
    ([table, action, author]): readonly (readonly [string, string])[] => [
      [`a row of ${table} without an entry`, `
        select t.id from ${table} t where not exists (select from redoubt.audit_logs e
          where e.action = '${action}' and e.outcome = 'done' and e.resource_id = t.id::text and e.actor_id = t.${author})`],
      [`an entry of ${action} without its row`, `
        select e.id from redoubt.audit_logs e where e.action = '${action}' and e.outcome = 'done' and e.resource_id is not null
          and not exists (select from ${table} t where t.id::text = e.resource_id)`],
    ]),
  ['one thing made under two keys of one person', `
    select k.resource_id from redoubt.idempotency_keys k group by k.principal, k.resource_type, k.resource_id having count(*) > 1`],
  ['a key of a request without what it made', `select k.id from redoubt.idempotency_keys k where k.state <> 'done' or k.resource_id is null or k.salt_enc is null`],
]

/** Where the rows of an action are. */
const effects: Readonly<Record<string, string>> = {
  'appointment.created': 'therapy.appointments', 'appointment.booked': 'therapy.appointments', 'message.sent': 'therapy.messages', 'record.created': 'therapy.medical_records',
}

/** Rows that no request of their author has made: those of the demonstration, and never one more. */
const keyless = ([['therapy.appointments', 'therapist_id'], ['therapy.messages', 'sender_id'], ['therapy.medical_records', 'therapist_id']] as const).map(([table, author]) => `
  select count(*)::text as rows from ${table} t where not exists (select from redoubt.idempotency_keys k where k.principal = t.${author} and k.resource_id = t.id::text)`).join(' union all ')

export type Ledger = {
  /** Holds the database, the chain and the anchors against what was acknowledged; call while nothing is written. @returns what does not hold */
  check(acknowledged: readonly Acknowledged[]): Promise<readonly string[]>
  readonly figures: { entries: number; sealed: number; rows: number }
}

async function brokenRules(admin: ScriptConnection): Promise<readonly string[]> {
  const found: string[] = []
  for (const [what, sql] of rules) {
    const rows = await admin.query(sql)
    if (rows.length > 0) found.push(`${what} (${rows.length})`)
  }
  return found
}

type Entry = { readonly request_id: string; readonly action: string; readonly outcome: string; readonly actor_id: string | null; readonly resource_id: string | null }

/** Each acknowledged request has its one entry, and each acknowledged write its row and its one effect. */
async function brokenPromises(admin: ScriptConnection, acknowledged: readonly Acknowledged[], keys: Map<string, string>): Promise<readonly string[]> {
  const found: string[] = []
  const entries = Map.groupBy(
    await admin.query<Entry>(
      `select e.request_id, e.action, e.outcome, e.actor_id, e.resource_id from redoubt.audit_logs e where e.request_id = any($1)`,
      [acknowledged.map(({ requestId }) => requestId)],
    ),
    ({ request_id }) => request_id,
  )
  for (const { actor, wish, requestId, body } of acknowledged) {
    const [entry, ...more] = entries.get(requestId) ?? []
    if (entry === undefined) found.push(`${wish.action} was acknowledged and left no entry`)
    else if (more.length > 0 || entry.action !== wish.action || entry.outcome !== 'done' || entry.actor_id !== actor) found.push(`${wish.action}: the entry of an acknowledged request is not its own`)
    if (wish.key === undefined) continue
    const before = keys.get(wish.key)
    if (before !== undefined && before !== body.id) found.push(`${wish.action}: one key had two effects`)
    keys.set(wish.key, body.id ?? '')
  }
  for (const [action, table] of Object.entries(effects)) {
    const wanted = acknowledged.filter(({ wish }) => wish.action === action)
    const owner = { 'appointment.created': 'therapist_id', 'appointment.booked': 'patient_id', 'message.sent': 'sender_id', 'record.created': 'therapist_id' }[action] ?? ''
    const rows = await admin.query<{ readonly id: string; readonly owner: string }>(`select t.id, t.${owner} as owner from ${table} t where t.id = any($1::uuid[])`, [wanted.map(({ body }) => body.id)])
    const owners = new Map(rows.map((row) => [row.id, row.owner]))
    for (const { actor, body } of wanted) if (owners.get(body.id ?? '') !== actor) found.push(`${action} was acknowledged and its effect is not there`)
  }
  return found
}

/** @param key public keys of the anchors, taken from the keyring while all was well */
export async function openLedger(site: Site, anchors: string, key: Pick<AnchorKey, 'verifiers'>): Promise<Ledger> {
  const figures = { entries: 0, sealed: 0, rows: 0 }
  /** Key of a request to the id it made; all that was ever acknowledged. */
  const keys = new Map<string, string>()
  const before = await asAdmin(site, keylessRows)

  async function sealed(admin: ScriptConnection): Promise<boolean> {
    for (const until = performance.now() + 90_000; performance.now() < until; await pause(200)) {
      const [row] = await admin.query<{ readonly open: boolean }>(
        `select exists (select from redoubt.audit_logs e where not exists (select from redoubt.audit_chain c where c.entry_id = e.id)) as open`)
      if (row?.open === false) return true
    }
    return false
  }

  async function verified(): Promise<readonly string[]> {
    const auditor = openPool({ url: site.url('auditor'), max: 1, emit: () => undefined, statementTimeout: 60_000 })
    try {
      for (let last = 20; ; last -= 1) {
        const result = await verifyAudit({ query: (statement) => auditor.query(statement), service: 'therapy', anchors, publicKeys: key.verifiers })
        figures.sealed = result.entries
        if (result.problemCount > 0) return result.problems.map(({ kind, detail }) => `audit ${kind}: ${detail}`)
        if (result.unsealed === 0 && result.anchored === result.head) return []
        if (last === 0) return [`the head of the chain (${result.head}) was not anchored (${result.anchored}), ${result.unsealed} entries unsealed`]
        await pause(250)
      }
    } finally {
      await auditor.close()
    }
  }

  /** As many keys as were acknowledged, and no row beside them: nothing was done twice, and nothing by a request that failed. */
  async function surplus(admin: ScriptConnection): Promise<readonly string[]> {
    const [row] = await admin.query<{ readonly keys: string; readonly known: string }>(
      `select count(*)::text as keys, count(*) filter (where k.key = any($1))::text as known from redoubt.idempotency_keys k`, [[...keys.keys()]])
    figures.rows = keys.size
    const more = (await keylessRows(admin)) - before
    return [
      ...(row?.keys === row?.known && row?.known === String(keys.size) ? [] : [`${keys.size} keys were acknowledged, the database has ${row?.keys ?? '?'}, ${row?.known ?? '?'} of them`]),
      ...(more === 0n ? [] : [`${more} rows were made by no request that was acknowledged`]),
    ]
  }

  return {
    figures,
    async check(acknowledged) {
      return asAdmin(site, async (admin) => {
        const found = [...(await brokenPromises(admin, acknowledged, keys)), ...(await brokenRules(admin)), ...(await surplus(admin))]
        figures.entries += acknowledged.length
        if (!(await sealed(admin))) return [...found, 'entries were not sealed within 90 s']
        return [...found, ...(await verified())]
      })
    },
  }
}

async function asAdmin<T>(site: Site, work: (admin: ScriptConnection) => Promise<T>): Promise<T> {
  const admin = await openScriptConnection(site.url('superuser'))
  try {
    return await work(admin)
  } finally {
    await admin.close()
  }
}

async function keylessRows(admin: ScriptConnection): Promise<bigint> {
  return (await admin.query<{ readonly rows: string }>(keyless)).reduce((sum, { rows }) => sum + BigInt(rows), 0n)
}
