import { createSecretKey } from 'node:crypto'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import { openLimits } from '../../src/limits.ts'
import { openRedis } from '../../src/redis.ts'
import { limitOf } from '../contracts/counters.ts'

/** One instance under load, twenty asking at a time; tells what became of it. */
type Settings = { readonly url: string; readonly secret: string; readonly key: string; readonly quota: number; readonly away: number; readonly timeout: number; readonly tries?: number; readonly seconds?: number }
const { url, secret, key, quota, away, timeout, tries = Infinity, seconds } = JSON.parse(process.argv[2] ?? '{}') as Settings
const redis = openRedis({ url, name: 'sample', timeout, connectTimeout: Math.max(timeout, 1_000), emit: () => undefined })
await redis.tried
const limits = openLimits({ shared: { redis, secret: createSecretKey(Buffer.from(secret, 'hex')), prefix: 'sample' } })
const limit = limitOf(quota, { away, window: 3_600_000 })
const told = { decisions: 0, allowed: 0, failed: 0, waited: 0, longest: 0, lag: 0 }
const delay = monitorEventLoopDelay({ resolution: 5 })
delay.enable()
process.send?.('working')
const until = seconds === undefined ? Infinity : performance.now() + seconds * 1000
let left = tries

await Promise.all(Array.from({ length: 20 }, async () => {
  while (left-- > 0 && performance.now() < until) {
    const started = performance.now()
    try {
      const decision = await limits.take([{ limit, key, cost: 1 }])
      const took = performance.now() - started
      told.decisions++
      if (decision.allowed) told.allowed++
      if (decision.by === 'memory' && took >= timeout * 0.9) {
        told.waited++
        told.longest = Math.max(told.longest, took)
      }
    } catch {
      told.failed++
    }
    // Requests come over time; without this one instance would ask in a circle as fast as it can.
    if (seconds !== undefined) await pause(2)
  }
}))
redis.close()
told.lag = delay.max / 1e6
process.send?.(told, () => process.disconnect())
