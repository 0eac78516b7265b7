import type { Soak } from '../soak.ts'
import { gatherCrowd, jostle } from '../support/crowd.ts'
import { testDatabase } from '../support/database.ts'
import { poolerAbsent, poolerVersion } from '../support/pgbouncer.ts'

/** 200 clients over a pool of 10, mixed callers, aborted calls, killed sessions: two minutes straight, two behind PgBouncer. */
export const soak: Soak = async ({ short, print }) => {
  const database = await testDatabase({ origins: ['redoubt'] })
  try {
    const people = await gatherCrowd(database)
    for (const pooled of [false, true]) {
      if (pooled && poolerAbsent !== false) {
        print(`behind PgBouncer: skipped, ${poolerAbsent}`)
        continue
      }
      const seconds = short ? 5 : 120
      const tally = await jostle(database, people, { seconds, pooled })
      print(`${pooled ? `behind PgBouncer ${poolerVersion()}` : 'straight'}: ${seconds} s, ${tally.answered} calls answered, ${tally.aborted} aborted, ${tally.cut} cut with ${tally.killed} sessions killed, up to ${tally.busiest} waiting; no row of another`)
    }
  } finally {
    await database.drop()
  }
}
