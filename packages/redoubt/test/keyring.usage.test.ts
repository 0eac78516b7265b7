import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { run } from '../src/cli/keys-usage.ts'
import { UsageProblem } from '../src/cli/io.ts'
import type { KeyUser } from '../src/context.ts'
import { Refusal } from '../src/errors.ts'
import type { Event } from '../src/events.ts'
import { moveKeks } from '../src/keyring/move.ts'
import { recordedService } from '../src/keyring/recorded.ts'
import { startKeyUsage, type KeyUsage, type KeyUsageSettings } from '../src/keyring/usage.ts'
import { startUsageWatch } from '../src/keyring/usage-watch.ts'
import type { KeyService } from '../src/kms.ts'
import { openPool } from '../src/pg.ts'
import { testDatabase } from './support/database.ts'
import { keysWorld } from './support/keys.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await keysWorld(database)
const [pool, workerPool] = (['keys', 'worker'] as const).map((login) => openPool({ url: database.url(login), max: 4, emit: () => undefined }))
assert.ok(pool !== undefined && workerPool !== undefined)
after(() => Promise.all([pool.close(), workerPool.close(), world.close()]))

const therapist: KeyUser = { actor: 'therapist', purpose: 'treatment' }
const patient: KeyUser = { actor: 'patient', purpose: null }
const scopeOf = (subject: string = randomUUID(), keep = 'care') => ({ tenant: 'realm', subject, keep })

/** Counts without a clock of their own: the test says when they are written. */
function counting(more: Partial<KeyUsageSettings> = {}): KeyUsage & { readonly events: Event[] } {
  const events: Event[] = []
  const usage = startKeyUsage({ pool: pool ?? assert.fail(), emit: (event) => events.push(event), intervalMs: 3_600_000, ...more })
  after(() => usage.stop())
  return { ...usage, events }
}

type Used = { readonly actor: string; readonly purpose: string; readonly data_class: string; readonly operation: string; readonly key: string; readonly uses: number }
const used = (where = 'true'): Promise<readonly Used[]> => database.admin<Used>(`select actor, purpose, data_class, operation, key, uses::int as uses from redoubt.key_usage where ${where} order by actor, operation, key`)
const calls = () => database.admin<Record<string, unknown>>('select actor, purpose, data_class, operation, provider, outcome, times from redoubt.key_calls order by id')
const clean = () => database.admin('delete from redoubt.key_usage; delete from redoubt.key_calls; delete from redoubt.key_usage_batches; delete from redoubt.key_use_unusual')

test('each call of the key service leaves one row: who made it, for what, of what class, how it ended', async () => {
  await clean()
  const usage = counting()
  const scope = scopeOf()
  const { id } = await world.keyring({ usage }).keyFor(scope, therapist)
  await usage.flush()
  // The very first key of a service: its key-encryption key is generated, on behalf of whoever came first.
  assert.deepEqual(await calls(), [{ actor: 'therapist', purpose: 'treatment', data_class: 'data', operation: 'generate', provider: 'local', outcome: 'done', times: 1 }])
  await clean()
  const cold = world.keyring({ usage })
  // Three thousand at once make one call, for the first of them.
  await Promise.all([cold.byId([id], patient), ...Array.from({ length: 2999 }, () => cold.byId([id], therapist))])
  await usage.flush()
  assert.deepEqual(await calls(), [{ actor: 'patient', purpose: '', data_class: 'data', operation: 'unwrap', provider: 'local', outcome: 'done', times: 1 }])
  const hex = id.toString('hex')
  assert.deepEqual(await used(`key = '${hex}'`), [
    { actor: 'patient', purpose: '', data_class: 'care', operation: 'open', key: hex, uses: 1 },
    { actor: 'therapist', purpose: 'treatment', data_class: 'care', operation: 'open', key: hex, uses: 2999 },
  ])
  const [unwrapped, ...more] = await used(`operation = 'unwrap'`)
  assert.equal(more.length, 0)
  assert.deepEqual({ ...unwrapped, key: '' }, { actor: 'patient', purpose: '', data_class: 'care', operation: 'unwrap', key: '', uses: 1 })
  assert.equal((await database.admin(`select from keys.key_encryption_keys where encode(id, 'hex') = $1`, [unwrapped?.key])).length, 1)
})

