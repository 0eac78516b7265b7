import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { Visitor } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import { openPasswords, type Passwords } from '../../src/tokens/password.ts'
import { canonicalEmail, checkPassword, openSession, signOut } from '../../src/tokens/sessions.ts'
import type { Identity, SignedIn } from '../../src/tokens/sessions.ts'
import { testDatabase } from '../support/database.ts'
import { indexOf, openIdentity, password } from '../support/identity.ts'

const visitor: Visitor = { requestId: 'sign-in-request', address: null }
const database = await testDatabase({ origins: ['redoubt'] })
const opened = await openIdentity(database)
after(() => opened.close())

const { identity, account, look } = opened
const { gate, passwords } = identity
const trips: string[] = []
const pool = { ...gate.pool, connect: () => (trips.push('transaction'), gate.pool.connect()) }
const counted: Passwords = { ...passwords, verify: (hash, given) => (trips.push('argon2id'), passwords.verify(hash, given)) }
const service: Identity = { ...identity, gate: { ...gate, pool }, passwords: counted }

async function signIn(by: Identity, from: Visitor, given: Parameters<typeof checkPassword>[2]): Promise<SignedIn> {
  return openSession(by, from, await checkPassword(by, from, given), { agent: undefined })
}
const personOf = opened.person
const entries = (action: string, id: string): Promise<readonly { readonly outcome: string; readonly actor_role: string }[]> =>
  database.admin('select outcome, actor_role from redoubt.audit_logs where action = $1 and resource_id = $2', [action, id])

test('signing in opens a session that the gate accepts, with an audit entry', async () => {
  const { id, indexes } = await account()
  const { token, expiresIn, actor } = await signIn(service, visitor, { indexes, password })
  assert.equal(actor, id)
  assert.equal(expiresIn, 600)
  assert.deepEqual(await look(personOf(token)), [{ actor: id }])
  assert.deepEqual(await entries('auth.login_succeeded', id), [{ outcome: 'done', actor_role: 'system.sign-in' }])
  assert.ok(opened.events.some((event) => event.type === 'auth.login_succeeded' && event.actor === id))
})

test('attack: unknown account, wrong password, suspended account and an administrator’s at this door answer alike, after the same work', async () => {
  const known = await account()
  const suspended = await account({ status: 'suspended' })
  const elsewhere = await account({ role: 'admin', realm: 'platform' })
  const seen: unknown[] = []
  for (const [indexes, given, reason] of [[[indexOf()], password, 'unknown_account'], [known.indexes, 'wrong password', 'wrong_password'], [suspended.indexes, password, 'not_active'], [elsewhere.indexes, password, 'unknown_account']] as const) {
    trips.length = 0
    opened.events.length = 0
    await assert.rejects(signIn(service, visitor, { indexes, password: given }), (error) => {
      assert.ok(error instanceof Refusal)
      seen.push([error.code, error.message, error.fields, error.detail, error.retryAfter, [...trips]])
      return true
    })
    assert.ok(opened.events.some((event) => event.type === 'auth.login_failed' && event.reason === reason), reason)
  }
  assert.deepEqual(seen[0], ['sign_in_failed', 'sign_in_failed: Unknown account or wrong password', [], undefined, undefined, ['transaction', 'argon2id', 'transaction']])
  assert.deepEqual(seen[1], seen[0])
  assert.deepEqual(seen[2], seen[0])
  assert.deepEqual(seen[3], seen[0])
  assert.equal((await entries('auth.login_failed', known.id)).length, 1)
  assert.deepEqual(await database.admin('select 1 from redoubt.sessions where user_id = any($1)', [[known.id, suspended.id]]), [])
})

test('after logout no request of that session reaches data, and other sessions of the person stand', async () => {
  const { id, indexes } = await account()
  const first = personOf((await signIn(service, visitor, { indexes, password })).token)
  const second = personOf((await signIn(service, visitor, { indexes, password })).token)
  await signOut(service, first)
  await assert.rejects(look(first), (error) => error instanceof Refusal && error.code === 'caller_refused')
  await assert.rejects(signOut(service, first), (error) => error instanceof Refusal && error.code === 'caller_refused')
  assert.deepEqual(await look(second), [{ actor: id }])
  assert.ok(opened.events.some((event) => event.type === 'auth.logout' && event.actor === id))
})

test('an account suspended between the check of its password and its session gets none', async () => {
  const { id, indexes } = await account()
  const verify: Passwords['verify'] = async (hash, given) => {
    const right = await passwords.verify(hash, given)
    await database.admin("update redoubt.users set status = 'suspended' where id = $1", [id])
    return right
  }
  await assert.rejects(signIn({ ...service, passwords: { ...passwords, verify } }, visitor, { indexes, password }), (error) => error instanceof Refusal && error.code === 'forbidden')
  assert.deepEqual(await database.admin('select 1 from redoubt.sessions where user_id = $1', [id]), [])
})

test('one address has one form', () => {
  assert.equal(canonicalEmail('Jane.Doe@Example.TEST'), 'jane.doe@example.test')
  assert.equal(canonicalEmail('ame\u0301lie@example.test'), 'am\u00e9lie@example.test')
})

test('attack: a database administrator with an account exchanges password hashes, addresses or ids', async () => {
  const [mallory, victim] = [await account(), await account()]
  const hashOf = async (id: string): Promise<string> => (await database.admin<{ hash: string }>('select password_hash as hash from redoubt.users where id = $1', [id]))[0]?.hash ?? ''
  const before = await hashOf(victim.id)
  await database.admin('update redoubt.users set password_hash = $2 where id = $1', [victim.id, await hashOf(mallory.id)])
  const failed = (error: unknown): boolean => error instanceof Refusal && error.code === 'sign_in_failed'
  await assert.rejects(signIn(identity, visitor, { indexes: victim.indexes, password }), failed)
  await database.admin('update redoubt.users set password_hash = $2 where id = $1', [victim.id, before])
  // Under Mallory's address, with Mallory's hash: the row is still the victim's, and the hash is not.
  const [, index] = mallory.indexes
  await database.admin("update redoubt.users set email_bidx = '\\x01' where id = $1", [mallory.id])
  await database.admin('update redoubt.users set email_bidx = $2, password_hash = $3 where id = $1', [victim.id, index, await hashOf(mallory.id)])
  await assert.rejects(signIn(identity, visitor, { indexes: mallory.indexes, password }), failed)
})

test('a password under older parameters is hashed anew at its next sign-in, and stays the same password', async () => {
  const { id, indexes } = await account()
  const strong = await openPasswords(identity.keyring, { memoryCost: 47_104, timeCost: 1 })
  await signIn({ ...identity, passwords: strong }, visitor, { indexes, password })
  const [row] = await database.admin<{ hash: string }>('select password_hash as hash from redoubt.users where id = $1', [id])
  assert.match(row?.hash ?? '', /m=47104,t=1/)
  assert.ok(opened.events.some((event) => event.type === 'auth.password_rehashed' && event.actor === id))
  await signIn({ ...identity, passwords: strong }, visitor, { indexes, password })
})

test('a sign-in goes on when its password cannot be hashed anew', async () => {
  const { indexes } = await account()
  const busy: Passwords = { ...passwords, verify: () => Promise.resolve('outdated'), rehash: () => Promise.reject(new Refusal('busy')) }
  await signIn({ ...identity, passwords: busy }, visitor, { indexes, password })
})
