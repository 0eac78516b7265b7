import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { Pool } from '../src/pg.ts'
import { runJobs } from '../src/reencrypt.ts'
import { until } from './support/audit.ts'
import { ownServer } from './support/own-server.ts'
import { customers, openShop } from './support/reencrypt.ts'
import { startReplica } from './support/replica.ts'

const server = await ownServer()
const { database } = server
const shop = await openShop(database)
after(async () => {
  await shop.close()
  await server.remove()
})
const rows = customers(2500, 100, 'replica')
await shop.insert(rows)

test('a job waits while a streaming replica lags, and goes on when it has caught up', async () => {
  const replica = await startReplica(database)
  try {
    await until('the replica streams', async () => (await database.admin(`select from pg_stat_replication where state = 'streaming'`)).length === 1)
    await assert.rejects(runJobs(shop.settings({ throttle: { lagSeconds: 1 } }), 'verify'), { code: 'forbidden', detail: /grant pg_monitor/ })
    await database.admin(`grant pg_monitor to "${database.service}_migrator"`)

    await replica.admin('select pg_wal_replay_pause()')
    await shop.rotateDataKeys()
    await until('the primary sees the lag', async () => {
      await database.admin('select pg_log_standby_snapshot()')
      return (await database.admin(`select from pg_stat_replication where replay_lag > interval '1 second'`)).length === 1
    })

    let [asked, moved] = [0, 0]
    const watched: Pool = {
      ...shop.pool,
      async connect() {
        const connection = await shop.pool.connect()
        return {
          ...connection,
          send(statements) {
            if (statements.some(({ name }) => name === 'redoubt_reencrypt_lag')) asked++
            return connection.send(statements)
          },
        }
      },
    }
    const job = runJobs(shop.settings({ pool: watched, throttle: { lagSeconds: 1 }, moved: (_, count) => void (moved += count) }), 'reencrypt')
    await until('the job has asked again and again', () => asked >= 3)
    const before = moved
    assert.ok(before > 0 && before < rows.length, `${before} rows before the replica has caught up`)
    await until('the job has asked once more', () => asked >= 4)
    assert.equal(moved, before)
    assert.deepEqual(await database.admin(`select state from redoubt.crypto_jobs where kind = 'reencrypt'`), [{ state: 'running' }])

    await replica.admin('select pg_wal_replay_resume()')
    const [result] = await job
    assert.deepEqual([result?.proven, result?.counts.changed, result?.counts.failed], [true, rows.length, 0])
    const [{ lsn } = { lsn: '' }] = await database.admin<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn')
    await until('the replica has everything', async () => (await replica.admin(`select pg_last_wal_replay_lsn() >= '${lsn}' as there`))[0]?.['there'] === true)
  } finally {
    await replica.remove()
  }
})
