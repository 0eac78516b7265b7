import assert from 'node:assert/strict'
import { fork, type ChildProcess } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { JobResult, Kind } from '../../src/reencrypt.ts'
import { listFailures, listJobs, type JobStanding } from '../../src/reencrypt/standing.ts'
import { blindIndex, seal } from '../../src/seal.ts'
import type { LegacyForm } from '../../src/tables.ts'
import type { Soak } from '../soak.ts'
import { testDatabase, type TestDatabase } from '../support/database.ts'
import { customers, openShop, table, type Customer, type Shop } from '../support/reencrypt.ts'
import { corpus } from './reencrypt/corpus.ts'

const defaultForms: readonly LegacyForm[] = ['gcm-v1', 'cryptojs', 'jwt-hs256', 'base64']

function startWorker(database: TestDatabase, shop: Shop, kind: Kind, forms: readonly LegacyForm[]): ChildProcess {
  const settings = { service: shop.service, migrator: database.url('migrator'), keys: database.url('keys'), root: shop.keys.root, kind, forms }
  return fork(join(import.meta.dirname, 'reencrypt/worker.ts'), [JSON.stringify(settings)], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
}

async function workTo(worker: ChildProcess, what: 'working' | 'end'): Promise<JobResult | null> {
  for (;;) {
    const [message] = (await Promise.race([once(worker, 'message'), once(worker, 'exit').then(() => [null])])) as readonly unknown[]
    if (message === null) return null
    if (message === 'working') {
      if (what === 'working') return null
      continue
    }
    return message as JobResult
  }
}

/** Kills workers at random moments, so many times, then lets one go on to the end. */
async function killAndFinish(database: TestDatabase, shop: Shop, kind: Kind, forms: readonly LegacyForm[], kills: number, longest: number): Promise<{ readonly job: JobStanding; readonly reasons: Readonly<Record<string, number>>; readonly killed: number }> {
  let killed = 0
  while (killed < kills) {
    const workers = [startWorker(database, shop, kind, forms), startWorker(database, shop, kind, forms)]
    await Promise.all(workers.map((worker) => workTo(worker, 'working')))
    await pause(randomInt(5, longest))
    for (const worker of workers) {
      if (worker.exitCode === null) killed++
      worker.kill('SIGKILL')
    }
    await Promise.all(workers.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null).map((worker) => once(worker, 'exit')))
    const [job] = await database.admin<{ state: string }>('select state from redoubt.crypto_jobs where kind = $1 order by started_at desc limit 1', [kind])
    if (job?.state === 'done') break
  }
  const standing = async () => (await listJobs(shop.pool)).filter((job) => job.kind === kind)
  if ((await standing())[0]?.state !== 'done') {
    const last = startWorker(database, shop, kind, forms)
    if ((await workTo(last, 'end')) === null) throw new Error('the last worker ended without a result')
    await (last.exitCode === null ? once(last, 'exit') : undefined)
  }
  // Where a worker was killed after the end, the next one has begun another job, with nothing to do.
  const first = (await standing()).at(-1)
  if (first === undefined) throw new Error('there is no job')
  const failures = await listFailures(shop.pool, first.id, 1_000_000)
  const reasons: Record<string, number> = {}
  for (const { reason } of failures) reasons[reason] = (reasons[reason] ?? 0) + 1
  return { job: first, reasons, killed }
}

/** People who change their address while the job runs; what they wrote last. */
function startEdits(shop: Shop, rows: readonly Customer[]): { stop(): Promise<ReadonlyMap<string, string>> } {
  const written = new Map<string, string>()
  let running = true
  const one = async (first: number): Promise<void> => {
    for (let n = first; running; n += 7919) {
      const row = rows[n % rows.length]
      if (row === undefined) continue
      const email = `edited-${n}@example.org`
      const key = await shop.keyring.keyFor({ tenant: shop.service, subject: row.person, keep: 'account' })
      const [newest] = await shop.keyring.indexKeys(table.id, table.emailIndex)
      if (newest === undefined) throw new Error('no index key')
      const sealed = seal(key, { tenant: shop.service, table: table.id, column: table.email, row: row.id, subject: row.person }, email)
      const index = blindIndex(newest, { tenant: shop.service, table: table.id, column: table.emailIndex }, email)
      await shop.pool.query({ text: 'update shop.customers set email_enc = $2, email_bidx = $3 where id = $1', values: [row.id, sealed, index] })
      written.set(row.id, email)
      await pause(2)
    }
  }
  const both = Promise.all([one(1), one(1000)])
  return {
    async stop() {
      running = false
      await both
      return written
    },
  }
}

