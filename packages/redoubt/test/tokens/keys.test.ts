import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { test } from 'node:test'
import { Refusal } from '../../src/errors.ts'
import type { PurposeKey } from '../../src/keyring.ts'
import { openTokens } from '../../src/tokens.ts'
import { followKeys, tokenKeys } from '../../src/tokens/keys.ts'

function keyOf(kid: string, known: readonly PurposeKey[] = []): PurposeKey {
  const pair = generateKeyPairSync('ed25519')
  return { kid, ...pair, secrets: [], verifiers: new Map([...known.map((other) => [other.kid, other.publicKey] as const), [kid, pair.publicKey]]) }
}

async function turns(): Promise<void> {
  for (let n = 0; n < 5; n++) await new Promise((resolve) => setImmediate(resolve))
}

test('a rotation is taken up by a running process: first published, then signing, and the old key goes when it is retired', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const old = keyOf('old')
  const next = keyOf('next', [old])
  let present: PurposeKey | Error = old
  const keyring = { purposeKey: () => (present instanceof Error ? Promise.reject(present) : Promise.resolve(present)) }
  const tokens = openTokens({ issuer: 'https://auth.test', audience: 'keys-test', keys: await tokenKeys(keyring, 'token-sign') })
  const following = followKeys({ tokens, keyring, purpose: 'token-sign' })
  const seen = async (): Promise<string> => {
    t.mock.timers.tick(30_000)
    await turns()
    return tokens.jwks().keys.map(({ kid }) => kid).join(' ')
  }
  const person = { actor: '00000000-0000-4000-8000-000000000001', session: '00000000-0000-4000-8000-000000000002', role: 'patient', tenant: 'test' }
  const headerOf = (token: string): string => Buffer.from(token.split('.')[0] ?? '', 'base64url').toString()
  const before = tokens.issue(person).token
  tokens.verify(before)

  present = { ...old, verifiers: next.verifiers }
  assert.equal(await seen(), 'old next')
  assert.match(headerOf(tokens.issue(person).token), /"old"/)
  present = next
  assert.equal(await seen(), 'next old')
  const after = tokens.issue(person).token
  assert.match(headerOf(after), /"next"/)
  for (const token of [before, after]) tokens.verify(token)

  present = new Refusal('database_unavailable')
  assert.equal(await seen(), 'next old', 'without a database the keys stay')
  present = { ...next, verifiers: new Map([['next', next.publicKey]]) }
  assert.equal(await seen(), 'next')
  tokens.verify(after)
  // It was verified a moment ago and is remembered: that does not help it.
  assert.throws(() => tokens.verify(before), Refusal)
  following.stop()
  present = old
  assert.equal(await seen(), 'next')
})

test('following keys less often than the bound, or never, is a mistake', async () => {
  const keyring = { purposeKey: () => Promise.resolve(keyOf('one')) }
  const tokens = openTokens({ issuer: 'https://auth.test', audience: 'keys-test', keys: await tokenKeys(keyring, 'token-sign') })
  for (const every of [0, 1.5, 30_001]) assert.throws(() => followKeys({ tokens, keyring, purpose: 'token-sign', every }), TypeError)
  assert.equal(tokens.sessionOf('x'.repeat(100_000)), undefined)
  assert.equal(tokens.sessionOf('not.a.token'), undefined)
})
