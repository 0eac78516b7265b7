import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { migrate, MigrationDrift, readMigrations, withRoles } from '../src/migrate.ts'
import { testDatabase } from './support/database.ts'
import { sqlFolders } from './support/template.ts'

const database = await testDatabase({ origins: [] })
const folder = await mkdtemp(join(tmpdir(), 'redoubt-migrations-'))
after(() => rm(folder, { recursive: true, force: true }))
const kernel = { origin: 'redoubt', folder: sqlFolders.redoubt }
const own = { origin: 'app', folder }
const run = (): Promise<readonly { version: number }[]> => migrate({ url: database.url('migrator'), service: database.service, sources: [kernel, own] })

test('migrations apply in order, once, and four migrators at a time repeat nothing', async () => {
  const results = await Promise.all([run(), run(), run(), run()])
  const files = await readMigrations([kernel])
  assert.equal(results.flat().length, files.length)
  const ledger = await database.admin<{ version: number }>(`select version from redoubt.schema_migrations where origin = 'redoubt' order by version`)
  assert.deepEqual(ledger.map((row) => row.version), files.map((file) => file.version))
  assert.deepEqual(await run(), [])
})

test('a migration that fails leaves nothing of itself, and says why', async () => {
  await writeFile(join(folder, '000001_half.sql'), 'set local role {owner}; create table redoubt.half (id int); select 1/0;')
  await assert.rejects(run(), /division by zero/)
  assert.deepEqual(await database.admin(`select to_regclass('redoubt.half')::text as half`), [{ half: null }])
  await rm(join(folder, '000001_half.sql'))
})

test('a file changed after it was applied is refused, and so is a release older than the database', async () => {
  const file = join(folder, '000001_more.sql')
  await writeFile(file, 'set local role {owner}; create schema more;')
  assert.equal((await run()).length, 1)
  await writeFile(file, 'set local role {owner}; create schema more; -- and more')
  await assert.rejects(run(), (error: unknown) => error instanceof MigrationDrift && error.message.includes('app/000001 was changed'))
  await rm(file)
  await assert.rejects(run(), (error: unknown) => error instanceof MigrationDrift && error.message.includes('older than the database'))
  await writeFile(file, 'set local role {owner}; create schema more;')
})

test('a migration waits a bounded time for a lock that a running transaction holds', async () => {
  const file = join(folder, '000002_column.sql')
  await writeFile(file, 'set local role {owner}; alter table redoubt.users add column more int;')
  await database.admin('begin; lock table redoubt.users in access share mode')
  const started = performance.now()
  await assert.rejects(run(), /lock timeout/)
  assert.ok(performance.now() - started < 15_000)
  await database.admin('rollback')
  await rm(file)
})

test('files out of form are the caller’s mistake', async () => {
  await writeFile(join(folder, 'first.sql'), '')
  await assert.rejects(readMigrations([own]), TypeError)
  await rm(join(folder, 'first.sql'))
})

test('role tokens become the service’s roles and other braces stay', () => {
  assert.equal(withRoles(`grant select on t to {app}; select '{}'::text[], '{a,b}'; -- {service}`, 'clinic'), `grant select on t to "clinic_app"; select '{}'::text[], '{a,b}'; -- clinic`)
  assert.throws(() => withRoles('', 'x"; drop'), TypeError)
})
