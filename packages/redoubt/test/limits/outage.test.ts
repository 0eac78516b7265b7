import assert from 'node:assert/strict'
import { createSecretKey, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import type { Event } from '../../src/events.ts'
import { openLimits, type Limits } from '../../src/limits.ts'
import { defineScript, openRedis, type Redis } from '../../src/redis.ts'
import { limitOf, someone } from '../contracts/counters.ts'
import { redisAbsent, startRedis, type RedisServer } from '../support/redis.ts'

const skip = redisAbsent
const secret = createSecretKey(randomBytes(32))
/** Roomy: a busy machine must not look like an outage. */
const timeout = 1_500

type Setup = { readonly redis: Redis; readonly limits: Limits; readonly events: Event[]; readonly state: (wanted: Redis['state']) => Promise<void> }

async function setup(url: string): Promise<Setup> {
  const events: Event[] = []
  const emit = (event: Event): void => void events.push(event)
  const redis = openRedis({ url, name: 'sample', timeout, connectTimeout: 5_000, emit })
  after(() => redis.close())
  await redis.tried
  const state = async (wanted: Redis['state']): Promise<void> => {
    for (const until = Date.now() + 30_000; redis.state !== wanted; await pause(20)) assert.ok(Date.now() < until, `it never was ${wanted}`)
  }
  return { redis, events, state, limits: openLimits({ shared: { redis, secret, prefix: 'sample' } }) }
}

async function own(args: readonly string[] = [], password?: string): Promise<RedisServer> {
  const server = await startRedis(args, password)
  after(() => server.remove())
  return server
}

/** Takes until it is refused. */
async function allowed(limits: Limits, limit: ReturnType<typeof limitOf>, key: string): Promise<number> {
  for (let count = 0; ; count++) if (!(await limits.take([{ limit, key, cost: 1 }])).allowed) return count
}

test('a Redis that is stopped is waited for once, by those who were on the way; then nobody waits, and each limit goes on by its own number', { skip }, async () => {
  const server = await own()
  const { redis, limits, events, state } = await setup(server.url)
  await state('up')
  const [limit, key] = [limitOf(40, { away: 3 }), someone()]
  assert.equal((await limits.take([{ limit, key, cost: 1 }])).allowed, true)
  server.freeze()
  const started = performance.now()
  const onTheWay = await Promise.all(Array.from({ length: 20 }, async () => limits.take([{ limit, key, cost: 1 }])))
  assert.ok(performance.now() - started >= timeout - 10, 'they waited for it')
  assert.equal(onTheWay.filter((taken) => taken.allowed).length, 3, 'the stricter number')
  assert.equal(redis.state, 'down')
  // Synchronous: there is nothing that could wait.
  assert.equal(limits.take([{ limit, key, cost: 1 }]) instanceof Promise, false)
  assert.equal(limits.shared, false)
  await assert.rejects(redis.check(), { code: 'redis_unavailable' })
  server.thaw()
  await state('up')
  assert.ok((await allowed(limits, limit, key)) >= 19, 'what instances counted by themselves is not in Redis')
  assert.deepEqual(events.map(({ type }) => type), ['redis.up', 'redis.down', 'redis.up'])
})

test('the login of the runbook is enough: for counting, for giving back, for a script that is not known yet', { skip }, async () => {
  const runbook = await readFile(join(import.meta.dirname, '../../../../docs/runbooks/redis.md'), 'utf8')
  const rules = /`ACL SETUSER therapy on >… ([^`]+)`/.exec(runbook)?.[1]?.split(/\s+/) ?? []
  assert.ok(rules.includes('+evalsha'))
  const server = await own()
  await server.command('ACL', 'SETUSER', 'therapy', 'on', '>some-password', ...rules)
  const redis = openRedis({ url: server.url.replace('//', '//therapy:some-password@'), name: 'therapy', timeout, connectTimeout: 5_000, emit: () => undefined })
  after(() => redis.close())
  await redis.tried
  assert.equal(redis.state, 'up')
  const limits = openLimits({ shared: { redis, secret, prefix: 'therapy' } })
  const demands = [{ limit: limitOf(5), key: someone(), cost: 1 }]
  const first = await limits.take(demands)
  await limits.giveBack(demands, first)
  const second = await limits.take(demands)
  assert.deepEqual([first.by, second.by, second.standings[0]?.used, redis.state], ['redis', 'redis', 1, 'up'])
})

test('a Redis that is killed and comes back empty: no error, the stated numbers, and shared again', { skip }, async () => {
  const server = await own()
  const { redis, limits, events, state } = await setup(server.url)
  await state('up')
  const [limit, key] = [limitOf(10, { away: 4 }), someone()]
  assert.equal(await allowed(limits, limit, key), 10)
  await server.kill()
  await state('down')
  assert.equal(await allowed(limits, limit, key), 4)
  await server.start()
  await state('up')
  assert.equal(await allowed(limits, limit, key), 10, 'the counters were lost with it: the quota once more, and no more')
  assert.equal(redis.state, 'up')
  assert.equal(events.filter(({ type }) => type === 'redis.down').length, 1)
})

test('going up and down gives an instance no more than its own number in a window, however often', { skip }, async () => {
  const server = await own()
  const { limits, state } = await setup(server.url)
  await state('up')
  const [limit, key] = [limitOf(10, { away: 4 }), someone()]
  let sum = await allowed(limits, limit, key)
  for (let round = 0; round < 2; round++) {
    server.freeze()
    sum += await allowed(limits, limit, key)
    server.thaw()
    await state('up')
    sum += await allowed(limits, limit, key)
  }
  assert.equal(sum, 14, 'quota + away')
})

test('a flushed Redis gives the quota anew and is no outage', { skip }, async () => {
  const server = await own()
  const { redis, limits, state } = await setup(server.url)
  await state('up')
  const [limit, key] = [limitOf(5), someone()]
  assert.equal(await allowed(limits, limit, key), 5)
  await server.command('FLUSHALL')
  await server.command('SCRIPT', 'FLUSH')
  assert.equal(await allowed(limits, limit, key), 5)
  assert.equal(redis.state, 'up')
})

test('a full Redis that takes no writes counts as away until it has room', { skip }, async () => {
  const server = await own()
  const { limits, events, state } = await setup(server.url)
  await state('up')
  const [limit, key] = [limitOf(10, { away: 2 }), someone()]
  await server.command('CONFIG', 'SET', 'maxmemory-policy', 'noeviction')
  await server.command('CONFIG', 'SET', 'maxmemory', '1')
  assert.equal(await allowed(limits, limit, key), 2)
  assert.deepEqual(events.findLast(({ type }) => type === 'redis.down'), { type: 'redis.down', reason: 'OOM' })
  await server.command('CONFIG', 'SET', 'maxmemory', '0')
  await state('up')
  assert.equal(await allowed(limits, limit, key), 10)
})

test('a primary that became a replica is left, and taken again when it is the primary', { skip }, async () => {
  const server = await own()
  const { limits, events, state } = await setup(server.url)
  await state('up')
  const [limit, key] = [limitOf(10, { away: 2 }), someone()]
  await server.command('REPLICAOF', '127.0.0.1', '1')
  assert.equal(await allowed(limits, limit, key), 2)
  assert.equal((events.findLast(({ type }) => type === 'redis.down') as { readonly reason: string }).reason, 'READONLY')
  await server.command('REPLICAOF', 'NO', 'ONE')
  await state('up')
})

test('a wrong password is no outage of requests: it is told, and the limits go on', { skip }, async () => {
  const server = await own([], 'right-password')
  const { redis, limits, events } = await setup(server.url.replace('right', 'wrong'))
  assert.equal(redis.state, 'down')
  assert.equal((events[0] as { readonly reason: string }).reason, 'WRONGPASS')
  assert.equal(await allowed(limits, limitOf(10, { away: 2 }), someone()), 2)
  const right = await setup(server.url)
  assert.equal(right.redis.state, 'up')
})

/** A server of our own that speaks just enough, and answers as it is told. */
async function double(answer: (command: string, write: (reply: string) => void) => void): Promise<{ readonly url: string; readonly server: Server }> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (data) => {
      for (const command of data.toString('latin1').match(/\r\n(CLIENT|SET|EVALSHA|EVAL)\r\n/g) ?? []) answer(command.trim(), (reply) => void (socket.writable && socket.write(reply)))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => server.close())
  return { url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`, server }
}

