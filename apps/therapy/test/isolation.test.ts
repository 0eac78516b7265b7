import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import pg from 'pg'
import type { Column } from 'redoubt/tables'
import { testDatabase, type TestDatabase } from '../../../packages/redoubt/test/support/database.ts'
import { tables as declared } from '../src/tables.ts'
import { openProbe, tables, viewers, type Probe } from './support/probes.ts'

// For every table, command and person of the visibility matrix, the forbidden is tried as SQL inside that person's own
// signed transaction, over the app's login and by the simple protocol: more than injected SQL can do through the gate.

async function probeOf(database: TestDatabase): Promise<Probe> {
  const client = new pg.Client({ connectionString: database.url('app'), application_name: 'attacker' })
  await client.connect()
  after(() => client.end())
  return openProbe(database, client)
}

const probe = await probeOf(await testDatabase())

for (const viewer of viewers) {
  test(`${viewer} reads of every table what the matrix shows them, to the row`, async () => {
    const problems: string[] = []
    for (const table of tables) problems.push(...(await probe.reads(viewer, table)))
    assert.deepEqual(problems, [])
  })
  test(`${viewer} adds, changes and removes in no table what the matrix does not let them`, async () => {
    const problems: string[] = []
    for (const table of tables) problems.push(...(await probe.writes(viewer, table)))
    assert.deepEqual(problems, [])
  })
}

test('a foreign key is no oracle: naming another’s row is refused like naming nothing', async () => {
  for (const viewer of viewers) assert.deepEqual(await probe.references(viewer), [], viewer)
})

test('the other logins reach the tables of their work and no others, whatever claim they carry', async () => {
  const care = ['appointment_notes', 'appointments', 'care_relationships', 'consents', 'medical_records', 'messages', 'patients', 'therapist_profiles']
  const wanted: Readonly<Record<string, readonly string[]>> = {
    ingest: [],
    // What a re-encryption job remembers; the rows themselves it reaches by functions and policies of its own.
    migrator: ['DELETE crypto_job_failures', 'INSERT crypto_job_cursors', 'INSERT crypto_job_failures', 'INSERT crypto_jobs', 'SELECT crypto_job_cursors', 'SELECT crypto_job_failures', 'SELECT crypto_jobs', 'UPDATE crypto_job_cursors', 'UPDATE crypto_job_failures', 'UPDATE crypto_jobs'].map((may) => may.replace(' ', ' redoubt.')),
    auditor: ['anchors', 'chain', 'head', 'logs', 'subjects', 'tombstones'].map((name) => `SELECT redoubt.audit_${name}`).concat('SELECT redoubt.crypto_job_cursors', 'SELECT redoubt.crypto_job_failures', 'SELECT redoubt.crypto_jobs', 'SELECT redoubt.key_calls', 'SELECT redoubt.key_usage', 'SELECT redoubt.key_use_unusual', 'SELECT redoubt.schema_migrations'),
    backup: care.map((name) => `SELECT therapy.${name}`).concat('SELECT redoubt.key_calls', 'SELECT redoubt.key_usage', 'SELECT redoubt.key_use_unusual'),
    keys: ['data_keys', 'index_keys', 'key_encryption_keys', 'purpose_keys'].flatMap((name) => ['DELETE', 'INSERT', 'SELECT', 'UPDATE'].map((command) => `${command} keys.${name}`)).concat('INSERT keys.erased', 'SELECT keys.erased', 'SELECT redoubt.crypto_job_cursors', 'SELECT redoubt.crypto_job_failures', 'SELECT redoubt.crypto_jobs'),
    worker: ['idempotency_keys', 'one_time_codes', 'outbox', 'sessions'].flatMap((name) => [`DELETE redoubt.${name}`, `SELECT redoubt.${name}`]).concat('UPDATE redoubt.outbox', 'SELECT redoubt.crypto_job_cursors', 'SELECT redoubt.crypto_job_failures', 'SELECT redoubt.crypto_jobs', 'SELECT redoubt.audit_anchors', 'SELECT redoubt.audit_chain', 'SELECT redoubt.audit_head', 'SELECT redoubt.schema_migrations'),
  }
  for (const [login, expected] of Object.entries(wanted)) {
    const role = `${probe.database.service}_${login}`
    const rows = await probe.database.admin<{ may: string }>(
      `select p || ' ' || n.nspname || '.' || c.relname as may from pg_class c join pg_namespace n on n.oid = c.relnamespace
       cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname in ('redoubt', 'guard', 'keys', 'therapy')
         and (has_table_privilege($1, c.oid, p) or (p in ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') and has_any_column_privilege($1, c.oid, p)))`, [role])
    assert.deepEqual(rows.map(({ may }) => may).toSorted(), expected.toSorted(), login)
    const [attributes] = await probe.database.admin<{ rolsuper: boolean; rolbypassrls: boolean }>('select rolsuper, rolbypassrls from pg_roles where rolname = $1', [role])
    assert.deepEqual(attributes, { rolsuper: false, rolbypassrls: login === 'backup' }, login)
  }
  const worker = new pg.Client({ connectionString: probe.database.url('worker') })
  await worker.connect()
  assert.deepEqual((await worker.query('select expires_at from redoubt.idempotency_keys')).rows, [], 'none has expired')
  assert.equal((await worker.query('delete from redoubt.idempotency_keys')).rowCount, 0)
  await worker.end()
})

