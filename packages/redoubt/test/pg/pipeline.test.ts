import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import type { Person } from '../../src/context.ts'
import { openPool, type Statement } from '../../src/pg.ts'
import { transaction } from '../../src/transaction.ts'
import { makeAccount } from '../support/accounts.ts'
import { testDatabase, type TestDatabase } from '../support/database.ts'
import { openTestGate, type TestGate } from '../support/gate.ts'
import { createNotes, plantNote } from '../support/notes.ts'
import { ownServer } from '../support/own-server.ts'
import { poolerAbsent, startPooler } from '../support/pgbouncer.ts'

// Brief calls that share a connection, each a transaction of its own. What the pool of one's own connections holds is
// tested in attacks/; the same attacks run there through a pipeline too.

const database = await testDatabase({ origins: ['redoubt'] })
await createNotes(database)
const anna = await makeAccount(database, 'anna')
const berta = await makeAccount(database, 'berta')
await plantNote(database, anna.actor, 'a note of anna')
await plantNote(database, berta.actor, 'a note of berta')

type Seen = { readonly body: string; readonly pid: number }
const look = (text = 'select body, pg_catalog.pg_backend_pid() as pid from attacks.notes', name?: string): Statement<Seen> => ({ text, values: [], brief: 'reads', ...(name === undefined ? {} : { name }) })
const as = (person: Person): Person => ({ ...person, requestId: randomUUID() })

/** A gate with one pipeline in use and some connections beside it. */
async function openGate(on: TestDatabase, person: Person): Promise<TestGate> {
  const opened = await openTestGate(on, { url: on.url('app'), namedStatements: true, max: 4 })
  await shares(opened, person)
  return opened
}

/** Calls until they share: the connection for it is opened beside the first of them. */
async function shares({ gate }: TestGate, person: Person): Promise<number> {
  for (;;) {
    const pids = new Set((await Promise.all([1, 2, 3].map(() => transaction.one(gate, as(person), 'test.read', look())))).map(([row]) => row?.pid))
    const [pid] = pids
    if (pids.size === 1 && pid !== undefined) return pid
    await turn()
  }
}

const destroyed = ({ events }: TestGate): readonly string[] => events.flatMap((event) => (event.type === 'database.connection_destroyed' ? [event.reason] : []))

async function entries(on: TestDatabase, ids: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const rows = await on.admin<{ request_id: string; outcome: string }>('select request_id, outcome from redoubt.audit_logs where request_id = any($1) order by id', [ids])
  return new Map(rows.map((row) => [row.request_id, row.outcome]))
}

test('brief readings of many callers at once run on one session, each sees what is theirs and leaves its entry', async () => {
  const opened = await openGate(database, anna)
  const callers = Array.from({ length: 400 }, (_, n) => as(n % 2 === 0 ? anna : berta))
  const answers: (readonly Seen[])[] = []
  for (let from = 0; from < callers.length; from += 16) {
    answers.push(...(await Promise.all(callers.slice(from, from + 16).map((caller, n) => transaction.one(opened.gate, caller, n % 3 === 0 ? 'test.look' : 'test.read', look())))))
  }
  answers.forEach((rows, n) => assert.deepEqual(rows.map(({ body }) => body), [n % 2 === 0 ? 'a note of anna' : 'a note of berta']))
  assert.equal(new Set(answers.map(([row]) => row?.pid)).size, 1)
  const found = await entries(database, callers.map(({ requestId }) => requestId))
  assert.equal(found.size, callers.filter((_, n) => (n % 16) % 3 !== 0).length)
  await opened.close()
})

test('a refusal among them is that caller’s alone', async () => {
  const opened = await openGate(database, anna)
  const gone = { ...as(anna), session: randomUUID() }
  const absent = look(`select body, guard.absent() from attacks.notes where body = 'a note of anna'`)
  const results = await Promise.allSettled([
    transaction.one(opened.gate, as(anna), 'test.read', look()), transaction.one(opened.gate, gone, 'test.read', look()), transaction.one(opened.gate, as(berta), 'test.read', look()),
    transaction.one(opened.gate, as(anna), 'test.read', absent), transaction.one(opened.gate, as(berta), 'test.look', look()), transaction.one(opened.gate, gone, 'test.look', look()),
    transaction.one(opened.gate, as(anna), 'test.read', look()),
  ])
  const told = results.map((each) => (each.status === 'fulfilled' ? each.value[0]?.body : (each.reason as { code?: string }).code))
  assert.deepEqual(told, ['a note of anna', 'caller_refused', 'a note of berta', 'not_found', 'a note of berta', 'caller_refused', 'a note of anna'])
  assert.deepEqual(destroyed(opened), [])
  await opened.close()
})

