import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { test } from 'node:test'
import type { AddressInfo } from 'node:net'
import type { Event } from '../src/events.ts'
import { openHealth, type Check, type Health } from '../src/health.ts'

/** A clock the test moves, so that cached answers expire when it says so. */
function clock(): { now: () => number; pass: (ms: number) => void } {
  let time = 0
  return { now: () => time, pass: (ms) => void (time += ms) }
}

const works: Check = { name: 'database', timeout: 1000, run: async () => undefined }

async function served(health: Health, work: (get: (path: string, method?: string) => Promise<Response>) => Promise<void>): Promise<void> {
  const server = createServer((request, response) => health.handle(request, response, () => response.writeHead(404).end()))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  try {
    await work((path, method = 'GET') => fetch(`http://127.0.0.1:${port}${path}`, { method }))
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

test('live asks nothing, ready and startup ask the checks; answers are not cached by others', async () => {
  const health = openHealth({ checks: [works], emit: () => undefined })
  await served(health, async (get) => {
    for (const [path, body] of [['live', { status: 'ok', checks: {} }], ['ready', { status: 'ok', checks: { database: 'ok' } }], ['startup', { status: 'ok', checks: { started: 'ok' } }]] as const) {
      const response = await get(`/health/${path}`)
      assert.equal(response.status, 200)
      assert.equal(response.headers.get('cache-control'), 'no-store')
      assert.deepEqual(await response.json(), body)
    }
    assert.equal(await (await get('/health/ready', 'HEAD')).text(), '')
    assert.equal((await get('/health/ready', 'POST')).status, 404)
    assert.equal((await get('/health/readyx')).status, 404)
  })
})

test('a check that hangs fails within its bound, live stays up, and probes do not pile up runs', async () => {
  const time = clock()
  let runs = 0
  let aborted = false
  let release = (): void => undefined
  const hang: Check = {
    name: 'keys',
    timeout: 30,
    run: (signal) => {
      runs++
      signal.addEventListener('abort', () => void (aborted = true))
      return new Promise<void>((resolve) => void (release = resolve))
    },
  }
  const events: Event[] = []
  const health = openHealth({ checks: [works, hang], emit: (event) => void events.push(event), now: time.now })
  await served(health, async (get) => {
    const before = performance.now()
    const response = await get('/health/ready')
    assert.ok(performance.now() - before < 10_000, 'it hangs for good')
    assert.equal(response.status, 503)
    assert.deepEqual(await response.json(), { status: 'failed', checks: { database: 'ok', keys: 'failed' } })
    assert.equal((await get('/health/live')).status, 200)
    assert.equal((await get('/health/startup')).status, 503)
    assert.ok(aborted)
    for (let i = 0; i < 5; i++) {
      time.pass(5000)
      assert.equal((await get('/health/ready')).status, 503)
    }
    assert.equal(runs, 1)
    assert.deepEqual(events.map((event) => event.type), ['health.failed'])
    release()
    await new Promise((resolve) => setImmediate(resolve))
    time.pass(5000)
    const again = get('/health/ready')
    while (runs < 2) await new Promise((resolve) => setImmediate(resolve))
    release()
    assert.equal((await again).status, 200)
    assert.deepEqual(events.map((event) => event.type), ['health.failed', 'health.recovered'])
  })
})

test('attack: the public does not learn why a check failed', async () => {
  const health = openHealth({
    checks: [{ name: 'database', timeout: 1000, run: () => { throw new Error('password authentication failed for user app at 10.0.0.7') } }],
    emit: () => undefined,
  })
  await served(health, async (get) => {
    const response = await get('/health/ready?verbose=1')
    assert.equal(response.status, 503)
    assert.equal(await response.text(), '{"status":"failed","checks":{"database":"failed"}}')
  })
})

test('attack: a flood of probes runs the checks once a second', async () => {
  const time = clock()
  let runs = 0
  const health = openHealth({ checks: [{ ...works, run: async () => void runs++ }], emit: () => undefined, now: time.now })
  const found = await Promise.all(Array.from({ length: 200 }, () => health.ready()))
  assert.ok(found.every(({ status }) => status === 'ok'))
  assert.equal(runs, 1)
  time.pass(1000)
  await health.ready()
  assert.equal(runs, 2)
})

test('a check that is slower than the probes come, but inside its bound, is not taken for a hanging one', async () => {
  const time = clock()
  let release = (): void => undefined
  const slow: Check = { ...works, run: () => new Promise<void>((resolve) => void (release = resolve)) }
  const health = openHealth({ checks: [slow], emit: () => undefined, now: time.now })
  const first = health.ready()
  await new Promise((resolve) => setImmediate(resolve))
  time.pass(5000)
  const second = health.ready()
  release()
  assert.deepEqual([(await first).status, (await second).status], ['ok', 'ok'])
})

test('a dependency that goes down after the start flips ready, not live and not startup; stopping flips ready', async () => {
  const time = clock()
  let up = true
  const health = openHealth({
    checks: [{ ...works, run: async () => { if (!up) throw new Error('down') } }],
    emit: () => undefined,
    now: time.now,
  })
  assert.equal((await health.startup()).status, 'ok')
  up = false
  time.pass(1000)
  assert.deepEqual([(await health.ready()).status, health.live().status, (await health.startup()).status], ['failed', 'ok', 'ok'])
  up = true
  time.pass(1000)
  assert.equal((await health.ready()).status, 'ok')
  health.stopping()
  assert.deepEqual(await health.ready(), { status: 'failed', checks: { database: 'ok', stopping: 'failed' } })
  assert.equal(health.live().status, 'ok')
})

test('checks of one name, bad names and bounds outside 1 to 30000 ms are a TypeError', () => {
  const emit = (): void => undefined
  assert.throws(() => openHealth({ checks: [works, works], emit }), TypeError)
  assert.throws(() => openHealth({ checks: [{ ...works, name: 'DB at 10.0.0.7' }], emit }), TypeError)
  assert.throws(() => openHealth({ checks: [{ ...works, timeout: Infinity }], emit }), /timeout of database/)
})

test('a check that has a price is asked at its own pace while it works, and each time while it does not', async () => {
  const time = clock()
  let [runs, up] = [0, true]
  const priced: Check = { ...works, every: 10_000, run: async () => { runs++; if (!up) throw new Error('down') } }
  const health = openHealth({ checks: [priced], emit: () => undefined, now: time.now })
  await health.ready()
  time.pass(9_999)
  assert.equal((await health.ready()).status, 'ok')
  assert.equal(runs, 1)
  up = false
  time.pass(1)
  // The answer of a moment ago is still fresh; a second later it is asked.
  time.pass(1_000)
  assert.equal((await health.ready()).status, 'failed')
  time.pass(1_000)
  assert.equal((await health.ready()).status, 'failed')
  assert.equal(runs, 3)
  up = true
  time.pass(1_000)
  assert.equal((await health.ready()).status, 'ok')
  assert.equal(runs, 4)
  assert.throws(() => openHealth({ checks: [{ ...works, every: 60_001 }], emit: () => undefined }), /every of database/)
})