test('a Redis that is loading its data, or busy, or slow, is away; each is told by its name', async () => {
  const ways: readonly (readonly [string, (write: (reply: string) => void) => void])[] = [
    ['LOADING', (write) => write('-LOADING Redis is loading the dataset in memory\r\n')],
    ['BUSY', (write) => write('-BUSY Redis is busy running a script\r\n')],
    ['MISCONF', (write) => write('-MISCONF Errors writing to the AOF file\r\n')],
    ['slow', (write) => void setTimeout(write, timeout * 2, '+OK\r\n')],
  ]
  for (const [reason, reply] of ways) {
    const { url } = await double((command, write) => (command === 'CLIENT' ? write('+OK\r\n') : reply(write)))
    const { redis, limits, events } = await setup(url)
    assert.equal(redis.state, 'down')
    assert.deepEqual(events, [{ type: 'redis.down', reason }])
    assert.equal(await allowed(limits, limitOf(10, { away: 2 }), someone()), 2)
    redis.close()
  }
})

test('no script waits longer than the timeout, also when it must be sent twice', async () => {
  const { url } = await double((command, write) => {
    if (command === 'CLIENT' || command === 'SET') write('+OK\r\n')
    else if (command === 'EVALSHA') setTimeout(write, timeout * 0.7, '-NOSCRIPT No matching script\r\n')
    else setTimeout(write, timeout * 0.7, ':1\r\n')
  })
  const { redis } = await setup(url)
  assert.equal(redis.state, 'up')
  // The second answer would come after 1.4 timeouts, in time for a deadline of its own.
  await assert.rejects(redis.run(defineScript('return 1'), [], []), { code: 'redis_unavailable', detail: 'timeout' })
})

