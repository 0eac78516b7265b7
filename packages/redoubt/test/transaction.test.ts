import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { CompiledQuery } from 'kysely'
import { systemCaller } from '../src/context.ts'
import { Refusal } from '../src/errors.ts'
import type { Compilable, Tx } from '../src/pg.ts'
import { transaction } from '../src/transaction.ts'
import { queryById } from '../src/transaction/prepared.ts'
import { makeAccount } from './support/accounts.ts'
import { until } from './support/audit.ts'
import { testDatabase } from './support/database.ts'
import { openTestGate } from './support/gate.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const opened = await openTestGate(database)
const anna = await makeAccount(database, 'anna')
await database.admin('create schema notes; grant usage on schema notes to redoubt_test_app; create table notes.notes (id int primary key, owner uuid not null, body text); grant select, insert, update, delete on notes.notes to redoubt_test_app')
after(() => opened.close())

const refusal = (code: string) => (error: unknown): boolean => error instanceof Refusal && error.code === code
const compiled = (text: string, values: readonly unknown[]): Compilable<unknown> => ({ compile: () => CompiledQuery.raw(text, [...values]) })
const insert = (id: number) => ({ text: 'insert into notes.notes (id, owner) values ($1, guard.actor())', values: [id] })

async function entriesOf(requestId: string): Promise<readonly string[]> {
  const rows = await database.admin<{ outcome: string }>('select outcome from redoubt.audit_logs where request_id = $1 order by occurred_at', [requestId])
  return rows.map((row) => row.outcome)
}

test('a committed call leaves its effect and one entry with who, what, resource, purpose and request', async () => {
  const caller = { ...anna, requestId: 'commit-1' }
  const answer = await transaction(opened.gate, caller, { action: 'test.write', resource: { type: 'note', id: '1' }, metadata: { fields: ['body'] } }, async (tx) => {
    await tx.query(insert(1))
    tx.opened(anna.actor)
    return 'made'
  })
  assert.equal(answer, 'made')
  const [entry] = await database.admin('select * from redoubt.audit_logs where request_id = $1', ['commit-1'])
  assert.equal(entry?.['actor_id'], anna.actor)
  assert.equal(entry?.['action'], 'test.write')
  assert.equal(entry?.['resource_type'], 'note')
  assert.equal(entry?.['resource_id'], '1')
  assert.equal(entry?.['purpose'], 'test')
  assert.equal(entry?.['outcome'], 'done')
  assert.deepEqual(entry?.['metadata'], { fields: ['body'] })
  assert.equal(entry?.['retention_class'], 'change')
  const subjects = await database.admin('select subject_id from redoubt.audit_subjects where entry_id = $1', [entry?.['id']])
  assert.deepEqual(subjects, [{ subject_id: anna.actor }])
})

test('a thrown error undoes the effect and leaves an entry of the failure before the answer', async () => {
  const caller = { ...anna, requestId: 'throw-1' }
  await assert.rejects(
    transaction(opened.gate, caller, 'test.write', async (tx) => {
      await tx.query(insert(2))
      throw new Refusal('conflict')
    }),
    refusal('conflict'),
  )
  assert.deepEqual(await entriesOf('throw-1'), ['refused:conflict'])
  assert.deepEqual(await database.admin('select from notes.notes where id = 2'), [])
})

test('a statement error that the handler swallows fails the call all the same', async () => {
  const caller = { ...anna, requestId: 'swallow-1' }
  await assert.rejects(
    transaction(opened.gate, caller, 'test.write', async (tx) => {
      await tx.query(insert(1)).catch(() => undefined)
      return 'as if nothing had happened'
    }),
    refusal('already_exists'),
  )
  assert.deepEqual(await entriesOf('swallow-1'), ['refused:already_exists'])
})

test('statements issued together share a round trip, and a failing one fails those behind it', async () => {
  const rows = await transaction(opened.gate, anna, 'test.look', (tx) => Promise.all([1, 2, 3].map((n) => tx.query<{ n: number }>({ text: 'select $1::int4 as n', values: [n] }))))
  assert.deepEqual(rows.flat().map((row) => row.n), [1, 2, 3])
  const results = await transaction(opened.gate, { ...anna, requestId: 'together' }, 'test.look', async (tx) =>
    Promise.allSettled([tx.query(insert(3)), tx.query(insert(3)), tx.query(insert(4))]),
  ).catch((error: unknown) => error)
  assert.ok(results instanceof Refusal)
  assert.deepEqual(await database.admin('select from notes.notes where id in (3, 4)'), [])
})

