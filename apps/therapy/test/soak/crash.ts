import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { anchorPath, type AnchorKey } from 'redoubt/audit/anchor'
import { loadPeople } from './crash/people.ts'
import { enter, seeded, startLoad, type Load } from './crash/clients.ts'
import { openLedger, type Ledger } from './crash/ledger.ts'
import { openSite, victims, type Site, type Victim } from './crash/site.ts'
import type { Soak } from '../../../../packages/redoubt/test/soak.ts'
import type { DemoAccount } from '../../src/demo.ts'

/** Some acknowledged writes of each round are sent once more. */
const repeatsARound = 20

type Tally = { readonly kills: Record<Victim, number>; readonly slowest: Record<Victim, number>; readonly problems: string[] }

/** Every victim in turn, in an order nobody knows before: a short run meets all of them too. */
function* victimsInTurn(random: () => number): Generator<Victim, never> {
  for (;;) {
    const left = [...victims]
    while (left.length > 0) yield* left.splice(Math.floor(random() * left.length), 1)
  }
}

/** Kills under load, starts again, and holds everything against what was acknowledged. */
async function round(site: Site, load: Load, ledger: Ledger, random: () => number, next: Iterator<Victim, never>, tally: Tally, most: number): Promise<void> {
  load.resume()
  for (let more = true, kills = 0; more && kills < most; kills += 1) {
    await pause(200 + random() * 1800)
    const victim = next.next().value
    await site.kill(victim)
    tally.kills[victim] += 1
    tally.slowest[victim] = Math.max(tally.slowest[victim], await site.restart(victim))
    // Now and then the next one dies before the load has recovered and before anybody looked.
    more = random() < 0.2
  }
  await pause(random() * 300)
  await load.pause()
  const acknowledged = load.take()
  tally.problems.push(...(await ledger.check(acknowledged)))
  const writes = acknowledged.filter(({ wish }) => wish.key !== undefined)
  for (let n = 0; n < Math.min(repeatsARound, writes.length); n += 1) {
    const before = writes[Math.floor(random() * writes.length)]
    if (before !== undefined) await load.repeat(before)
  }
}

/**
 * kill -9 of the service, its worker and PostgreSQL at random moments under load: it starts again, nothing is half
 * done, nothing acknowledged is lost or done twice, every acknowledged request has its entry, and the chain verifies.
 * REDOUBT_SOAK_SEED=<number> repeats the choices of an earlier run.
 */
export const soak: Soak = async ({ short, print }) => {
  const wanted = short ? 4 : 50
  const deadline = performance.now() + (short ? 240_000 : 2_700_000)
  const seed = Number(process.env['REDOUBT_SOAK_SEED'] ?? randomInt(1, 2 ** 31))
  if (!Number.isInteger(seed)) throw new TypeError('crash: REDOUBT_SOAK_SEED must be a whole number')
  print(`seed ${seed}`)
  const random = seeded(seed)
  const next = victimsInTurn(random)
  const tally: Tally = { kills: { server: 0, worker: 0, postgres: 0 }, slowest: { server: 0, worker: 0, postgres: 0 }, problems: [] }
  let accounts: readonly DemoAccount[] = []
  let key: AnchorKey | undefined
  const site = await openSite(async (made) => {
    const prepared = await loadPeople(made)
    accounts = prepared.accounts
    key = prepared.key
  })
  try {
    if (key === undefined) throw new Error('crash: nothing was prepared')
    const ledger = await openLedger(site, anchorPath(join(site.home, 'anchors'), 'therapy'), key)
    const load = startLoad(site.address, await enter(site.address, accounts), seeded(seed + 1))
    const total = (): number => Object.values(tally.kills).reduce((sum, count) => sum + count, 0)
    try {
      for (let checks = 1; total() < wanted; checks += 1) {
        if (performance.now() > deadline) throw new Error(`the time was over after ${total()} of ${wanted} kills`)
        await round(site, load, ledger, random, next, tally, wanted - total())
        if (total() >= wanted || checks % 5 === 0) print(`${total()} kills, ${load.figures.acknowledged} requests acknowledged, ${tally.problems.length + load.problems.length} problems`)
      }
    } finally {
      await load.stop()
    }
    // What the repetitions and the last loops were answered has to be true as well.
    tally.problems.push(...(await ledger.check(load.take())), ...load.problems)
    const { figures } = load
    print(`kills: ${victims.map((victim) => `${tally.kills[victim]} ${victim} (slowest to be ready ${(tally.slowest[victim] / 1000).toFixed(1)} s)`).join(', ')}`)
    print(`requests: ${figures.acknowledged} acknowledged, ${figures.lost} connections lost and sent again, ${figures.retried} refused for now and sent again, ${figures.refused} refused (slot taken), ${figures.repeated} repeated under their key`)
    print(`checked: ${ledger.figures.entries} entries of acknowledged requests, ${ledger.figures.rows} effects, chain of ${ledger.figures.sealed} entries verified after each start`)
    print(`problems: ${tally.problems.length}`)
    for (const problem of tally.problems.slice(0, 20)) print(`  ${problem}`)
    if (tally.problems.length > 0) throw new Error(`${tally.problems.length} problems with seed ${seed}`)
  } finally {
    await site.close()
  }
}
