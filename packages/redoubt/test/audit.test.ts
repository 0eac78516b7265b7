import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { expireEntries } from '../src/audit.ts'
import { personalHolds } from '../src/audit/entry.ts'
import { startSweep } from '../src/idempotency.ts'
import { auditWorld, until } from './support/audit.ts'
import { testDatabase } from './support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await auditWorld(database, { writers: 16 })
after(() => world.close())

test('entries, their subjects and an untouched record verify', async () => {
  await world.write(30, { subjects: [randomUUID(), randomUUID()] })
  await world.write(5)
  await world.seal()
  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  assert.equal(result.entries, 35)
  assert.equal(result.head, 35n)
  assert.equal(result.anchored, 35n)
  assert.equal(result.unsealed, 0)
})

test('a long write transaction delays sealing, is alarmed, and loses no entry', async () => {
  // Sealed while the slow one runs: the line must then stay below the slow one.
  const [early = ''] = await world.write(1)
  const slow = world.entry()
  const connection = await world.app.connect()
  assert.equal((await connection.send([{ text: 'begin', values: [] }, ...slow.statements])).failure, undefined)
  const later = await world.write(5)
  world.events.length = 0
  const sequencer = world.sequencer({ lagSeconds: 1 })
  try {
    await until('the lag is told', () => world.events.some(({ type }) => type === 'audit.lagging'))
    const sealed = await database.admin<{ entry_id: string }>('select entry_id from redoubt.audit_chain where entry_id = any($1)', [[early, slow.id, ...later]])
    assert.deepEqual(sealed.map((row) => row.entry_id), [early], 'nothing behind a running transaction may be sealed')
    assert.deepEqual((await world.verify()).problems, [])
    assert.equal((await connection.send([{ text: 'commit', values: [] }])).failure, undefined)
    await until('all six are sealed', async () => (await database.admin('select from redoubt.audit_chain where entry_id = any($1)', [[slow.id, ...later]])).length === 6)
  } finally {
    connection.release()
    await sequencer.stop()
  }
  const order = await database.admin<{ entry_id: string }>('select entry_id from redoubt.audit_chain where entry_id = any($1) order by seq', [[slow.id, ...later]])
  assert.equal(order[0]?.entry_id, slow.id, 'the slow one has the lowest transaction id')
  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  assert.equal(result.unsealed, 0)
})

test('16 writers, two sequencers and a verifier at once: no false alarm, nothing lost', async () => {
  let writing = true
  world.events.length = 0
  const sequencers = [world.sequencer({ batch: 50 }), world.sequencer({ batch: 50 })]
  const writers = Array.from({ length: 16 }, async () => {
    let count = 0
    for (; writing; count += 1) await world.write(1, { subjects: [randomUUID()] })
    return count
  })
  let verifications = 0
  for (const end = performance.now() + 4000; performance.now() < end; verifications += 1) {
    const result = await world.verify()
    assert.deepEqual(result.problems, [])
  }
  writing = false
  const written = (await Promise.all(writers)).reduce((sum, count) => sum + count, 0)
  await Promise.all(sequencers.map((sequencer) => sequencer.stop()))
  await world.seal()
  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  assert.ok(verifications > 1 && written > 100, `${verifications} verifications, ${written} entries`)
  assert.equal(result.entries, written + 42)
  assert.deepEqual(world.events.filter(({ type }) => type === 'audit.failed'), [])
})

test('a transaction that rolled back leaves a hole in nothing', async () => {
  const { statements } = world.entry()
  const connection = await world.app.connect()
  await connection.send([{ text: 'begin', values: [] }, ...statements, { text: 'rollback', values: [] }])
  connection.release()
  await world.write(2)
  await world.seal()
  assert.deepEqual((await world.verify()).problems, [])
})

test('erasure: personal data that can no longer be opened leaves the chain whole', async () => {
  const [id = ''] = await world.write(1)
  await world.seal()
  const [row] = await database.admin<{ personal_enc: Buffer; personal_commitment: Buffer }>('select personal_enc, personal_commitment from redoubt.audit_logs where id = $1', [id])
  assert.ok(row !== undefined && personalHolds(row.personal_enc.toString(), row.personal_commitment))
  await world.tamper('update redoubt.audit_logs set personal_enc = null where id = $1', [id])
  assert.deepEqual((await world.verify()).problems, [])
})

test('retention: what is over goes, with its subjects, and the record still verifies', async () => {
  const subject = randomUUID()
  const over = await world.write(4, { days: 0, subjects: [subject] })
  const stays = await world.write(3, { subjects: [subject] })
  const unsealed = await world.expire(new Date(Date.now() + 3_600_000))
  assert.deepEqual(unsealed, { removed: 0, entry: null }, 'an entry that is not in the chain is not removed')
  await world.seal()
  const { removed, entry } = await world.expire(new Date(Date.now() + 3_600_000))
  assert.equal(removed, 4)
  const pending = await world.verify()
  assert.deepEqual(pending.problems, [])
  assert.equal(pending.pendingRemovals, 4)
  await world.seal()
  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  assert.deepEqual([result.removed, result.pendingRemovals], [4, 0])
  assert.deepEqual(await database.admin('select from redoubt.audit_logs where id = any($1)', [over]), [])
  assert.equal((await database.admin('select from redoubt.audit_subjects where subject_id = $1', [subject])).length, stays.length)
  const [run] = await database.admin<{ action: string; metadata: { removed: number } }>('select action, metadata from redoubt.audit_logs where id = $1', [entry])
  assert.deepEqual([run?.action, run?.metadata.removed], ['retention.run', 4])
})

