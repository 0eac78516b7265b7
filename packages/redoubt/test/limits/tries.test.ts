import assert from 'node:assert/strict'
import { createSecretKey, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import type { Visitor } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import { openLimits } from '../../src/limits.ts'
import { deviceDays, openDevices } from '../../src/limits/device.ts'
import { delayFor, longestDelay, openTries, type Tries } from '../../src/limits/tries.ts'
import { someone } from '../contracts/counters.ts'

type Setup = { readonly tries: Tries; readonly events: Event[]; readonly travel: (milliseconds: number) => void }

function setup(mode: 'off' | 'report' | 'enforce' = 'enforce'): Setup {
  const events: Event[] = []
  const emit = (event: Event): void => void events.push(event)
  let now = 1_000_000
  return { tries: openTries({ limits: openLimits({ clock: () => now }), mode: () => mode, emit }), events, travel: (milliseconds) => void (now += milliseconds) }
}

const at = (address: string | null): Visitor => ({ requestId: 'request-1', address })
const tried = 'sign-in'

/** Whether the try was let in; wrong unless it is told to be right. */
async function attempt(tries: Tries, address: string | null, account: string, more: { readonly device?: string; readonly right?: boolean } = {}): Promise<boolean> {
  try {
    const counted = await tries.admit(at(address), { tried, account, device: more.device })
    if (more.right === true) await counted.succeeded()
    return true
  } catch (error) {
    assert.ok(error instanceof Refusal && error.code === 'too_many_requests' && (error.retryAfter ?? 0) > 0)
    return false
  }
}

async function passedOf(count: number, work: (nr: number) => Promise<boolean>): Promise<number> {
  let passed = 0
  for (let nr = 0; nr < count; nr++) if (await work(nr)) passed++
  return passed
}

test('five failures of an account from an address, and it is open again after a window', async () => {
  const { tries, travel } = setup()
  assert.equal(await passedOf(8, () => attempt(tries, '192.0.2.1', 'ada')), 5)
  travel(15 * 60_000 - 1)
  assert.equal(await attempt(tries, '192.0.2.1', 'ada'), false)
  travel(1.5 * 60_000 + 1)
  assert.equal(await attempt(tries, '192.0.2.1', 'ada'), true)
})

test('what was right does not count, and gives back once', async () => {
  const { tries } = setup()
  assert.equal(await passedOf(50, () => attempt(tries, '192.0.2.1', 'ada', { right: true })), 50)
  const counted = await tries.admit(at('192.0.2.1'), { tried, account: 'ada' })
  await counted.succeeded()
  await counted.succeeded()
  assert.equal(await passedOf(8, () => attempt(tries, '192.0.2.1', 'ada')), 5)
})

test('attack: an attacker with an account of his own signs in between his guesses, and gains none', async () => {
  const { tries } = setup()
  let guesses = 0
  for (let nr = 0; nr < 60; nr++) {
    await attempt(tries, '192.0.2.1', 'mallory', { right: true })
    if (await attempt(tries, '192.0.2.1', `victim ${nr}`)) guesses++
  }
  assert.equal(guesses, 20)
})

test('attack: fifty guesses at once are five', async () => {
  const { tries } = setup()
  const passed = await Promise.all(Array.from({ length: 50 }, () => attempt(tries, '192.0.2.1', 'ada')))
  assert.equal(passed.filter(Boolean).length, 5)
})

test('attack: one password against many accounts from one network: twenty', async () => {
  const { tries } = setup()
  assert.equal(await passedOf(40, (nr) => attempt(tries, `2001:db8:0:1::${nr}`, `account ${nr}`)), 20)
  const wide = setup()
  assert.equal(await passedOf(300, (nr) => attempt(wide.tries, `2001:db8:0:${nr.toString(16)}::1`, `account ${nr}`)), 200, 'a /48: ten times that')
})

test('attack: lock-out of somebody else: whatever strangers do, the owner signs in, at once on a known device', async () => {
  const { tries } = setup()
  // A botnet that has used up whatever it can of this account, from everywhere but the owner's address.
  const bots = await Promise.all(Array.from({ length: 60 }, (_, nr) => Promise.race([attempt(tries, `198.51.100.${nr}`, 'ada'), Promise.resolve(true)])))
  assert.equal(bots.length, 60)
  const started = performance.now()
  assert.equal(await attempt(tries, '192.0.2.1', 'ada', { device: 'her-laptop', right: true }), true)
  assert.equal(await passedOf(7, () => attempt(tries, '192.0.2.1', 'ada', { device: 'her-laptop' })), 5, 'a thief of that cookie has five, too')
  assert.ok(performance.now() - started < longestDelay / 2, 'and nobody held her up')
  assert.equal(await attempt(tries, '192.0.2.1', 'ada', { right: true }), true, 'on a new device she waits, and is let in')
  assert.ok(performance.now() - started >= longestDelay - 10)
})

test('attack: a guesser behind the same address does not keep a known device out', async () => {
  const { tries } = setup()
  await passedOf(40, (nr) => attempt(tries, '192.0.2.1', `account ${nr % 8}`))
  assert.equal(await attempt(tries, '192.0.2.1', 'account 1'), false)
  assert.equal(await attempt(tries, '192.0.2.1', 'account 1', { device: 'known', right: true }), true)
})

test('attack: distributed guessing of one account: each answer comes later than the one before, up to a bound, and it is told', async () => {
  assert.deepEqual([1, 10, 11, 12, 13, 15, 16, 17, 1_000].map(delayFor), [0, 0, 250, 500, 1_000, 4_000, 8_000, 8_000, longestDelay])
  const { tries, events } = setup()
  await Promise.all(Array.from({ length: 12 }, (_, nr) => attempt(tries, `198.51.100.${nr}`, 'ada')))
  const told = events.filter((event) => event.type === 'security.suspicious_activity')
  assert.deepEqual(told, [{ type: 'security.suspicious_activity', rule: 'guessing', requestId: 'request-1', tried, account: 'ada', tries: 11 }])
})

test('attack: one try each of very many accounts from as many addresses: within every limit, and told; who is right is not counted', async () => {
  const { tries, events } = setup()
  for (let nr = 0; nr < 199; nr++) assert.equal(await attempt(tries, `198.51.${nr}.7`, `account ${nr}`), true)
  for (let nr = 0; nr < 300; nr++) await attempt(tries, `203.0.${nr % 256}.9`, `owner ${nr}`, { right: true })
  const told = events.flatMap((event) => (event.type === 'security.suspicious_activity' && event.rule === 'spraying' ? [event.tries] : []))
  assert.deepEqual(told, [101, 200])
  assert.deepEqual(events.filter((event) => event.type !== 'security.suspicious_activity' || event.rule !== 'spraying'), [])
})

test('kinds of tries are counted apart; report only tells, off not even that', async () => {
  const { tries } = setup()
  await passedOf(6, () => attempt(tries, '192.0.2.1', 'ada'))
  await tries.admit(at('192.0.2.1'), { tried: 'second-factor', account: 'ada' })
  const report = setup('report')
  assert.equal(await passedOf(8, () => attempt(report.tries, '192.0.2.1', 'ada')), 8)
  assert.deepEqual(report.events.map(({ type }) => type), ['security.rate_limited', 'security.rate_limited', 'security.rate_limited'])
  const off = setup('off')
  assert.equal(await passedOf(8, () => attempt(off.tries, '192.0.2.1', 'ada')), 8)
  assert.equal(off.events.length, 0)
})

test('a known device is known for its accounts alone, for half a year, and by every key that still stands', async () => {
  const [older, newer] = [createSecretKey(randomBytes(32)), createSecretKey(randomBytes(32))]
  let now = Date.UTC(2026, 0, 1)
  const devices = (...keys: readonly (typeof older)[]) => openDevices({ keys: async () => keys, now: () => now })
  const first = await devices(older).remember(undefined, ['ada', 'row-1'])
  const id = await devices(older).known(first, 'ada')
  assert.match(id ?? '', /^[\w-]{22}$/)
  assert.equal(await devices(newer, older).known(first, 'row-1'), id)
  assert.equal(await devices(newer).known(first, 'ada'), undefined)
  const both = await devices(newer, older).remember(first, ['bob'])
  assert.deepEqual(await Promise.all(['ada', 'bob', 'eve'].map((account) => devices(newer, older).known(both, account))), [id, id, undefined])
  let value: string | undefined = both
  for (let nr = 0; nr < 12; nr++) value = await devices(newer).remember(value, [`other ${nr}`])
  assert.ok((value ?? '').length < 300)
  assert.equal(await devices(newer).known(value, 'bob'), undefined, 'the oldest gave way')
  now += deviceDays * 86_400_000 + 1_000
  assert.equal(await devices(newer, older).known(first, 'ada'), undefined)
})

test('attack: a forged, moved or mangled device cookie is no device', async () => {
  const devices = openDevices({ keys: async () => [createSecretKey(Buffer.alloc(32, 7))] })
  const mine = await devices.remember(undefined, ['mallory'])
  const theirs = await devices.remember(undefined, ['ada'])
  const [device = '', entry = ''] = theirs.split('.')
  const [other = ''] = mine.split('.')
  const forged = [mine, `${other}.${entry}`, `${device}.${'z'.repeat(7)}${entry.slice(7)}`, `${device}.${entry.slice(0, 7)}${entry[7] === 'A' ? 'B' : 'A'}${entry.slice(8)}`, `${device}.${entry}.`, `${device}.${entry}`.repeat(2), device, '', ' ', someone(), `${theirs}.${theirs}`]
  for (const value of forged) assert.equal(value === theirs ? undefined : await devices.known(value, 'ada'), undefined, value)
  assert.equal(await devices.known(theirs, 'ada'), device)
})
