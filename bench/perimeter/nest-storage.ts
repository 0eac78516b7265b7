import type { ThrottlerStorage } from '@nestjs/throttler'
import { createClient } from '@redis/client'

/** Counts a hit and looks for a block, as @nest-lab/throttler-storage-redis does in its one script. */
const script = `
local hits = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left <= 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
local blocked = redis.call('GET', KEYS[2])
if blocked == false and hits > tonumber(ARGV[2]) then
  redis.call('SET', KEYS[2], 1, 'PX', ARGV[3])
  blocked = '1'
end
local wait = 0
if blocked ~= false then wait = redis.call('PTTL', KEYS[2]) end
return { hits, math.ceil(left / 1000), blocked and 1 or 0, math.ceil(wait / 1000) }`

/**
 * Redis storage of Nest's throttler. The usual package for it, @nest-lab/throttler-storage-redis, does not take NestJS 12;
 * this makes the same one trip for each limit with the same client as the other servers of this bench.
 */
export async function throttlerStorage(url: string): Promise<ThrottlerStorage> {
  const client = createClient({ url, RESP: 2 })
  // The server of Redis ends before this process does.
  client.on('error', () => undefined)
  await client.connect()
  const sha = await client.scriptLoad(script)
  return {
    async increment(key, ttl, limit, blockDuration, throttlerName) {
      const keys = [`{${key}:${throttlerName}}:hits`, `{${key}:${throttlerName}}:blocked`]
      const [totalHits = 0, timeToExpire = 0, isBlocked = 0, timeToBlockExpire = 0] = (await client.evalSha(sha, { keys, arguments: [String(ttl), String(limit), String(blockDuration)] })) as number[]
      return { totalHits, timeToExpire, isBlocked: isBlocked === 1, timeToBlockExpire }
    },
  }
}
