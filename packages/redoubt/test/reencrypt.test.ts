import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { rehearseJobs, runJobs } from '../src/reencrypt.ts'
import { testDatabase } from './support/database.ts'
import { customers, openShop } from './support/reencrypt.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const shop = await openShop(database)
after(() => shop.close())

const fingerprint = async (): Promise<string> => {
  const [row] = await database.admin<{ print: string }>(`select md5(string_agg(c::text, '' order by c.id)) || (select count(*) from keys.data_keys) || (select count(*) from redoubt.crypto_jobs) as print from shop.customers c`)
  return row?.print ?? ''
}
const people = customers(500, 50)
await shop.insert(people)

test('a dry run tells what would be done, and writes nothing: no row, no key, no job', async () => {
  await shop.rotateDataKeys()
  const before = await fingerprint()
  const [planned] = await rehearseJobs(shop.settings(), 'reencrypt')
  assert.deepEqual(planned?.counts, { changed: 500, already: 0, absent: 0, erased: 0, failed: 0, seen: 500 })
  assert.equal(await fingerprint(), before)
})

test('re-encryption brings every value under the active key of its subject, and proves it', async () => {
  const before = await shop.read()
  const [result] = await runJobs(shop.settings(), 'reencrypt')
  assert.deepEqual(result?.counts, { changed: 500, already: 0, absent: 0, erased: 0, failed: 0, seen: 500 })
  assert.equal(result?.proven, true)
  assert.deepEqual(await shop.read(), before)
  const [left] = await database.admin(`select count(*)::int as left from shop.customers c join keys.data_keys d on d.key_id in (substring(c.email_enc from 2 for 16), substring(c.note_enc from 2 for 16)) where d.state <> 'active'`)
  assert.deepEqual(left, { left: 0 })
  const entries = await database.admin(`select action, purpose, actor_role, metadata ->> 'table' as over, metadata ->> 'proven' as proven from redoubt.audit_logs where resource_type = 'crypto_job' and resource_id = $1 order by occurred_at`, [result?.id])
  const entry = { purpose: 'reencrypt', actor_role: 'system.operator', over: 'shop.customers' }
  assert.deepEqual(entries, [{ action: 'job.started', ...entry, proven: 'false' }, { action: 'job.ended', ...entry, proven: 'true' }])
})

test('a job that has nothing to do changes nothing, and says so', async () => {
  const before = await fingerprint()
  const [result] = await runJobs(shop.settings(), 'reencrypt')
  assert.deepEqual([result?.counts.changed, result?.counts.already, result?.proven], [0, 500, true])
  assert.equal((await fingerprint()).slice(0, 32), before.slice(0, 32))
})

test('a blind index under an older version is computed anew, and the version of the row stays', async () => {
  await shop.rotateIndexKey()
  const before = await shop.read()
  const [result] = await runJobs(shop.settings(), 'reencrypt')
  assert.deepEqual([result?.counts.changed, result?.proven], [500, true])
  const versions = await database.admin(`select distinct get_byte(email_bidx, 0) as v, version from shop.customers`)
  assert.deepEqual(versions, [{ v: 2, version: 1 }])
  assert.deepEqual(await shop.read(), before)
})

test('rows of an erased person are left alone and counted; the others go on', async () => {
  const gone = people[3]?.person ?? ''
  await shop.rotateDataKeys()
  for (const keep of ['account', 'notes']) await shop.keyring.destroy({ tenant: shop.service, subject: gone, keep })
  const sealed = await database.admin('select id, email_enc, note_enc from shop.customers where person = $1 order by id', [gone])
  const [result] = await runJobs(shop.settings(), 'reencrypt')
  assert.deepEqual(result?.counts, { changed: 490, already: 0, absent: 0, erased: 10, failed: 0, seen: 500 })
  assert.equal(result?.proven, true)
  assert.deepEqual(await database.admin('select id, email_enc, note_enc from shop.customers where person = $1 order by id', [gone]), sealed)
})

