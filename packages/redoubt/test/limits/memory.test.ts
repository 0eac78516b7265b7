import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryCounters } from '../../src/limits/memory.ts'
import { counted } from '../../src/limits/window.ts'
import type { Decision, Demand } from '../../src/limits.ts'
import { countersContract, limitOf, someone } from '../contracts/counters.ts'

const open = (keys = 1_000, clock: () => number = () => performance.now()) => memoryCounters({ clock, keys, quotaOf: ({ quota }) => quota })
const common = open()

countersContract('memory', async () => common)

test('no span of a window ever holds more than the quota, and a unit is back after 1.1 windows', () => {
  let now = 0
  const counters = open(10, () => now)
  const limit = limitOf(5, { window: 10_000 })
  const taken: number[] = []
  // Somebody who tries every 50 ms for ten windows, and gets as much as can be had.
  for (now = 3; now < 100_000; now += 50) if (counters.take([{ limit, key: 'a', cost: 1 }]).allowed) taken.push(now)
  for (const [at, from] of taken.entries()) {
    assert.ok(taken.slice(at).filter((time) => time < from + 10_000).length <= 5, `from ${from}`)
    const sixth = taken[at + 5]
    if (sixth !== undefined) assert.ok(sixth - from <= 11_050, `${from} to ${sixth}`)
  }
  assert.ok(taken.length >= 40)
})

test('the wait that is told is enough, and not a tenth of a window too long', () => {
  let now = 12_345
  const counters = open(10, () => now)
  const demands = [{ limit: limitOf(4, { window: 10_000 }), key: 'a', cost: 2 }]
  counters.take(demands)
  now += 4_000
  counters.take(demands)
  const wait = counters.take(demands).standings[0]?.wait ?? 0
  now += wait - 1
  assert.equal(counters.take(demands).allowed, false)
  now += 1
  assert.equal(counters.take(demands).allowed, true)
})

test('attack: a clock that jumps back does not close a key for longer, one that jumps ahead opens it once', () => {
  let now = 3_600_000
  const counters = open(10, () => now)
  const demands = [{ limit: limitOf(3, { window: 60_000 }), key: 'a', cost: 1 }]
  for (let i = 0; i < 3; i++) counters.take(demands)
  now = 0
  const { allowed, standings } = counters.take(demands)
  assert.equal(allowed, false, 'what was used still counts')
  assert.ok((standings[0]?.wait ?? 0) <= 66_000, 'and for one window from now, not for an hour')
  now = 66_001
  assert.equal(counters.take(demands).allowed, true)
  now = 10_000_000
  assert.deepEqual([1, 2, 3, 4].map(() => counters.take(demands).allowed), [true, true, true, false])
})

test('attack: a flood of fresh keys neither grows the memory nor makes the table forget who has used up a quota', () => {
  let now = 0
  const counters = open(1_000, () => now)
  const limit = limitOf(5)
  const exhausted = { limit, key: 'attacker', cost: 1 }
  for (let i = 0; i < 5; i++) counters.take([exhausted])
  for (let i = 0; i < 200_000; i++) {
    now += 0.1
    counters.take([{ limit, key: `fresh ${i}`, cost: 1 }])
  }
  assert.equal(counters.size(limit), 1_000)
  assert.equal(counters.take([exhausted]).allowed, false)
})

test('attack: to be forgotten with k units used, k must be used under every other name first', () => {
  const counters = open(100, () => 0)
  const limit = limitOf(5)
  const four = { limit, key: 'attacker', cost: 4 }
  counters.take([four])
  // Three units each under as many names as the table holds: still less than what should be forgotten.
  for (let i = 0; i < 1_000; i++) counters.take([{ limit, key: `name ${i}`, cost: 3 }])
  assert.equal(counters.take([four]).standings[0]?.used, 4)
})

test('what has expired is forgotten, a little with each new key', () => {
  let now = 0
  const counters = open(10_000, () => now)
  const limit = limitOf(5, { window: 1_000 })
  for (let i = 0; i < 1_000; i++) counters.take([{ limit, key: someone(), cost: 1 }])
  now = 5_000
  for (let i = 0; i < 600; i++) counters.take([{ limit, key: someone(), cost: 1 }])
  assert.ok(counters.size(limit) <= 700, String(counters.size(limit)))
})

test('a window kept in a few numbers decides as one that remembers every unit: steps, leaps, a clock that goes back, units given back', () => {
  let seed = 42
  const upTo = (most: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
    return Math.floor((seed / 2_147_483_648) * most)
  }
  let now = 1_000_000
  const [quota, width] = [20, 100]
  const counters = open(10, () => now)
  const limit = limitOf(quota, { window: 10 * width })
  let units: { slot: number }[] = []
  const taken: { readonly demands: readonly Demand[]; readonly decision: Decision }[] = []
  for (let step = 0; step < 50_000; step++) {
    const leap = upTo(100)
    now += leap < 2 ? -upTo(30 * width) : leap < 6 ? upTo(30 * width) : leap < 50 ? upTo(width) : 0
    const slot = Math.floor(now / width)
    const givenBack = upTo(20) === 0 ? taken.splice(upTo(taken.length), 1)[0] : undefined
    if (givenBack !== undefined) {
      counters.giveBack(givenBack.demands, givenBack.decision)
      for (let left = givenBack.demands[0]?.cost ?? 0; left > 0; left--) {
        const at = units.findIndex((unit) => unit.slot === givenBack.decision.standings[0]?.slot)
        if (at >= 0) units.splice(at, 1)
      }
      continue
    }
    units = units.filter((unit) => unit.slot > slot - counted)
    for (const unit of units) unit.slot = Math.min(unit.slot, slot)
    const demands = [{ limit, key: 'a', cost: 1 + upTo(4) }]
    const cost = demands[0]?.cost ?? 0
    const decision = counters.take(demands)
    assert.equal(decision.allowed, units.length + cost <= quota, `step ${step}`)
    if (decision.allowed) {
      for (let i = 0; i < cost; i++) units.push({ slot })
      taken.push({ demands, decision })
    } else {
      const over = units.map((unit) => unit.slot).sort((a, b) => a - b)[units.length + cost - quota - 1] ?? 0
      assert.equal(decision.standings[0]?.wait, (over + counted) * width - now, `step ${step}`)
    }
    assert.equal(decision.standings[0]?.used, units.length, `step ${step}`)
  }
})
