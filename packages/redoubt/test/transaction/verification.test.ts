import assert from 'node:assert/strict'
import { test } from 'node:test'
import pg from 'pg'
import { roleName } from '../../src/cli/roles.ts'
import { systemCaller, type Person } from '../../src/context.ts'
import { isVerified, noteVerified, verifiedByAnswer, verifiedByRows } from '../../src/transaction/verification.ts'
import { testDatabase } from '../support/database.ts'

const database = await testDatabase()
/** Functions of the guard that refuse nobody: policies ask them, and hold_keys locks rows without a caller. */
const unasking = ['actor', 'role', 'tenant', 'caller', 'hold_keys']

const person: Person = { kind: 'user', actor: crypto.randomUUID(), role: 'patient', tenant: 't', session: crypto.randomUUID(), requestId: 'r', address: null }
const system = systemCaller('rehearsal', 't', { requestId: 'r', address: null })

test('a row of columns alone, of a table by its full name, shows that its policy has asked for the person', () => {
  for (const text of [
    'select id from app.notes', 'SELECT "id", "body" FROM "app"."notes" AS "n" WHERE "id" = $1', 'select * from app.notes n where id = any($1) order by id limit $2',
    'select distinct id::text as id\n from app.notes for update', 'select from app.notes',
  ]) {
    assert.ok(verifiedByRows(person, text), text)
    assert.ok(!verifiedByRows(system, text), text)
  }
})

test('one call of a function of the guard shows it for everybody, by an empty answer too, but for what policies ask', () => {
  assert.ok(verifiedByAnswer('select id, role from guard.sign_in_lookup($1, $2)'))
  for (const text of [...unasking.map((name) => `select x from guard.${name}($1)`), 'select id from app.notes', 'select id from guard.sign_in_lookup($1) where true']) assert.ok(!verifiedByAnswer(text), text)
})

test('attack: no function of the guard answers nobody, whatever it is given', async () => {
  const functions = await database.admin(`select p.proname as name, p.pronargs as given from pg_catalog.pg_proc p
    where p.pronamespace = 'guard'::regnamespace and p.prokind = 'f' and has_function_privilege('${roleName(database.service, 'app')}', p.oid, 'execute') and p.proname <> all ('{${unasking.join(',')}}')`)
  assert.ok(functions.length > 40, String(functions.length))
  const client = new pg.Client({ connectionString: database.url('app') })
  await client.connect()
  try {
    for (const { name, given } of functions) {
      const text = `select from guard.${String(name)}(${Array.from({ length: Number(given) }, () => 'null').join(', ')})`
      // guard.absent() answers nobody at all.
      await assert.rejects(client.query(text), { code: name === 'absent' ? 'RD404' : 'RD401' }, text)
    }
  } finally {
    await client.end()
  }
})

test('attack: a copy of a verified caller under another session passes for none; one that cannot be marked is asked about again', () => {
  const caller: Person = { ...person }
  assert.equal(isVerified(caller), false)
  noteVerified(caller)
  assert.equal(isVerified(caller), true)
  assert.equal(isVerified({ ...caller, session: 'other' }), false)
  const fixed = Object.freeze({ ...person })
  noteVerified(fixed)
  assert.equal(isVerified(fixed), false)
})
