import { createHmac } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { framed } from '../bytes.ts'
import type { Decision, Demand, Standing } from '../limits.ts'
import { defineScript, type Redis } from '../redis.ts'
import { counted } from './window.ts'

/*
 * The arithmetic of window.ts, for all keys of a request at once: look at all, then count all or none. One script is one
 * step for Redis, so that nobody passes between look and count. The time is the server's: instances need no common
 * clock. A key holds `slot:units` pairs, oldest first, and expires when its last tenth no longer counts.
 */
const take = defineScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local texts = redis.call('MGET', unpack(KEYS))
local gmatch = string.gmatch
local function waitFor(text, slot, width, over)
  local sum = 0
  for s, u in gmatch(text or '', '(%d+):(%d+)') do
    s, u = math.min(s + 0, slot), u + 0
    if s > slot - ${counted} then
      sum = sum + u
      if sum >= over then return math.max((s + ${counted}) * width - now, 1) end
    end
  end
  return ${counted} * width
end
local out, heads, lasts, allowed = {1}, {}, {}, true
for i = 1, #KEYS do
  local quota, width, cost = ARGV[3 * i - 2] + 0, ARGV[3 * i - 1] + 0, ARGV[3 * i] + 0
  local slot = math.floor(now / width)
  local head, total, oldest, last, units = '', 0, nil, nil, 0
  if texts[i] then
    for s, u in gmatch(texts[i], '(%d+):(%d+)') do
      s, u = s + 0, u + 0
      if s > slot then s = slot end
      if s > slot - ${counted} and u > 0 then
        total = total + u
        if last and last >= s then units = units + u
        else
          if last then head = head .. last .. ':' .. units .. ' ' else oldest = s end
          last, units = s, u
        end
      end
    end
  end
  if last and last < slot then head, units = head .. last .. ':' .. units .. ' ', 0 end
  local wait, over = 0, total + cost - quota
  if over > 0 then allowed, wait = false, waitFor(texts[i], slot, width, over) end
  heads[i], lasts[i] = head, units + cost
  out[4 * i - 2], out[4 * i], out[4 * i + 1] = total, wait, slot
  out[4 * i - 1] = oldest and math.max((oldest + ${counted}) * width - now, 1) or 0
end
if not allowed then out[1] = 0 return out end
for i = 1, #KEYS do
  local width, slot = ARGV[3 * i - 1] + 0, out[4 * i + 1]
  local rest = (slot + ${counted}) * width - now
  redis.call('SET', KEYS[i], heads[i] .. slot .. ':' .. lasts[i], 'PX', rest)
  out[4 * i - 2] = out[4 * i - 2] + ARGV[3 * i]
  if out[4 * i - 1] == 0 then out[4 * i - 1] = math.max(rest, 1) end
end
return out
`)

/** Takes units out of the tenth in which they were counted; what has expired stays so. */
const giveBack = defineScript(`
for i = 1, #KEYS do
  local text = redis.call('GET', KEYS[i])
  if text then
    local slot, cost = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
    local parts = {}
    for s, u in string.gmatch(text, '(%d+):(%d+)') do
      if s == slot then u = string.format('%d', math.max(tonumber(u) - cost, 0)) end
      parts[#parts + 1] = s .. ':' .. u
    end
    redis.call('SET', KEYS[i], table.concat(parts, ' '), 'KEEPTTL')
  end
end
return 1
`)

/** More than anybody can use: what a limit that only counts is asked with. */
const unbounded = '1000000000000'
/** Names remembered per generation: whoever comes often is hashed once. */
const remembered = 10_000

export type SharedCounters = {
  take(demands: readonly Demand[]): Promise<Decision>
  giveBack(demands: readonly Demand[], decision: Decision): Promise<void>
}

/**
 * Counters in Redis, for all instances. One script, one trip, for however many demands. Names are HMACs: whoever reads
 * Redis learns neither addresses nor accounts, and cannot find one by trying all addresses.
 * @param options.secret the same on all instances
 * @param options.prefix of all keys; two services on one Redis have two
 */
export function sharedCounters(options: { readonly redis: Redis; readonly secret: KeyObject; readonly prefix: string }): SharedCounters {
  const { redis, secret, prefix } = options
  if (!/^[a-z][a-z0-9-]{0,31}$/.test(prefix)) throw new TypeError('sharedCounters: prefix must be small letters, digits and dashes')
  let young = new Map<string, string>()
  let old = new Map<string, string>()

  function nameOf({ limit, key }: Demand): string {
    const clear = `${limit.name} ${key}`
    const known = young.get(clear) ?? old.get(clear)
    if (known !== undefined) return known
    const mac = createHmac('sha256', secret).update(framed(['redoubt limit', limit.name, key])).digest().subarray(0, 16)
    const name = `${prefix}:limit:${mac.toString('base64url')}`
    if (young.size >= remembered) {
      old = young
      young = new Map()
    }
    young.set(clear, name)
    return name
  }

  return {
    async take(demands) {
      const args: string[] = []
      for (const { limit, cost } of demands) args.push(limit.counts === true ? unbounded : String(limit.quota), String(limit.window / 10), String(cost))
      const reply = await redis.run(take, demands.map(nameOf), args)
      return decisionOf(reply, demands.length)
    },
    async giveBack(demands, decision) {
      if (!decision.allowed) return
      await redis.run(giveBack, demands.map(nameOf), demands.flatMap(({ cost }, at) => [String(decision.standings[at]?.slot ?? 0), String(cost)]))
    },
  }
}

function decisionOf(reply: unknown, count: number): Decision {
  if (!Array.isArray(reply) || reply.length !== 1 + 4 * count || !reply.every((part) => typeof part === 'number')) throw new TypeError('sharedCounters: the script gave another answer than it gives')
  const numbers: readonly number[] = reply
  const standings: Standing[] = []
  for (let at = 1; at < numbers.length; at += 4) {
    standings.push({ used: numbers[at] ?? 0, reset: numbers[at + 1] ?? 0, wait: numbers[at + 2] ?? 0, slot: numbers[at + 3] ?? 0 })
  }
  return { allowed: numbers[0] === 1, standings, by: 'redis' }
}
