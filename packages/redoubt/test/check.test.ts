import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { checkDatabase, checkLogin, DatabaseRefused, type Finding } from '../src/migrate/check.ts'
import { openPool, type Pool } from '../src/pg.ts'
import { defineTables, plain } from '../src/tables.ts'
import { kernelRetention, kernelTables } from '../src/tables/kernel.ts'
import { testDatabase } from './support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const nothing = (): void => undefined
const pool = openPool({ url: database.url('app'), max: 1, emit: nothing })
after(() => pool.close())
const role = `${database.service}_app`
const tables = defineTables({ service: database.service, retention: kernelRetention, tables: kernelTables })

const check = (): Promise<readonly Finding[]> => checkDatabase(pool, tables, [])

test('a freshly migrated database keeps every rule', async () => {
  assert.deepEqual(await check(), [])
})

/** What is done to the database, what the start must say, and how it is undone. */
const faults: readonly (readonly [name: string, bad: string, expected: RegExp, good: string])[] = [
  ['a table without forced row security', 'alter table redoubt.users no force row level security', /redoubt\.users has no forced row security/, 'alter table redoubt.users force row level security'],
  ['row security switched off', 'alter table redoubt.users disable row level security', /redoubt\.users has no forced row security/, 'alter table redoubt.users enable row level security'],
  ['a command without a policy', 'drop policy app_delete on redoubt.users', /redoubt\.users has no policy for DELETE/, `create policy app_delete on redoubt.users for delete to "${role}" using (false)`],
  ['a policy for all commands', `create policy wide on redoubt.users for all to "${role}" using (true)`, /redoubt\.users has a policy FOR ALL/, 'drop policy wide on redoubt.users'],
  ['a column that nobody classified', 'alter table redoubt.users add column nickname text', /column redoubt\.users\.nickname is not classified/, 'alter table redoubt.users drop column nickname'],
  ['a column of another type', 'alter table redoubt.users alter column password_hash type varchar', /redoubt\.users\.password_hash is varchar/, 'alter table redoubt.users alter column password_hash type text'],
  ['a column that may be null', 'alter table redoubt.users alter column role drop not null', /redoubt\.users\.role is nullable/, 'alter table redoubt.users alter column role set not null'],
  ['a grant beyond the four commands', `grant truncate on redoubt.users to "${role}"`, /may TRUNCATE on redoubt\.users/, `revoke truncate on redoubt.users from "${role}"`],
  ['a grant to everybody', 'grant select on redoubt.users to public', /PUBLIC may SELECT on redoubt\.users/, 'revoke select on redoubt.users from public'],
  ['a view that reads with its owner’s rights', 'create view redoubt.everybody as select id from redoubt.users', /view redoubt\.everybody reads with its owner/, 'drop view redoubt.everybody'],
  ['a materialised view', 'create materialized view redoubt.copy as select id from redoubt.users', /materialised view redoubt\.copy/, 'drop materialized view redoubt.copy'],
  ['a definer function that is not on the list', `create function guard.back_door() returns int language sql security definer set search_path = pg_catalog, pg_temp return 1; alter function guard.back_door() owner to "${database.service}_guard"; revoke all on function guard.back_door() from public; grant execute on function guard.back_door() to "${role}"`, /guard\.back_door is not on the list/, 'drop function guard.back_door()'],
  ['a function everybody may execute', 'create function guard.open_to_all() returns int language sql return 1', /PUBLIC may execute guard\.open_to_all/, 'drop function guard.open_to_all()'],
  ['a runtime role that may read wrapped keys', `grant select on keys.data_keys to "${role}"`, /may touch keys\.data_keys/, `revoke select on keys.data_keys from "${role}"`],
  ['a runtime role that may plant caller keys', `grant insert on guard.caller_keys to "${role}"`, /may touch guard\.caller_keys/, `revoke insert on guard.caller_keys from "${role}"`],
  ['a policy that is another role’s', `drop policy app_update on redoubt.users; create policy other_update on redoubt.users for update to "${database.service}_auditor" using (false)`, /redoubt\.users has no policy for UPDATE/, `drop policy other_update on redoubt.users; create policy app_update on redoubt.users for update to "${role}" using (false) with check (false)`],
  ['a table that no declaration knows', `create schema loose; create table loose.cities (name text); grant usage on schema loose to "${role}"; grant select on loose.cities to "${role}"`, /runtime role may touch loose\.cities, which no declaration knows/, 'drop schema loose cascade'],
  ['a policy that asks nobody', `drop policy app_select on redoubt.users; create policy app_select on redoubt.users for select to "${role}" using (status = 'active')`, /policy app_select of redoubt\.users can be true of somebody whom nobody verified/, `drop policy app_select on redoubt.users; create policy app_select on redoubt.users for select to "${role}" using (id = (select guard.actor()))`],
  ...[
    `(select guard.role()) is distinct from 'patient'`, `coalesce((select guard.role()), 'patient') = 'patient'`, '(select guard.actor()) is null', 'guard.actor() is null', '(select guard.actor() as who) is null',
    '(select guard.actor())::text is null', 'row ((select guard.actor())) is null', '(id = (select guard.actor())) is null', '((select guard.actor()) = id) is not false', 'not (id = (select guard.actor())) is not null',
    `status = 'active' or id = (select guard.actor())`, `id = (select guard.actor()) or (status = 'active' and role = 'patient')`, 'id <> all (array(select guard.actor()))', 'not (id = any (array(select guard.actor())))',
    `(select count(*) from redoubt.idempotency_keys where principal = (select guard.actor())) = 0`, `num_nulls((select guard.actor())) = 1`, `concat((select guard.role())) <> 'admin'`, `greatest((select guard.role()), 'a') = 'a'`,
    `nullif('x', (select guard.role())) = 'x'`, `array[(select guard.role())] <> array['admin']`, `status = ' = ( SELECT guard.actor() AS actor)'`, `case when (select guard.role()) = 'admin' then true else true end`, 'true',
    `id = any (array(select gen_random_uuid()))`, `status = any (array(select rolname::text from pg_catalog.pg_roles))`,
  ].map((bad) =>
    [`a policy that is true of nobody: ${bad}`, `drop policy app_select on redoubt.users; create policy app_select on redoubt.users for select to "${role}" using (${bad})`, /policy app_select of redoubt\.users can be true of somebody whom nobody verified/, `drop policy app_select on redoubt.users; create policy app_select on redoubt.users for select to "${role}" using (id = (select guard.actor()))`] as const),
  ['a table of the service that is not declared', `create table redoubt.loose (id int); alter table redoubt.loose enable row level security, force row level security; grant select on redoubt.loose to "${role}"`, /table redoubt\.loose is not declared, and the runtime role may touch it/, 'drop table redoubt.loose'],
  ['a policy of jobs that serves somebody else', `create policy reencrypt_select on redoubt.users for select to "${role}", "${database.service}_migrator" using ((select guard.actor()) = id)`, /reencrypt_select of redoubt\.users is for others/, 'drop policy reencrypt_select on redoubt.users'],
  ['a cascade', 'create table redoubt.child (id uuid references redoubt.users on delete cascade); alter table redoubt.child enable row level security, force row level security', /child_id_fkey of redoubt\.child cascades/, 'drop table redoubt.child'],
  ['a runtime role that may make schemas', `grant create on database "${database.name}" to "${role}"`, /may create schemas/, `revoke create on database "${database.name}" from "${role}"`],
  ['temporary tables for everybody', `grant temp on database "${database.name}" to public`, /may create temporary tables/, `revoke temp on database "${database.name}" from public`],
  ['a language for everybody', 'grant usage on language plpgsql to public', /may write functions in plpgsql/, 'revoke usage on language plpgsql from public'],
]