test('values that do not open are failures with row and class, nothing of them changes, and the proof says what is left', async () => {
  const [moved, cut, alien, flipped] = people.filter(({ person }) => person !== people[3]?.person).slice(10, 14)
  await shop.rotateDataKeys()
  await database.admin('update shop.customers a set email_enc = b.email_enc from shop.customers b where a.id = $1 and b.id = $2', [moved?.id, people[20]?.id])
  await database.admin(`update shop.customers set email_enc = substring(email_enc from 1 for 30) where id = $1`, [cut?.id])
  await database.admin(`update shop.customers set email_enc = overlay(email_enc placing '\\x00112233445566778899aabbccddeeff' from 2) where id = $1`, [alien?.id])
  await database.admin(`update shop.customers set email_enc = set_byte(email_enc, octet_length(email_enc) - 1, get_byte(email_enc, octet_length(email_enc) - 1) # 1) where id = $1`, [flipped?.id])
  const [result] = await runJobs(shop.settings(), 'reencrypt')
  assert.deepEqual(result?.counts, { changed: 486, already: 0, absent: 0, erased: 10, failed: 4, seen: 500 })
  assert.deepEqual(result?.reasons, { wrong_place: 1, not_sealed: 1, key_unknown: 1, does_not_open: 1 })
  assert.equal(result?.proven, false)
  const failures = await database.admin<{ row_id: string; column_name: string; reason: string }>('select row_id, column_name, reason from redoubt.crypto_job_failures where job_id = $1', [result?.id])
  assert.deepEqual(new Map(failures.map(({ row_id, reason }) => [row_id, reason])), new Map([[moved?.id, 'wrong_place'], [cut?.id, 'not_sealed'], [alien?.id, 'key_unknown'], [flipped?.id, 'does_not_open']]))
  await database.admin('delete from shop.customers where id = any ($1)', [[moved?.id, cut?.id, alien?.id, flipped?.id]])
  const [again] = await runJobs(shop.settings(), 'reencrypt')
  assert.equal(again?.proven, true)
})

test('verification finds a value that stands in another row, and one whose index says something else', async () => {
  const [clean] = await runJobs(shop.settings(), 'verify')
  assert.deepEqual([clean?.counts.failed, clean?.proven], [0, true])
  const [one, other, third] = people.slice(30, 33)
  await database.admin('update shop.customers a set note_enc = b.email_enc from shop.customers b where a.id = $1 and b.id = $1', [one?.id])
  await database.admin(`update shop.customers set email_bidx = set_byte(email_bidx, 5, get_byte(email_bidx, 5) # 1) where id = $1`, [other?.id])
  await database.admin('update shop.customers set email_enc = $2 where id = $1', [third?.id, Buffer.alloc(0)])
  const [found] = await runJobs(shop.settings(), 'verify')
  assert.deepEqual([found?.counts.failed, found?.proven], [3, false])
  assert.deepEqual(found?.reasons, { wrong_place: 1, index_differs: 1, not_sealed: 1 })
  await database.admin('delete from shop.customers where id = any ($1)', [[one?.id, other?.id, third?.id]])
})

test('an edit between reading and writing wins, is never lost, and ends under the active key too', async () => {
  await database.admin('delete from shop.customers')
  const many = customers(3000, 300, 'e')
  await shop.insert(many)
  await shop.rotateDataKeys()
  const edited = new Map<string, string>()
  let running = true
  const { seal, blindIndex } = await import('../src/seal.ts')
  const text = 'update shop.customers set email_enc = $2, email_bidx = $3 where id = $1'
  const editor = async (n: number): Promise<void> => {
    for (let at = n; running; at += 97) {
      const row = many[at % many.length]
      if (row === undefined) continue
      const place = { tenant: shop.service, table: 200, column: 1, row: row.id, subject: row.person }
      const email = `edit-${at}@example.org`
      const key = await shop.keyring.keyFor({ tenant: shop.service, subject: row.person, keep: 'account' })
      const [newest] = await shop.keyring.indexKeys(200, 2)
      if (newest === undefined) throw new Error('no index key')
      await shop.pool.query({ text, values: [row.id, seal(key, place, email), blindIndex(newest, { tenant: shop.service, table: 200, column: 2 }, email)] })
      edited.set(row.id, email)
    }
  }
  const editors = Promise.all([editor(1), editor(40), editor(77)])
  const [result] = await runJobs(shop.settings(), 'reencrypt')
  running = false
  await editors
  assert.equal(result?.proven, true)
  assert.ok(edited.size > 0)
  const now = await shop.read()
  for (const row of many) assert.deepEqual([now.get(row.id)?.email, now.get(row.id)?.found], [edited.get(row.id) ?? row.email, true])
})

