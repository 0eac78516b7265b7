import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { rehearseJobs, runJobs } from '../src/reencrypt.ts'
import { testDatabase } from './support/database.ts'
import { cryptoJs, gcmV1, signedToken } from './support/legacy.ts'
import { customers, openShop } from './support/reencrypt.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const shop = await openShop(database)
after(() => shop.close())

type Old = { readonly id: string; readonly person: string; readonly stored: string | null; readonly cvv?: string; readonly expected: string | null }

const old = (stored: string | null, expected: string | null): Old => ({ id: randomUUID(), person: randomUUID(), stored, cvv: '123', expected })
const rows: readonly Old[] = [
  old(gcmV1('ada@example.org'), 'ada@example.org'),
  old(cryptoJs('Bob@Example.org'), 'bob@example.org'),
  old(signedToken('cyd@example.org'), 'cyd@example.org'),
  old(Buffer.from('dan@example.org').toString('base64'), 'dan@example.org'),
  old(null, null),
  old('', null),
  old(gcmV1('eve@example.org').slice(0, -9), null),
  old(cryptoJs('fay@example.org', undefined, 'another passphrase'), null),
  old(Buffer.from('N/A').toString('base64'), null),
  old('what is this?', null),
  old(gcmV1('ada@example.org'), null),
]
const migrated = customers(1, 1, 'new')[0]

await shop.insert(migrated === undefined ? [] : [migrated])
await database.admin('update shop.customers set old_email = $1', [gcmV1('older@example.org')])
for (const { id, person, stored, cvv } of rows) await database.admin('insert into shop.customers (id, person, old_email, old_cvv) values ($1, $2, $3, $4)', [id, person, stored, cvv])

const expectedCounts = { changed: 4, already: 1, absent: 1, erased: 0, failed: 6, seen: 12 }

test('a dry run foresees the import, but for what only the table itself refuses', async () => {
  const [planned] = await rehearseJobs(shop.settings(), 'import')
  assert.deepEqual(planned?.counts, { ...expectedCounts, changed: 5, failed: 5 })
  assert.equal(planned?.reasons.empty, 1)
})

test('wiping before the import empties what must not be kept at all, and keeps every source that was not imported', async () => {
  const [result] = await runJobs(shop.settings(), 'wipe')
  assert.equal(result?.proven, false)
  assert.equal(result?.reasons.not_imported, 10)
  const [left] = await database.admin('select count(old_email)::int as sources, count(old_cvv)::int as cvvs from shop.customers')
  assert.deepEqual(left, { sources: 10, cvvs: 0 })
  await database.admin('update shop.customers set old_email = $2 where id = $1', [migrated?.id, gcmV1('older@example.org')])
})

test('import: every row in exactly one of migrated, already new, failed with reason', async () => {
  const [result] = await runJobs(shop.settings(), 'import')
  assert.deepEqual(result?.counts, expectedCounts)
  assert.equal(result?.proven, false)
  assert.equal(Object.values(result?.reasons ?? {}).reduce((sum, n) => sum + n, 0), 6)
  assert.equal(result?.reasons.duplicate, 1)
  const now = await shop.read()
  const adas = rows.filter(({ stored }) => stored === rows[0]?.stored || stored === rows.at(-1)?.stored).map(({ id }) => now.get(id)?.email ?? null)
  assert.deepEqual(new Set(adas), new Set(['ada@example.org', null]))
  for (const { id, expected } of rows.slice(1, -1)) assert.deepEqual([now.get(id)?.email, now.get(id)?.found], [expected, true])
  assert.equal(now.get(migrated?.id ?? '')?.email, migrated?.email)
})

test('import again: nothing is imported twice', async () => {
  const [result] = await runJobs(shop.settings(), 'import')
  assert.deepEqual(result?.counts, { ...expectedCounts, changed: 0, already: 5 })
})

test('verification compares what was imported with its source', async () => {
  const [result] = await runJobs(shop.settings(), 'verify')
  // The row that was new before has another value than its source on purpose.
  assert.equal(result?.reasons.value_differs, 1)
  assert.equal(result?.reasons.not_imported, 6)
})

test('failures name row, column and class; nothing of a value stands in the tables of jobs', async () => {
  const told = JSON.stringify([await database.admin('select * from redoubt.crypto_job_failures'), await database.admin('select * from redoubt.crypto_jobs')])
  for (const word of ['example', 'ada@', 'Ada', 'gcm:', 'U2Fsd', 'eyJ', 'N/A', 'what is']) assert.ok(!told.includes(word), word)
})

test('wiping proves that nothing is left', async () => {
  await database.admin('update shop.customers set old_cvv = $1', ['321'])
  await database.admin('delete from shop.customers where email_enc is null and old_email is not null')
  const [result] = await runJobs(shop.settings(), 'wipe')
  assert.equal(result?.proven, true)
  const [left] = await database.admin('select count(old_email)::int as sources, count(old_cvv)::int as cvvs, count(email_enc)::int as sealed from shop.customers')
  assert.deepEqual(left, { sources: 0, cvvs: 0, sealed: 5 })
  const [job] = await database.admin(`select proof from redoubt.crypto_jobs where id = $1`, [result?.id])
  assert.deepEqual(job, { proof: { rows_left: 0, columns: { old_email: { left: 0 }, old_cvv: { left: 0 } } } })
})