test('nobody there, and nothing that can be: told at once, tried again quietly, and closing ends it', async () => {
  const { url, server } = await double(() => undefined)
  await new Promise((resolve) => server.close(resolve))
  const { redis, events } = await setup(url)
  assert.deepEqual(events, [{ type: 'redis.down', reason: 'ECONNREFUSED' }])
  await pause(500)
  assert.equal(events.length, 1)
  redis.close()
  for (const [bad, word] of [[{ url: 'http://x' }, /url/], [{ name: 'A b' }, /name/], [{ timeout: 0 }, /timeout/]] as const) {
    assert.throws(() => openRedis({ url: 'redis://127.0.0.1:1', name: 'sample', emit: () => undefined, ...bad }), word)
  }
})

test('a process that was held up itself does not take that for an outage', { skip }, async () => {
  const server = await own()
  const { redis, limits, events, state } = await setup(server.url)
  await state('up')
  const [limit, key] = [limitOf(10), someone()]
  await limits.take([{ limit, key, cost: 1 }])
  server.freeze()
  const asked = limits.take([{ limit, key, cost: 1 }])
  // Written in the next turn; then nothing of this process runs for twice the timeout, while the answer arrives.
  setImmediate(() => setImmediate(() => {
    server.thaw()
    for (const until = performance.now() + timeout * 2; performance.now() < until; );
  }))
  assert.equal((await asked).standings[0]?.used, 2)
  assert.equal(redis.state, 'up')
  assert.deepEqual(events.map(({ type }) => type), ['redis.up'])
})
