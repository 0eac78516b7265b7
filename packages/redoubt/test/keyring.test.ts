import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { open, seal } from '../src/seal.ts'
import { keysExist, openKeyring } from '../src/keyring.ts'
import { unrecorded } from './support/unrecorded.ts'
import { refusedWith } from './contracts/key-service.ts'
import { testDatabase } from './support/database.ts'
import { keysWorld } from './support/keys.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await keysWorld(database)
after(() => world.close())

const minutes = 60_000
const scopeOf = (subject: string = randomUUID(), keep = 'care') => ({ tenant: 'realm', subject, keep })
const placeOf = (subject: string) => ({ tenant: 'realm', table: 3, column: 1, row: randomUUID(), subject })

/** What a piece of work cost: calls of the key service and statements. */
async function costOf(work: () => Promise<unknown>): Promise<{ readonly calls: number; readonly statements: number }> {
  const [calls, statements] = [{ ...world.service.calls }, world.statements.length]
  await work()
  const { generate, wrap, unwrap } = world.service.calls
  return { calls: generate - calls.generate + wrap - calls.wrap + unwrap - calls.unwrap, statements: world.statements.length - statements }
}

test('the first key of a service makes one key-encryption key, with one call of the key service', async () => {
  const emptyPool = world.keyring()
  const subject = randomUUID()
  const { calls } = await costOf(() => emptyPool.keyFor(scopeOf(subject)))
  assert.equal(calls, 1)
  assert.deepEqual(
    world.events.filter(({ type }) => type === 'key.created').map((event) => 'purpose' in event && event.purpose),
    ['kek-data', 'data'],
  )
})

test('a key that one keyring made opens in another what it sealed, by scope and by id', async () => {
  const [one, two] = [world.keyring(), world.keyring()]
  const subject = randomUUID()
  const place = placeOf(subject)
  const sealed = seal(await one.keyFor(scopeOf(subject)), place, 'text')
  assert.equal(open(await two.keyFor(scopeOf(subject)), place, sealed).toString(), 'text')
  const key = await one.keyFor(scopeOf(subject))
  const found = await world.keyring().byId([key.id])
  assert.equal(open(found.get(key.id.toString('hex')) ?? assert.fail(), place, sealed).toString(), 'text')
  assert.deepEqual(found.get(key.id.toString('hex'))?.scope, scopeOf(subject))
})

test('each retention class of a subject has a key of its own, and of each subject', async () => {
  const keyring = world.keyring()
  const subject = randomUUID()
  const keys = await keyring.keysFor([scopeOf(subject), scopeOf(subject, 'chat'), scopeOf(), { ...scopeOf(subject), tenant: 'other' }])
  assert.equal(new Set(keys.map(({ id }) => id.toString('hex'))).size, 4)
})

test('3,000 cold requests for one key cost one call of the key service and one statement', async () => {
  const subject = randomUUID()
  await world.keyring().keyFor(scopeOf(subject))
  const cold = world.keyring()
  assert.deepEqual(await costOf(() => Promise.all(Array.from({ length: 3000 }, () => cold.keyFor(scopeOf(subject))))), { calls: 1, statements: 1 })
  assert.deepEqual(await costOf(() => Promise.all(Array.from({ length: 3000 }, () => cold.keyFor(scopeOf(subject))))), { calls: 0, statements: 0 })
})

test('3,000 cold requests for 3,000 keys cost one call of the key service and one statement', async () => {
  const scopes = Array.from({ length: 3000 }, () => scopeOf())
  const made = await world.keyring().keysFor(scopes)
  const cold = world.keyring()
  const results = await costOf(async () => {
    const keys = await Promise.all(scopes.map((scope) => cold.keyFor(scope)))
    assert.deepEqual(keys.map(({ id }) => id), made.map(({ id }) => id))
  })
  assert.deepEqual(results, { calls: 1, statements: 1 })
  const byId = world.keyring()
  assert.deepEqual(await costOf(() => Promise.all(made.map(({ id }) => byId.byId([id])))), { calls: 1, statements: 1 })
})

