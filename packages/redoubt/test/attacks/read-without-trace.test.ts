import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, suite, test } from 'node:test'
import { inspect } from 'node:util'
import type { Person } from '../../src/context.ts'
import { transaction } from '../../src/transaction.ts'
import { makeAccount } from '../support/accounts.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate, type TestGate } from '../support/gate.ts'
import { createNotes, plantNote } from '../support/notes.ts'
import { ownServer } from '../support/own-server.ts'

// Mallory may read her own note, and tries to do so without an entry that says it. Each call has a request id of its
// own, so that its entry can be found.

const secret = 'secret-4711-of-mallory'
const database = await testDatabase({ origins: ['redoubt'] })
await createNotes(database)
const mallory = await makeAccount(database, 'mallory')
await plantNote(database, mallory.actor, secret)
const opened = await openTestGate(database, { max: 2 })
after(() => opened.close())

const read = { text: 'select * from attacks.notes', values: [] }
const fresh = (): Person => ({ ...mallory, requestId: `call-${randomUUID()}` })
const outcomesOf = async (caller: Person): Promise<readonly string[]> =>
  (await database.admin<{ outcome: string }>('select outcome from redoubt.audit_logs where request_id = $1 order by id', [caller.requestId])).map((row) => row.outcome)
const told = (answer: unknown): boolean => inspect(answer, { depth: 20, showHidden: true }).includes(secret)

type Call = (opened: TestGate, caller: Person, sql: string) => Promise<unknown>
/** The ways injected SQL reaches the gate; each also reads what it is after. */
const calls: Readonly<Record<string, Call>> = {
  alone: ({ gate }, caller, text) => transaction.one(gate, caller, 'test.read', { text, values: [] }),
  'alone, on a shared connection': ({ gate }, caller, text) => transaction.one(gate, caller, 'test.read', { text, values: [], brief: 'reads' }),
  'before the read': ({ gate }, caller, text) =>
    transaction(gate, caller, 'test.read', async (tx) => {
      const first = await tx.query({ text, values: [] })
      return [first, await tx.query(read)]
    }),
  'after the read': ({ gate }, caller, text) => transaction(gate, caller, 'test.read', async (tx) => [await tx.query(read), await tx.query({ text, values: [] })]),
  'in one trip with the read': ({ gate }, caller, text) => transaction(gate, caller, 'test.read', (tx) => Promise.all([tx.query(read), tx.query({ text, values: [] }), tx.query(read)])),
  'with its error swallowed': ({ gate }, caller, text) =>
    transaction(gate, caller, 'test.read', async (tx) => {
      const rows = await tx.query(read)
      return [rows, await tx.query({ text, values: [] }).catch((error: unknown) => error)]
    }),
  'not waited for': ({ gate }, caller, text) =>
    transaction(gate, caller, 'test.read', async (tx) => {
      const rows = await tx.query(read)
      tx.query({ text, values: [] }).catch(() => undefined)
      return rows
    }),
}