test('a reading that finds nothing is verified once more, on a session that serves on: shared or one’s own', async () => {
  const opened = await openGate(database, anna)
  const pid = await shares(opened, anna)
  const nothing = look('select body, pg_catalog.pg_backend_pid() as pid from attacks.notes where body is null')
  const { brief: _, ...alone } = nothing
  for (const statement of [nothing, alone]) {
    assert.deepEqual(await transaction.one(opened.gate, as(anna), 'test.look', statement), [])
    await assert.rejects(transaction.one(opened.gate, { ...as(anna), session: randomUUID() }, 'test.look', statement), { code: 'caller_refused' })
  }
  assert.equal(await shares(opened, anna), pid)
  assert.deepEqual(destroyed(opened), [])
  await opened.close()
})

test('attack: a revoked session that makes a catalogue, or a call without parentheses, look like rows of a table is refused', async () => {
  const opened = await openGate(database, anna)
  const gone = await makeAccount(database, 'gone')
  await database.admin('update redoubt.sessions set revoked_at = now() where id = $1', [gone.session])
  for (const text of [
    'select c.relname, c.oid is distinct from c.relnamespace from pg_catalog.pg_class c', 'select n.count from attacks.notes n', 'select from\u00a0app.relname from pg_catalog.pg_class from\u00a0app',
    'select current_user union all select evtname from pg_event_trigger intersect select tenant from guard.code_account($1)',
  ]) {
    const values = text.includes('$1') ? [randomUUID()] : []
    await assert.rejects(transaction.one(opened.gate, as(gone), 'test.look', { text, values, brief: 'reads' }), { code: 'caller_refused' }, text)
    await assert.rejects(transaction(opened.gate, as(gone), 'test.look', (tx) => tx.query({ text, values })), { code: 'caller_refused' }, text)
  }
  await opened.close()
})

test('attack: a query that must be found and writes is not sent, and leaves its entry', async () => {
  const opened = await openGate(database, anna)
  const caller = as(anna)
  const before = await database.admin('select id from attacks.notes')
  const query = { text: `select owner, body from attacks.notes where body = $1) insert into attacks.notes as " in"(owner, body`, values: ['x'] }
  await assert.rejects(transaction.found(opened.gate, caller, 'test.read', query), { code: 'statement_refused' })
  assert.deepEqual(await database.admin('select id from attacks.notes'), before)
  assert.deepEqual([...(await entries(database, [caller.requestId])).values()], ['failed:statement_refused'])
  await opened.close()
})

test('a statement that is new to the session is prepared once, however many bring it at the same time', async () => {
  const opened = await openGate(database, anna)
  const name = `pipeline_${process.pid}`
  const rows = await Promise.all(Array.from({ length: 12 }, () => transaction.one(opened.gate, as(anna), 'test.read', look('select body, pg_catalog.pg_backend_pid() as pid from attacks.notes where body is not null', name))))
  assert.deepEqual(new Set(rows.map(([row]) => row?.body)), new Set(['a note of anna']))
  assert.deepEqual(destroyed(opened), [])
  await opened.close()
})

test('attack: an error nobody planned for: its session serves nobody behind it, and they are answered elsewhere', async () => {
  const opened = await openGate(database, anna)
  const before = await shares(opened, anna)
  const others = Array.from({ length: 8 }, (_, n) => as(n % 2 === 0 ? anna : berta))
  const poison = transaction.one(opened.gate, as(anna), 'test.read', look('select body::int from attacks.notes'))
  poison.catch(() => undefined)
  const served = others.map((caller) => transaction.one(opened.gate, caller, 'test.read', look()))
  await assert.rejects(poison, { code: 'database_error' })
  for (const [n, rows] of (await Promise.all(served)).entries()) {
    assert.equal(rows[0]?.body, n % 2 === 0 ? 'a note of anna' : 'a note of berta')
    assert.notEqual(rows[0]?.pid, before)
  }
  assert.deepEqual(destroyed(opened), ['SQLSTATE 22P02'])
  assert.notEqual(await shares(opened, anna), before)
  await opened.close()
})