for (const [name, bad, expected, good] of faults) {
  test(`the start refuses ${name}`, async () => {
    await database.admin(bad)
    try {
      const findings = await check()
      assert.ok(findings.some(({ what, todo }) => expected.test(what) && todo.length > 5), `${expected.source} in ${findings.map(({ what }) => what).join('; ')}`)
    } finally {
      await database.admin(good)
    }
    assert.deepEqual(await check(), [])
  })
}

/** Roles are the cluster's, not the database's: each fault has a login of its own, so that nothing else is touched. */
const roleFaults: readonly (readonly [name: string, bad: (login: string) => string, expected: RegExp])[] = [
  ['membership in another role', (login) => `grant "${database.service}_auditor" to ${login}`, /is a member of another role/],
  ['a runtime role past row security', (login) => `alter role ${login} bypassrls`, /bypasses row security/],
  ['settings that the role carries itself', (login) => `alter role ${login} set default_transaction_read_only = on`, /has settings of its own \(default_transaction_read_only\)/],
  ['a superuser', (login) => `alter role ${login} superuser`, /is a superuser/],
  ['a runtime role that may make roles', (login) => `alter role ${login} createrole`, /may create roles/],
  ['logged parameters', (login) => `alter role ${login} set log_parameter_max_length_on_error = 100`, /the server logs bind parameters/],
  ['commits that do not wait', (login) => `alter role ${login} set synchronous_commit = off`, /commits do not wait for the disk/],
  ['a runtime role that owns a table', (login) => `grant all on schema redoubt to ${login}; alter table redoubt.idempotency_keys owner to ${login}`, /redoubt\.idempotency_keys belongs to the runtime role/],
]

