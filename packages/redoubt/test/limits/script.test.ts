import assert from 'node:assert/strict'
import { createSecretKey, randomBytes } from 'node:crypto'
import { after, test } from 'node:test'
import { createClient } from '@redis/client'
import type { Decision, Demand } from '../../src/limits.ts'
import { memoryCounters } from '../../src/limits/memory.ts'
import { sharedCounters } from '../../src/limits/redis.ts'
import type { Redis, Script } from '../../src/redis.ts'
import { limitOf } from '../contracts/counters.ts'
import { redisAbsent, startRedis } from '../support/redis.ts'

/** The scripts, told the time by the test instead of by the server. */
function timed(script: Script): string {
  const [, asked, seconds, ...rest] = script.text.split('\n')
  if (!asked?.includes("'TIME'") || !seconds?.startsWith('local now =')) return script.text
  return ['local now = table.remove(ARGV) + 0', ...rest].join('\n')
}

test('Redis decides as memory does: one key and several, steps, leaps, many at once, units given back', { skip: redisAbsent }, async () => {
  const server = await startRedis()
  const driver = createClient({ url: server.url, RESP: 2 })
  await driver.connect()
  after(async () => {
    driver.destroy()
    await server.remove()
  })

  let seed = 7
  const upTo = (most: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
    return Math.floor((seed / 2_147_483_648) * most)
  }
  // So long ago that no key expires while the test runs.
  const width = 60_000
  let now = 1_000 * width
  const evaluate = async (script: Script, keys: readonly string[], args: readonly string[]): Promise<unknown> => {
    const text = timed(script)
    return driver.sendCommand(['EVAL', text, String(keys.length), ...keys, ...args, ...(text === script.text ? [] : [String(now)])])
  }
  const redis: Redis = {
    state: 'up', tried: Promise.resolve(), check: () => Promise.resolve(), close: () => undefined,
    run: evaluate,
    async runLate(script, words) {
      await Promise.resolve()
      const { keys, args } = words()
      return evaluate(script, keys, args)
    },
  }
  const shared = sharedCounters({ redis, secret: createSecretKey(randomBytes(32)), prefix: 'sample' })
  const memory = memoryCounters({ clock: () => now, keys: 100, quotaOf: ({ quota }) => quota })
  const [caller, address, counting] = [limitOf(12, { window: 10 * width }), limitOf(20, { name: 'address', window: 20 * width }), limitOf(3, { name: 'counting', window: 10 * width, counts: true })]
  const demandsOf = (): readonly Demand[] => {
    const one = { limit: caller, key: `caller ${upTo(3)}`, cost: 1 + upTo(3) }
    const two = { limit: address, key: `address ${upTo(2)}`, cost: 1 }
    return [[one], [one, two], [two, one, { limit: counting, key: 'all', cost: 1 }]][upTo(3)] ?? [one]
  }
  const plain = ({ allowed, standings }: Decision): unknown => ({ allowed, standings })

  const taken: (readonly [readonly Demand[], Decision, Decision])[] = []
  for (let step = 0; step < 3_000; step++) {
    const leap = upTo(100)
    now += leap < 4 ? upTo(30 * width) : leap < 50 ? upTo(width) : 0
    const givenBack = upTo(10) === 0 ? taken.splice(upTo(taken.length), 1)[0] : undefined
    if (givenBack !== undefined) {
      const [demands, here, there] = givenBack
      memory.giveBack(demands, here)
      await shared.giveBack(demands, there)
    }
    const asked = Array.from({ length: 1 + upTo(4) }, demandsOf)
    const there = await Promise.all(asked.map((demands) => shared.take(demands)))
    for (const [at, demands] of asked.entries()) {
      const here = memory.take(demands)
      const answered = there[at]
      assert.ok(answered !== undefined)
      assert.deepEqual(plain(answered), plain(here), `step ${step}, ${at + 1} of ${asked.length}`)
      if (here.allowed) taken.push([demands, here, answered])
    }
  }
})