test('a session that is ended under its readings: each is answered by another, and none without its entry', async () => {
  const opened = await openGate(database, anna)
  const callers: Person[] = []
  let ended = 0
  for (let round = 0; round < 6; round++) {
    const pid = await shares(opened, anna)
    const calls = Array.from({ length: 12 }, () => {
      const caller = as(anna)
      callers.push(caller)
      return transaction.one(opened.gate, caller, 'test.read', look())
    })
    await turn()
    await database.admin('select pg_terminate_backend($1, 2000)', [pid])
    for (const rows of await Promise.all(calls)) assert.equal(rows[0]?.body, 'a note of anna')
    ended = destroyed(opened).length
  }
  assert.ok(ended > 0)
  const found = await entries(database, callers.map(({ requestId }) => requestId))
  assert.deepEqual(callers.filter(({ requestId }) => found.get(requestId) !== 'done'), [])
  await opened.close()
})

test('a call that writes is not done twice: its outcome is unknown when the session ends under it', async () => {
  const opened = await openGate(database, anna)
  const pid = await shares(opened, anna)
  const write: Statement = { text: `with slow as (select pg_catalog.pg_sleep(30)) insert into attacks.notes (owner, body) select guard.actor(), 'written' from slow`, values: [], brief: 'writes' }
  const caller = as(anna)
  const writing = transaction.one(opened.gate, caller, 'test.write', write)
  writing.catch(() => undefined)
  while ((await database.admin(`select from pg_stat_activity where pid = $1 and query like 'with slow%' and state = 'active'`, [pid])).length === 0) await turn()
  await database.admin('select pg_terminate_backend($1, 2000)', [pid])
  await assert.rejects(writing, { code: 'outcome_unknown' })
  assert.deepEqual([...(await entries(database, [caller.requestId])).values()], ['failed:outcome_unknown'])
  await opened.close()
})

test('nobody queues behind a slow call: the others take connections of their own', async () => {
  const opened = await openGate(database, anna)
  const pid = await shares(opened, anna)
  const slow = transaction.one(opened.gate, as(anna), 'test.read', look('select body, pg_catalog.pg_sleep(30) from attacks.notes'))
  slow.catch(() => undefined)
  while ((await database.admin(`select from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'`, [pid])).length === 0) await turn()
  // Whoever came in the same moment waits; from the tenth millisecond on nobody joins.
  const started = performance.now()
  while (performance.now() - started < 15) await turn()
  for (let n = 0; n < 20; n++) {
    const [row] = await transaction.one(opened.gate, as(berta), 'test.read', look())
    assert.equal(row?.body, 'a note of berta')
    assert.notEqual(row?.pid, pid)
  }
  await database.admin('select pg_cancel_backend($1)', [pid])
  await assert.rejects(slow, { code: 'busy' })
  await opened.close()
})

test('attack: kill -9 of the server under a stream of readings: every answered one has its entry', async () => {
  const server = await ownServer()
  after(() => server.remove())
  let here = server.database
  await createNotes(here)
  const reader = await makeAccount(here, 'reader')
  await plantNote(here, reader.actor, 'read')
  for (let round = 0; round < 3; round++) {
    // Only the commits that wait bring the log to the disk, not the moments that the WAL writer finds.
    for (const { pid } of await here.admin<{ pid: number }>(`select pid from pg_stat_activity where backend_type = 'walwriter'`)) process.kill(pid, 'SIGSTOP')
    const opened = await openGate(here, reader)
    const answered: string[] = []
    let running = true
    const clients = Array.from({ length: 16 }, async () => {
      while (running) {
        const caller = as(reader)
        const rows = await transaction.one(opened.gate, caller, 'test.read', look()).catch(() => [])
        if (rows[0]?.body === 'read') answered.push(caller.requestId)
      }
    })
    while (answered.length < 300 + round * 37) await turn()
    const restarted = server.killAndRestart()
    here = await restarted
    running = false
    await Promise.all(clients)
    await opened.close().catch(() => undefined)
    const found = await entries(here, answered)
    assert.deepEqual(answered.filter((id) => !found.has(id)), [])
  }
})

/** What a view says that every session may read: a look-up in it calls nothing, so its session need not be set for it alone. */
async function settingsView(): Promise<Statement<{ readonly path: string; readonly zone: string; readonly style: string; readonly pid: number }>> {
  await database.admin(`create or replace view attacks.settings as select pg_catalog.current_setting('search_path') as path,
    pg_catalog.current_setting('timezone') as zone, pg_catalog.current_setting('datestyle') as style, pg_catalog.pg_backend_pid() as pid`)
  await database.admin(`grant select on attacks.settings to "${database.service}_app"`)
  return { text: 'select path, zone, style, pid from attacks.settings', values: [], brief: 'reads' }
}
const ours = { path: 'pg_catalog, pg_temp', zone: 'UTC' }

