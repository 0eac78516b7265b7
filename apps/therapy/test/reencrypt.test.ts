import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { checkDatabase } from 'redoubt/migrate/check'
import { allowReencryption, tablesWithoutRights, withdrawReencryption } from 'redoubt/migrate/rights'
import { openPool } from 'redoubt/pg'
import { runJobs } from 'redoubt/reencrypt'
import { definers, tables } from '../src/tables.ts'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const emit = (): void => undefined
const url = clinic.database.url('migrator')
const pool = openPool({ url, max: 3, emit })
const keysPool = openPool({ url: clinic.database.url('keys'), max: 2, emit })
const app = openPool({ url: clinic.database.url('app'), max: 1, emit })
after(() => Promise.all([pool.close(), keysPool.close(), app.close()]))
// Roles of a test have another prefix than the service's realm.
const here = { ...tables, service: clinic.database.service }

const therapist = await clinic.therapist()
const patient = await clinic.patient({ phone: '+49301234567' })
await clinic.care(patient, therapist)

test('jobs are allowed for a while, and the start check agrees all the while', async () => {
  assert.ok((await tablesWithoutRights(pool, here)).length > 5)
  await allowReencryption({ url, tables: here })
  assert.deepEqual(await tablesWithoutRights(pool, here), [])
  assert.deepEqual(await checkDatabase(app, here, definers), [])
})

test('every sealed column of Therapy is visited: all values open where they stand, and all stand under active keys', async () => {
  const settings = { tables, pool, keysPool, keyring: clinic.service.keyring, emit }
  const verified = await runJobs(settings, 'verify')
  const sealed = Object.entries(tables.tables).filter(([, { columns }]) => Object.values(columns).some(({ kind }) => kind === 'sealed')).map(([name]) => name)
  assert.deepEqual(verified.map(({ table }) => table), sealed)
  for (const { table, reasons, proven } of verified) assert.deepEqual([table, reasons, proven], [table, {}, true])
  assert.ok((verified.find(({ table }) => table === 'therapy.patients')?.counts.already ?? 0) > 0)
  assert.ok((verified.find(({ table }) => table === 'redoubt.audit_logs')?.counts.already ?? 0) > 0)
  const renewed = await runJobs(settings, 'reencrypt')
  for (const { table, proven, counts } of renewed) assert.deepEqual([table, proven, counts.changed, counts.failed], [table, true, 0, 0])
})

test('attack: while jobs are allowed, the record of the audit is as fixed as before, and its chain as whole', async () => {
  for (const set of ['action = action', 'personal_commitment = null', 'metadata = metadata', 'actor_id = null']) {
    await assert.rejects(clinic.database.admin(`update redoubt.audit_logs set ${set}`), set)
  }
  const columns = await clinic.database.admin<{ name: string }>(`select a.attname as name from pg_attribute a where a.attrelid = 'redoubt.audit_logs'::regclass and a.attnum > 0 and not a.attisdropped
    and not a.attnum = any ((select t.tgattr from pg_trigger t where t.tgrelid = a.attrelid and t.tgname = 'append_only')::int2[])`)
  assert.deepEqual(columns, [{ name: 'personal_enc' }])
})

test('what was allowed is taken back, and the login sees nothing any more', async () => {
  await withdrawReencryption({ url, tables: here })
  await assert.rejects(pool.query({ text: 'select id from therapy.patients', values: [] }))
  assert.equal((await tablesWithoutRights(pool, here)).length, Object.values(tables.tables).filter(({ columns }) => Object.values(columns).some(({ kind }) => kind !== 'plain')).length)
})
