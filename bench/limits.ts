import { createSecretKey, randomBytes } from 'node:crypto'
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { createClient } from '@redis/client'
import type { Request, Response } from 'express'
import { rateLimit } from 'express-rate-limit'
import { RateLimiterMemory, RateLimiterRedis } from 'rate-limiter-flexible'
import { edgeLimits } from 'redoubt/http/limit'
import { route } from 'redoubt/http/route'
import { defineLimit, openLimits, type Counters, type Demand } from 'redoubt/limits'
import { sharedCounters } from 'redoubt/limits/redis'
import { openRedis, type Redis } from 'redoubt/redis'
import { redisAbsent, startRedis } from '../packages/redoubt/test/support/redis.ts'
import { rounds } from './rounds.ts'

/**
 * Decisions a second. In memory: one limit, asked directly, and as a step with its headers, against the middleware and the
 * store that most use; what a call of ours decides is what a call of that middleware decides, headers apart, hence both.
 * In Redis: caller and address of one request, in one trip, against two trips: the same counters and script, one name
 * each, the second asked when the first has answered, and each a command of its own, as limiters send it. Beside it two
 * such decisions that share their commands with others under way, as ours do; the script by hand, for both names in one
 * trip and for one each in two, without deadline or decision; and two limiters of rate-limiter-flexible. Nothing is ever refused.
 */
const quota = 100_000_000
const window = 900_000
const addresses = Array.from({ length: 5_000 }, (_, nr) => `10.${nr >> 8 & 255}.${nr & 255}.7`)
const at = (nr: number): string => addresses[nr % addresses.length] ?? ''
const emit = (): void => undefined

/** Operations per second of processor time, which a busy machine stretches less than the clock's. */
async function speed(count: number, work: (nr: number) => unknown): Promise<number> {
  const started = process.cpuUsage()
  for (let nr = 0; nr < count; nr++) await work(nr)
  const { user, system } = process.cpuUsage(started)
  return (count / (user + system)) * 1e6
}

/** The same for what answers at once: a wait for nothing would cost more than the decision. */
function speedAtOnce(count: number, work: (nr: number) => unknown): Promise<number> {
  const started = process.cpuUsage()
  for (let nr = 0; nr < count; nr++) work(nr)
  const { user, system } = process.cpuUsage(started)
  return Promise.resolve((count / (user + system)) * 1e6)
}

/** By the clock, with so many under way. */
async function crowd(underWay: number, count: number, work: (nr: number, lane: number) => Promise<unknown>): Promise<number> {
  const started = performance.now()
  let next = 0
  await Promise.all(Array.from({ length: underWay }, async (_, lane) => {
    while (next < count) await work(next++, lane)
  }))
  return (count / (performance.now() - started)) * 1000
}

/** A request and an answer that nothing is sent with. */
function exchange(): { readonly req: Request; readonly res: Response } {
  const req = Object.assign(new IncomingMessage(new Socket()), { method: 'GET', url: '/', ip: '', app: { get: () => false } })
  return { req: req as unknown as Request, res: new ServerResponse(req) as unknown as Response }
}

async function inMemory(): Promise<void> {
  const limits = openLimits()
  const limit = defineLimit({ name: 'sample', quota, window, away: quota })
  const edge = edgeLimits({ limits, mode: () => 'enforce', emit, numbers: { anonymous: quota, caller: quota, address: quota, flood: quota, signIn: 5, signInAddress: 20 } })
  const anyRoute = route({ method: 'GET', path: '/sample', summary: 'Sample', access: 'public', answer: null, handle: () => undefined })
  const usual = rateLimit({ windowMs: window, limit: quota, standardHeaders: 'draft-7', legacyHeaders: false })
  const flexible = new RateLimiterMemory({ points: quota, duration: window / 1000 })
  const { req, res } = exchange()
  const through = (nr: number): Promise<void> => {
    Object.assign(req, { ip: at(nr) })
    return new Promise((resolve, reject) => void usual(req, res, (error?: unknown) => (error instanceof Error ? reject(error) : resolve())))
  }
  // A tenth of a second each: what is compiled and collected meanwhile must not decide.
  await rounds({
    title: 'one limit in memory, 5,000 addresses',
    rounds: 7,
    variants: {
      'ours, asked': () => speedAtOnce(1_000_000, (nr) => limits.take([{ limit, key: at(nr), cost: 1 }])),
      'ours, with headers': () => speedAtOnce(300_000, (nr) => edge.check(req, res, { visitor: { requestId: 'bench', address: at(nr) }, caller: null, via: undefined, route: anyRoute })),
      'rate-limiter-flexible memory': () => speed(400_000, (nr) => flexible.consume(at(nr))),
      'express-rate-limit memory': () => speed(60_000, through),
    },
    ratios: [['ours, asked', 'express-rate-limit memory'], ['ours, with headers', 'express-rate-limit memory'], ['ours, asked', 'rate-limiter-flexible memory']],
  })
}

