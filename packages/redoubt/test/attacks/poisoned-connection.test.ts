import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { transaction } from '../../src/transaction.ts'
import { makeAccount } from '../support/accounts.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate, type TestGate } from '../support/gate.ts'
import { createNotes } from '../support/notes.ts'
import { poolerAbsent, startPooler } from '../support/pgbouncer.ts'

// Mallory's SQL runs in her own transaction and is committed; then alice is served over the same session.

const database = await testDatabase({ origins: ['redoubt'] })
await createNotes(database)
const alice = await makeAccount(database, 'alice')
const mallory = await makeAccount(database, 'mallory')
const moment = new Date('2026-02-03T04:05:06.789Z')
const body = 'grüße 😀 \\ "x"'

/** What alice does: a write and a read with values of every kind that a session setting could change on their way. */
async function serveAlice({ gate }: TestGate): Promise<unknown> {
  const write = {
    name: 'attacks_write',
    text: `insert into attacks.notes (owner, body, at) values ($1, $2, $3) returning owner, body, at, $4::text[] as list, array[null, 'x']::text[] as made,
      '\\xdeadbeef'::bytea as bytes, 0.1::float8 + 0.2::float8 as sum, interval '1 day 2 hours'::text as span, 'a\\b' as literal, date '2026-02-03' as day, xmlserialize(content '<a/>' as text) as xml`,
    values: [alice.actor, body, moment, ['a', null, 'NULL']],
  }
  const read = {
    name: 'attacks_read',
    text: `select current_user::text as me, session_user::text as login, current_setting('transaction_isolation') as isolation, current_setting('transaction_read_only') as read_only,
      pg_my_temp_schema() as temp, (select count(*)::int from pg_cursors) as cursors, array(select pg_listening_channels()) as channels,
      (select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks,
      (select string_agg(name || '=' || setting, ' ' order by name) from pg_show_all_settings() where source in ('session', 'client', 'override') and name not in ('application_name', 'transaction_timeout')) as settings,
      (select count(*)::int from pg_prepared_statements where statement ~ 'mallory') as prepared`,
    values: [],
  }
  const twice = await transaction(gate, alice, 'test.write', async (tx) => [await tx.query(write), await tx.query(read)])
  const once = [await transaction.one(gate, alice, 'test.write', write), await transaction.one(gate, alice, 'test.read', read)]
  const stored = await database.admin(`delete from attacks.notes returning owner, body, at`)
  return { twice, once, stored }
}

type Way = { readonly title: string; readonly skip: string | false; open(): Promise<TestGate & { stop(): Promise<void> }> }
const ways: readonly Way[] = [
  { title: 'a pool of one', skip: false, open: async () => ({ ...(await openTestGate(database, { max: 1 })), stop: () => Promise.resolve() }) },
  {
    title: 'a session behind PgBouncer in transaction mode',
    skip: poolerAbsent,
    async open() {
      const pooler = await startPooler({ urls: [database.url('app')], poolSize: 1 })
      assert.ok(pooler !== null)
      return { ...(await openTestGate(database, { max: 2, url: pooler.url(database.url('app')), namedStatements: false })), stop: pooler.stop }
    },
  },
]

/** Ends the server's sessions: what one attack left is not to be taken for the work of the next. */
async function endSessions(): Promise<void> {
  await database.admin(`select pg_terminate_backend(pid, 2000) from pg_stat_activity where usename = $1 and datname = $2`, [`${database.service}_app`, database.name])
}

type Setting = { readonly name: string; readonly vartype: string; readonly setting: string; readonly min_val: string; readonly max_val: string; readonly enumvals: readonly string[] | null }

/** A value that an attacker would give the setting. */
function hostile({ name, vartype, setting, min_val, max_val, enumvals }: Setting): string {
  const chosen: Readonly<Record<string, string>> = {
    DateStyle: 'SQL, DMY', client_encoding: 'LATIN1', TimeZone: 'Asia/Kathmandu', search_path: 'attacks, pg_temp, pg_catalog', role: 'none', lc_monetary: 'C', default_transaction_isolation: 'serializable',
  }
  if (chosen[name] !== undefined) return chosen[name]
  if (vartype === 'bool') return setting === 'on' ? 'off' : 'on'
  if (vartype === 'enum') return enumvals?.find((value) => value !== setting) ?? setting
  return vartype === 'string' ? 'x' : name.endsWith('_timeout') ? '1' : setting === min_val ? max_val : min_val
}