test('a statement left unawaited is still part of the transaction', async () => {
  await transaction(opened.gate, anna, 'test.look', async (tx) => {
    void tx.query(insert(5))
  })
  assert.equal((await database.admin('select from notes.notes where id = 5')).length, 1)
  await assert.rejects(
    transaction(opened.gate, anna, 'test.look', async (tx) => {
      tx.query(insert(5)).catch(() => undefined)
    }),
    refusal('already_exists'),
  )
})

test('a statement issued by the answer of the last one, while another part has failed, is still part of the transaction', async () => {
  const caller = { ...anna, requestId: 'late-1' }
  const who = { text: 'select guard.actor() as actor, pg_catalog.pg_current_xact_id()::text as xid', values: [] }
  let late: Promise<readonly [Record<string, unknown> | undefined, Record<string, unknown> | undefined]> | undefined
  const call = transaction(opened.gate, caller, 'test.write', async (tx) => {
    const both = async () => {
      const [first] = await tx.query<Record<string, unknown>>(who)
      // Asked for in the moment in which the rollback, too, learns that nothing is under way any more.
      const [second] = await tx.query<Record<string, unknown>>(who)
      return [first, second] as const
    }
    late = both()
    late.catch(() => undefined)
    await Promise.resolve()
    throw new Refusal('conflict')
  })
  await assert.rejects(call, refusal('conflict'))
  const [first, second] = (await late) ?? []
  assert.equal(first?.['actor'], anna.actor)
  assert.deepEqual(second, first)
})

test('a refusal for want of rights is told as unauthorized access, a conflict is not', async () => {
  for (const [code, told] of [['forbidden', true], ['not_found', true], ['conflict', false], ['version_conflict', false]] as const) {
    const caller = { ...anna, requestId: `told-${code}` }
    await assert.rejects(transaction(opened.gate, caller, 'test.write', () => Promise.reject(new Refusal(code))), refusal(code))
    assert.equal(opened.events.some((event) => event.type === 'security.unauthorized_access' && event.requestId === caller.requestId), told, code)
  }
})

test('tx cannot be used after its transaction ended', async () => {
  let kept: { query(statement: { text: string; values: unknown[] }): Promise<unknown> } | undefined
  await transaction(opened.gate, anna, 'test.look', async (tx) => {
    kept = tx
  })
  assert.throws(() => kept?.query({ text: 'select 1', values: [] }), TypeError)
})

test('transaction.one sets the caller, reads and leaves its entry in one trip', async () => {
  const rows = await transaction.one(opened.gate, { ...anna, requestId: 'one-1' }, 'test.read', { name: 'who', text: 'select guard.actor() as actor, guard.role() as role', values: [] })
  assert.deepEqual(rows, [{ actor: anna.actor, role: 'patient' }])
  assert.deepEqual(await entriesOf('one-1'), ['done'])
  // Again, by the name prepared on the connection.
  const again = await transaction.one(opened.gate, anna, 'test.look', { name: 'who', text: 'select guard.actor() as actor, guard.role() as role', values: [] })
  assert.equal(again.length, 1)
})

test('transaction.one that fails changes nothing and leaves an entry of the failure', async () => {
  await assert.rejects(transaction.one(opened.gate, { ...anna, requestId: 'one-2' }, 'test.write', insert(1)), refusal('already_exists'))
  assert.deepEqual(await entriesOf('one-2'), ['refused:already_exists'])
})

test('a system caller is named in the entry and is no person', async () => {
  await transaction(opened.gate, systemCaller('nightly', database.service, { requestId: 'system-1', address: null }), 'test.read', async (tx) => {
    const [row] = await tx.query<{ actor: string | null; role: string }>({ text: 'select guard.actor() as actor, guard.role() as role', values: [] })
    assert.deepEqual(row, { actor: null, role: 'system.nightly' })
  })
  const [entry] = await database.admin(`select actor_type, actor_id, actor_role from redoubt.audit_logs where request_id = 'system-1'`)
  assert.deepEqual(entry, { actor_type: 'system', actor_id: null, actor_role: 'system.nightly' })
})