test('no credential and no licence number is readable through the app’s login, whose row it may be', async () => {
  const columns = Object.entries(declared.tables).flatMap(([table, { columns: of }]) => Object.entries<Column>(of).filter(([, column]) => column.kind === 'plain' && column.dataClass === 'CRED').map(([column]) => ({ table, column })))
  for (const { table, column } of [...columns, { table: 'therapy.therapist_profiles', column: 'licence_number_enc' }]) {
    const [row] = await probe.database.admin<{ may: boolean }>('select has_column_privilege($1, $2, $3, $4) as may', [`${probe.database.service}_app`, table, column, 'select'])
    assert.equal(row?.may, false, `${table}.${column}`)
  }
  assert.ok(columns.length >= 2)
})

test('there is no view to look through, and no partition or child table beside its policies', async () => {
  const odd = await probe.database.admin(
    `select c.relname, c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname in ('redoubt', 'guard', 'keys', 'therapy') and (c.relkind in ('v', 'm', 'f') or c.relispartition or exists (select from pg_inherits i where i.inhparent = c.oid)
       or (c.relkind = 'r' and not (c.relrowsecurity and c.relforcerowsecurity)))`)
  assert.deepEqual(odd, [])
})

type Policy = { readonly table: (typeof tables)[number]; readonly name: string; readonly command: 'SELECT' | 'INSERT' | 'UPDATE' | 'DELETE'; readonly using: string | null; readonly check: string | null }

/** Another lock holds where the policy alone falls: the triggers of the append-only record. */
const twiceLocked = ['redoubt.audit_logs UPDATE', 'redoubt.audit_logs DELETE', 'redoubt.audit_subjects UPDATE', 'redoubt.audit_subjects DELETE']

test('these probes have teeth: with any one policy opened on purpose, somebody reads or writes what is not theirs', async () => {
  const database = await testDatabase()
  const open = await probeOf(database)
  const app = `"${database.service}_app"`
  const policies = await database.admin<Policy>(
    `select schemaname || '.' || tablename as table, policyname as name, cmd as command, qual as using, with_check as check from pg_policies
     where schemaname in ('redoubt', 'therapy') and $1 = any(roles) and schemaname || '.' || tablename = any($2) order by 1, 2`, [`${database.service}_app`, tables])
  assert.ok(policies.length >= 4 * tables.length - 1, `one policy per command: ${policies.length}`)
  const blind: string[] = []
  for (const { table, name, command, using, check } of policies) {
    const clause = (used: string | null, checked: string | null): string => [used === null ? '' : `using (${used})`, checked === null ? '' : `with check (${checked})`].join(' ')
    const asked = command === 'DELETE' ? 'has_table_privilege' : 'has_any_column_privilege'
    const granted = (await database.admin<{ has: boolean }>(`select ${asked}($1, $2, $3) as has`, [`${database.service}_app`, table, command]))[0]?.has === true
    await database.admin(`alter policy ${name} on ${table} ${clause(using === null ? null : 'true', check === null ? null : 'true')}${granted ? '' : `; grant ${command} on ${table} to ${app}`}`)
    let found = false
    for (const viewer of viewers) {
      found = (await (command === 'SELECT' ? open.reads(viewer, table) : open.writes(viewer, table))).length > 0
      if (found) break
    }
    if (!found) blind.push(`${table} ${command}`)
    await database.admin(`alter policy ${name} on ${table} ${clause(using, check)}`)
    if (!granted) await database.admin(`revoke ${command} on ${table} from ${app}`)
  }
  assert.deepEqual(blind.toSorted(), twiceLocked.toSorted())
})