test('many keyrings that make the key of the same subjects at once end with the same keys', async () => {
  const scopes = Array.from({ length: 40 }, () => scopeOf())
  const all = await Promise.all(Array.from({ length: 5 }, (_, i) => world.keyring().keysFor(i % 2 === 0 ? scopes : scopes.toReversed()).then((keys) => (i % 2 === 0 ? keys : keys.toReversed()))))
  for (const keys of all) assert.deepEqual(keys.map(({ id }) => id), all[0]?.map(({ id }) => id))
})

test('an opened data key is used for five minutes and no longer, a key-encryption key for sixty', async () => {
  let now = 1000
  const keyring = world.keyring({ clock: () => now })
  const scope = scopeOf()
  await keyring.keyFor(scope)
  now += 5 * minutes - 1
  assert.deepEqual(await costOf(() => keyring.keyFor(scope)), { calls: 0, statements: 0 })
  now += 1
  assert.deepEqual(await costOf(() => keyring.keyFor(scope)), { calls: 0, statements: 1 })
  now += 55 * minutes
  assert.deepEqual(await costOf(() => keyring.keyFor(scope)), { calls: 1, statements: 1 })
})

test('one opening of a key is handed out as often as the limit says', async () => {
  const keyring = world.keyring({ lifetimes: { uses: 3 } })
  const scope = scopeOf()
  await keyring.keyFor(scope)
  assert.equal((await costOf(async () => { for (let i = 0; i < 3; i++) await keyring.keyFor(scope) })).statements, 0)
  assert.equal((await costOf(() => keyring.keyFor(scope))).statements, 1)
})

test('no more keys are held than the limit, the least recently used goes first', async () => {
  const keyring = world.keyring({ lifetimes: { entries: 2 } })
  const [a, b, c] = [scopeOf(), scopeOf(), scopeOf()]
  await keyring.keyFor(a)
  await keyring.keyFor(b)
  await keyring.keyFor(a)
  await keyring.keyFor(c)
  assert.equal((await costOf(() => keyring.keyFor(a))).statements, 0)
  assert.equal((await costOf(() => keyring.keyFor(b))).statements, 1)
})

test('while the key service is away, opened keys serve until their time and new ones are refused; a failure is not remembered', async () => {
  let now = 0
  const keyring = world.keyring({ clock: () => now })
  const scope = scopeOf()
  await keyring.keyFor(scope)
  // As some clients throw it: no Refusal, no message.
  world.service.failWith(Object.assign(new Error(), { name: 'ThrottlingException' }))
  try {
    await keyring.keyFor(scope)
    await keyring.keyFor(scopeOf())
    await assert.rejects(world.keyring().keyFor(scope), refusedWith('key_service_unavailable'))
    now += 60 * minutes
    await assert.rejects(keyring.keyFor(scope), refusedWith('key_service_unavailable'))
  } finally {
    world.service.failWith(null)
  }
  await keyring.keyFor(scope)
  assert.ok(world.events.some((event) => event.type === 'key.service_failed' && event.provider === 'local' && event.code === 'key_service_unavailable'))
})

test('an erased subject has no key any more: not by scope, not by id, not in another keyring, and none is made', async () => {
  const keyring = world.keyring()
  const scope = scopeOf()
  const other = scopeOf(scope.subject, 'chat')
  const [key, chat] = await keyring.keysFor([scope, other])
  await keyring.destroy(scope)
  for (const ring of [keyring, world.keyring()]) {
    await assert.rejects(ring.keyFor(scope), refusedWith('key_destroyed'))
    await assert.rejects(ring.keysFor([other, scope]), refusedWith('key_destroyed'))
    const found = await ring.byId([key?.id ?? assert.fail(), chat?.id ?? assert.fail()])
    assert.deepEqual([...found.keys()], [chat?.id.toString('hex')])
  }
  await keyring.destroy(scope)
  assert.equal(world.events.filter((event) => event.type === 'key.destroyed' && event.key === key?.id.toString('hex')).length, 1)
})

test('one erased subject does not take the keys of the others asked for with it', async () => {
  const keyring = world.keyring()
  const [gone, fresh] = [scopeOf(), scopeOf()]
  await keyring.destroy(gone)
  const outcomes = await Promise.allSettled([keyring.keyFor(gone), keyring.keyFor(fresh)])
  assert.deepEqual(outcomes.map(({ status }) => status), ['rejected', 'fulfilled'])
})