const attempts: Readonly<Record<string, readonly string[]>> = {
  'a stacked ROLLBACK or COMMIT': [
    'select * from attacks.notes; rollback', 'select * from attacks.notes; commit', 'select 1; rollback; select * from attacks.notes', 'rollback; select * from attacks.notes',
    `select * from attacks.notes; set synchronous_commit = off`, `select * from attacks.notes; delete from redoubt.audit_logs`,
  ],
  'COMMIT, ROLLBACK and their kin as a statement': [
    'commit', 'rollback', 'end', 'abort', 'commit and chain', 'rollback and chain', ' COMMIT', '/**/commit', '--\ncommit', 'savepoint s', 'rollback to savepoint s', `prepare transaction 'x'`, 'begin',
    'start transaction', 'execute redoubt_commit', 'execute redoubt_rollback', 'do $$ begin commit; end $$', 'call pg_catalog.commit()', 'explain analyze select * from attacks.notes', 'declare c cursor with hold for select * from attacks.notes',
    'copy attacks.notes to stdout', 'copy (select * from attacks.notes) to stdout', '',
  ],
  'an error that carries the value': [
    'select body::int from attacks.notes', `select (body || 'x')::uuid from attacks.notes`, `select xmlparse(document body) from attacks.notes`, 'select body::json from attacks.notes',
    `select attacks.setting(body, 'x', true) from attacks.notes`, `select to_date(body, body) from attacks.notes`, `select regexp_match('x', '(' || body) from attacks.notes`, 'select 1 / (length(body) - length(body)) from attacks.notes',
    `insert into attacks.notes (owner, body) select id, body from attacks.notes`, `update attacks.notes set id = null`, `select query_to_xml(body, true, false, '') from attacks.notes`, 'select nothing from attacks.notes',
  ],
  'a setting that the entry needs': [
    `select *, attacks.setting('synchronous_commit', 'off', true) from attacks.notes`, `select *, attacks.setting('synchronous_commit', 'off', false) from attacks.notes`, `select *, attacks.setting('transaction_read_only', 'on', true) from attacks.notes`,
    `select *, attacks.setting('redoubt.caller', '', true) from attacks.notes`, `select *, attacks.setting('statement_timeout', '1', true) from attacks.notes`, `select *, attacks.setting('lock_timeout', '1', true) from attacks.notes`,
    `select *, attacks.setting('idle_in_transaction_session_timeout', '1', true) from attacks.notes`, `select *, attacks.setting('search_path', 'attacks', true) from attacks.notes`, `select *, attacks.setting('row_security', 'off', true) from attacks.notes`,
    `select *, attacks.setting('session_replication_role', 'replica', true) from attacks.notes`, `select *, attacks.setting('default_transaction_read_only', 'on', false) from attacks.notes`, `select *, attacks.setting('transaction_deferrable', 'on', true) from attacks.notes`,
  ],
  'the record itself': [
    'delete from redoubt.audit_logs', 'update redoubt.audit_logs set outcome = outcome', 'truncate redoubt.audit_logs', 'insert into redoubt.audit_logs select * from redoubt.audit_logs', 'select * from attacks.notes for update',
    'lock table redoubt.audit_logs in access exclusive mode', 'select * from redoubt.audit_head for update', 'delete from redoubt.audit_subjects', `select guard.seal_audit(1)`, `select guard.expire_audit(now(), 100)`,
    `select n.*, guard.finish('note', 'x', 'none', 'done', '{}', null, null, 'access', 0, '{}', true, true) from attacks.notes n`, 'select pg_terminate_backend(pg_backend_pid())', `select pg_advisory_xact_lock(1) from attacks.notes`,
  ],
}

for (const [attack, texts] of Object.entries(attempts)) {
  test(`${attack}: an entry, or no answer`, async () => {
    for (const [index, text] of texts.entries()) {
      // The first in every way, each other in three of them, in turn.
      for (const [at, [how, call]] of Object.entries(calls).entries()) {
        if (index > 0 && (at + index) % 2 === 0) continue
        const caller = fresh()
        const where = `${how}: ${text}`
        const answer = await call(opened, caller, text).then((value) => ({ value }), (error: unknown) => ({ error }))
        const outcomes = await outcomesOf(caller)
        if ('value' in answer) assert.ok(outcomes.includes('done'), `answered without an entry, ${where}`)
        else {
          assert.ok(!told(answer.error), `the error tells, ${where}`)
          assert.ok(outcomes.some((outcome) => /^(failed|refused):/.test(outcome)), `failed without an entry, ${where}: ${outcomes.join()}`)
        }
      }
    }
    assert.ok(!told(opened.events), 'an event tells')
    assert.equal((await database.admin('select from attacks.notes')).length, 1)
  })
}

test('a read without tricks is answered and leaves one entry, or nothing above would prove anything', async () => {
  for (const call of Object.values(calls)) {
    const caller = fresh()
    assert.ok(told(await call(opened, caller, 'select body from attacks.notes')))
    assert.deepEqual(await outcomesOf(caller), ['done'])
  }
})

test('the sealed address of an entry, also of a failed call’s, is made for that entry', async () => {
  const personal = (_: unknown, id: string): Promise<{ sealed: Buffer; commitment: Buffer }> => Promise.resolve({ sealed: Buffer.from(id), commitment: Buffer.alloc(32) })
  const gate = { ...opened.gate, personal }
  const caller = { ...fresh(), address: '192.0.2.7' }
  await transaction.one(gate, caller, 'test.read', read)
  await transaction(gate, caller, 'test.read', (tx) => tx.query(read))
  await assert.rejects(transaction.one(gate, caller, 'test.read', { text: 'select nothing', values: [] }))
  await assert.rejects(transaction(gate, caller, 'test.read', (tx) => tx.query({ text: 'select nothing', values: [] })))
  const rows = await database.admin<{ id: string; made_for: string }>(`select id, convert_from(personal_enc, 'UTF8') as made_for from redoubt.audit_logs where request_id = $1`, [caller.requestId])
  assert.equal(rows.length, 4)
  for (const row of rows) assert.equal(row.made_for, row.id)
})

