import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Refusal } from '../src/errors.ts'
import type { Kek } from '../src/keyring/keks.ts'
import { openRetirement, type Retirement } from '../src/keyring/retire.ts'
import { rewrapAll } from '../src/keyring/rewrap.ts'
import { noticedAfter, openRotation, type Rotation } from '../src/keyring/rotate.ts'
import { unrecorded } from './support/unrecorded.ts'
import { openPool } from '../src/pg.ts'
import { blindIndex, keyIdOf, open, seal } from '../src/seal.ts'
import { refusedWith } from './contracts/key-service.ts'
import { testDatabase } from './support/database.ts'
import { keysWorld } from './support/keys.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await keysWorld(database)
const pool = openPool({ url: database.url('keys'), max: 4, emit: () => undefined })
after(async () => {
  await pool.close()
  await world.close()
})

const base = { pool, service: world.service, realm: database.service, usage: unrecorded, emit: world.events.push.bind(world.events) as (event: (typeof world.events)[number]) => void }
const rotation = (overlap = 0): Rotation => openRotation({ ...base, overlap })
const retirement = (overlap = 0): Retirement => openRetirement({ ...base, overlap })
const scopeOf = (subject: string = randomUUID(), keep = 'care') => ({ tenant: 'realm', subject, keep })
const placeOf = (subject: string) => ({ tenant: 'realm', table: 3, column: 1, row: randomUUID(), subject })
const entries = (action: string) => database.admin<{ metadata: Record<string, unknown> }>('select metadata from redoubt.audit_logs where action = $1 order by id', [action])
const saying = (words: RegExp) => (error: unknown) => error instanceof Refusal && error.code === 'conflict' && words.test(error.detail ?? '')

test('a key-encryption key: a new version wraps everything, the old one is destroyed when it wraps nothing, and every value opens all along', async () => {
  const running = world.keyring()
  const scopes = Array.from({ length: 1203 }, () => scopeOf())
  const keys = await running.keysFor(scopes)
  const [index, signing] = [await running.indexKeys(3, 1), await running.purposeKey('token-sign')]
  for (const [purpose, most] of [['data', 1203], ['index', 1], ['purpose', 1]] as const) {
    await assert.rejects(retirement().keyEncryptionKeys(purpose), refusedWith('not_found'))
    const { rewrapped, finished } = await rotation().keyEncryptionKey(purpose)
    assert.deepEqual([rewrapped, finished], [most, false])
    assert.equal(await retirement().keyEncryptionKeys(purpose), 1)
  }
  const states = await database.admin('select purpose, version, state, wrapped is null as gone from keys.key_encryption_keys order by 1, 2')
  assert.deepEqual(states.map((row) => Object.values(row).join(' ')), ['data 1 destroyed true', 'data 2 active false', 'index 1 destroyed true', 'index 2 active false', 'purpose 1 destroyed true', 'purpose 2 active false'])
  for (const ring of [running, world.keyring()]) {
    assert.deepEqual((await ring.keysFor(scopes)).map(({ id }) => id), keys.map(({ id }) => id))
    assert.ok((await ring.indexKeys(3, 1))[0]?.key.equals(index[0]?.key ?? assert.fail()))
    assert.equal((await ring.purposeKey('token-sign')).kid, signing.kid)
    await ring.check()
    // A key made by a process that has not heard of it is wrapped under the new one all the same.
    await ring.keyFor(scopeOf())
  }
  assert.equal((await database.admin(`select from keys.data_keys d join keys.key_encryption_keys k on k.id = d.kek_id where k.version <> 2`)).length, 0)
  assert.deepEqual((await entries('key.rotated')).map(({ metadata }) => String(metadata['kind'])).sort((a, b) => (a < b ? -1 : 1)), ['kek:data', 'kek:index', 'kek:purpose'])
  assert.equal((await entries('key.retired')).length, 3)
})

