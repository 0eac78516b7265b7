import { createSecretKey } from 'node:crypto'
import { openLimits } from '../../src/limits.ts'
import { openRedis } from '../../src/redis.ts'
import { limitOf } from '../contracts/counters.ts'

/** One instance of many: asks as often as it was told, 20 at a time, and tells how often it was allowed. */
const { url, secret, key, quota, tries } = JSON.parse(process.argv[2] ?? '{}') as { readonly url: string; readonly secret: string; readonly key: string; readonly quota: number; readonly tries: number }
const emit = (): void => undefined
const redis = openRedis({ url, name: 'sample', timeout: 10_000, connectTimeout: 10_000, emit })
await redis.tried
const limits = openLimits({ shared: { redis, secret: createSecretKey(Buffer.from(secret, 'hex')), prefix: 'sample' } })
const limit = limitOf(quota)
let left = tries
let allowed = 0
await Promise.all(Array.from({ length: 20 }, async () => {
  while (left-- > 0) if ((await limits.take([{ limit, key, cost: 1 }])).allowed) allowed++
}))
redis.close()
process.send?.(allowed, () => process.disconnect())