test('calls that fail alike, and checks, are one row each with their number', async () => {
  await clean()
  const usage = counting()
  const keyring = world.keyring({ usage })
  await keyring.check()
  await usage.flush()
  await clean()
  world.service.failWith(new Error('away'))
  try {
    for (let i = 0; i < 25; i++) await assert.rejects(world.keyring({ usage }).keyFor(scopeOf(), therapist))
  } finally {
    world.service.failWith(null)
  }
  for (let i = 0; i < 5; i++) await keyring.check()
  await usage.flush()
  assert.deepEqual(await calls(), [
    { actor: 'therapist', purpose: 'treatment', data_class: 'data', operation: 'unwrap', provider: 'local', outcome: 'key_service_unavailable', times: 25 },
    { actor: 'service', purpose: '', data_class: 'check', operation: 'check', provider: 'local', outcome: 'done', times: 5 },
  ])
})

test('index keys, signing keys and a move of keys are on record as well', async () => {
  await clean()
  const usage = counting()
  const keyring = world.keyring({ usage })
  await keyring.indexKeys(1, 2, therapist)
  await keyring.indexKeys(1, 2, therapist)
  const { kid } = await keyring.purposeKey('token-sign')
  await moveKeks({ pool, from: world.service, to: world.service, realm: database.service, emit: () => undefined, usage })
  await usage.flush()
  assert.deepEqual(await used(`operation = 'open'`), [
    { actor: 'service', purpose: '', data_class: 'token-sign', operation: 'open', key: kid, uses: 1 },
    { actor: 'therapist', purpose: 'treatment', data_class: 'index', operation: 'open', key: 'index 1.2', uses: 2 },
  ])
  assert.ok((await calls()).some(({ actor, purpose, operation }) => actor === 'operator' && purpose === 'key move' && operation === 'wrap'))
})

test('a keyring of a command notes what no request asked for as the operator’s', async () => {
  await clean()
  const usage = counting()
  const keyring = world.keyring({ usage, by: { actor: 'operator', purpose: 'audit' } })
  await keyring.purposeKey('audit-anchor')
  await keyring.keyFor(scopeOf())
  await usage.flush()
  assert.deepEqual(new Set([...(await used()), ...(await calls())].map(({ actor, purpose }) => `${String(actor)} ${String(purpose)}`)), new Set(['operator audit']))
})

test('what could not be written is kept and written later, once, also when only the answer got lost; nobody waits for it', async () => {
  await clean()
  let fate: 'works' | 'refused' | 'answer lost' = 'refused'
  const usage = counting({
    pool: {
      query: async (statement) => {
        if (fate === 'refused') throw new Error('no connection')
        const rows = await pool.query(statement)
        if (fate === 'answer lost') throw new Error('connection lost')
        return rows
      },
    },
  })
  const keyring = world.keyring({ usage })
  await keyring.keyFor(scopeOf(), therapist)
  await usage.flush()
  fate = 'answer lost'
  await keyring.keyFor(scopeOf(), therapist)
  await usage.flush()
  fate = 'works'
  await usage.stop()
  assert.deepEqual(usage.events.map(({ type }) => type), ['key.usage_failed', 'key.usage_failed'])
  assert.deepEqual((await used(`operation = 'open'`)).map(({ uses }) => uses), [1, 1])
})

test('counts come every interval and at stop', async () => {
  await clean()
  const statements: string[] = []
  const written = Promise.withResolvers<void>()
  const usage = counting({ intervalMs: 5, pool: { query: (statement) => (statements.push(statement.text), written.resolve(), pool.query(statement)) } })
  usage.used('a key by name', 'care', 'open', therapist)
  await written.promise
  usage.used('a key by name', 'care', 'open', therapist)
  await usage.stop()
  await usage.stop()
  assert.equal((await used())[0]?.uses, 2)
  assert.ok(statements.every((text) => text.includes('guard.record_key_usage')))
})

