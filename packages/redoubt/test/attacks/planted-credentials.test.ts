import assert from 'node:assert/strict'
import { createHash, createSecretKey, randomBytes, randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, suite, test } from 'node:test'
import { systemCaller } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import { clientBinding, isBound, sessionBinding } from '../../src/tokens/binding.ts'
import { clientActions, clientToken, createClient, rotateClient, type Clients } from '../../src/tokens/clients.ts'
import { familyHash, firstToken, tokenHash } from '../../src/tokens/refresh-token.ts'
import { refreshSession } from '../../src/tokens/refresh.ts'
import type { SignedIn } from '../../src/tokens/sessions.ts'
import { transaction } from '../../src/transaction.ts'
import { testDatabase } from '../support/database.ts'
import { agent, openIdentity, visitor } from '../support/identity.ts'

// The attacker writes every row of the database, and knows a refresh token or a client's secret of their own making. What
// they lack is the key of the bindings.

const database = await testDatabase({ origins: ['redoubt'] })
const world = await openIdentity(database)
after(() => world.close())
const { identity } = world
type Credentials = { readonly id: string; readonly secret: string }

const refresh = (token: string, by = identity): Promise<SignedIn> => refreshSession(by, visitor, { token, agent })
const refuses = (code: string) => (error: unknown): boolean => error instanceof Refusal && error.code === code
const signedIn = async (more: Parameters<typeof world.account>[0] = {}): Promise<SignedIn> => world.signIn((await world.account(more)).indexes)

/** The token is refused, the row is ended, and that is an event and an entry. */
async function refusedFor(token: string, session: string): Promise<void> {
  await assert.rejects(refresh(token), refuses('caller_refused'))
  const [row] = await database.admin<{ revoke_reason: string | null }>('select revoke_reason from redoubt.sessions where id = $1', [session])
  assert.equal(row?.revoke_reason, 'refused')
  assert.equal(world.events.filter((event) => event.type === 'security.session_refused' && event.session === session).length, 1)
  const entries = await database.admin(`select 1 from redoubt.audit_logs where action = 'auth.session_refused' and resource_id = $1`, [session])
  assert.equal(entries.length, 1)
  await assert.rejects(refresh(token), refuses('caller_refused'))
}

/** A row of the attacker's making for somebody, with a token they know. */
async function plant(user: string, binding: Buffer | null): Promise<{ readonly token: string; readonly session: string }> {
  const token = firstToken()
  const session = randomUUID()
  await database.admin(
    `insert into redoubt.sessions (id, user_id, tenant, idle_expires_at, absolute_expires_at, refresh_family, refresh_hash, binding)
     values ($1, $2, $3, now() + interval '1 day', now() + interval '1 day', $4, $5, $6)`, [session, user, database.service, familyHash(token), tokenHash(token), binding])
  return { token: token.toString('base64url'), session }
}

async function bindingOf(session: string): Promise<Buffer | null> {
  const [row] = await database.admin<{ binding: Buffer | null }>('select binding from redoubt.sessions where id = $1', [session])
  return row?.binding ?? null
}

