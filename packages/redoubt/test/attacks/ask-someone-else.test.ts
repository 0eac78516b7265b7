import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { test } from 'node:test'
import type pg from 'pg'
import type { Login } from '../../src/cli/roles.ts'
import { systemCaller, type Caller } from '../../src/context.ts'
import { makeAccount } from '../support/accounts.ts'
import { claimOf, installKnownKey, loggedIn } from '../support/claims.ts'
import { testDatabase } from '../support/database.ts'

// A definer function does what its caller may not. Each one that a login can call is called here with the ids of
// somebody else; they are taken from the catalogue, so that a new one is attacked from its first day.

const database = await testDatabase()
const key = await installKnownKey(database)
const victim = await makeAccount(database, 'victim', 'patient')
const carer = await makeAccount(database, 'carer', 'therapist')
const mallory = await makeAccount(database, 'mallory', 'patient')
const trudy = await makeAccount(database, 'trudy', 'therapist')
const relationship = randomUUID()
const entry = randomUUID()
const dataKey = randomBytes(16)

for (const { actor } of [carer, trudy]) {
  await database.admin(
    `insert into therapy.therapist_profiles (user_id, display_name, specialisation, licence_number_enc, verification, price_minor, currency, time_zone, created_at)
     values ($1, 'Somebody', 'x', '\\x01', 'pending', 100, 'EUR', 'UTC', now())`, [actor])
}
for (const { actor } of [victim, mallory]) {
  await database.admin(`insert into therapy.patients (id, first_name_enc, last_name_enc, dob_enc, created_at) values ($1, '\\x01', '\\x01', '\\x01', now())`, [actor])
}
await database.admin(`insert into therapy.care_relationships (id, therapist_id, patient_id, state, basis, created_at, started_at) values ($1, $2, $3, 'active', 'referral', now(), now())`, [relationship, carer.actor, victim.actor])
await database.admin(
  `insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_id, actor_role, tenant_id, action, outcome, request_id, retention_class, retain_until)
   values ($1, pg_current_xact_id(), now(), 'user', $2, 'patient', 't', 'test.read', 'done', 'r', 'access', now() + interval '1 day')`, [entry, victim.actor])
await database.admin(`insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped) values ($1, 'data', 1, 'local', 'x', '\\x01')`, [dataKey])
await database.admin(`insert into keys.data_keys (key_id, tenant, subject, keep, kek_id, wrapped) values ($1, 't', $2, 'care', $1, $3)`, [dataKey, victim.actor, randomBytes(61)])

/** What a caller of the function could mean by an argument of each type; the first ones are the victim's. */
const meant: Readonly<Record<string, readonly unknown[]>> = {
  uuid: [victim.actor, victim.session, relationship, entry, carer.actor],
  'text[]': [['usb'], null],
  boolean: [true, false],
  'uuid[]': [[victim.actor], [victim.actor, carer.actor], []],
  text: ['tenant', victim.actor, 'done', victim.tenant, 'care', key.kid],
  'bytea[]': [[victim.emailIndex], [dataKey], [carer.emailIndex, victim.emailIndex], []],
  bytea: [Buffer.alloc(32), dataKey, Buffer.alloc(64)],
  integer: [1, 3600, 100],
  bigint: [0, 1, null],
  numeric: [1, 3],
  jsonb: ['{}', `{"actor":"${victim.actor}"}`],
  'timestamp with time zone': ['2000-01-01', '2100-01-01'],
}

type Callable = { readonly name: string; readonly types: readonly string[] }

/** Functions (and procedures) outside the system's schemas that this login may execute. */
async function callable(login: Login): Promise<readonly Callable[]> {
  return database.admin<Callable>(
    `select n.nspname || '.' || p.proname as name,
       array(select pg_catalog.format_type(t, null) from unnest(p.proargtypes) with ordinality a (t, n) order by a.n) as types
     from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where n.nspname not in ('pg_catalog', 'information_schema') and p.prorettype <> 'trigger'::regtype
       and has_schema_privilege($1, n.oid, 'usage') and has_function_privilege($1, p.oid, 'execute')
       and not exists (select from pg_depend d where d.objid = p.oid and d.classid = 'pg_proc'::regclass and d.deptype = 'e')
     order by 1`, [`${database.service}_${login}`])
}

/** Lists of arguments: all combinations where there are few, else many in which each value meets the others. */
function argumentsOf({ name, types }: Callable): readonly (readonly unknown[])[] {
  const choices = types.map((type) => {
    const values = meant[type]
    assert.ok(values !== undefined, `${name} takes a ${type}: teach this test what an attacker would give it`)
    return values
  })
  const many = choices.reduce((product, values) => product * values.length, 1)
  const strides = many <= 125 ? choices.map((_, at) => choices.slice(0, at).reduce((product, values) => product * values.length, 1)) : [1, 3, 7, 2, 5, 11, 13, 17, 19, 23, 29]
  return Array.from({ length: Math.min(many, 150) }, (_, i) => choices.map((values, at) => values[Math.floor(i / (strides[at] ?? 1)) % values.length]))
}

/** So many calls are under way at once, each behind the one before it: a trip for each took minutes where the machine was busy. Few enough for the ten seconds of a claim. */
const together = 25