test('attack: a brief call whose function twists the settings of the session that all share: the next find them as they must be', async () => {
  const look = await settingsView()
  await database.admin(`create or replace function attacks.twist() returns text language plpgsql as $$ begin
    perform set_config(name, value, false) from (values ('search_path', 'attacks'), ('timezone', 'Asia/Kolkata'), ('datestyle', 'German')) s (name, value);
    return 'twisted'; end $$`)
  await database.admin(`grant execute on function attacks.twist() to "${database.service}_app"`)
  const opened = await openGate(database, anna)
  const pid = await shares(opened, anna)
  const seen = () => transaction.one(opened.gate, as(berta), 'test.look', look)
  for (const action of ['test.look', 'test.read'] as const) {
    const twist = () => transaction.one(opened.gate, as(anna), action, { text: 'select attacks.twist() as said, pg_catalog.pg_backend_pid() as pid', values: [], brief: 'reads' })
    assert.deepEqual(await seen(), [{ ...ours, style: 'ISO, MDY', pid }])
    assert.deepEqual(await twist(), [{ said: 'twisted', pid }])
    assert.deepEqual(await seen(), [{ ...ours, style: 'ISO, MDY', pid }])
    // The same with all of them on the wire at once.
    const [first, , second, , third] = await Promise.all([seen(), twist(), seen(), twist(), seen()])
    for (const rows of [first, second, third]) assert.deepEqual(rows, [{ ...ours, style: 'ISO, MDY', pid }])
  }
  await opened.close()
})

test('attack: a cast whose domain twists the settings of the session that all share: the next find them as they must be', async () => {
  const look = await settingsView()
  await database.admin(`create or replace function attacks.twisted() returns boolean language plpgsql as $$ begin
    perform set_config(name, value, false) from (values ('timezone', 'Asia/Kolkata'), ('datestyle', 'German')) s (name, value);
    return true; end $$`)
  await database.admin(`create domain attacks.sneaky as text check (attacks.twisted())`)
  await database.admin(`grant execute on function attacks.twisted() to "${database.service}_app"`)
  const opened = await openGate(database, anna)
  const pid = await shares(opened, anna)
  const seen = () => transaction.one(opened.gate, as(berta), 'test.look', look)
  for (const text of ['select body::attacks.sneaky from attacks.notes', 'select body from attacks.notes where body <> $$x$$::attacks.sneaky']) {
    await seen()
    assert.equal((await transaction.one(opened.gate, as(anna), 'test.look', { text, values: [], brief: 'reads' })).length, 1)
    assert.deepEqual(await seen(), [{ ...ours, style: 'ISO, MDY', pid }])
  }
  await opened.close()
})

test('a session that nobody shares any more goes back to the pool with the settings it came with', async (t) => {
  const look = await settingsView()
  const opened = await openGate(database, anna)
  const pool = opened.gate.pool
  const before = await pool.query(look)
  assert.notEqual(before[0]?.path, ours.path)
  t.mock.timers.enable({ apis: ['setInterval'] })
  // The pipeline that openGate() left has its clock already: end that one by an error, and share another.
  const pid = await shares(opened, anna)
  await assert.rejects(transaction.one(opened.gate, as(anna), 'test.read', { text: 'select body::int from attacks.notes', values: [], brief: 'reads' }), { code: 'database_error' })
  const shared = await shares(opened, anna)
  assert.notEqual(shared, pid)
  assert.deepEqual((await transaction.one(opened.gate, as(berta), 'test.look', look)).map((row) => ({ path: row.path, pid: row.pid })), [{ path: ours.path, pid: shared }])
  t.mock.timers.tick(20_000)
  while (pool.gauge().idle < pool.gauge().open) await turn()
  for (const path of new Set((await Promise.all(Array.from({ length: 4 }, () => pool.query(look)))).map(([row]) => row?.path))) assert.equal(path, before[0]?.path)
  await opened.close()
})

test('behind a pooler, where two calls may be two sessions, nothing is shared', { skip: poolerAbsent }, async () => {
  const pooler = await startPooler({ urls: [database.url('app')] })
  assert.ok(pooler !== null)
  const pool = openPool({ url: pooler.url(database.url('app')), max: 4, emit: () => undefined })
  const call = { enter: { text: 'select 1', values: [] }, statements: [], poison: () => undefined }
  assert.equal(pool.share(call), undefined)
  // The look whether it is a session of one's own is over when the connection is idle again.
  while (pool.gauge().open === 0 || pool.gauge().idle < pool.gauge().open) await turn()
  for (let n = 0; n < 5; n++) {
    assert.equal(pool.share(call), undefined)
    await turn()
  }
  assert.equal(pool.gauge().open, 1)
  await pool.close()
  await pooler.stop()
})