suite('sessions', () => {
  test('attack: a planted session of somebody else, without a binding, with noise and with one under a key of the attacker’s', async () => {
    const victim = await world.account()
    const own = { version: 1, key: createSecretKey(randomBytes(32)) }
    for (const binding of [null, Buffer.alloc(33), Buffer.concat([Buffer.from([1]), randomBytes(32)]), Buffer.concat([Buffer.from([9]), randomBytes(32)])]) {
      const { token, session } = await plant(victim.id, binding)
      await refusedFor(token, session)
    }
    const { token, session } = await plant(victim.id, null)
    const bound = { session, user: victim.id, tenant: database.service, realm: 'tenant', enrolling: false, family: familyHash(Buffer.from(token, 'base64url')) }
    await database.admin('update redoubt.sessions set binding = $1 where id = $2', [sessionBinding(own, bound), session])
    await refusedFor(token, session)
  })

  test('attack: a binding copied from another row, of the victim or of the attacker', async () => {
    const victim = await signedIn()
    const attacker = await signedIn()
    for (const from of [victim.session, attacker.session]) {
      const { token, session } = await plant(victim.actor, await bindingOf(from))
      await refusedFor(token, session)
    }
    await refresh(victim.refresh)
    await refresh(attacker.refresh)
  })

  test('attack: one’s own session given to another person', async () => {
    const victim = await world.account()
    const attacker = await signedIn()
    await database.admin('update redoubt.sessions set user_id = $1 where id = $2', [victim.id, attacker.session])
    await assert.rejects(world.look(world.person(attacker.token)), refuses('caller_refused'), 'the access token names one person and its session another')
    await refusedFor(attacker.refresh, attacker.session)
  })

  test('attack: the same in the ten seconds in which a lost answer is given again', async () => {
    const victim = await world.account()
    const attacker = await signedIn()
    await refresh(attacker.refresh)
    await database.admin('update redoubt.sessions set user_id = $1 where id = $2', [victim.id, attacker.session])
    await refusedFor(attacker.refresh, attacker.session)
  })

  test('attack: a token of one’s own put into the victim’s session', async () => {
    const victim = await signedIn()
    const token = firstToken()
    await database.admin('update redoubt.sessions set refresh_family = $1, refresh_hash = $2 where id = $3', [familyHash(token), tokenHash(token), victim.session])
    await refusedFor(token.toString('base64url'), victim.session)
  })

  test('attack: one’s own session given another id or tenant, the door of those who administer, or more than setting up a factor', async () => {
    for (const change of [`id = gen_random_uuid()`, `tenant = 'elsewhere'`]) {
      const attacker = await signedIn()
      const [row] = await database.admin<{ id: string }>(`update redoubt.sessions set ${change} where id = $1 returning id`, [attacker.session])
      await refusedFor(attacker.refresh, row?.id ?? '')
    }
    const platform = { ...identity, realm: 'platform' } as const
    const crossing = await signedIn()
    await database.admin(`update redoubt.sessions set realm = 'platform' where id = $1`, [crossing.session])
    await assert.rejects(refresh(crossing.refresh, platform), refuses('caller_refused'))
    const administrator = await world.account({ role: 'admin', realm: 'platform' })
    const enrolling = await world.signIn(administrator.indexes, { realm: 'platform' })
    assert.equal(enrolling.role, 'enrolment')
    const renewed = await refresh(enrolling.refresh, platform)
    assert.equal(renewed.role, 'enrolment')
    await database.admin('update redoubt.sessions set enrolling = false where id = $1', [enrolling.session])
    await assert.rejects(refresh(renewed.refresh, platform), refuses('caller_refused'))
    for (const { session } of [crossing, enrolling]) assert.ok(world.events.some((event) => event.type === 'security.session_refused' && event.session === session))
  })

  test('a session bound under an older version of the key is refreshed; under one that is gone it is not', async () => {
    const session = await signedIn()
    const old = await identity.keyring.indexKeys(2, 2)
    const newer = { version: 2, key: createSecretKey(randomBytes(32)) }
    const rotated = { ...identity, keyring: { indexKeys: () => Promise.resolve([newer, ...old]) } }
    const next = await refresh(session.refresh, rotated)
    await assert.rejects(refresh(next.refresh, { ...identity, keyring: { indexKeys: () => Promise.resolve([newer]) } }), refuses('caller_refused'))
  })

  test('SQL injected into a sign-in or a refresh can bind no session but its own new one, and end none it holds no token of', async () => {
    const victim = await signedIn()
    const before = await bindingOf(victim.session)
    await database.admin('update redoubt.sessions set binding = null where id = $1', [victim.session])
    const run = (role: string, text: string): Promise<unknown> =>
      transaction(identity.gate, systemCaller(role, database.service, visitor), 'auth.sign_in', (tx) => tx.query({ text, values: [victim.session, Buffer.alloc(role === 'refresh' ? 32 : 33)] }))
    for (const role of ['sign-in', 'second-factor', 'refresh', 'register']) await assert.rejects(run(role, 'select guard.bind_session($1, $2)'), role)
    for (const role of ['sign-in', 'register']) await assert.rejects(run(role, 'select guard.refuse_session($1, $2)'), role)
    await run('refresh', 'select guard.refuse_session($1, $2)')
    await database.admin('update redoubt.sessions set binding = $1 where id = $2', [before, victim.session])
    await refresh(victim.refresh)
  })
})

