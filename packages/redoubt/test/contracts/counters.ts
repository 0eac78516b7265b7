import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { defineLimit, type Counters, type Decision, type Demand, type Limit } from '../../src/limits.ts'

/** A limit whose window outlasts a slow machine. */
export const limitOf = (quota: number, more: Partial<Limit> = {}): Limit => defineLimit({ name: 'sample', quota, window: 600_000, away: quota, ...more })
export const someone = (): string => randomBytes(9).toString('base64url')

/**
 * What all counters do, wherever they count.
 * @param open counters that are empty, and all of which share one state when `open` is called again
 */
export function countersContract(name: string, open: () => Promise<Counters>, options: { readonly skip: string | false } = { skip: false }): void {
  const check = (title: string, work: (counters: Counters) => Promise<void>): void => {
    test(`${name}: ${title}`, options, async () => work(await open()))
  }

  check('exactly the quota is allowed, and the refusal says how long to wait', async (counters) => {
    const demand = { limit: limitOf(5), key: someone(), cost: 1 }
    for (let used = 1; used <= 5; used++) {
      const { allowed, standings } = await counters.take([demand])
      assert.deepEqual([allowed, standings[0]?.used, standings[0]?.wait], [true, used, 0])
    }
    const { allowed, standings: [standing] } = await counters.take([demand])
    assert.equal(allowed, false)
    assert.equal(standing?.used, 5)
    assert.ok(standing.wait > 540_000 && standing.wait <= 660_000, String(standing.wait))
    assert.ok(standing.reset > 540_000 && standing.reset <= 660_000)
  })

  check('50 at once get exactly the quota', async (counters) => {
    const demand = { limit: limitOf(7), key: someone(), cost: 1 }
    const decisions = await Promise.all(Array.from({ length: 50 }, async () => counters.take([demand])))
    assert.equal(decisions.filter(({ allowed }) => allowed).length, 7)
  })

  check('several demands are counted together or not at all', async (counters) => {
    const [mine, ours] = [{ limit: limitOf(2), key: someone(), cost: 1 }, { limit: limitOf(9, { name: 'other' }), key: someone(), cost: 1 }]
    for (let i = 0; i < 5; i++) await counters.take([mine, ours])
    const { standings } = await counters.take([ours])
    assert.equal(standings[0]?.used, 3, 'two that passed and this one: what was refused cost nothing')
  })

  check('a request costs its weight, and what does not fit costs nothing', async (counters) => {
    const [limit, key] = [limitOf(10), someone()]
    const ask = async (cost: number): Promise<boolean> => (await counters.take([{ limit, key, cost }])).allowed
    assert.deepEqual([await ask(6), await ask(5), await ask(4), await ask(1)], [true, false, true, false])
  })

  check('keys and limits do not touch each other', async (counters) => {
    const [limit, other, key] = [limitOf(1), limitOf(1, { name: 'other' }), someone()]
    const ask = async (demand: Demand): Promise<boolean> => (await counters.take([demand])).allowed
    assert.equal(await ask({ limit, key, cost: 1 }), true)
    assert.equal(await ask({ limit, key, cost: 1 }), false)
    assert.equal(await ask({ limit, key: someone(), cost: 1 }), true)
    assert.equal(await ask({ limit: other, key, cost: 1 }), true)
  })

  check('what is given back can be taken again, once, and only if it was taken', async (counters) => {
    const demands = [{ limit: limitOf(2), key: someone(), cost: 1 }]
    const decisions: Decision[] = []
    for (let i = 0; i < 3; i++) decisions.push(await counters.take(demands))
    const [first, , refused] = decisions
    assert.ok(first !== undefined && refused !== undefined)
    await counters.giveBack(demands, refused)
    assert.equal((await counters.take(demands)).allowed, false)
    await counters.giveBack(demands, first)
    assert.equal((await counters.take(demands)).allowed, true)
    assert.equal((await counters.take(demands)).allowed, false)
  })

  check('a limit that only counts never refuses', async (counters) => {
    const demand = { limit: limitOf(2, { counts: true }), key: someone(), cost: 1 }
    for (let used = 1; used <= 9; used++) {
      const { allowed, standings } = await counters.take([demand])
      assert.deepEqual([allowed, standings[0]?.used], [true, used])
    }
  })

  check('units come back after a window', async (counters) => {
    const demand = { limit: limitOf(2, { window: 1_000 }), key: someone(), cost: 1 }
    const started = performance.now()
    await counters.take([demand])
    await counters.take([demand])
    let allowed = false
    while (!allowed) {
      const decision = await counters.take([demand])
      allowed = decision.allowed
      if (!allowed) await new Promise((resolve) => setTimeout(resolve, Math.min(decision.standings[0]?.wait ?? 0, 50)))
    }
    assert.ok(performance.now() - started >= 990, 'not before the window is over')
  })
}
