import assert from 'node:assert/strict'
import { Agent, request } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { canonicalEmail, openSession, type SignedIn } from 'redoubt/tokens/sessions'
import type { Soak } from '../../../../packages/redoubt/test/soak.ts'
import { redisAbsent, startRedis, type RedisServer } from '../../../../packages/redoubt/test/support/redis.ts'
import { startFleet, type Fleet, type ProcessSettings } from '../support/balancer.ts'
import { openClinic, roomy, type Clinic, type Someone } from '../support/clinic.ts'

/** Connections of all clients together; the balancer spreads them over the processes. */
const connections = 32

type Ask = (method: string, path: string, token: string) => Promise<number>

/** Requests over lasting connections; @returns the status. A connection that breaks is an error: none may. */
function clients({ port }: Fleet): { readonly ask: Ask; end(): void } {
  const agent = new Agent({ keepAlive: true, maxSockets: connections, scheduling: 'fifo' })
  const ask: Ask = (method, path, token) => new Promise((resolve, reject) => {
    const req = request({ host: '127.0.0.1', port, method, path, agent, headers: { authorization: `Bearer ${token}` } }, (res) => {
      res.resume()
      res.once('end', () => resolve(res.statusCode ?? 0))
    })
    req.once('error', reject)
    req.end()
  })
  return { ask, end: () => agent.destroy() }
}

/** So many at once until the count is reached. */
async function crowd(count: number, work: (nr: number) => Promise<void>): Promise<void> {
  let next = 0
  await Promise.all(Array.from({ length: connections }, async () => {
    while (next < count) await work(next++)
  }))
}

async function session(clinic: Clinic, someone: Someone): Promise<SignedIn> {
  const { app } = clinic.service
  const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(someone.email))
  return openSession(app.identity, { requestId: 'soak', address: '127.0.0.1' }, { id: someone.id, indexes }, { agent: 'soak' })
}

/**
 * A session is in use on all processes, then ended in one of four ways through whichever process the balancer gives; from
 * the moment that answer is there, each of `after` requests is started, and none may reach data.
 */
async function revocations(clinic: Clinic, fleet: Fleet, people: readonly Someone[], rounds: number, after: number): Promise<{ readonly started: number; readonly reached: number; readonly before: number }> {
  const { ask, end } = clients(fleet)
  let [started, reached, before] = [0, 0, 0]
  for (let round = 0; round < rounds; round++) {
    const someone = people[round % people.length] as Someone
    const [victim, other] = await Promise.all([session(clinic, someone), session(clinic, someone)])
    const ways: readonly (() => Promise<number>)[] = [
      () => ask('POST', '/api/auth/logout', victim.token),
      () => ask('POST', '/api/auth/logout-all', victim.token),
      () => ask('POST', '/api/auth/logout-all', other.token),
      () => ask('DELETE', `/api/auth/sessions/${victim.session}`, other.token),
    ]
    let ended = false
    const using = Promise.all(Array.from({ length: 8 }, async () => {
      while (!ended) if ((await ask('GET', '/api/auth/me', victim.token)) === 200) before++
    }))
    await pause(5)
    assert.equal(await (ways[round % ways.length] as () => Promise<number>)(), 204)
    ended = true
    await crowd(after, async () => {
      started++
      const status = await ask('GET', '/api/auth/me', victim.token)
      if (status === 200) reached++
      else assert.equal(status, 401)
    })
    await using
  }
  end()
  return { started, reached, before }
}

/** @returns how many of half as many again as the quota passed */
async function limited(clinic: Clinic, fleet: Fleet, someone: Someone, quota: number): Promise<number> {
  const { ask, end } = clients(fleet)
  const { token } = await session(clinic, someone)
  let passed = 0
  await crowd(Math.ceil(quota * 1.5), async () => {
    const status = await ask('GET', '/api/auth/me', token)
    if (status === 200) passed++
    else assert.equal(status, 429)
  })
  end()
  return passed
}

