import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { createSecretKey, randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { createServer } from 'node:tls'
import type { Event } from '../../src/events.ts'
import { sharedCounters } from '../../src/limits/redis.ts'
import { openRedis, type Redis } from '../../src/redis.ts'
import { countersContract, limitOf, someone } from '../contracts/counters.ts'
import { selfSigned } from '../support/certificate.ts'
import { redisAbsent, startRedis, type RedisServer } from '../support/redis.ts'

const skip = redisAbsent
const bytes = randomBytes(32)
const secret = createSecretKey(bytes)

let server: RedisServer
let redis: Redis
if (skip === false) {
  server = await startRedis()
  // A busy machine must not fail a contract: here the time is roomy, in the tests of outages it is not.
  redis = openRedis({ url: server.url, name: 'sample', timeout: 5_000, emit: () => undefined })
  await redis.tried
  after(async () => {
    redis.close()
    await server.remove()
  })
}
const open = () => sharedCounters({ redis, secret, prefix: 'sample' })

countersContract('Redis', async () => open(), { skip })

const name = (key: string): Promise<readonly string[]> => server.command('KEYS', key) as Promise<readonly string[]>

test('what stands in Redis names nobody, is short-lived, and is one key for each limit', { skip }, async () => {
  await server.command('FLUSHALL')
  const account = someone()
  await open().take([{ limit: limitOf(5), key: '192.0.2.7/32', cost: 1 }, { limit: limitOf(5, { name: 'other' }), key: account, cost: 1 }])
  const keys = await name('*limit*')
  assert.equal(keys.length, 2)
  for (const key of keys) {
    assert.match(key, /^sample:limit:[A-Za-z0-9_-]{22}$/)
    const [newest, ...numbers] = (await server.command('EVAL', "return {struct.unpack('<dddd', redis.call('GET', KEYS[1]))}", '1', key)) as readonly number[]
    assert.deepEqual(numbers, [1, 1, newest, 33], 'units, all units, oldest tenth, and nothing behind them')
    assert.equal(await server.command('STRLEN', key), 32)
    const left = Number(await server.command('PTTL', key))
    assert.ok(left > 590_000 && left <= 660_000, String(left))
  }
  const other = sharedCounters({ redis, secret: createSecretKey(randomBytes(32)), prefix: 'sample' })
  assert.equal((await other.take([{ limit: limitOf(5), key: '192.0.2.7/32', cost: 1 }])).standings[0]?.used, 1, 'another secret, other names')
})

test('a decision over three limits is one command', { skip }, async () => {
  const counters = open()
  const demands = ['a', 'b', 'c'].map((limit) => ({ limit: limitOf(50, { name: `limit-${limit}` }), key: someone(), cost: 1 }))
  await counters.take(demands)
  const before = await calls()
  for (let i = 0; i < 10; i++) await counters.take(demands)
  assert.equal((await calls()) - before, 10)
  assert.doesNotMatch(String(await server.command('INFO', 'clients')), /connected_clients:(?:[5-9]|\d\d)/)
})

const calls = async (): Promise<number> => Number(/cmdstat_evalsha:calls=(\d+)/.exec(String(await server.command('INFO', 'commandstats')))?.[1] ?? 0)

test('what is asked in one turn of the loop is one command, and each gets its own decision; of many names as many commands as hold them', { skip }, async () => {
  const counters = open()
  const [mine, ours] = [limitOf(30), limitOf(40, { name: 'other' })]
  const address = someone()
  const pairs = Array.from({ length: 60 }, (_, nr) => [{ limit: mine, key: `caller ${nr % 2} of ${address}`, cost: 1 }, { limit: ours, key: address, cost: 1 }])
  await counters.take([{ limit: ours, key: address, cost: 1 }])
  const before = await calls()
  const decisions = await Promise.all(pairs.map((demands) => counters.take(demands)))
  assert.equal((await calls()) - before, 1)
  assert.deepEqual(decisions.map(({ allowed }) => allowed), pairs.map((_, nr) => nr < 39))
  assert.deepEqual(decisions.map(({ standings }) => standings.map(({ used }) => used)), pairs.map((_, nr) => (nr < 39 ? [Math.floor(nr / 2) + 1, nr + 2] : [nr % 2 === 0 ? 20 : 19, 40])))
  await Promise.all(Array.from({ length: 300 }, () => counters.take([{ limit: mine, key: someone(), cost: 1 }])))
  assert.equal((await calls()) - before, 1 + Math.ceil(300 / 127))
  const weights = await Promise.all(Array.from({ length: 150 }, (_, nr) => counters.take([{ limit: limitOf(1_000), key: address, cost: nr }])))
  assert.deepEqual(weights.map(({ standings }) => standings[0]?.used), weights.map((_, nr) => (Math.min(nr, 44) * (Math.min(nr, 44) + 1)) / 2), 'more costs than one command holds')
})

test('a decision over no demand, or over more than a batch holds, is a mistake of the caller', { skip }, () => {
  for (const length of [0, 64]) assert.throws(() => open().take(Array.from({ length }, () => ({ limit: limitOf(5), key: 'a', cost: 1 }))), TypeError)
})

test('a script that Redis has forgotten is sent again', { skip }, async () => {
  const demand = { limit: limitOf(3), key: someone(), cost: 1 }
  await open().take([demand])
  await server.command('SCRIPT', 'FLUSH')
  assert.equal((await open().take([demand])).standings[0]?.used, 2)
  assert.equal(redis.state, 'up')
})

test('attack: a server clock that jumps back does not close a key for longer than a window', { skip }, async () => {
  await server.command('FLUSHALL')
  const demand = { limit: limitOf(3), key: someone(), cost: 1 }
  await open().take([demand])
  const [key = ''] = await name('*limit*')
  // As if the three had been counted an hour ahead: what a failover to a server with another clock leaves behind.
  const ahead = Math.floor((Date.now() + 3_600_000) / 60_000)
  await server.command('EVAL', "return redis.call('SET', KEYS[1], struct.pack('<dddd', ARGV[1], 3, 3, ARGV[1]), 'PX', 7200000)", '1', key, String(ahead))
  const { allowed, standings } = await open().take([demand])
  assert.equal(allowed, false)
  assert.ok((standings[0]?.wait ?? 0) <= 660_000, 'one window from now, not an hour')
})

/** How often a process of its own was allowed. */
function asking(settings: Readonly<Record<string, string | number>>, env: NodeJS.ProcessEnv = {}): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = fork(join(import.meta.dirname, '../support/limit-load.ts'), [JSON.stringify({ secret: bytes.toString('hex'), timeout: 10_000, ...settings })], { env: { ...process.env, ...env }, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    child.on('message', (message) => message === 'working' || resolve((message as { readonly allowed: number }).allowed))
    child.once('error', reject)
    child.once('exit', (code) => reject(new Error(`ended with ${code ?? 'a signal'}`)))
  })
}