test('a rotation that was interrupted is finished, not begun again; the old key refuses to go before', async () => {
  const ring = world.keyring()
  await ring.keysFor(Array.from({ length: 700 }, () => scopeOf()))
  const stopped = new Error('killed')
  await assert.rejects(rotation().keyEncryptionKey('data', () => { throw stopped }), stopped)
  const [{ versions } = { versions: 0 }] = await database.admin<{ versions: number }>(`select count(*)::int4 as versions from keys.key_encryption_keys where purpose = 'data'`)
  await assert.rejects(retirement().keyEncryptionKeys('data'), saying(/still wraps \d+ keys: finish its rotation/))
  const { finished, rewrapped } = await rotation().keyEncryptionKey('data')
  assert.ok(finished && rewrapped > 0)
  assert.equal((await database.admin(`select from keys.key_encryption_keys where purpose = 'data'`)).length, versions)
  assert.equal(await retirement().keyEncryptionKeys('data'), 1)
})

test('attack: nothing can be wrapped under a key-encryption key that is on its way out', async () => {
  const [old] = await database.admin<{ id: Buffer }>(`select id from keys.key_encryption_keys where purpose = 'data' and state = 'active'`)
  await rotation().keyEncryptionKey('data')
  const insert = { text: `insert into keys.data_keys (key_id, tenant, subject, keep, kek_id, wrapped) values (sha256('x')::bytea, 'r', gen_random_uuid(), 'care', $1, $2)`, values: [old?.id, Buffer.alloc(61)] }
  await assert.rejects(pool.query({ ...insert, text: insert.text.replace(`sha256('x')::bytea`, `substr(sha256('x'), 1, 16)`) }), refusedWith('conflict'))
  await assert.rejects(pool.query({ text: 'update keys.data_keys set kek_id = $1', values: [old?.id] }), refusedWith('conflict'))
})

test('two rotations of one key at the same time make one version each at most, and lose nothing', async () => {
  const ring = world.keyring()
  const scopes = Array.from({ length: 300 }, () => scopeOf())
  const keys = await ring.keysFor(scopes)
  const outcomes = await Promise.allSettled(Array.from({ length: 4 }, () => rotation().keyEncryptionKey('data')))
  for (const outcome of outcomes) if (outcome.status === 'rejected') assert.ok(refusedWith('conflict')(outcome.reason), String(outcome.reason))
  await rotation().keyEncryptionKey('data')
  await retirement().keyEncryptionKeys('data')
  assert.deepEqual((await world.keyring().keysFor(scopes)).map(({ id }) => id), keys.map(({ id }) => id))
})

test('data keys: new values go under the new version, old ones open until no value names their key', async () => {
  const running = world.keyring({ lifetimes: { dataKey: 50 } })
  const subject = randomUUID()
  const [scope, place] = [scopeOf(subject), placeOf(subject)]
  const old = seal(await running.keyFor(scope), place, 'old')
  const everybody = Number((await database.admin<{ n: number }>(`select count(*)::int4 as n from keys.data_keys where state = 'active'`))[0]?.n)
  const before = new Date()
  await delay(5)
  assert.equal(await rotation().dataKeys({ subject }), 1)
  assert.equal(await rotation().dataKeys({ before }), everybody - 1)
  assert.equal(await rotation().dataKeys({ before }), 0, 'done again with the same moment, nothing is left')
  await delay(60)
  const fresh = seal(await running.keyFor(scope), place, 'new')
  assert.ok(!keyIdOf(fresh).equals(keyIdOf(old)))
  for (const ring of [running, world.keyring()]) {
    const found = await ring.byId([keyIdOf(old), keyIdOf(fresh)])
    for (const [value, text] of [[old, 'old'], [fresh, 'new']] as const) assert.equal(open(found.get(keyIdOf(value).toString('hex')) ?? assert.fail(), place, value).toString(), text)
  }
  const moment = async (): Promise<Date> => (await database.admin<{ now: Date }>(`select clock_timestamp() as now`))[0]?.now ?? assert.fail()
  const early = await moment()
  assert.deepEqual(await retirement(600_000).dataKeys(() => Promise.resolve(new Date('9999-01-01'))), { retired: 0, closed: 0, waiting: everybody })
  await assert.rejects(retirement().dataKeys(() => Promise.reject(new Error('no proof'))), /no proof/)
  for (const proof of [null, early]) assert.deepEqual(await retirement().dataKeys(() => Promise.resolve(proof)), { retired: 0, closed: everybody, waiting: 0 })
  assert.equal(open((await world.keyring().byId([keyIdOf(old)])).get(keyIdOf(old).toString('hex')) ?? assert.fail(), place, old).toString(), 'old', 'what is closed opens')
  await delay(2)
  assert.deepEqual(await retirement().dataKeys(moment), { retired: everybody, closed: 0, waiting: 0 })
  assert.equal((await world.keyring().byId([keyIdOf(old)])).size, 0)
  assert.ok((await world.keyring().byId([keyIdOf(fresh)])).size === 1)
})