test('several workers share a job: each row is done once, and all end', async () => {
  await shop.rotateDataKeys()
  const results = await Promise.all([runJobs(shop.settings(), 'reencrypt'), runJobs(shop.settings(), 'reencrypt'), runJobs(shop.settings({ keyring: shop.keys.keyring() }), 'reencrypt')])
  const [first] = results[0]
  assert.deepEqual(new Set(results.flat().map(({ id }) => id)).size, 1)
  assert.deepEqual([first?.state, first?.proven, first?.counts.changed, first?.counts.seen], ['done', true, 3000, 3000])
})

test('a job that was stopped goes on where it was', async () => {
  await shop.rotateDataKeys()
  const stop = new AbortController()
  const [half] = await runJobs(shop.settings({ signal: stop.signal, moved: () => stop.abort() }), 'reencrypt')
  assert.equal(half?.state, 'running')
  assert.ok((half?.counts.seen ?? 0) > 0 && (half?.counts.seen ?? 0) < 3000)
  const [whole] = await runJobs(shop.settings(), 'reencrypt')
  assert.deepEqual([whole?.id, whole?.proven, whole?.counts.changed], [half?.id, true, 3000])
})

test('attack: a worker that comes back after its lease ran out writes nothing more', async () => {
  await shop.rotateDataKeys()
  const counted = async (): Promise<unknown> => (await database.admin(`select sum(c.changed)::int as changed from redoubt.crypto_job_cursors c join redoubt.crypto_jobs j on j.id = c.job_id where j.state = 'running'`))[0]
  const begun = Promise.withResolvers<void>()
  const working = runJobs(shop.settings({ moved: () => begun.resolve(), throttle: { rowsPerSecond: 1500 } }), 'reencrypt')
  await begun.promise
  // Somebody else has the range now; the worker does not know it yet, and waits for its next batch.
  await database.admin(`update redoubt.crypto_job_cursors set holder = gen_random_uuid(), held_until = now() + interval '1 hour' where done_at is null and holder is not null`)
  const atTheft = await counted()
  await pause(1500)
  assert.deepEqual(await counted(), atTheft)
  await database.admin('update redoubt.crypto_job_cursors set held_until = now() where done_at is null and holder is not null')
  const [result] = await working
  assert.deepEqual([result?.proven, result?.counts.changed, result?.counts.seen], [true, 3000, 3000])
})

test('attack: an erasure between asking for a key and writing: nothing is committed under the destroyed key', async () => {
  await database.admin('delete from shop.customers')
  const some = customers(200, 10, 'x')
  await shop.insert(some)
  await shop.rotateDataKeys()
  const gone = { tenant: shop.service, subject: some[0]?.person ?? '', keep: 'account' }
  const { keyring } = shop
  let done = false
  const late = {
    ...keyring,
    keysFor: async (scopes: Parameters<typeof keyring.keysFor>[0], by: Parameters<typeof keyring.keysFor>[1]) => {
      const keys = await keyring.keysFor(scopes, by)
      if (!done) await shop.keys.keyring().destroy(gone)
      done = true
      return keys
    },
  }
  const [result] = await runJobs(shop.settings({ keyring: late }), 'reencrypt')
  assert.deepEqual(result?.counts, { changed: 180, already: 0, absent: 0, erased: 20, failed: 0, seen: 200 })
  const [under] = await database.admin(`select count(*)::int as n from shop.customers c where c.person = $1 and exists (select from keys.data_keys d where d.key_id = substring(c.email_enc from 2 for 16))`, [gone.subject])
  assert.deepEqual(under, { n: 0 })
})

test('a sealed value in a row about nobody is a failure, not the end of the job', async () => {
  await database.admin('alter table shop.customers alter column person drop not null')
  await database.admin('update shop.customers set person = null where id = (select c.id from shop.customers c join keys.data_keys d on d.subject = c.person limit 1)')
  await shop.rotateDataKeys()
  const [result] = await runJobs(shop.settings(), 'reencrypt')
  // One row, whichever of its columns hold a value.
  assert.deepEqual([result?.counts.failed, Object.keys(result?.reasons ?? {}), result?.proven], [1, ['no_subject'], false])
})