test('two processes share one limit, exactly', { skip }, async () => {
  const key = someone()
  const counts = await Promise.all([1, 2].map(() => asking({ url: server.url, key, quota: 100, tries: 400, away: 1 })))
  assert.equal(counts.reduce((sum, count) => sum + count, 0), 100, counts.join(' and '))
})

test('over TLS: a certificate that nobody vouches for is refused, one that the operator vouches for is taken', { skip }, async () => {
  const certificate = selfSigned()
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-redis-tls-'))
  const authority = join(folder, 'authority.pem')
  await writeFile(authority, certificate.cert)
  const front = createServer(certificate, (socket) => {
    const back = connect(server.port, '127.0.0.1')
    for (const each of [socket, back]) each.on('error', () => undefined)
    socket.pipe(back).pipe(socket)
  })
  await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve))
  after(async () => {
    front.close()
    await rm(folder, { recursive: true, force: true })
  })
  const url = `rediss://localhost:${(front.address() as AddressInfo).port}`
  const events: Event[] = []
  const doubted = openRedis({ url, name: 'sample', timeout: 5_000, connectTimeout: 5_000, emit: (event) => void events.push(event) })
  await doubted.tried
  doubted.close()
  assert.deepEqual(events, [{ type: 'redis.down', reason: 'DEPTH_ZERO_SELF_SIGNED_CERT' }])
  const key = someone()
  const allowed = await asking({ url, key, quota: 5, tries: 20, away: 1 }, { NODE_EXTRA_CA_CERTS: authority })
  assert.equal(allowed, 5, 'the shared quota, not the one of an outage')
})
