import assert from 'node:assert/strict'
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { after, test } from 'node:test'
import type { Person, Visitor } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import type { BlindIndex } from '../../src/tables.ts'
import { openTokens } from '../../src/tokens.ts'
import { openPasswords } from '../../src/tokens/password.ts'
import type { Passwords } from '../../src/tokens/password.ts'
import { canonicalEmail, sessionActions, signIn, signOut } from '../../src/tokens/sessions.ts'
import { transaction } from '../../src/transaction.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate } from '../support/gate.ts'

const password = 'correct horse battery'
const visitor: Visitor = { requestId: 'sign-in-request', address: null }
const tokens = openTokens({ issuer: 'https://auth.test', audience: 'sessions-test', keys: [{ kid: 'k1', ...generateKeyPairSync('ed25519') }] })
const actions = { ...sessionActions, 'test.look': { audited: false } } as const

const database = await testDatabase({ origins: ['redoubt'] })
const opened = await openTestGate(database)
const passwords = await openPasswords()
after(() => opened.close())

const { gate } = opened
const trips: string[] = []
const pool = { ...gate.pool, connect: () => (trips.push('transaction'), gate.pool.connect()) }
const counted: Passwords = { ...passwords, verify: (hash, given) => (trips.push('argon2id'), passwords.verify(hash, given)) }
const service = { gate: { ...gate, pool, actions }, passwords: counted, tokens, tenant: database.service, emit: gate.emit }

const indexOf = (): BlindIndex => Buffer.concat([Buffer.from([1]), randomBytes(16)]) as BlindIndex

async function account(status = 'active'): Promise<{ readonly id: string; readonly indexes: readonly BlindIndex[] }> {
  const index = indexOf()
  const [row] = await database.admin<{ id: string }>(
    'insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role, status) values (gen_random_uuid(), $1, $2, $3, $4, $5, $6) returning id',
    [database.service, randomBytes(61), index, await passwords.hash(password), 'patient', status],
  )
  return { id: row?.id ?? '', indexes: [indexOf(), index] }
}

function personOf(token: string): Person {
  const { actor, role, tenant, session } = tokens.verify(token)
  return { kind: 'user', actor, role, tenant, session, requestId: 'work-request', address: null }
}

const look = (person: Person): Promise<unknown> => transaction.one(service.gate, person, 'test.look', { text: 'select guard.actor()', values: [] })
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

test('attack: unknown account, wrong password and suspended account answer alike, after the same work', async () => {
  const known = await account()
  const suspended = await account('suspended')
  const seen: unknown[] = []
  for (const [indexes, given, reason] of [[[indexOf()], password, 'unknown_account'], [known.indexes, 'wrong password', 'wrong_password'], [suspended.indexes, password, 'not_active']] as const) {
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
