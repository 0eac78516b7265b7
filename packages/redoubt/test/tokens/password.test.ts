import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { test } from 'node:test'
import { createSecretKey, randomBytes, randomUUID } from 'node:crypto'
import { hash as argon2, verify as argon2Verify } from '@node-rs/argon2'
import { Refusal } from '../../src/errors.ts'
import type { IndexKey } from '../../src/keyring.ts'
import { isBreached } from '../../src/tokens/breached.ts'
import { openPasswords } from '../../src/tokens/password.ts'
import { hashApart, verifyApart } from '../../src/tokens/password-threads.ts'

const pepper = createSecretKey(randomBytes(32))
const keysOf = (...versions: readonly number[]): { indexKeys(): Promise<readonly IndexKey[]> } => ({ indexKeys: () => Promise.resolve(versions.map((version) => ({ version, key: pepper }))) })
const keyring = keysOf(1)
const passwords = await openPasswords(keyring)
const [account, other] = [randomUUID(), randomUUID()]
const at = (hash: string, whose = account): { readonly account: string; readonly hash: string } => ({ account: whose, hash })

test('a password verifies against its own hash and no other', async () => {
  const hash = await passwords.hash(account, 'correct horse battery')
  assert.match(hash, /^1\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/)
  assert.equal(await passwords.verify(at(hash), 'correct horse battery'), 'right')
  assert.equal(await passwords.verify(at(hash), 'correct horse batterY'), 'wrong')
  assert.notEqual(await passwords.hash(account, 'correct horse battery'), hash)
})

test('attack: a hash is worth nothing in another account’s row, without the key, or under another version of it', async () => {
  const hash = await passwords.hash(account, 'correct horse battery')
  assert.equal(await passwords.verify(at(hash, other), 'correct horse battery'), 'wrong')
  assert.equal(await passwords.verify(at(`2${hash.slice(1)}`), 'correct horse battery'), 'wrong')
  const stranger = await openPasswords({ indexKeys: () => Promise.resolve([{ version: 1, key: createSecretKey(randomBytes(32)) }]) })
  assert.equal(await stranger.verify(at(hash), 'correct horse battery'), 'wrong')
  // Without the key the hash cannot even be tried.
  assert.equal(await argon2Verify(hash.slice(1), 'correct horse battery'), false)
})

test('attack: a hash that an administrator of the database made for a password they know is refused', async () => {
  const planted = await argon2('known password', { memoryCost: 19_456, timeCost: 2, parallelism: 1 })
  for (const hash of [planted, `1${planted}`, '', 'x', `1$argon2id$`]) assert.equal(await passwords.verify(at(hash), 'known password').catch(() => 'refused') === 'right', false)
})

test('the same characters typed on another keyboard are the same password', async () => {
  const hash = await passwords.hash(account, 'Ame\u0301lie-Ko\u0308ln-Rhein')
  assert.equal(await passwords.verify(at(hash), 'Am\u00e9lie-K\u00f6ln-Rhein'), 'right')
})

test('length counts characters, from 12 to 128, and nothing is said about kinds of characters', async () => {
  for (const [password, rule] of [['elevenchars', 'min'], ['', 'min'], ['e\u0301'.repeat(11), 'min'], ['x'.repeat(129), 'max'], ['x'.repeat(10_000_000), 'max']] as const) {
    await assert.rejects(passwords.hash(account, password), (error) => error instanceof Refusal && error.code === 'invalid_input' && error.fields[0]?.rule === rule)
  }
  const letters = 'only small letters '.repeat(8).slice(0, 128)
  for (const password of ['twelve chars', letters, 'ein Pferd 😀 im Regen']) assert.equal(await passwords.verify(at(await passwords.hash(account, password)), password), 'right')
})

test('a password from published breaches is refused, also with little done to it', async () => {
  for (const password of ['passwordpassword', 'Password2026!', 'P4ssw0rd!!!!', 'qwertyuiop12', 'dragondragon', '123456789012', 'abcdefghijkl', 'aaaaaaaaaaaa', 'baseball12345', '!!!baseball!!!']) {
    await assert.rejects(passwords.hash(account, password), (error) => error instanceof Refusal && error.fields[0]?.rule === 'breached', password)
  }
  for (const password of ['correct horse battery', 'monkey 4711 8822 9931', 'Sommerregen am Fluss']) assert.equal(isBreached(password), false, password)
})

test('of random passwords about one in ten thousand is taken for a breached one', () => {
  let taken = 0
  for (let i = 0; i < 20_000; i++) if (isBreached(randomBytes(12).toString('hex'))) taken++
  assert.ok(taken < 40, `${taken} of 20,000`)
})

test('a password made of the person’s own address and names is refused', async () => {
  const personal = ['ada.sommer@example.org', 'Ada', 'Sommer-Winter']
  for (const password of ['ada.sommer@example.org', 'Sommer-Winter-1988', 'sommerwinter!', 'EXAMPLE-sommer-12']) {
    await assert.rejects(passwords.hash(account, password, { personal }), (error) => error instanceof Refusal && error.fields[0]?.rule === 'personal', password)
  }
  await passwords.hash(account, 'Sommerregen am Fluss', { personal })
})