test('a refused caller leaves an entry in the gate’s own name with the claimed actor', async () => {
  const gone = { ...anna, session: crypto.randomUUID(), requestId: 'refused-1' }
  await assert.rejects(transaction(opened.gate, gone, 'test.read', (tx) => tx.query({ text: 'select guard.actor()', values: [] })), refusal('caller_refused'))
  const [entry] = await database.admin(`select actor_id, actor_role, outcome, metadata from redoubt.audit_logs where request_id = 'refused-1'`)
  assert.deepEqual(entry, { actor_id: null, actor_role: 'system.gate', outcome: 'refused:caller_refused', metadata: { claimed_actor: anna.actor } })
})

test('an audited call that issues no statement leaves its entry too', async () => {
  assert.equal(await transaction(opened.gate, { ...anna, requestId: 'empty-1' }, 'test.read', async () => 7), 7)
  assert.deepEqual(await entriesOf('empty-1'), ['done'])
})

test('an action that is not in the table is the caller’s mistake', async () => {
  await assert.rejects(transaction(opened.gate, anna, 'no.such' as 'test.read', async () => 1), TypeError)
})

test('an action whose retention class is unknown is the caller’s mistake, before anything is sent', async () => {
  const gate = { ...opened.gate, actions: { 'test.odd': { audited: true, keep: 'forever' } } } as const
  await assert.rejects(transaction(gate, anna, 'test.odd', () => Promise.resolve()), /unknown retention class forever/)
})

test('a server that is away is one refusal, in bounded time', async () => {
  const away = await openTestGate(database, { url: 'postgres://nobody@127.0.0.1:1/none', connectTimeout: 500 })
  await assert.rejects(transaction(away.gate, anna, 'test.look', (tx) => tx.query({ text: 'select 1', values: [] })), refusal('database_unavailable'))
  await assert.rejects(transaction(away.gate, anna, 'test.read', (tx) => tx.query({ text: 'select 1', values: [] })), refusal('audit_unavailable'))
  await away.close()
})

test('a statement that runs too long is cancelled and its connection serves the next caller', async () => {
  const slow = await openTestGate(database, { max: 1, statementTimeout: 200 })
  await assert.rejects(transaction(slow.gate, anna, 'test.look', (tx) => tx.query({ text: 'select from generate_series(1, 1000000000)', values: [] })), refusal('busy'))
  assert.deepEqual(await transaction.one(slow.gate, anna, 'test.look', { text: 'select 1 as one', values: [] }), [{ one: 1 }])
  assert.equal(slow.pool.gauge().open, 1)
  await slow.close()
})

test('bigint, date, bytea, arrays and null come back as what tables.ts says', async () => {
  const [row] = await transaction.one(opened.gate, anna, 'test.look', {
    text: `select 9007199254740993::int8 as big, '2026-03-29'::date as day, '\\x00ff'::bytea as bytes, array['a', null]::text[] as list, array[1,2]::int8[] as bigs, null::text as nothing, '2026-01-01T00:00:00Z'::timestamptz as at`,
    values: [],
  })
  assert.deepEqual(row, { big: 9007199254740993n, day: '2026-03-29', bytes: Buffer.from([0, 255]), list: ['a', null], bigs: [1n, 2n], nothing: null, at: new Date('2026-01-01T00:00:00Z') })
})