/** Redis is stopped, flushed and killed while people work. @returns what they got, by status, and the longest anybody waited */
async function outages(clinic: Clinic, fleet: Fleet, people: readonly Someone[], redis: RedisServer, rounds: number): Promise<{ readonly statuses: ReadonlyMap<number, number>; readonly longest: number; readonly lag: number }> {
  const { ask, end } = clients(fleet)
  const tokens = await Promise.all(people.map(async (someone) => (await session(clinic, someone)).token))
  const statuses = new Map<number, number>()
  let [running, longest] = [true, 0]
  await fleet.tell()
  const working = Promise.all(Array.from({ length: connections / 2 }, async (_, nr) => {
    for (let turn = nr; running; turn++) {
      const started = performance.now()
      const status = await ask('GET', '/api/auth/me', tokens[turn % tokens.length] ?? '')
      longest = Math.max(longest, performance.now() - started)
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      await pause(5)
    }
  }))
  for (let round = 0; round < rounds; round++) {
    redis.freeze()
    await pause(1_000)
    redis.thaw()
    await pause(3_000)
    await redis.command('FLUSHALL')
    await pause(500)
    await redis.kill()
    await pause(1_000)
    await redis.start()
    await pause(3_000)
  }
  running = false
  await working
  end()
  return { statuses, longest, lag: Math.max(...(await fleet.tell()).map((told) => told.lag)) }
}

/**
 * Two and four processes of Therapy behind a balancer, with one database and one Redis: after a session was ended nobody
 * reaches data with it, limits hold exactly, and a Redis that goes away costs nobody more than its time, once.
 */
export const soak: Soak = async ({ short, print }) => {
  if (redisAbsent !== false) return print(`left out: ${redisAbsent}`)
  const redis = await startRedis()
  const clinic = await openClinic()
  const { database, kms } = clinic
  const base: ProcessSettings = {
    databaseUrl: database.url('app'), keysUrl: database.url('keys'), kms, roles: database.service, production: false, publicOrigin: 'http://therapy.test', poolSize: 8, limits: roomy, redisUrl: redis.url,
  }
  try {
    const people: Someone[] = []
    for (let nr = 0; nr < 12; nr++) people.push(await clinic.patient())
    for (const many of short ? [2] : [2, 4]) {
      const quota = short ? 400 : 4_000
      // The time for Redis is roomy here: what is exact must not depend on how busy the machine is.
      const fleet = await startFleet({ ...base, redisTimeout: 10_000, limits: { ...roomy, caller: quota } }, many)
      try {
        const [rounds, after] = short ? [8, 50] : [250, 200]
        const { started, reached, before } = await revocations(clinic, fleet, people, rounds, after)
        print(`${many} processes: ${rounds} sessions ended in use (${before} requests before), ${started} requests started after: ${reached} reached data`)
        assert.equal(reached, 0)
        const passed = await limited(clinic, fleet, people[0] as Someone, quota)
        print(`${many} processes, a limit of ${quota} for one caller: ${passed} of ${Math.ceil(quota * 1.5)} passed`)
        assert.ok(Math.abs(passed - quota) <= quota * 0.01)
      } finally {
        await fleet.stop()
      }
      const standing = await startFleet(base, many)
      try {
        const { statuses, longest, lag } = await outages(clinic, standing, people, redis, short ? 1 : 6)
        const told = await standing.tell()
        const downs = told.reduce((sum, { events }) => sum + (events['redis.down'] ?? 0), 0)
        print(`${many} processes, Redis stopped, flushed and killed ${short ? 1 : 6} times each: ${[...statuses].map(([status, count]) => `${count} × ${status}`).join(', ')}; ${downs} times away; longest answer ${Math.round(longest)} ms, longest pause of a process ${Math.round(lag)} ms`)
        assert.deepEqual([...statuses.keys()], [200])
        assert.ok(downs >= many, 'no process met an outage: nothing was shown')
      } finally {
        await standing.stop()
      }
    }
  } finally {
    await clinic.close()
    await clinic.database.drop()
    await redis.remove()
  }
}
