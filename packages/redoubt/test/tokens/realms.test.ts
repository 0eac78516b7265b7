import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Refusal } from '../../src/errors.ts'
import type { Keyring } from '../../src/keyring.ts'
import { openRetirement } from '../../src/keyring/retire.ts'
import { openRotation } from '../../src/keyring/rotate.ts'
import { unrecorded } from '../support/unrecorded.ts'
import { openPool } from '../../src/pg.ts'
import { openTokens, type Tokens } from '../../src/tokens.ts'
import { followKeys, tokenKeys } from '../../src/tokens/keys.ts'
import { testDatabase } from '../support/database.ts'
import { keysWorld } from '../support/keys.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await keysWorld(database)
const pool = openPool({ url: database.url('keys'), max: 2, emit: () => undefined })
after(async () => {
  await pool.close()
  await world.close()
})

/** Access tokens of a realm, as a process of a service opens and follows them. */
async function openRealm(keyring: Keyring, purpose: 'token-sign' | 'token-sign-admin', issuer = 'https://auth.test', audience = 'therapy'): Promise<{ readonly tokens: Tokens; stop(): void }> {
  const tokens = openTokens({ issuer, audience, keys: await tokenKeys(keyring, purpose) })
  return { tokens, ...followKeys({ tokens, keyring, purpose, every: 2 }) }
}

const person = { actor: '0190a8f0-0000-7000-8000-000000000001', session: '0190a8f0-0000-7000-8000-000000000002', role: 'patient', tenant: 'clinic' }
const refused = (error: unknown): boolean => error instanceof Refusal && error.code === 'unauthenticated'
const kidOf = (token: string): string => (JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString()) as { kid: string }).kid
const kids = (tokens: Tokens): readonly string[] => tokens.jwks().keys.map((key) => String(key['kid']))

async function until(what: () => boolean): Promise<void> {
  while (!what()) await delay(2)
}

test('over a real keyring, a rotation is taken up without a restart: the new key verifies before it signs, the old one after, until it is retired', async () => {
  let clock = 0
  const open = () => openRealm(world.keyring({ clock: () => clock }), 'token-sign')
  const [one, two] = [await open(), await open()]
  const both = [one.tokens, two.tokens]
  const before = one.tokens.issue(person).token
  const settings = { pool, service: world.service, realm: database.service, usage: unrecorded, emit: () => undefined }
  const { kid } = await openRotation({ ...settings, overlap: 120_000 }).purposeKey('token-sign')
  // Past what the keyrings remember: both know of the new key, and neither signs with it.
  clock += 5 * 60_000 + 1
  await until(() => both.every((tokens) => kids(tokens).includes(kid)))
  for (const signer of both) for (const verifier of both) assert.notEqual(kidOf((verifier.verify(signer.issue(person).token), signer.issue(person).token)), kid)
  clock += 121_000
  await until(() => both.every((tokens) => kidOf(tokens.issue(person).token) === kid))
  const later = one.tokens.issue(person).token
  for (const tokens of both) for (const token of [before, later]) tokens.verify(token)
  assert.equal(kids(one.tokens)[0], kid)
  assert.equal(kids(one.tokens).length, 2)
  await database.admin('update keys.purpose_keys set use_from = now() where kid = $1', [kid])
  // As after a leak: at once, without waiting for the tokens it signed.
  assert.equal(await openRetirement(settings).purposeKeys('token-sign', 0, true), 1)
  clock += 5 * 60_000 + 1
  await until(() => both.every((tokens) => kids(tokens).length === 1))
  for (const tokens of both) {
    assert.throws(() => tokens.verify(before), refused, 'also one that was remembered')
    tokens.verify(later)
  }
  one.stop()
  two.stop()
})

test('attack: a token of one realm in the other: other keys, another issuer, another audience', async () => {
  const keyring = world.keyring()
  const of = (purpose: 'token-sign' | 'token-sign-admin', issuer: string, audience: string) => openRealm(keyring, purpose, issuer, audience)
  const people = await of('token-sign', 'https://therapy.test', 'therapy')
  const admins = await of('token-sign-admin', 'https://admin.therapy.test', 'therapy-admin')
  assert.throws(() => admins.tokens.verify(people.tokens.issue({ ...person, role: 'admin' }).token), refused)
  assert.throws(() => people.tokens.verify(admins.tokens.issue({ ...person, role: 'admin' }).token), refused)
  // Each of the three is enough by itself.
  const sameNames = await of('token-sign-admin', 'https://therapy.test', 'therapy')
  const sameKeys = [await of('token-sign', 'https://admin.therapy.test', 'therapy'), await of('token-sign', 'https://therapy.test', 'therapy-admin')]
  for (const other of [sameNames, ...sameKeys]) assert.throws(() => other.tokens.verify(people.tokens.issue(person).token), refused)
  for (const each of [people, admins, sameNames, ...sameKeys]) each.stop()
})