test('attack: a revoked session gets nothing from an action without an entry, also where nothing is to be seen', async () => {
  const gone = await makeAccount(database, 'gone')
  await database.admin('update redoubt.sessions set revoked_at = now() where id = $1', [gone.session])
  const harmless = { text: 'select 1 as one', values: [] }
  const none = ['select id from redoubt.users', 'select id from redoubt.users where false', 'select id from redoubt.idempotency_keys', 'select 1 where false']
  // A row of these is none of a table: nobody's policy has let it through.
  const something = [
    'with one as (select 1) select * from one', 'values (1)', 'select count(*)::int as n from redoubt.users', 'select exists (select from redoubt.users) as any', 'select max(id::text) from redoubt.users',
    'select 1 as one from redoubt.users having true', 'select 1 as one from redoubt.users group by grouping sets (())', `select 'x' as id from redoubt.users union all select 'y'`,
    'select one from redoubt.users u right join (values (1)) v (one) on true', 'select one from (values (1)) v (one) left join redoubt.users u on true', 'select x from redoubt.users u full join (values (1)) v (x) on true',
    `select ' from redoubt.users'`, 'select 1 as " from redoubt.users "', 'select 1 /* from redoubt.users */ as one', 'select 1 -- from redoubt.users', 'select usename from pg_catalog.pg_user limit 1', 'select table_name from information_schema.tables limit 1',
    'select version from redoubt.schema_migrations', 'select version from "redoubt"."schema_migrations"', `select pg_notify('x', 'y') from redoubt.schema_migrations`, 'select n from pg_catalog.generate_series(1, 2) n', 'select actor from guard.actor()', 'select role from guard.caller(false)',
  ]
  for (const text of [...none, ...something]) {
    await assert.rejects(transaction.one(opened.gate, gone, 'test.look', { text, values: [] }), refusal('caller_refused'), text)
    await assert.rejects(transaction(opened.gate, gone, 'test.look', (tx) => tx.query({ text, values: [] })), refusal('caller_refused'), text)
  }
  for (const text of something) assert.ok((await transaction.one(opened.gate, anna, 'test.look', { text, values: [] })).length > 0, text)
  await assert.rejects(transaction(opened.gate, gone, 'test.look', (tx) => tx.query(harmless)), refusal('caller_refused'))
})

test('attack: a revoked session learns and does nothing in a transaction without an entry, however that ends', async () => {
  const gone = await makeAccount(database, 'gone-too')
  await database.admin('update redoubt.sessions set revoked_at = now() where id = $1', [gone.session])
  await database.admin('insert into notes.notes (id, owner) values (70, $1)', [anna.actor])
  const plain = (id: number) => ({ text: 'insert into notes.notes (id, owner) values ($1, $2)', values: [id, gone.actor] })
  const ways: readonly [told: string | undefined, (tx: Tx) => Promise<unknown>][] = [
    [undefined, (tx) => tx.query({ text: 'select id from redoubt.users where false', values: [] })],
    [undefined, (tx) => tx.query(plain(71))],
    [undefined, (tx) => tx.query({ text: 'update notes.notes set body = null where false', values: [] })],
    ['not_found', (tx) => tx.query({ text: 'select id from redoubt.users where false', values: [] }).then(() => Promise.reject(new Refusal('not_found')))],
    ['already_exists', (tx) => tx.query(plain(70))],
    ['already_exists', (tx) => tx.query(plain(70)).catch(() => undefined)],
  ]
  for (const [told, way] of ways) {
    await assert.rejects(transaction(opened.gate, gone, 'test.look', way), refusal('caller_refused'), String(way))
    if (told === undefined) await transaction(opened.gate, anna, 'test.look', way)
    else await assert.rejects(transaction(opened.gate, anna, 'test.look', way), refusal(told))
  }
  assert.deepEqual(await database.admin('select id from notes.notes where owner = $1', [gone.actor]), [{ id: 71 }], 'what anna put there, and nothing else')
  await assert.rejects(transaction(opened.gate, gone, 'test.look', () => Promise.reject(new Error('a fault of ours'))), /a fault of ours/)
})

test('a row that must be found gives itself and its entry in one trip; one that is not there is refused and names nobody', async () => {
  const query = queryById((id) => compiled('select id, role from redoubt.users where id = $1 -- by id', [id]))
  const operation = (id: string) => ({ action: 'test.read', resource: { type: 'user', id }, subjects: [id] }) as const
  const seen = { ...anna, requestId: 'found-1' }
  assert.deepEqual(await transaction.found(opened.gate, seen, operation(anna.actor), query(anna.actor)), { id: anna.actor, role: 'patient' })
  const other = crypto.randomUUID()
  const unseen = { ...anna, requestId: 'found-2' }
  await assert.rejects(transaction.found(opened.gate, unseen, operation(other), query(other)), refusal('not_found'))
  const entries = await database.admin(`select l.outcome, s.subject_id from redoubt.audit_logs l left join redoubt.audit_subjects s on s.entry_id = l.id where l.request_id like 'found-_' order by l.request_id`)
  assert.deepEqual(entries, [{ outcome: 'done', subject_id: anna.actor }, { outcome: 'refused:not_found', subject_id: null }])
  await assert.rejects(transaction.found(opened.gate, seen, operation(other), { text: 'delete from redoubt.users', values: [] }), TypeError)
})