test('retention by itself: the sweep of a worker removes by the day what is over, while others write, and the record verifies', async () => {
  const day = (): string => new Date().toISOString().slice(0, 10)
  const before = await world.verify()
  const today = day()
  const over = await world.write(5)
  await world.tamper(`update redoubt.audit_logs set retain_until = date_trunc('day', now(), 'UTC') - interval '1 second' where id = any($1)`, [over])
  const ended = await world.write(1, { days: 0 })
  const stays = await world.write(2)
  await world.seal()

  let looks = 0
  const sequencer = world.sequencer()
  const sweeps = [1, 2].map(() => startSweep({
    emit: (event) => world.events.push(event), intervalMs: 10, batch: 2, more: [expireEntries],
    pool: { query: (statement) => { if (statement.name === expireEntries.name) looks += 1; return world.worker.query(statement) } },
  }))
  const left = async (): Promise<readonly string[]> => (await database.admin<{ id: string }>('select id from redoubt.audit_logs where id = any($1)', [[...over, ...ended, ...stays]])).map(({ id }) => id)
  await until('what was over has gone', async () => !(await left()).some((id) => over.includes(id)))
  const later = looks
  const more = await world.write(3)
  await until('they have looked some more times', () => looks > later + 6)
  await Promise.all(sweeps.map((sweep) => sweep.stop()))
  await sequencer.stop()
  await world.seal()

  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  // At midnight itself there is another day to remove.
  if (day() !== today) return
  assert.deepEqual((await left()).toSorted(), [...ended, ...stays].toSorted(), 'what ended today goes tomorrow')
  const runs = await database.admin<{ removed: number }>(
    `select (metadata ->> 'removed')::int as removed from redoubt.audit_logs where action = 'retention.run' order by occurred_at desc limit 3`)
  assert.deepEqual(runs.map(({ removed }) => removed).toSorted((a, b) => a - b), [1, 2, 2], 'two at a time, and no entry of a look that found nothing')
  assert.deepEqual([result.removed - before.removed, result.pendingRemovals], [5, 0])
  assert.equal(result.entries - before.entries, ended.length + stays.length + more.length + runs.length)
  assert.deepEqual(world.events.filter(({ type }) => type === 'idempotency.sweep_failed'), [])
})

test('nobody but the functions changes the record: owner, app and worker are refused', async () => {
  const refused = async (sql: string): Promise<string> => {
    try {
      await database.admin(sql)
    } catch (error) {
      return String((error as { code?: string }).code)
    } finally {
      await database.admin('reset role')
    }
    return 'done'
  }
  for (const table of ['audit_logs', 'audit_subjects', 'audit_chain', 'audit_anchors', 'audit_tombstones', 'audit_head']) {
    for (const role of ['owner', 'app', 'worker', 'auditor', 'guard']) {
      for (const change of [`update redoubt.${table} set ${table === 'audit_subjects' ? 'entry_id = entry_id' : table === 'audit_logs' ? 'action = action' : 'seq = seq'}`, `delete from redoubt.${table}`, `truncate redoubt.${table}`]) {
        // The guard's functions may move the head, and delete behind a tombstone only.
        if (role === 'guard' && (table === 'audit_head' ? change.startsWith('update') : table === 'audit_logs' && change.startsWith('delete'))) continue
        const code = await refused(`set role ${database.service}_${role}; ${change}`)
        assert.ok(code === '42501' || code === 'RD403', `${role}: ${change} gave ${code}`)
      }
    }
  }
  // Even a superuser meets the triggers, until it turns them off.
  assert.equal(await refused('update redoubt.audit_logs set action = action'), 'RD403')
  assert.equal(await refused('delete from redoubt.audit_chain'), 'RD403')
  for (const call of ['seal_audit(10)', `expire_audit(now(), 10)`, `resume_audit('x y z', null, null)`, `claim_audit(gen_random_uuid(), 5)`]) {
    for (const role of ['app', 'keys', 'ingest', 'auditor']) {
      assert.equal(await refused(`set role ${database.service}_${role}; select * from guard.${call}`), '42501', `${role}: ${call}`)
    }
  }
})

test('the guard cannot delete an entry without its tombstone, or before its time', async () => {
  const [id = ''] = await world.write(1, { days: 0 })
  await assert.rejects(
    database.admin(`set role ${database.service}_guard; delete from redoubt.audit_logs where id = '${id}'`),
    (error: { code?: string }) => error.code === 'RD403',
  )
  await database.admin('reset role')
})

test('the commitment covers every column of an entry but the sealed one', async () => {
  const rows = await database.admin<{ column_name: string }>(
    `select column_name from information_schema.columns where table_schema = 'redoubt' and table_name = 'audit_logs' order by ordinal_position`)
  assert.deepEqual(rows.map((row) => row.column_name), [
    'id', 'xid', 'occurred_at', 'actor_type', 'actor_id', 'actor_role', 'tenant_id', 'action', 'resource_type', 'resource_id',
    'purpose', 'outcome', 'request_id', 'metadata', 'personal_enc', 'personal_commitment', 'retention_class', 'retain_until',
  ], 'a new column must enter the commitment, under a new label')
})