test('attack: a value sealed under an old key cannot slip in between the proof and the end of the key', async () => {
  const ring = world.keyring()
  const scope = scopeOf()
  const { id } = await ring.keyFor(scope)
  await rotation().dataKeys({ subject: scope.subject })
  const app = openPool({ url: database.url('app'), max: 1, emit: () => undefined })
  const hold = { text: 'select guard.hold_keys($1)', values: [[id]] }
  const writer = await app.connect()
  try {
    // Somebody who sealed under the old key is about to commit when the retirement begins: the key is closed behind that.
    await writer.send([{ text: 'begin', values: [] }, hold])
    let proofs = 0
    const retiring = retirement().dataKeys(() => {
      proofs++
      return Promise.resolve(null)
    })
    await delay(150)
    assert.equal(proofs, 0)
    const [{ now } = { now: new Date(0) }] = await database.admin<{ now: Date }>('select clock_timestamp() as now')
    await writer.send([{ text: 'commit', values: [] }])
    await retiring
    assert.equal(proofs, 1)
    const [{ closed_at } = { closed_at: new Date(0) }] = await database.admin<{ closed_at: Date }>('select closed_at from keys.data_keys where key_id = $1', [id])
    assert.ok(closed_at.getTime() >= now.getTime(), 'a proof that began before the commit does not count')
    // From then on nobody commits under it any more.
    assert.equal((await writer.send([hold])).failure?.sqlState, 'RD410')
  } finally {
    writer.release('the end of a test')
    await app.close()
  }
})

test('a running process knows every rotation within five minutes, a minute less than a rotation leaves it', async () => {
  let now = 0
  const running = world.keyring({ clock: () => now })
  const scope = scopeOf()
  const seen = async () => ({
    data: (await running.keyFor(scope)).id.toString('hex'), index: (await running.indexKeys(8, 8)).length, signing: (await running.purposeKey('erasure-ledger')).verifiers.size,
  })
  const before = await seen()
  await rotation().dataKeys({ subject: scope.subject })
  await rotation(noticedAfter).indexKey({ table: 8, column: 8 })
  await rotation(noticedAfter).purposeKey('erasure-ledger')
  now += 5 * 60_000 - 1
  assert.deepEqual(await seen(), before)
  now += 1
  const after = await seen()
  assert.notEqual(after.data, before.data)
  assert.deepEqual([after.index, after.signing], [2, 2])
  assert.ok(noticedAfter >= 6 * 60_000)
  // What it knows it does not use before the time has come, by its own clock, and then without reading anything.
  const first = [(await running.indexKeys(8, 8))[0]?.version, (await running.purposeKey('erasure-ledger')).kid]
  now += noticedAfter - 60_000
  await seen()
  assert.deepEqual([(await running.indexKeys(8, 8))[0]?.version, (await running.purposeKey('erasure-ledger')).kid], first)
})