/** Calls it once for each list of arguments, each time in a transaction that commits; gives all that came back. */
async function callAll(client: pg.Client, caller: Caller | null, target: Callable): Promise<string> {
  const answers: unknown[] = []
  const list = target.types.map((type, i) => `$${i + 1}::${type}`).join(', ')
  const call = async (values: readonly unknown[]): Promise<unknown> => {
    const claim = caller === null ? '' : `; select set_config('redoubt.caller', ${client.escapeLiteral(claimOf(key, database, caller, { entry: randomUUID() }))}, true)`
    const [, answer] = await Promise.all([
      client.query(`begin${claim}`),
      client.query<Record<string, unknown>>({ name: `${target.name}/${target.types.length}`, text: `select * from ${target.name}(${list}) as answer`, values: [...values] }).then(({ rows }) => rows, () => 'refused'),
      client.query('commit'),
    ])
    return answer
  }
  // The first one alone: behind it the statement is known by its name.
  const [first = [], ...rest] = argumentsOf(target)
  answers.push(await call(first))
  for (let at = 0; at < rest.length; at += together) answers.push(...(await Promise.all(rest.slice(at, at + together).map(call))))
  // One of them ends the caller's own session; the next function is to meet a live one.
  await database.admin('update redoubt.sessions set revoked_at = null, revoke_reason = null where user_id = any($1)', [[mallory.actor, trudy.actor]])
  return JSON.stringify(answers)
}

/** Every row outside the system's schemas, as text. The entries of an attacker name their actor, also in audit_subjects. */
async function everything(): Promise<ReadonlySet<string>> {
  const tables = await database.admin<{ name: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema') order by 1`)
  const rows = new Set<string>()
  for (const { name } of tables) {
    const from = name === 'redoubt.audit_subjects' ? `(select s.*, e.actor_id from ${name} s join redoubt.audit_logs e on e.id = s.entry_id) t` : `${name} t`
    for (const { line } of await database.admin<{ line: string }>(`select t::text as line from ${from}`)) rows.add(`${name} ${line}`)
  }
  return rows
}

/** What went and what came, but for rows that belong to the attacker. */
function differences(before: ReadonlySet<string>, now: ReadonlySet<string>, mine: RegExp): readonly string[] {
  const lost = [...before].filter((row) => !now.has(row)).map((row) => `gone: ${row}`)
  const made = [...now].filter((row) => !before.has(row)).map((row) => `new: ${row}`)
  return [...lost, ...made].filter((row) => !mine.test(row))
}

const secrets = [victim.actor, victim.session, victim.passwordHash, carer.actor, carer.session, carer.passwordHash, relationship, entry].map((text) => JSON.stringify(text).slice(1, -1))
const learned = (answer: string): readonly string[] => secrets.filter((secret) => answer.includes(secret))

for (const [who, caller] of [['a patient', mallory], ['a therapist', trudy], ['nobody', null], ['registration', systemCaller('register', victim.tenant, mallory)], ['the gate', systemCaller('gate', victim.tenant, mallory)]] as const) {
  test(`SQL inside a transaction of ${who} asks every function of the app’s login about others`, async () => {
    const functions = await callable('app')
    assert.ok(functions.length >= 12, 'the catalogue was read')
    const before = await everything()
    await loggedIn(database.url('app'), async (client) => {
      for (const target of functions) assert.deepEqual(learned(await callAll(client, caller, target)), [], `${target.name} told ${who} something`)
    }, { pipeline: true })
    const mine = caller === null ? /^never$/ : caller.actor === null ? /^new: redoubt\.audit_(logs|subjects) .*(system\.(register|gate)|,\)$)/ : new RegExp(`${caller.actor}|${caller.session}`)
    assert.deepEqual(differences(before, await everything(), mine), [])
  })
}

for (const login of ['worker', 'auditor', 'ingest', 'backup'] as const) {
  test(`the ${login}’s login, with and without somebody’s signed claim, asks every function it may call`, async () => {
    const before = await everything()
    await loggedIn(database.url(login), async (client) => {
      const functions = await callable(login)
      // Twice: what the first round sealed, the second may try to remove.
      for (const target of [...functions, ...functions]) {
        for (const caller of [null, mallory, systemCaller('jobs', victim.tenant, mallory)]) {
          assert.deepEqual(learned(await callAll(client, caller, target)), [], `${target.name} told ${login} something`)
        }
      }
    }, { pipeline: true })
    // The worker seals, resumes and anchors the record of others; it changes none of their rows and loses no entry.
    const mine = login === 'worker' ? new RegExp(`${mallory.actor}|new: redoubt\\.audit_|gone: redoubt\\.audit_head|system\\.jobs`) : /^never$/
    assert.deepEqual(differences(before, await everything(), mine), [])
  })
}

test('the same calls by the callers that the functions are made for do answer: the attack has teeth', async () => {
  await loggedIn(database.url('app'), async (client) => {
    const lookup: Callable = { name: 'guard.sign_in_lookup', types: ['bytea[]', 'text'] }
    const account = learned(await callAll(client, systemCaller('sign-in', victim.tenant, mallory), lookup))
    assert.ok(account.includes(victim.actor) && account.includes(victim.passwordHash))
    assert.deepEqual(learned(await callAll(client, carer, { name: 'therapy.my_patients', types: [] })), [victim.actor])
  }, { pipeline: true })
  const [entries] = await database.admin<{ n: number }>('select count(*)::int as n from redoubt.audit_logs where actor_id = $1', [mallory.actor])
  assert.ok((entries?.n ?? 0) > 0, 'an attacker’s own entry was written')
  const before = await everything()
  await loggedIn(database.url('app'), (client) => callAll(client, victim, { name: 'guard.end_own_session', types: [] }))
  assert.equal(differences(before, await everything(), /^never$/).length, 2, 'one row went, one came')
})
