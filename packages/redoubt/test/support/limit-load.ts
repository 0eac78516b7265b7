import { createSecretKey } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { openLimits } from '../../src/limits.ts'
import { openRedis } from '../../src/redis.ts'
import { limitOf } from '../contracts/counters.ts'
import { watchPauses } from './pauses.ts'

/** One instance under load, twenty asking at a time; tells what became of it. */
type Settings = { readonly url: string; readonly secret: string; readonly key: string; readonly quota: number; readonly away: number; readonly timeout: number; readonly tries?: number; readonly seconds?: number }
const { url, secret, key, quota, away, timeout, tries = Infinity, seconds } = JSON.parse(process.argv[2] ?? '{}') as Settings
const redis = openRedis({ url, name: 'sample', timeout, connectTimeout: Math.max(timeout, 1_000), emit: () => undefined })
await redis.tried
const limits = openLimits({ shared: { redis, secret: createSecretKey(Buffer.from(secret, 'hex')), prefix: 'sample' } })
const limit = limitOf(quota, { away, window: 3_600_000 })
const told = { decisions: 0, allowed: 0, failed: 0, waited: 0, longest: 0, paused: 0, atWork: 0, longestWait: 0, usualPause: 0, longestPause: 0 }
const pauses = watchPauses()
process.send?.('working')
const until = seconds === undefined ? Infinity : performance.now() + seconds * 1000
let left = tries

await Promise.all(Array.from({ length: 20 }, async () => {
  while (left-- > 0 && performance.now() < until) {
    const started = performance.now()
    try {
      const decision = await limits.take([{ limit, key, cost: 1 }])
      const ended = performance.now()
      const took = ended - started
      told.decisions++
      if (decision.allowed) told.allowed++
      if (decision.by === 'memory' && took >= timeout * 0.9) told.waited++
      if (took > told.longestWait) {
        const { paused, atWork } = pauses.within(started, ended)
        told.longestWait = Math.max(told.longestWait, took - paused)
        if (took > told.longest) Object.assign(told, { longest: took, paused, atWork })
      }
    } catch {
      told.failed++
    }
    // Requests come over time; without this one instance would ask in a circle as fast as it can.
    if (seconds !== undefined) await pause(2)
  }
}))
redis.close()
;({ usual: told.usualPause, longest: told.longestPause } = pauses.stop())
process.send?.(told, () => process.disconnect())
