import { createSecretKey, generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { after } from 'node:test'
import type { Person, Visitor } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import type { BlindIndex } from '../../src/tables.ts'
import { openTokens } from '../../src/tokens.ts'
import { openPasswords } from '../../src/tokens/password.ts'
import { checkPassword, lifetimes, openSession, sessionActions } from '../../src/tokens/sessions.ts'
import type { Identity, Realm, SignedIn } from '../../src/tokens/sessions.ts'
import { transaction, type Gate } from '../../src/transaction.ts'
import type { TestDatabase } from './database.ts'
import { openTestGate } from './gate.ts'

export const password = 'correct horse battery'
export const visitor: Visitor = { requestId: 'sign-in-request', address: '192.0.2.7' }
export const agent = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'

/** Keys that processes of one service share; a second process is opened with those of the first. */
export type Shared = { readonly pair: { readonly publicKey: KeyObject; readonly privateKey: KeyObject }; readonly successorKey: Buffer }
export const newShared = (): Shared => ({ pair: generateKeyPairSync('ed25519'), successorKey: randomBytes(32) })

export type TestIdentity = {
  readonly identity: Identity
  readonly events: Event[]
  /** An account with the password above; gives its id and blind indexes, of which the first is of another key version. */
  account(more?: { readonly status?: string; readonly role?: string; readonly realm?: Realm }): Promise<{ readonly id: string; readonly indexes: readonly BlindIndex[] }>
  signIn(indexes: readonly BlindIndex[], from?: Partial<Identity>): Promise<SignedIn>
  person(token: string): Person
  /** One request of this person that reaches the database. */
  look(person: Person): Promise<unknown>
  close(): Promise<void>
}

export const indexOf = (): BlindIndex => Buffer.concat([Buffer.from([1]), randomBytes(16)]) as BlindIndex

/** Sign-in and sessions over a test database, as a process of a service opens them. */
export async function openIdentity(database: TestDatabase, shared: Shared = newShared(), more: Partial<Identity> = {}): Promise<TestIdentity> {
  const opened = await openTestGate(database)
  const gate: Gate<typeof sessionActions & { 'test.look': { audited: false } }> = { ...opened.gate, actions: { ...sessionActions, 'test.look': { audited: false } } }
  const keyring = { indexKeys: () => Promise.resolve([{ version: 1, key: createSecretKey(shared.successorKey) }]) }
  const passwords = await openPasswords(keyring)
  const identity: Identity = {
    gate, passwords, tokens: openTokens({ issuer: 'https://auth.test', audience: 'sessions-test', keys: [{ kid: 'k1', ...shared.pair }] }),
    keyring,
    realm: 'tenant', tenant: database.service, lifetimes: lifetimes.tenant, emit: gate.emit, ...more,
  }
  return {
    identity,
    events: opened.events,
    async account({ status = 'active', role = 'patient', realm = 'tenant' } = {}) {
      const index = indexOf()
      const id = randomUUID()
      await database.admin('insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role, realm, status) values ($1, $2, $3, $4, $5, $6, $7, $8)', [
        id, database.service, randomBytes(61), index, await passwords.hash(id, password), role, realm, status,
      ])
      return { id, indexes: [indexOf(), index] }
    },
    async signIn(indexes, from = {}) {
      const by = { ...identity, ...from }
      return openSession(by, visitor, await checkPassword(by, visitor, { indexes, password }), { agent })
    },
    person(token) {
      const { actor, role, tenant, session } = identity.tokens.verify(token)
      return { kind: 'user', actor, role, tenant, session, requestId: 'work-request', address: null }
    },
    look: (person) => transaction.one(gate, person, 'test.look', { text: 'select guard.actor()', values: [] }),
    close: () => opened.close(),
  }
}

/** Two processes of one service, as refreshes meet them; closed behind the tests of the file. `seen`: events of some sessions in both. */
export async function openTwo(database: TestDatabase): Promise<{ readonly one: TestIdentity; readonly two: TestIdentity; readonly shared: Shared; seen(type: string, ...sessions: readonly string[]): number }> {
  const shared = newShared()
  const one = await openIdentity(database, shared)
  const two = await openIdentity(database, shared)
  after(async () => {
    await one.close()
    await two.close()
  })
  return { one, two, shared, seen: (type, ...sessions) => [...one.events, ...two.events].filter((event) => event.type === type && 'session' in event && sessions.includes(String(event.session))).length }
}

/** What a refresh that opens nothing throws: one answer, whatever was wrong. */
export const refreshRefused = (error: unknown): boolean => error instanceof Refusal && error.code === 'caller_refused' && error.detail === undefined