async function inRedis(): Promise<void> {
  if (redisAbsent !== false) return void process.stdout.write(`\nin Redis: left out, ${redisAbsent}\n`)
  const server = await startRedis()
  const redis = openRedis({ url: server.url, name: 'bench', timeout: 10_000, emit })
  const driver = createClient({ url: server.url, RESP: 2, commandOptions: { timeout: 0 } })
  try {
    await redis.tried
    await driver.connect()
    const secret = createSecretKey(randomBytes(32))
    const limits = openLimits({ shared: { redis, secret, prefix: 'bench' } })
    const [caller, address] = ['caller', 'address'].map((name) => defineLimit({ name, quota, window, away: quota }))
    if (caller === undefined || address === undefined) throw new TypeError('bench: no limits')
    const both = (nr: number): readonly [Demand, Demand] => [{ limit: caller, key: `user ${nr % 1000}`, cost: 1 }, { limit: address, key: at(nr), cost: 1 }]
    // Our counters as if nobody else asked: one for each that is under way, so that none shares a command.
    const counters = (note?: string[][]): ReturnType<typeof sharedCounters> => {
      const sendAlone: Redis['runLate'] = (script, words) => Promise.resolve().then(() => {
        const { keys, args } = words()
        note?.push(['EVALSHA', script.sha, String(keys.length), ...keys, ...args])
        return redis.run(script, keys, args)
      })
      return sharedCounters({ redis: { ...redis, state: 'up', runLate: sendAlone }, secret, prefix: 'bench' })
    }
    const alone = Array.from({ length: 8 }, () => counters())
    for (const each of alone) await Promise.all(addresses.map((_, nr) => each.take(both(nr))))
    // The very commands, for sending them by hand: both names in one, and one name each.
    const [together, first, second]: readonly [string[][], string[][], string[][]] = [[], [], []]
    const [pairs, callers, networks] = [counters(together), counters(first), counters(second)]
    for (let nr = 0; nr < addresses.length; nr++) {
      const [one, other] = both(nr)
      await pairs.take([one, other])
      await callers.take([one])
      await networks.take([other])
    }
    const byHand = (commands: readonly string[][], nr: number): Promise<unknown> => driver.sendCommand(commands[nr % commands.length] ?? [])
    const flexible = ['c', 'a'].map((keyPrefix) => new RateLimiterRedis({ storeClient: driver, useRedisPackage: true, keyPrefix, points: quota, duration: window / 1000 }))
    const twice = async (by: Pick<Counters, 'take'>, [one, other]: readonly [Demand, Demand]): Promise<void> => {
      await by.take([one])
      await by.take([other])
    }
    const compare = (underWay: number, count: number): Promise<unknown> => rounds({
      title: `caller and address in Redis, ${underWay} under way, pairs`,
      rounds: 7,
      variants: {
        'ours, one trip': () => crowd(underWay, count, async (nr) => limits.take(both(nr))),
        'ours, two trips': () => crowd(underWay, count, (nr, lane) => twice(alone[lane] ?? limits, both(nr))),
        'ours, two decisions': () => crowd(underWay, count, (nr) => twice(limits, both(nr))),
        'one trip by hand': () => crowd(underWay, count, (nr) => byHand(together, nr)),
        'two trips by hand': () => crowd(underWay, count, async (nr) => {
          await byHand(first, nr)
          await byHand(second, nr)
        }),
        'rate-limiter-flexible, two limiters': () => crowd(underWay, count / 2, async (nr) => {
          for (const [which, limiter] of flexible.entries()) await limiter.consume(which === 0 ? `user ${nr % 1000}` : at(nr))
        }),
      },
      ratios: [['ours, one trip', 'ours, two trips'], ['ours, one trip', 'two trips by hand'], ['ours, one trip', 'one trip by hand'], ['ours, one trip', 'ours, two decisions'], ['ours, one trip', 'rate-limiter-flexible, two limiters']],
    })
    await compare(1, 4_000)
    await compare(8, 10_000)
  } finally {
    driver.destroy()
    redis.close()
    await server.remove()
  }
}

/** @param only `memory` or `redis`; left out: both. @throws TypeError when there is no such part */
export async function run(only?: string): Promise<void> {
  if (only !== undefined && only !== 'memory' && only !== 'redis') throw new TypeError('bench: limits takes memory or redis')
  if (only !== 'redis') await inMemory()
  if (only !== 'memory') await inRedis()
}