for (const [name, bad, expected] of roleFaults) {
  test(`the start refuses ${name}`, async () => {
    const login = `redoubt_check_${process.pid}`
    const url = new URL(database.url('app'))
    url.username = login
    url.password = 'only-for-this-test'
    await database.admin(`create role ${login} login password '${url.password}'; grant connect on database "${database.name}" to ${login}; grant usage on schema redoubt to ${login}`)
    try {
      await database.admin(bad(login))
      const fresh = openPool({ url: url.href, max: 1, emit: nothing })
      const findings = await checkDatabase(fresh, tables, [])
      await fresh.close()
      assert.ok(findings.some(({ what }) => expected.test(what)), findings.map(({ what }) => what).join('; '))
    } finally {
      await database.admin(`reassign owned by ${login} to "${database.service}_owner"; drop owned by ${login}; drop role ${login}`)
    }
  })
}

test('the start refuses a table that is declared but absent', async () => {
  const more = defineTables({
    service: database.service,
    retention: kernelRetention,
    tables: { ...kernelTables, 'redoubt.absent': { id: 99, about: 'test', rowId: 'id', subject: null, tenant: null, keep: 'access', columns: { id: plain('uuid', 'INT') } } },
  })
  const findings = await checkDatabase(pool, more, [])
  assert.deepEqual(findings.map(({ what }) => what), ['table redoubt.absent is declared but not in the database'])
})

test('the start refuses another role’s login, here that of the keys and of the worker', async () => {
  for (const [login, ask] of [['keys', (other: Pool) => checkDatabase(other, tables, [])], ['worker', (other: Pool) => checkLogin(other, `${database.service}_keys`)]] as const) {
    const other = openPool({ url: database.url(login), max: 1, emit: nothing })
    const findings = await ask(other)
    await other.close()
    assert.equal(findings[0]?.what, `this login is ${database.service}_${login}, not ${database.service}_${login === 'keys' ? 'app' : 'keys'}`)
  }
})

test('what is so of the whole server is told once, however many logins were asked', async () => {
  await database.admin(`alter database "${database.name}" set synchronous_commit = off`)
  const pools = ['app', 'keys'].map((login) => openPool({ url: database.url(login as 'app' | 'keys'), max: 1, emit: nothing }))
  try {
    const [app, keys] = pools as [Pool, Pool]
    const findings = [...(await checkDatabase(app, tables, [])), ...(await checkLogin(keys, `${database.service}_keys`))]
    assert.equal(findings.length, 2, 'each login has met it')
    const refused = new DatabaseRefused(findings)
    assert.equal(refused.findings.length, 1)
    assert.match(refused.message, /^the database does not keep the guarantees:\n {2}- commits do not wait for the disk \(synchronous_commit = off\): leave it on: [^\n]+$/)
    // What differs in anything is told of each.
    const of = (who: string): Finding => ({ what: `${who} is a superuser`, todo: 'connect with another' })
    assert.deepEqual(new DatabaseRefused([of('a'), of('b'), of('a')]).findings, [of('a'), of('b')])
  } finally {
    await database.admin(`alter database "${database.name}" reset synchronous_commit`)
    await Promise.all(pools.map((one) => one.close()))
  }
})
