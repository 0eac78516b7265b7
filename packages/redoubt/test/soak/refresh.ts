import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import type { Soak } from '../soak.ts'
import { testDatabase } from '../support/database.ts'
import { newShared, openIdentity } from '../support/identity.ts'
import { startServers } from '../support/refresh-processes.ts'

/**
 * Sessions that live on four server processes: each generation is refreshed fifty times at once, and some are stolen from.
 * No healthy session is lost, and every true replay ends its session.
 */
export const soak: Soak = async ({ short, print }) => {
  const [sessions, generations] = short ? [8, 5] : [60, 60]
  const database = await testDatabase({ origins: ['redoubt'] })
  const shared = newShared()
  const here = await openIdentity(database, shared)
  const servers = await startServers(database, shared, 4)
  const attempt = (): string => randomBytes(16).toString('base64url')
  let [refreshed, stolen] = [0, 0]
  try {
    for (let each = 0; each < sessions; each++) {
      const { indexes } = await here.account()
      let { refresh: token } = await here.signIn(indexes)
      const used: string[] = []
      for (let generation = 0; generation < generations; generation++) {
        const same = attempt()
        const answers = (await Promise.all([0, 1, 2, 3].map((server) => servers.refresh(server, { token, times: server < 2 ? 13 : 12, attempt: same })))).flat()
        assert.equal(new Set(answers).size, 1, 'one successor')
        assert.ok(typeof answers[0] === 'string', 'a healthy session was lost')
        refreshed += answers.length
        used.push(token)
        token = answers[0]
      }
      if (each % 2 === 1) continue
      // A thief brings any token of the past to any process; the owner's newest is worth nothing then.
      const old = used[each % used.length] ?? ''
      assert.deepEqual(await servers.refresh(each, { token: old, times: 1, attempt: attempt() }), [null], 'a replay was answered')
      assert.deepEqual(await servers.refresh(each + 1, { token, times: 1 }), [null], 'a session outlived its theft')
      stolen++
    }
    const [row] = await database.admin<{ standing: number; reused: number }>(
      `select count(*) filter (where revoked_at is null)::int as standing, count(*) filter (where revoke_reason = 'reuse')::int as reused from redoubt.sessions`)
    assert.deepEqual(row, { standing: sessions - stolen, reused: stolen })
    print(`${refreshed} refreshes by four processes, ${sessions - stolen} healthy sessions all stand, ${stolen} replays all caught`)
  } finally {
    await servers.stop()
    await here.close()
    await database.drop()
  }
}