for (const way of ways) {
  suite(`the next caller over ${way.title} is unaffected`, { skip: way.skip }, () => {
    /** Lets Mallory do `attacks` one after the other over one session, and serves alice after each. */
    async function attacked(attacks: (opened: TestGate) => AsyncIterable<string>): Promise<void> {
      await endSessions()
      const opened = await way.open()
      try {
        const healthy = await serveAlice(opened)
        for await (const title of attacks(opened)) assert.deepEqual(await serveAlice(opened).catch((error: unknown) => error), healthy, title)
      } finally {
        await opened.close()
        await opened.stop()
      }
    }
    /** Sends each statement in every way the gate offers; what becomes of it is not the point. */
    const everyWay = (statements: readonly string[]): Promise<void> =>
      attacked(async function* ({ gate }) {
        for (const text of statements) {
          const statement = { text, values: [] }
          await transaction(gate, mallory, 'test.read', (tx) => tx.query(statement)).catch(() => undefined)
          yield `${text}, in a transaction`
          await transaction.one(gate, mallory, 'test.read', statement).catch(() => undefined)
          yield `${text}, alone`
          await transaction(gate, mallory, 'test.look', (tx) => Promise.all([tx.query(statement), tx.query(statement)])).catch(() => undefined)
          yield `${text}, twice in one trip`
        }
      })

    test('after every setting that a session may change was changed for the session', async () => {
      const settings = await database.admin<Setting>(`select name, vartype, setting, min_val, max_val, enumvals from pg_settings where context = 'user' order by name`)
      assert.ok(settings.length > 120)
      await attacked(async function* ({ gate }) {
        for (const [index, setting] of settings.entries()) {
          const value = hostile(setting)
          const select = { text: `select attacks.setting('${setting.name}', '${value}', false)`, values: [] }
          const call = index % 2 === 0 ? transaction.one(gate, mallory, 'test.read', select) : transaction(gate, mallory, 'test.look', (tx) => tx.query(select))
          await call.catch(() => undefined)
          // A timeout of a millisecond strikes while nobody is served.
          if (setting.name.endsWith('_timeout')) await delay(5)
          yield `${setting.name} = ${value}`
        }
      })
    })

    test('after SET and RESET as statements of their own', () =>
      everyWay([
        `set search_path = pg_temp, attacks`, `set session synchronous_commit = off`, 'set row_security = off', `set timezone = 'Asia/Kathmandu'`, 'set statement_timeout = 1',
        `set datestyle = 'German'`, 'set default_transaction_read_only = on', 'set session characteristics as transaction isolation level serializable', 'set role none',
        `set redoubt.caller = 'x'`, 'set local redoubt.caller = default', 'reset all', 'discard all', 'reset role', `set session authorization default`, `update pg_settings set setting = 'off' where name = 'row_security'`,
      ]))

    test('after a temporary table, view or function that shadows what she uses', () =>
      everyWay([
        'create temp table notes (id uuid, owner uuid, body text, at timestamptz)', 'create temp table notes as select * from attacks.notes', 'select * into temp notes from attacks.notes',
        'create temp view notes as select 1', 'create or replace temp view pg_settings as select 1', 'create table attacks.mine (a int)', 'create schema mine', 'create table public.notes (a int)',
        `create function pg_temp.now() returns timestamptz language sql as 'select null::timestamptz'`, `create operator pg_temp.= (leftarg = uuid, rightarg = uuid, procedure = uuid_ne)`,
        `do $$ begin create temp table notes (a int); end $$`, `do $$ begin perform set_config('search_path', 'pg_temp', false); end $$`,
      ]))

    test('after PREPARE, DEALLOCATE and EXECUTE under the names that the pool uses', () =>
      everyWay([
        'deallocate all', 'deallocate redoubt_enter', 'deallocate attacks_read', `prepare attacks_read as select 'mallory' as me`, `prepare redoubt_enter as select 'mallory'`,
        `prepare redoubt_finish as select 'mallory', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12`, 'execute redoubt_commit', 'execute redoubt_rollback', 'execute redoubt_reset',
        `select query_to_xml('deallocate all', true, false, '')`, `select query_to_xml('prepare attacks_read as select 1', true, false, '')`,
      ]))

    test('after advisory locks, LISTEN, a cursor WITH HOLD and a transaction left open', () =>
      everyWay([
        'select pg_advisory_lock(1)', 'select pg_try_advisory_lock_shared(1, 1)', 'select pg_advisory_xact_lock(1)', 'listen gossip', `select pg_notify('gossip', 'x')`, 'unlisten *',
        'declare held cursor with hold for select * from attacks.notes', 'declare loose cursor for select 1', 'fetch all from held', 'close all', 'begin', 'start transaction read only', 'savepoint a',
        'commit', 'rollback', 'commit and chain', 'rollback and chain', 'end', 'abort', `prepare transaction 'x'`, 'set constraints all deferred', 'lock attacks.notes', 'checkpoint', 'load \'plpgsql\'',
      ]))

    test('large objects and files, which carry data past row security, are refused', () =>
      attacked(async function* ({ gate }) {
        for (const text of [
          'select lo_create(4711)', `select lo_from_bytea(0, 'x')`, `select lo_import('/etc/passwd')`, `select lowrite(lo_open(4711, 131072), 'x')`, 'select lo_unlink(4711)', `select pg_read_file('PG_VERSION')`,
          `copy attacks.notes to '/tmp/notes'`, `copy attacks.notes to program 'true'`, 'copy attacks.notes to stdout', 'copy attacks.notes from stdin',
        ]) {
          await assert.rejects(transaction(gate, mallory, 'test.read', (tx) => tx.query({ text, values: [] })), { status: 500 }, text)
          yield text
        }
      }))

    test('sessions of others cannot be ended, and one that is ended harms nobody else', () =>
      attacked(async function* ({ gate }) {
        for (const end of ['pg_terminate_backend', 'pg_cancel_backend']) {
          for (const whom of ['pid) from pg_stat_activity where usename = current_user and pid <> pg_backend_pid()', 'pg_backend_pid())']) {
            await assert.rejects(transaction(gate, mallory, 'test.read', (tx) => tx.query({ text: `select ${end}(${whom}`, values: [] })), { code: 'database_error' })
            yield end
          }
        }
        const cut = transaction(gate, mallory, 'test.read', async (tx) => {
          await tx.query({ text: 'select 1', values: [] })
          await endSessions()
          return tx.query({ text: 'select 1', values: [] })
        })
        await assert.rejects(cut, { status: 503 })
        yield 'cut in the middle of a transaction'
      }))
  })
}
