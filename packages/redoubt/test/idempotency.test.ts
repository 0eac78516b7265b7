import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, beforeEach, test } from 'node:test'
import type { Event } from '../src/events.ts'
import { forgetExpired, startSweep } from '../src/idempotency.ts'
import { openPool } from '../src/pg.ts'
import { testDatabase } from './support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const events: Event[] = []
const emit = (event: Event): void => void events.push(event)
const pool = openPool({ url: database.url('worker'), max: 2, namedStatements: true, emit })
after(() => pool.close())

/** Plants keys that expire this many seconds from now. */
async function plant(...seconds: readonly number[]): Promise<void> {
  for (const expires of seconds) {
    await database.admin(
      `insert into redoubt.idempotency_keys (id, principal, route, key, request_hash, state, expires_at)
       values ($1, $1, 'POST /x', $2, '', 'done', now() + make_interval(secs => $2::text::int))`, [randomUUID(), String(expires)])
  }
}
const left = async (): Promise<readonly number[]> =>
  (await database.admin<{ key: string }>('select key from redoubt.idempotency_keys')).map(({ key }) => Number(key)).sort((a, b) => a - b)

beforeEach(async () => {
  events.length = 0
  await database.admin('delete from redoubt.idempotency_keys')
})

async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  for (const end = performance.now() + 5_000; performance.now() < end; await new Promise((resolve) => setTimeout(resolve, 5))) if (await holds()) return
  assert.fail(`${what}: not within 5 s`)
}

test('expired keys are deleted, the oldest first and no more than asked for; a valid one stays', async () => {
  await plant(-10, -30, -20, 60)
  assert.equal(await forgetExpired(pool, 2), 2)
  assert.deepEqual(await left(), [-10, 60])
  assert.equal(await forgetExpired(pool, 2), 1)
  assert.equal(await forgetExpired(pool, 2), 0)
  assert.deepEqual(await left(), [60])
})

test('the worker can neither read a key nor delete one that is still valid', async () => {
  await plant(60)
  assert.deepEqual(await pool.query({ text: 'delete from redoubt.idempotency_keys returning id', values: [] }), [])
  await assert.rejects(pool.query({ text: 'select key from redoubt.idempotency_keys', values: [] }))
  assert.deepEqual(await left(), [60])
})

test('while another worker deletes, there is nothing to do', async () => {
  await plant(-10)
  await database.admin('select pg_advisory_lock(7303)')
  assert.equal(await forgetExpired(pool, 10), 0)
  await database.admin('select pg_advisory_unlock(7303)')
  assert.equal(await forgetExpired(pool, 10), 1)
})

test('the sweep empties what has expired, over many batches, and looks again after its pause', async () => {
  await plant(-1, -2, -3, -4, -5, 60)
  const sweep = startSweep({ pool, emit, intervalMs: 10, batch: 2 })
  await until('the first look', async () => (await left()).length === 1)
  await plant(-6)
  await until('the next look', async () => (await left()).length === 1)
  await sweep.stop()
  assert.deepEqual(events, [])
})

test('an error of the sweep is reported, and the next look is made all the same', async () => {
  await plant(-10)
  let broken = true
  const sweep = startSweep({ emit, intervalMs: 10, pool: { query: (statement) => (broken ? Promise.reject(new Error('gone')) : pool.query(statement)) } })
  await until('the error is told', () => events.some(({ type }) => type === 'idempotency.sweep_failed'))
  broken = false
  await until('the next look', async () => (await left()).length === 0)
  await sweep.stop()
})

test('the sweep stops during its pause at once', async () => {
  const sweep = startSweep({ pool, emit, intervalMs: 3_600_000 })
  const asked = performance.now()
  await sweep.stop()
  assert.ok(performance.now() - asked < 60_000)
})

test('settings of the sweep that cannot be meant are refused', () => {
  assert.throws(() => startSweep({ pool, emit, intervalMs: 0 }), /startSweep: intervalMs/)
  assert.throws(() => startSweep({ pool, emit, batch: 0.5 }), /startSweep: batch/)
})