test('without an account no password is right, not even the empty one', async () => {
  for (const password of ['', 'x', 'correct horse battery', 'x'.repeat(1000)]) assert.equal(await passwords.verify(undefined, password), 'wrong')
})

test('a full queue refuses with a time to come back, and the loop stays free', async () => {
  const small = await openPasswords(keyring, { concurrency: 1, queue: 4 })
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  const results = await Promise.allSettled(Array.from({ length: 32 }, () => small.verify(undefined, 'some password')))
  delay.disable()
  const refused = results.filter((result) => result.status === 'rejected').map((result) => result.reason as unknown)
  assert.equal(refused.length, 27)
  for (const error of refused) assert.ok(error instanceof Refusal && error.code === 'busy' && (error.retryAfter ?? 0) >= 1)
  assert.equal(await small.verify(undefined, 'some password'), 'wrong', 'the lane is free again')
  assert.ok(delay.percentile(50) / 1e6 < 15, `median loop delay ${delay.percentile(50) / 1e6} ms`)
})

test('a burst beyond the queue is refused before it has cost anything, and what waits begins when its turn comes near', async () => {
  const small = await openPasswords(keyring, { concurrency: 1, queue: 4 })
  let [begun, atOnce, most] = [0, 0, 0]
  const work = async (): Promise<string> => {
    begun++
    most = Math.max(most, ++atOnce)
    const answer = await small.verify(undefined, 'some password')
    atOnce--
    return answer
  }
  const results = await Promise.allSettled(Array.from({ length: 50 }, () => small.room(work)))
  const refused = results.filter((result) => result.status === 'rejected').map((result) => result.reason as unknown)
  assert.ok(refused.every((error) => error instanceof Refusal && error.code === 'busy' && (error.retryAfter ?? 0) >= 1))
  // Some of them may come when the first are done already.
  assert.ok(begun >= 5 && begun < 20 && begun + refused.length === 50, `${begun} begun`)
  assert.equal(most, 2, 'one is hashed, the next looks up its account')
  assert.equal(await small.room(work), 'wrong', 'there is room again')
})

test('a work in the room that fails gives its place back', async () => {
  const one = await openPasswords(keyring, { concurrency: 1, queue: 1 })
  for (let i = 0; i < 5; i++) await assert.rejects(one.room(() => Promise.reject(new Error('failed'))), /failed/)
  assert.equal(await one.room(() => Promise.resolve('done')), 'done')
})

test('passwords are hashed on a thread of lower priority than the event loop', { skip: process.platform !== 'linux' }, async () => {
  await passwords.verify(undefined, 'some password')
  // proc(5): nice is the 19th field, the 17th behind the name.
  const nice = (task: string): string | undefined => readFileSync(`/proc/self/task/${task}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')[16]
  const own = nice(String(process.pid))
  assert.ok(readdirSync('/proc/self/task').some((task) => nice(task) === String(Math.max(10, Number(own)))))
  assert.notEqual(own, '10')
})

test('a hash that fails gives its place back', async () => {
  const one = await openPasswords(keyring, { concurrency: 1, queue: 1 })
  await assert.rejects(one.verify(at('1$not a hash'), 'some password'))
  assert.equal(await one.verify(undefined, 'some password'), 'wrong')
})

test('a password whose hash has other parameters, or an older key, is right and outdated', async () => {
  const strong = await openPasswords(keyring, { memoryCost: 47_104, timeCost: 1 })
  const hash = await strong.hash(account, 'correct horse battery')
  assert.equal(await passwords.verify(at(hash), 'correct horse battery'), 'outdated')
  assert.equal(await passwords.verify(at(hash), 'wrong horse battery'), 'wrong')
  const later = await openPasswords(keysOf(2, 1))
  const old = await passwords.hash(account, 'correct horse battery')
  assert.equal(await later.verify(at(old), 'correct horse battery'), 'outdated')
  const fresh = await later.rehash(account, 'correct horse battery')
  assert.match(fresh, /^2\$argon2id/)
  assert.equal(await later.verify(at(fresh), 'correct horse battery'), 'right')
})

test('parameters below OWASP are refused', async () => {
  for (const options of [{ memoryCost: 12_288 }, { timeCost: 1 }, { memoryCost: 19_455 }, { concurrency: 0 }, { queue: 1.5 }]) await assert.rejects(openPasswords(keyring, options), TypeError)
  await openPasswords(keyring, { memoryCost: 47_104, timeCost: 1 })
})

test('what argon2id cannot take is a mistake of the caller, told without what was hashed', async () => {
  await assert.rejects(hashApart('a text', { algorithm: 2, memoryCost: 1, timeCost: 0, parallelism: 0 }), TypeError)
  await assert.rejects(verifyApart('no PHC string', 'a text'), (error: Error) => error instanceof TypeError && !error.message.includes('a text'))
})