test('an erasure while data keys rotate ends them all and is never undone', async () => {
  const scopes = Array.from({ length: 60 }, () => scopeOf())
  await world.keyring().keysFor(scopes)
  const erased = scopes.slice(0, 30)
  const eraser = world.keyring()
  await Promise.all([rotation().dataKeys({}), rotation().dataKeys({}), ...erased.map((scope) => eraser.destroy(scope))])
  for (const scope of erased) await assert.rejects(world.keyring().keyFor(scope), refusedWith('key_destroyed'))
  assert.equal((await database.admin('select from keys.data_keys where subject = any ($1)', [erased.map(({ subject }) => subject)])).length, 0)
  await world.keyring().keysFor(scopes.slice(30))
})

test('blind-index key: looked up at once, written after the overlap by every process, old values found until recomputed', async () => {
  const [writer, reader] = [world.keyring({ lifetimes: { dataKey: 100 } }), world.keyring({ lifetimes: { dataKey: 100 } })]
  const place = { tenant: 'realm', table: 7, column: 2 }
  const write = async (value: string): Promise<Buffer> => blindIndex((await writer.indexKeys(7, 2))[0] ?? assert.fail(), place, value)
  const search = async (value: string): Promise<readonly Buffer[]> => (await reader.indexKeys(7, 2)).map((key) => blindIndex(key, place, value))
  const rows = [await write('ann')]
  await search('ann')
  await rotation(60_000).indexKey({ table: 7, column: 2 })
  // Longer than a process believes what it read: from now on all know the new version.
  await delay(150)
  assert.equal((await write('ben'))[0], 1)
  assert.equal((await search('ben')).length, 2)
  await database.admin(`update keys.index_keys set use_from = now() + interval '200 ms' where table_id = 7 and version = 2`)
  for (let n = 0, after = 0; after < 30; n++) {
    const value = `${n}`
    const row = await write(value)
    assert.ok((await search(value)).some((index) => index.equals(row)), `not found: written with version ${row[0]}`)
    if (row[0] === 2) after++
    await delay(5)
  }
  assert.equal((await write('cid'))[0], 2)
  assert.ok((await search('ann')).some((index) => index.equals(rows[0] ?? assert.fail())))
  await assert.rejects(rotation().indexKey({ table: 7, column: 2 }), saying(/earlier rotation/))
  await assert.rejects(retirement(600_000).indexKey({ table: 7, column: 2 }, () => Promise.resolve(new Date())), saying(/can be retired in/))
  await assert.rejects(retirement().indexKey({ table: 7, column: 2 }, () => Promise.resolve(null)), saying(/rows may have an index value of version 1/))
  await assert.rejects(retirement().indexKey({ table: 7, column: 2 }, () => Promise.resolve(new Date(0))), saying(/once more, after 20/))
  assert.deepEqual(await retirement().indexKey({ table: 7, column: 2 }, () => Promise.resolve(new Date())), { version: 1 })
  await delay(110)
  assert.equal((await search('ann')).length, 1)
})

test('a signing key verifies at once and signs after the overlap; the old one is refused its end while its signatures count', async () => {
  const running = world.keyring({ lifetimes: { dataKey: 50 } })
  const first = await running.purposeKey('token-sign')
  const { kid } = await rotation(60_000).purposeKey('token-sign')
  await delay(60)
  const during = await running.purposeKey('token-sign')
  assert.equal(during.kid, first.kid)
  assert.ok(during.verifiers.has(kid))
  await assert.rejects(retirement().purposeKeys('token-sign', 600_000), saying(/still valid: it can be retired in/))
  await database.admin('update keys.purpose_keys set use_from = now() where kid = $1', [kid])
  await delay(60)
  const later = await running.purposeKey('token-sign')
  assert.equal(later.kid, kid)
  assert.ok(later.verifiers.has(first.kid))
  await assert.rejects(retirement().purposeKeys('token-sign', 600_000), saying(/still valid: it can be retired in/))
  assert.equal(await retirement().purposeKeys('token-sign', 0), 1)
  await delay(60)
  assert.deepEqual([...(await running.purposeKey('token-sign')).verifiers.keys()], [kid])
})

