import assert from 'node:assert/strict'
import { test } from 'node:test'
import { gatherCrowd, jostle } from '../support/crowd.ts'
import { testDatabase } from '../support/database.ts'
import { poolerAbsent } from '../support/pgbouncer.ts'

// The long form: test/soak/concurrency.ts.
const database = await testDatabase({ origins: ['redoubt'] })
const people = await gatherCrowd(database)

for (const pooled of [false, true]) {
  test(`200 clients over a pool of 10 ${pooled ? 'behind PgBouncer' : 'straight'}, with aborted calls and killed sessions: nobody sees another’s row`, { skip: pooled ? poolerAbsent : false }, async (context) => {
    const tally = await jostle(database, people, { seconds: 4, pooled })
    context.diagnostic(JSON.stringify(tally))
    assert.ok(tally.answered > 50 && tally.aborted > 10 && tally.killed > 5 && tally.busiest > 100, JSON.stringify(tally))
    const [entries] = await database.admin<{ done: number }>(`select count(*)::int as done from redoubt.audit_logs where outcome = 'done'`)
    assert.ok((entries?.done ?? 0) > 0)
  })
}