suite('API clients', () => {
  const clients: Clients = { gate: { ...identity.gate, actions: { ...identity.gate.actions, ...clientActions } }, tokens: identity.tokens, keyring: identity.keyring, tenant: database.service, emit: identity.emit }
  const operator = systemCaller('api-clients', database.service, visitor)
  const make = (scopes: readonly string[] = ['notes:read'], networks: readonly string[] = ['192.0.2.0/24']): Promise<Credentials> =>
    transaction(clients.gate, operator, 'client.created', (tx) => createClient(tx, clients.keyring, { name: 'Partner', scopes, networks }))
  const rotate = (id: string): Promise<Credentials> => transaction(clients.gate, operator, 'client.rotated', (tx) => rotateClient(tx, clients.keyring, id))
  const ask = ({ id, secret }: Credentials): Promise<{ readonly scopes: readonly string[] }> => clientToken(clients, visitor, { id, secret, scopes: undefined })
  async function refused(client: Credentials): Promise<void> {
    await assert.rejects(ask(client), refuses('invalid_client'))
    assert.equal(world.events.filter((event) => event.type === 'security.client_refused' && event.client === client.id).length, 1)
    assert.deepEqual(await database.admin('select 1 from redoubt.sessions where user_id = $1', [client.id]), [], 'no session was left behind')
  }

  test('a client’s two secrets sign it in, before and after a rotation', async () => {
    const first = await make()
    assert.deepEqual((await ask(first)).scopes, ['notes:read'])
    const second = await rotate(first.id)
    for (const client of [first, second]) assert.deepEqual((await ask(client)).scopes, ['notes:read'])
  })

  test('attack: a planted client, with noise for a binding or with another client’s', async () => {
    const genuine = await make(['notes:read', 'notes:write'], [])
    const [row] = await database.admin<{ binding: Buffer }>('select binding from redoubt.api_clients where id = $1', [genuine.id])
    for (const binding of [Buffer.concat([Buffer.from([1]), randomBytes(32)]), row?.binding]) {
      const planted = { id: randomUUID(), secret: `rcs_${randomBytes(32).toString('base64url')}` }
      await database.admin(`insert into redoubt.api_clients (id, tenant, name, secret_hash, scopes, binding) values ($1, $2, 'x', $3, '{notes:read,notes:write}', $4)`, [
        planted.id, database.service, createHash('sha256').update(planted.secret).digest(), binding,
      ])
      await refused(planted)
      await assert.rejects(rotate(planted.id), refuses('conflict'), 'a rotation would make it genuine')
    }
  })

  test('attack: a client with more scopes, wider networks, another tenant, another secret, or its old secret put back for a new one', async () => {
    const secret = `rcs_${randomBytes(32).toString('base64url')}`
    for (const change of [`scopes = '{notes:read,notes:write}'`, `networks = '{}'`, `networks = '{192.0.2.0/23}'`, `tenant = 'elsewhere'`, `scopes = '{notes:read,192.0.2.0/24}', networks = '{}'`]) {
      const client = await make()
      await database.admin(`update redoubt.api_clients set ${change} where id = $1`, [client.id])
      await refused(client)
      if (!change.startsWith('tenant')) await assert.rejects(rotate(client.id), refuses('conflict'))
    }
    const client = await make()
    await database.admin('update redoubt.api_clients set secret_hash = $1 where id = $2', [createHash('sha256').update(secret).digest(), client.id])
    await refused({ id: client.id, secret })
    const other = await make()
    await rotate(other.id)
    await database.admin('update redoubt.api_clients set previous_hash = $1 where id = $2', [createHash('sha256').update(secret).digest(), other.id])
    await refused({ id: other.id, secret })
  })
})

test('the vectors of docs/formats.md hold', async () => {
  type Vector = { readonly key: string; readonly version: number; readonly session?: Omit<Parameters<typeof sessionBinding>[1], 'family'> & { readonly family: string }; readonly client?: Omit<Parameters<typeof clientBinding>[1], 'secretHash'> & { readonly secretHash: string }; readonly binding: string }
  const vectors = JSON.parse(await readFile(join(import.meta.dirname, '../vectors/binding.json'), 'utf8')) as readonly Vector[]
  assert.equal(vectors.length, 4)
  for (const { key: bytes, version, session, client, binding } of vectors) {
    const key = { version, key: createSecretKey(Buffer.from(bytes, 'hex')) }
    const made = session === undefined ? undefined : sessionBinding(key, { ...session, family: Buffer.from(session.family, 'hex') })
    const other = client === undefined ? undefined : clientBinding(key, { ...client, secretHash: Buffer.from(client.secretHash, 'hex') })
    assert.equal((made ?? other)?.toString('hex'), binding)
    assert.ok(isBound([{ ...key, version: 200 }, key], Buffer.from(binding, 'hex'), () => made ?? other ?? Buffer.alloc(0)))
    assert.ok(!isBound([{ ...key, version: 200 }], Buffer.from(binding, 'hex'), () => made ?? other ?? Buffer.alloc(0)), 'a version that is not known')
  }
})