test('of an anchor key that is retired only the public half stays, authenticated as before', async () => {
  const old = await world.keyring().purposeKey('audit-anchor')
  const { kid } = await rotation().purposeKey('audit-anchor', true)
  assert.equal(await retirement().purposeKeys('audit-anchor', null), 1)
  const after = await world.keyring().purposeKey('audit-anchor')
  assert.equal(after.kid, kid)
  assert.ok(after.verifiers.get(old.kid)?.equals(old.publicKey))
  await assert.rejects(retirement().purposeKeys('audit-anchor', null), refusedWith('not_found'))
  // It is wrapped anew with everything else.
  await rotation().keyEncryptionKey('purpose')
  await retirement().keyEncryptionKeys('purpose')
  assert.ok((await world.keyring().purposeKey('audit-anchor')).verifiers.get(old.kid)?.equals(old.publicKey))
  await database.admin(`update keys.purpose_keys set holds = 'private' where kid = $1`, [old.kid])
  await assert.rejects(world.keyring().purposeKey('audit-anchor'), refusedWith('key_refused'))
  await database.admin(`update keys.purpose_keys set holds = 'public' where kid = $1`, [old.kid])
})

test('settings and keys that make no sense are mistakes or refused, and change nothing', async () => {
  for (const overlap of [-1, 0.5]) assert.throws(() => rotation(overlap), TypeError)
  const kek = { purpose: 'data', id: Buffer.alloc(16) } as Kek
  await assert.rejects(rewrapAll(pool, kek, kek, () => undefined), TypeError)
  await assert.rejects(rotation().purposeKey('never-made' as 'token-sign'), refusedWith('not_found'))
  await assert.rejects(rotation().indexKey({ table: 90, column: 1 }), refusedWith('not_found'))
  await assert.rejects(retirement().indexKey({ table: 90, column: 1 }, () => Promise.resolve(null)), refusedWith('not_found'))
})

test('a refusal to retire says in words how long it will be', async () => {
  await world.keyring().indexKeys(91, 1)
  await rotation().indexKey({ table: 91, column: 1 })
  for (const [overlap, words] of [[100_000, /in \d+ seconds/], [3_000_000, /in \d+ minutes/], [30_000_000, /in \d hours/]] as const) {
    await assert.rejects(retirement(overlap).indexKey({ table: 91, column: 1 }, () => Promise.resolve(new Date())), saying(words))
  }
})

test('the last version that the byte in front of an index value can name is not passed', async () => {
  await world.keyring().indexKeys(92, 1)
  await database.admin('set session_replication_role = replica; update keys.index_keys set version = 255 where table_id = 92; set session_replication_role = origin')
  await assert.rejects(rotation().indexKey({ table: 92, column: 1 }), refusedWith('conflict'))
})

test('attack: a wrapped key that was replaced stops the rotation of its key-encryption key; one whose key-encryption key is gone is destroyed', async () => {
  const [kept, spoiled] = [scopeOf(), scopeOf()]
  await world.keyring().keysFor([kept, spoiled])
  await database.admin('update keys.data_keys set wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1) where subject = $1', [spoiled.subject])
  await assert.rejects(rotation().keyEncryptionKey('data'), refusedWith('key_refused'))
  await database.admin(`set session_replication_role = replica; update keys.key_encryption_keys set state = 'destroyed', wrapped = null where purpose = 'data'; set session_replication_role = origin`)
  await assert.rejects(world.keyring().keysFor([kept]), refusedWith('key_destroyed'))
  // Nothing is begun anew in silence where keys were taken away.
  await assert.rejects(rotation().keyEncryptionKey('data'), refusedWith('key_refused'))
  await assert.rejects(rotation().dataKeys({ ...kept, before: new Date(Date.now() + 60_000) }), Refusal)
})
