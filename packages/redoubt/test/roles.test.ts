import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import pg from 'pg'
import { logins, passwordsSql, rolesSql } from '../src/cli/roles.ts'
import { testDatabase } from './support/database.ts'

const db = await testDatabase({ origins: [] })
const app = new pg.Client({ connectionString: db.url('app') })
await app.connect()
after(() => app.end())

/** What the server says to a statement of the app role: 'allowed', or the SQLSTATE. */
async function answer(sql: string): Promise<string> {
  return app.query(sql).then(() => 'allowed', (error: pg.DatabaseError) => error.code ?? 'no code')
}

const attacks = {
  'a temp table that captures the next caller\'s INSERT': 'create temp table users (v text)',
  'code in a DO block': 'do $$ begin end $$',
  'a table in schema public that shadows a name': 'create table public.users (v text)',
  'a schema of its own': 'create schema mine',
  'a session lock that outlives the transaction': 'select pg_advisory_lock(1)',
  'a shared session lock': 'select pg_try_advisory_lock_shared(1, 2)',
  'unlocking the locks of the session': 'select pg_advisory_unlock_all()',
  'a large object, which no policy sees': "select lo_from_bytea(0, 'copied')",
  'reading a large object': 'select lo_get(1)',
  'opening a large object': 'select lo_open(1, 262144)',
  'terminating the backend of another caller': 'select pg_terminate_backend(pg_backend_pid())',
  'cancelling the statement of another caller': 'select pg_cancel_backend(pg_backend_pid())',
  'a setting by UPDATE': "update pg_settings set setting = 'off' where name = 'row_security'",
  'becoming the owner': 'set role redoubt_test_owner',
}

for (const [attack, sql] of Object.entries(attacks)) {
  test(`the app role is refused: ${attack}`, async () => {
    assert.equal(await answer(sql), '42501')
  })
}

test('the app role keeps what the gate needs: local settings and transaction locks', async () => {
  assert.equal(await answer("select set_config('redoubt.caller', 'x', true), pg_advisory_xact_lock(1)"), 'allowed')
})

test('each role is made with exactly its attributes and memberships', async () => {
  // A service of its own: the roles of the other tests outlive a run, and would hide what the script no longer does.
  await db.admin('begin')
  await db.admin(rolesSql('redoubt_fresh'))
  const rows = await db.admin<{ name: string; flags: string; member_of: string | null }>(
    `select substr(r.rolname, 15) as name,
       concat_ws(' ', case when rolcanlogin then 'login' end, case when not rolinherit then 'noinherit' end, case when rolbypassrls then 'bypassrls' end,
         case when rolsuper or rolcreatedb or rolcreaterole or rolreplication then 'POWER' end) as flags,
       (select string_agg(substr(o.rolname, 15), ' ' order by o.rolname) from pg_auth_members m join pg_roles o on o.oid = m.roleid where m.member = r.oid) as member_of
     from pg_roles r where starts_with(r.rolname, 'redoubt_fresh_') order by 1`,
  )
  await db.admin('rollback')
  assert.deepEqual(rows, [
    { name: 'app', flags: 'login', member_of: null },
    { name: 'auditor', flags: 'login', member_of: null },
    { name: 'backup', flags: 'login bypassrls', member_of: null },
    { name: 'guard', flags: '', member_of: null },
    { name: 'ingest', flags: 'login', member_of: null },
    { name: 'keys', flags: 'login', member_of: null },
    { name: 'migrator', flags: 'login noinherit', member_of: 'guard owner' },
    { name: 'owner', flags: '', member_of: null },
    { name: 'worker', flags: 'login', member_of: null },
  ])
})

test('the script may be run again, and takes back power that a role was given meanwhile', async () => {
  await db.admin('begin')
  await db.admin('alter role redoubt_test_app createdb bypassrls')
  await db.admin(rolesSql(db.service))
  const [app] = await db.admin<{ power: boolean }>("select rolcreatedb or rolbypassrls as power from pg_roles where rolname = 'redoubt_test_app'")
  await db.admin('rollback')
  assert.equal(app?.power, false)
})

test('a function of guard or owner is not executable by PUBLIC even if its migration forgot to revoke it', async () => {
  await db.admin('create schema trial authorization redoubt_test_guard; grant usage on schema trial to redoubt_test_app')
  await db.admin("set role redoubt_test_guard; create function trial.f() returns int language sql as 'select 1'; reset role")
  assert.equal(await answer('select trial.f()'), '42501')
})

test('an administrator who is no superuser is told what could not be done, and the rest is done', async () => {
  const name = 'redoubt_test_admin_trial'
  const password = 'a-password-of-a-managed-server'
  const other = `${db.name}_m`
  await db.admin(`create role ${name} login createrole createdb password '${password}'`)
  const url = new URL(db.adminUrl)
  url.username = name
  url.password = password
  const notices: string[] = []
  const run = async (database: string, sql: string): Promise<void> => {
    url.pathname = `/${database}`
    const client = new pg.Client({ connectionString: url.href })
    client.on('notice', (notice) => notices.push(notice.message ?? ''))
    await client.connect()
    try {
      await client.query(sql)
    } finally {
      await client.end()
    }
  }
  try {
    await run('postgres', `create database ${other} template template0`)
    await run(other, rolesSql('redoubt_trial'))
    await run(other, rolesSql('redoubt_trial'))
    assert.match(notices.join('\n'), /BYPASSRLS could not be set[\s\S]*not a superuser/)
    const [row] = await db.admin<{ roles: number }>("select count(*)::int as roles from pg_roles where starts_with(rolname, 'redoubt_trial_')")
    assert.equal(row?.roles, 9)
  } finally {
    await db.admin(`drop database if exists ${other}`)
    for (const role of [...logins, 'owner', 'guard']) await db.admin(`drop role if exists redoubt_trial_${role}`)
    await db.admin(`drop role ${name}`)
  }
})

test('a password reaches the server as a verifier only, and signs in', async () => {
  const sql = passwordsSql('redoubt_test', { app: 'a-password-to-look-for' })
  assert.doesNotMatch(sql, /look-for/)
  assert.match(sql, /^alter role redoubt_test_app password 'SCRAM-SHA-256\$4096:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]{44}:[A-Za-z0-9+/=]{44}';\n$/)
  assert.throws(() => passwordsSql('redoubt_test', { app: "short'" }), (error) => error instanceof TypeError && !error.message.includes('short\''))
  assert.throws(() => rolesSql('x; drop role y'), TypeError)
})