test('memory is bounded: keys beyond the limit are counted together, and no use is lost', async () => {
  await clean()
  const blocked = Promise.withResolvers<void>()
  const usage = counting({ most: 50, pool: { query: async (statement) => { await blocked.promise; return pool.query(statement) } } })
  for (let i = 0; i < 1_000; i++) usage.used(`key ${i}`, 'care', 'open', therapist)
  for (let i = 0; i < 1_000; i++) usage.used(`key ${i}`, `class ${i}`, 'open', { actor: `actor ${i}`, purpose: null })
  blocked.resolve()
  await usage.stop()
  const rows = await used()
  assert.equal(rows.reduce((sum, { uses }) => sum + uses, 0), 2_000)
  assert.ok(rows.length <= 50 + 100 + 2, String(rows.length))
  assert.ok(rows.some(({ actor, key, uses }) => actor === 'other' && key === 'other' && uses > 800))
})

test('attack: whoever holds the keys cannot read, change or take back what is on record', async () => {
  const usage = counting()
  await world.keyring({ usage }).keyFor(scopeOf(), therapist)
  await usage.flush()
  for (const statement of ['select * from redoubt.key_usage', 'delete from redoubt.key_usage', 'update redoubt.key_usage set uses = 1', 'insert into redoubt.key_calls default values', 'truncate redoubt.key_calls', 'select guard.forget_key_usage(1)']) {
    await assert.rejects(pool.query({ text: statement, values: [] }), statement)
  }
  const negative = JSON.stringify([{ actor: 'a', purpose: null, data_class: 'care', operation: 'open', key: 'k', uses: -5 }])
  await assert.rejects(pool.query({ text: 'select guard.record_key_usage($1, 0, $2, $3)', values: [randomUUID(), negative, '[]'] }))
  const app = openPool({ url: database.url('app'), max: 1, emit: () => undefined })
  await assert.rejects(app.query({ text: 'select * from redoubt.key_usage', values: [] }))
  await assert.rejects(app.query({ text: 'select guard.record_key_usage($1, 0, $2, $2)', values: [randomUUID(), '[]'] }))
  await app.close()
})

/** Uses at some hours ago, written as the processes would have. */
async function past(hoursAgo: number, actor: string, uses: number): Promise<void> {
  await database.admin(`insert into redoubt.key_usage values (date_trunc('hour', now(), 'UTC') - make_interval(hours => ${hoursAgo}), $1, 'treatment', 'care', 'open', 'k', ${uses})`, [actor])
}

async function unusual(): Promise<readonly (Event & { readonly type: 'security.key_use_unusual' })[]> {
  const events: Event[] = []
  // The first look is made before the first pause; stopping waits for it.
  await startUsageWatch({ pool: workerPool ?? assert.fail(), emit: (event) => events.push(event), intervalMs: 3_600_000 }).stop()
  return events.flatMap((event) => (event.type === 'security.key_use_unusual' ? [event] : assert.fail(JSON.stringify(event))))
}

test('three times the mean of the same hour of the last seven days is an event, told once; less is not', async () => {
  await clean()
  // An hour that turns while the test runs would move everything by one: both hours are given.
  for (const day of [1, 2, 3, 4, 5, 6, 7]) for (const edge of [0, 1]) await past(24 * day + edge, 'therapist', 1_000)
  for (const day of [1, 2, 3, 4, 5, 6, 7]) await past(24 * day + 12, 'admin', 9_000)
  await past(0, 'therapist', 3_000)
  assert.deepEqual(await unusual(), [])
  await database.admin(`update redoubt.key_usage set uses = 3001 where actor = 'therapist' and hour > now() - interval '2 hours'`)
  // Much by night is what counts, however much there is by day.
  await past(0, 'admin', 5_000)
  const found = await unusual()
  assert.deepEqual(found.map(({ actor, purpose, dataClass, uses, baseline }) => ({ actor, purpose, dataClass, uses, baseline })).sort((a, b) => a.uses - b.uses), [
    { actor: 'therapist', purpose: 'treatment', dataClass: 'care', uses: 3001, baseline: 1_000 },
    { actor: 'admin', purpose: 'treatment', dataClass: 'care', uses: 5_000, baseline: 200 },
  ])
  assert.deepEqual(await unusual(), [])
})