test('a key erased elsewhere is served from the cache for at most its lifetime', async () => {
  let now = 0
  const [here, elsewhere] = [world.keyring({ clock: () => now }), world.keyring()]
  const scope = scopeOf()
  const { id } = await here.keyFor(scope)
  await elsewhere.destroy(scope)
  now += 5 * minutes
  await assert.rejects(here.keyFor(scope), refusedWith('key_destroyed'))
  assert.equal((await here.byId([id])).size, 0)
})

test('attack: keys asked for, made and erased at once by many keyrings never survive the erasure', async () => {
  const rings = Array.from({ length: 6 }, () => world.keyring())
  for (let round = 0; round < 20; round++) {
    const scope = scopeOf()
    const [eraser, ...makers] = rings.slice(round % 5)
    await Promise.all([...makers.map((ring) => ring.keyFor(scope).catch((error: unknown) => assert.ok(refusedWith('key_destroyed')(error)))), eraser?.destroy(scope)])
    assert.equal((await database.admin('select from keys.data_keys where subject = $1', [scope.subject])).length, 0)
    await assert.rejects(eraser?.keyFor(scope) ?? assert.fail(), refusedWith('key_destroyed'))
  }
})

test('index keys are one per column, the same in every keyring', async () => {
  const [one] = await world.keyring().indexKeys(1, 2)
  const [same] = await world.keyring().indexKeys(1, 2)
  const [other] = await world.keyring().indexKeys(2, 1)
  assert.equal(one?.version, 1)
  assert.ok(one.key.equals(same?.key ?? assert.fail()))
  assert.ok(!one.key.equals(other?.key ?? assert.fail()))
  const cold = world.keyring()
  assert.deepEqual(await costOf(() => Promise.all(Array.from({ length: 3000 }, () => cold.indexKeys(1, 2)))), { calls: 1, statements: 1 })
})

test('a signing key pair is one per purpose, the same in every keyring', async () => {
  const keys = await Promise.all(Array.from({ length: 4 }, () => world.keyring().purposeKey('token-sign')))
  assert.equal(new Set(keys.map(({ kid }) => kid)).size, 1)
  const [key] = keys
  assert.equal(key?.privateKey.asymmetricKeyType, 'ed25519')
  assert.ok(key.verifiers.get(key.kid)?.equals(key.publicKey))
  assert.notEqual((await world.keyring().purposeKey('audit-anchor')).kid, key.kid)
})

test('a closed keyring gives nothing', async () => {
  const keyring = world.keyring()
  await keyring.keyFor(scopeOf())
  keyring.close()
  for (const work of [() => keyring.keyFor(scopeOf()), () => keyring.byId([]), () => keyring.indexKeys(1, 1), () => keyring.check()]) {
    await assert.rejects(work(), refusedWith('stopping'))
  }
})

test('settings and scopes that make no sense name the argument', async () => {
  const keyring = world.keyring()
  await assert.rejects(keyring.keyFor({ ...scopeOf(), tenant: '' }), /tenant/)
  await assert.rejects(keyring.keyFor({ ...scopeOf(), subject: 'me' }), /subject/)
  await assert.rejects(keyring.keyFor({ ...scopeOf(), keep: 'Care Record' }), /keep/)
  const settings = { pool: { query: () => Promise.resolve([]) }, service: world.service, realm: 'r', emit: () => undefined, usage: unrecorded }
  assert.throws(() => openKeyring({ ...settings, realm: '' }), /realm/)
  assert.throws(() => openKeyring({ ...settings, lifetimes: { dataKey: 5 * minutes + 1 } }), /lifetimes.dataKey/)
  assert.throws(() => openKeyring({ ...settings, lifetimes: { uses: 2 ** 21 } }), /lifetimes.uses/)
})

test('keysExist tells a first start from a lost root key, and check opens every key', async () => {
  const statements: string[] = []
  assert.equal(await keysExist({ query: (statement) => { statements.push(statement.text); return Promise.resolve([]) } }), false)
  await world.keyring().check()
})