test('a session cut between the read and the commit: no answer', async () => {
  const caller = fresh()
  const cut = transaction(opened.gate, caller, 'test.read', async (tx) => {
    const rows = await tx.query(read)
    await database.admin(`select pg_terminate_backend(pid, 2000) from pg_stat_activity where usename = $1 and datname = $2`, [`${database.service}_app`, database.name])
    return rows
  })
  await assert.rejects(cut, (error) => !told(error))
  assert.deepEqual(await outcomesOf(caller), ['failed:outcome_unknown'])
})

suite('the entry cannot be written: 503 audit_unavailable, and no data', () => {
  const guard = `"${database.service}_guard"`
  for (const [what, off, on] of [
    ['guard has lost INSERT', `revoke insert on redoubt.audit_logs from ${guard}`, `grant insert on redoubt.audit_logs to ${guard}`],
    ['guard’s policy is gone', `alter policy guard_insert on redoubt.audit_logs with check (false)`, `alter policy guard_insert on redoubt.audit_logs with check (true)`],
    ['guard.finish cannot be called', `revoke execute on all functions in schema guard from "${database.service}_app"; grant execute on function guard.actor(), guard.caller to "${database.service}_app"`, `grant execute on function guard.finish to "${database.service}_app"`],
  ] as const) {
    test(what, async () => {
      await database.admin(off)
      for (const text of ['select body from attacks.notes', 'select body::int from attacks.notes']) {
        for (const [how, call] of Object.entries(calls)) {
          await assert.rejects(call(opened, fresh(), text), (error: { code?: string }) => error.code === 'audit_unavailable' && !told(error), `${how}: ${text}`)
        }
      }
      await database.admin(on)
      assert.ok(told(await transaction.one(opened.gate, fresh(), 'test.read', read)))
    })
  }
})

test('synchronous_commit turned off, then kill -9 of the server: every answered read has its entry', async () => {
  const server = await ownServer()
  after(() => server.remove())
  let here = server.database
  await createNotes(here)
  const reader = await makeAccount(here, 'reader')
  await plantNote(here, reader.actor, secret)
  for (let round = 0; round < 2; round++) {
    // The WAL writer would save within moments what an asynchronous commit left; a crash does not wait for it.
    for (const { pid } of await here.admin<{ pid: number }>(`select pid from pg_stat_activity where backend_type = 'walwriter'`)) process.kill(pid, 'SIGSTOP')
    const gate = await openTestGate(here, { max: 4 })
    const acknowledged: string[] = []
    for (let n = 0; n < 8; n++) {
      const setting = `attacks.setting('synchronous_commit', 'off', ${n % 2 === 0 ? 'true' : 'false'})`
      const caller = { ...reader, requestId: `round-${round}-${n}` }
      const call = n % 4 < 2 ? transaction.one(gate.gate, caller, 'test.read', { text: `select *, ${setting} from attacks.notes`, values: [] })
        : transaction(gate.gate, caller, 'test.read', async (tx) => [await tx.query({ text: `select ${setting}`, values: [] }), await tx.query(read)])
      assert.ok(told(await call))
      acknowledged.push(caller.requestId)
    }
    // The control: without the gate the same trick does lose its write.
    await here.admin(`set synchronous_commit = off; insert into attacks.notes (owner, body) values (gen_random_uuid(), 'asynchronous')`)
    here = await server.killAndRestart()
    await gate.close().catch(() => undefined)
    const found = await here.admin<{ request_id: string }>('select request_id from redoubt.audit_logs')
    assert.deepEqual(acknowledged.filter((id) => !found.some((row) => row.request_id === id)), [])
    assert.deepEqual(await here.admin(`select from attacks.notes where body = 'asynchronous'`), [], 'the kill came too late to prove anything')
  }
})