test('in the first days the mean is that of the days there are, and little use is never unusual', async () => {
  await clean()
  for (const edge of [0, 1]) await past(24 + edge, 'therapist', 700)
  await past(0, 'therapist', 2_000)
  await past(0, 'patient', 600)
  assert.deepEqual(await unusual(), [])
  await past(0, 'auditor', 601)
  assert.deepEqual((await unusual()).map(({ actor, baseline }) => [actor, baseline]), [['auditor', 200]])
})

test('what is older than 400 days is deleted', async () => {
  await clean()
  await past(24 * 401, 'therapist', 1)
  await past(24 * 399, 'therapist', 1)
  await database.admin(`insert into redoubt.key_calls (at, actor, purpose, data_class, operation, provider, outcome, milliseconds, times) values (now() - interval '401 days', 'a', '', 'data', 'unwrap', 'aws', 'done', 1, 1)`)
  await unusual()
  assert.equal((await used()).length, 1)
  assert.equal((await calls()).length, 0)
})

test('redoubt keys usage shows it, in words, as JSON and for one key; wrong usage names the option', async () => {
  await clean()
  const usage = counting()
  const { id } = await world.keyring({ usage }).keyFor(scopeOf(), therapist)
  await usage.flush()
  await past(0, 'admin', 700)
  await unusual()
  const said = async (...args: string[]): Promise<string> => {
    let text = ''
    assert.equal(await run(args, { env: { AUDITOR_DATABASE_URL: database.url('auditor') }, cwd: '.', out: (part) => void (text += part), err: () => undefined }), 0)
    return text
  }
  const words = await said()
  assert.match(words, /^therapist +treatment +care +open +1 +1 /m)
  assert.match(words, /^\S+Z +local +unwrap +data +therapist +done +1 +\d+$/m)
  assert.match(words, /^Unusual[^]*admin +treatment +care +700 +200$/m)
  const { used: list } = JSON.parse(await said('--key', id.toString('hex').slice(0, 12), '--json')) as { used: readonly Record<string, string>[] }
  assert.deepEqual(list.map(({ actor, uses }) => [actor, uses]), [['therapist', '1']])
  assert.match(await said('--days', '1', '--key', 'ffffffffffff'), /^Nothing is on record/)
  for (const args of [['--days', '0'], ['--days', 'x'], ['--key', 'ab'], ['--key', "'; drop--"], ['--odd'], ['stray']]) await assert.rejects(said(...args), UsageProblem)
  assert.match(await said('--help'), /AUDITOR_DATABASE_URL/)
})

test('settings that make no sense name the argument', () => {
  const settings = { pool, emit: () => undefined }
  assert.throws(() => startKeyUsage({ ...settings, intervalMs: 0 }), /startKeyUsage: intervalMs/)
  assert.throws(() => startKeyUsage({ ...settings, most: 1.5 }), /startKeyUsage: most/)
  assert.throws(() => startUsageWatch({ ...settings, times: 0 }), /startUsageWatch: times/)
})

test('a look that fails is an event, and the next one comes all the same', async () => {
  const seen: string[] = []
  const twice = Promise.withResolvers<void>()
  const watch = startUsageWatch({ pool: { query: () => Promise.reject(new Refusal('database_unavailable')) }, intervalMs: 1, emit: ({ type }) => { if (seen.push(type) === 2) twice.resolve() } })
  await twice.promise
  await watch.stop()
  assert.deepEqual([...new Set(seen)], ['key.usage_failed'])
})

test('a call that binds no purpose is noted as a check', async () => {
  const noted: string[] = []
  const service = { provider: 'local', wrap: () => Promise.resolve({ provider: 'local', keyRef: 'x', blob: Buffer.alloc(1) }) } as unknown as KeyService
  const usage = { called: ({ dataClass, operation, outcome }: { dataClass: string; operation: string; outcome: string }) => noted.push(`${operation} ${dataClass} ${outcome}`) } as unknown as KeyUsage
  await recordedService(service, usage, { actor: 'service', purpose: null }).wrap(Buffer.alloc(32), {})
  assert.deepEqual(noted, ['wrap check done'])
})