async function killed(short: boolean, print: (line: string) => void): Promise<void> {
  const database = await testDatabase({ origins: ['redoubt'] })
  const shop = await openShop(database)
  try {
    const count = short ? 6000 : 100_000
    const rows = customers(count, Math.floor(count / 20), 'kill')
    await shop.insert(rows)
    await shop.rotateDataKeys()
    await shop.rotateIndexKey()
    const edits = startEdits(shop, rows)
    const { job, killed: kills } = await killAndFinish(database, shop, 'reencrypt', defaultForms, short ? 3 : 20, short ? 900 : 4000)
    const edited = await edits.stop()
    assert.ok(job.provenAt !== null)
    assert.deepEqual([job.failed, job.erased, job.changed + job.already], [0, 0, count])
    const now = await shop.read()
    assert.equal(now.size, count)
    for (const { id, email, note } of rows) assert.deepEqual(now.get(id), { email: edited.get(id) ?? email, note: note ?? null, found: true, version: 1 }, `row ${id}`)
    print(`${count} rows re-encrypted through ${kills} kills -9 of two workers and ${edited.size} rows edited meanwhile: every value is what its owner wrote last`)
  } finally {
    await shop.close()
    await database.drop()
  }
}

async function imported(form: LegacyForm, short: boolean, print: (line: string) => void): Promise<void> {
  const database = await testDatabase({ origins: ['redoubt'] })
  const shop = await openShop(database, [form])
  try {
    const count = short ? 2000 : 100_000
    const rows = corpus(form, count)
    await shop.insert(rows.filter(({ sort }) => sort === 'already').map(({ id, person, value }) => ({ id, person, email: `new.${value}` })))
    for (let at = 0; at < rows.length; at += 5000) {
      const some = rows.slice(at, at + 5000)
      await database.admin(`insert into shop.customers (id, person, old_email, old_cvv) select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])
        on conflict (id) do update set old_email = excluded.old_email`, [some.map(({ id }) => id), some.map(({ person }) => person), some.map(({ stored }) => stored), some.map((_, n) => String(100 + (n % 900)))])
    }
    const started = performance.now()
    const { job, reasons } = await killAndFinish(database, shop, 'import', [form], short ? 2 : 4, short ? 600 : 5000)
    const seconds = (performance.now() - started) / 1000
    const number = (sort: string): number => rows.filter((row) => row.sort === sort).length
    const { changed, already, failed, absent, erased } = job
    assert.equal(changed + already + failed + absent + erased, count, 'every row in exactly one')
    assert.deepEqual([already, absent, erased], [number('already'), 0, 0])
    // Of those who share a value one is migrated, whichever comes first.
    assert.equal(changed, number('good'))
    assert.equal(Object.values(reasons).reduce((sum, n) => sum + n, 0), failed)
    assert.equal(reasons.duplicate, number('duplicate'))
    const now = await shop.read()
    const seen = new Set<string>()
    for (const { id, sort, value } of rows) {
      const { email, found } = now.get(id) ?? { email: null, found: false }
      if (sort === 'already') assert.equal(email, `new.${value}`)
      else if (sort === 'good' || sort === 'duplicate') assert.ok(email === null || email === value)
      else assert.equal(email, null, sort)
      assert.ok(found)
      if (email !== null) assert.ok(!seen.has(email) && seen.add(email))
    }
    print(`${form}: ${count} rows in ${seconds.toFixed(1)} s, killed on the way: ${changed} migrated, ${already} already new, ${failed} failed (${Object.entries(reasons).map(([reason, n]) => `${n} ${reason}`).join(', ')})`)
  } finally {
    await shop.close()
    await database.drop()
  }
}

/** Jobs over sealed columns: kill -9 under edits, then the corpora of older systems with all that is wrong in them. */
export const soak: Soak = async ({ short, print }) => {
  await killed(short, print)
  for (const form of ['plaintext', 'base64', 'gcm-v1', 'cryptojs', 'jwt-hs256'] as const) await imported(form, short, print)
}
