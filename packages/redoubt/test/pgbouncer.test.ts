import assert from 'node:assert/strict'
import { test } from 'node:test'
import pg from 'pg'
import { testDatabase } from './support/database.ts'
import { poolerAbsent, startPooler } from './support/pgbouncer.ts'

const db = await testDatabase({ origins: [] })

async function open(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  return client
}

test('two clients of the pooler share one session, so transaction mode is what is tested', { skip: poolerAbsent }, async () => {
  const pooler = await startPooler({ urls: [db.url('app')], poolSize: 1 })
  assert.ok(pooler !== null)
  const [one, two] = [await open(pooler.url(db.url('app'))), await open(pooler.url(db.url('app')))]
  try {
    const backend = async (client: pg.Client): Promise<number> =>
      (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]?.pid ?? 0
    assert.equal(await backend(one), await backend(two))
    await one.query("set application_name = 'left by one'")
    const { rows } = await two.query<{ who: string; name: string }>("select session_user::text as who, current_setting('application_name') as name")
    assert.deepEqual(rows, [{ who: `${db.service}_app`, name: 'left by one' }])
  } finally {
    await one.end()
    await two.end()
    await pooler.stop()
  }
})

test('the pooler refuses a wrong password and a user that is not listed', { skip: poolerAbsent }, async () => {
  const pooler = await startPooler({ urls: [db.url('app')] })
  assert.ok(pooler !== null)
  try {
    const wrong = new URL(pooler.url(db.url('app')))
    wrong.password = 'a-wrong-password'
    await assert.rejects(open(wrong.href))
    await assert.rejects(open(pooler.url(db.url('worker'))))
  } finally {
    await pooler.stop()
  }
})