test('a refused call names the subjects whose columns had been opened before it was refused', async () => {
  const caller = { ...anna, requestId: 'opened-then-refused' }
  await assert.rejects(
    transaction(opened.gate, caller, 'test.read', async (tx) => {
      tx.opened(anna.actor)
      throw new Refusal('invalid_input')
    }),
    refusal('invalid_input'),
  )
  const rows = await database.admin(`select s.subject_id from redoubt.audit_logs l join redoubt.audit_subjects s on s.entry_id = l.id where l.request_id = 'opened-then-refused'`)
  assert.deepEqual(rows, [{ subject_id: anna.actor }])
})

test('a caller that cannot be signed is a mistake that costs no connection', async () => {
  const odd = { ...anna, requestId: 'with a space|and a bar' }
  const { open, idle } = opened.pool.gauge()
  await assert.rejects(transaction.one(opened.gate, odd, 'test.look', { text: 'select 1', values: [] }), TypeError)
  await assert.rejects(transaction(opened.gate, odd, 'test.look', (tx) => tx.query({ text: 'select 1', values: [] })), TypeError)
  assert.deepEqual(opened.pool.gauge(), { open, idle, waiting: 0 })
})

test('a connection that dies under the commit leaves the outcome open, and the answer says so', async () => {
  const one = await openTestGate(database, { max: 1 })
  const answer = transaction(one.gate, { ...anna, requestId: 'lost-1' }, 'test.look', async (tx) => {
    await tx.query({ text: 'select guard.actor()', values: [] })
    // The backend ends itself while the commit waits behind this in the same connection.
    await database.admin(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename = 'redoubt_test_app' and state = 'idle in transaction'`)
  })
  await assert.rejects(answer, refusal('outcome_unknown'))
  await one.close()
})

test('a connection that dies under what changes nothing and leaves no entry leaves nothing open', async () => {
  const end = (state: string): Promise<unknown> => until(`a session is ${state}`, async () => {
    const rows = await database.admin(`select pg_terminate_backend(pid, 2000) as ended from pg_stat_activity where datname = current_database() and usename = 'redoubt_test_app' and ${state}`)
    return rows.length > 0
  })
  const one = await openTestGate(database, { max: 1 })
  const asleep = `wait_event = 'PgSleep'`
  for (const [text, code] of [['select id, pg_sleep(60) from redoubt.users', 'database_unavailable'], ['select guard.actor(), pg_sleep(60)', 'outcome_unknown']] as const) {
    const looked = transaction.one(one.gate, anna, 'test.look', { text, values: [] })
    looked.catch(() => undefined)
    await end(asleep)
    await assert.rejects(looked, refusal(code), text)
  }
  const lone = transaction(one.gate, anna, 'test.look', async (tx) => {
    await tx.query({ text: 'select id from redoubt.users', values: [] })
    await end(`state = 'idle in transaction'`)
  })
  await assert.rejects(lone, refusal('database_unavailable'))
  await one.close()
})

test('attack: an entry written by injected SQL into somebody’s disclosures undoes the whole call', async () => {
  const caller = { ...anna, requestId: 'planted-entry' }
  const bea = crypto.randomUUID()
  await assert.rejects(
    transaction(opened.gate, caller, 'test.read', (tx) =>
      tx.query({ text: `select guard.finish('patient', $1, 'care', 'done', '{}', null, null, 'access', 700, array[$2]::uuid[], true, true)`, values: [bea, bea] }),
    ),
    refusal('forbidden'),
  )
  assert.deepEqual(await entriesOf('planted-entry'), ['refused:forbidden'])
})

test('attack: injected SQL writes no entry where the call leaves none', async () => {
  const caller = { ...anna, requestId: 'planted-unasked' }
  await assert.rejects(
    transaction(opened.gate, caller, 'test.look', (tx) => tx.query({ text: `select guard.finish('patient', 'x', 'care', 'done', '{}', null, null, 'access', 700, '{}', true, true)`, values: [] })),
    refusal('forbidden'),
  )
  assert.deepEqual(await entriesOf('planted-unasked'), [])
})
