import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemCaller, type Person } from '../../src/context.ts'
import { isVerified, noteVerified, verifiedByRows } from '../../src/transaction/verification.ts'

const person: Person = { kind: 'user', actor: crypto.randomUUID(), role: 'patient', tenant: 't', session: crypto.randomUUID(), requestId: 'r', address: null }
const system = systemCaller('rehearsal', 't', { requestId: 'r', address: null })

test('a row of columns alone, of a table by its full name, shows that its policy has asked for the person', () => {
  for (const text of [
    'select id from app.notes', 'SELECT "id", "n"."body" FROM "app"."notes" AS "n" WHERE "id" = $1', 'select n.* from app.notes n where id = any($1) order by id limit $2',
    'select distinct id::text as id\n from app.notes for update', 'select from app.notes', 'select a.id, b.id from app.notes a join app.other b on b.id = a.id',
  ]) {
    assert.ok(verifiedByRows(person, text), text)
    assert.ok(!verifiedByRows(system, text), text)
  }
})

test('one call of a function of the guard shows it for a person, but for what policies ask', () => {
  assert.ok(verifiedByRows(person, 'select id, role from guard.own_sessions($1)'))
  for (const text of ['select actor from guard.actor()', 'select role from guard.role()', 'select x from guard.tenant()', 'select role from guard.caller(0)']) assert.ok(!verifiedByRows(person, text), text)
})

test('attack: a system caller is asked before its statement, so that a sign-in makes as many trips where nobody has the address', () => {
  assert.ok(!verifiedByRows(system, 'select id, role from guard.sign_in_lookup($1, $2)'))
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
