import assert from 'node:assert/strict'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { test } from 'node:test'
import { hash as argon2 } from '@node-rs/argon2'
import { Refusal } from '../../src/errors.ts'
import { openPasswords } from '../../src/tokens/password.ts'

const passwords = await openPasswords()

test('a password verifies against its own hash and no other', async () => {
  const hash = await passwords.hash('correct horse battery')
  assert.match(hash, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/)
  assert.equal(await passwords.verify(hash, 'correct horse battery'), true)
  assert.equal(await passwords.verify(hash, 'correct horse batterY'), false)
  assert.notEqual(await passwords.hash('correct horse battery'), hash)
})

test('the same characters typed on another keyboard are the same password', async () => {
  const hash = await passwords.hash('Ame\u0301lie-Ko\u0308ln')
  assert.equal(await passwords.verify(hash, 'Am\u00e9lie-K\u00f6ln'), true)
})

test('length counts characters, from 8 to 128', async () => {
  for (const [password, rule] of [['1234567', 'min'], ['', 'min'], ['e\u0301'.repeat(7), 'min'], ['😀'.repeat(129), 'max'], ['x'.repeat(129), 'max'], ['x'.repeat(10_000_000), 'max']] as const) {
    await assert.rejects(passwords.hash(password), (error) => error instanceof Refusal && error.code === 'invalid_input' && error.fields[0]?.rule === rule)
  }
  for (const password of ['12345678', '😀'.repeat(8), '😀'.repeat(128)]) assert.equal(await passwords.verify(await passwords.hash(password), password), true)
})

test('attack: an account is not found by the time of the answer', async () => {
  const hash = await passwords.hash('correct horse battery')
  const times: Record<string, number[]> = { known: [], unknown: [], long: [] }
  for (let i = 0; i < 12; i++) {
    for (const [name, stored, password] of [['known', hash, 'wrong password'], ['unknown', undefined, 'wrong password'], ['long', hash, 'x'.repeat(100_000)]] as const) {
      const started = performance.now()
      assert.equal(await passwords.verify(stored, password), false)
      times[name]?.push(performance.now() - started)
    }
  }
  const median = (name: string): number => times[name]?.sort((a, b) => a - b)[6] ?? 0
  for (const name of ['unknown', 'long']) assert.ok(median(name) > 0.6 * median('known') && median(name) < 1.6 * median('known'), `${name} ${median(name)} against ${median('known')}`)
})

test('without an account no password is right, not even the empty one', async () => {
  for (const password of ['', 'x', 'correct horse battery', 'x'.repeat(1000)]) assert.equal(await passwords.verify(undefined, password), false)
})

test('a full queue refuses with a time to come back, and the loop stays free', async () => {
  const small = await openPasswords({ concurrency: 1, queue: 4 })
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  const results = await Promise.allSettled(Array.from({ length: 32 }, () => small.verify(undefined, 'some password')))
  delay.disable()
  const refused = results.filter((result) => result.status === 'rejected').map((result) => result.reason as unknown)
  assert.equal(refused.length, 27)
  for (const error of refused) assert.ok(error instanceof Refusal && error.code === 'busy' && (error.retryAfter ?? 0) >= 1)
  assert.equal(await small.verify(undefined, 'some password'), false, 'the lane is free again')
  assert.ok(delay.percentile(50) / 1e6 < 15, `median loop delay ${delay.percentile(50) / 1e6} ms`)
})

test('a hash that fails gives its place back', async () => {
  const one = await openPasswords({ concurrency: 1, queue: 1 })
  await assert.rejects(one.verify('not a hash', 'some password'))
  assert.equal(await one.verify(undefined, 'some password'), false)
})

test('a hash of other parameters is outdated', async () => {
  assert.equal(passwords.outdated(await passwords.hash('correct horse battery')), false)
  assert.equal(passwords.outdated(await argon2('x', { memoryCost: 12_288, timeCost: 3, parallelism: 1 })), true)
  assert.equal(passwords.outdated(await argon2('x', { memoryCost: 19_456, timeCost: 2, parallelism: 1, algorithm: 1 })), true)
})

test('parameters below OWASP are refused', async () => {
  for (const options of [{ memoryCost: 12_288 }, { timeCost: 1 }, { memoryCost: 19_455 }, { concurrency: 0 }, { queue: 1.5 }]) await assert.rejects(openPasswords(options), TypeError)
  await openPasswords({ memoryCost: 47_104, timeCost: 1 })
})
