import assert from 'node:assert/strict'
import { createHash, randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { systemCaller, type Caller } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import { startSweep } from '../../src/idempotency.ts'
import { openPool } from '../../src/pg.ts'
import { codeActions, forgetCodes, newHandle, openCodes, type Issued, type Shown, type ToIssue } from '../../src/tokens/codes.ts'
import { transaction } from '../../src/transaction.ts'
import { makeAccount } from '../support/accounts.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate } from '../support/gate.ts'
import { keysWorld } from '../support/keys.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const opened = await openTestGate(database)
const world = await keysWorld(database)
const gate = { ...opened.gate, actions: { ...opened.gate.actions, ...codeActions } }
const codes = openCodes({ keyring: world.keyring(), gate, emit: gate.emit })
after(async () => {
  await opened.close()
  await world.close()
})

const visitor = { requestId: 'code-request', address: null }
const signIn = systemCaller('sign-in', database.service, visitor)
const registering = systemCaller('register', database.service, visitor)

async function issue(caller: Caller, wanted: ToIssue): Promise<Issued> {
  const made = await transaction(gate, caller, 'test.look', (tx) => codes.issue(tx, wanted))
  assert.ok(made !== undefined)
  return made
}
const refused = (work: Promise<unknown>, code = 'code_refused'): Promise<void> => assert.rejects(work, (error) => error instanceof Refusal && error.code === code)
const other = (digits: string | undefined): string => String((Number(digits) + 1) % 10 ** (digits ?? '').length).padStart((digits ?? '').length, '0')
const rowOf = async (id: string): Promise<{ attempts: number; consumed_at: Date | null; redeemed_at: Date | null }> => {
  const [row] = await database.admin<{ attempts: number; consumed_at: Date | null; redeemed_at: Date | null }>('select attempts, consumed_at, redeemed_at from redoubt.one_time_codes where id = $1', [id])
  assert.ok(row !== undefined)
  return row
}

test('the right digits with the handle they were made for are accepted once', async () => {
  const ada = await makeAccount(database, 'ada')
  const made = await issue(registering, { user: ada.actor, purpose: 'email_verify', digits: 8 })
  assert.match(made.digits ?? '', /^\d{8}$/)
  const shown: Shown = { purpose: 'email_verify', handle: made.handle, digits: made.digits }
  assert.deepEqual(await codes.show(registering, shown), { id: made.id, user: ada.actor })
  await refused(codes.show(registering, shown))
})

test('attack: of fifty at once with the right digits one is accepted', async () => {
  const ada = await makeAccount(database, 'fifty')
  const made = await issue(registering, { user: ada.actor, purpose: 'email_verify', digits: 6 })
  const all = await Promise.allSettled(Array.from({ length: 50 }, () => codes.show(registering, { purpose: 'email_verify', handle: made.handle, digits: made.digits })))
  assert.equal(all.filter(({ status }) => status === 'fulfilled').length, 1)
})

test('attack: guessing ends after five tries, also when they come at once, and the right digits are refused then', async () => {
  const ada = await makeAccount(database, 'guess')
  const made = await issue(registering, { user: ada.actor, purpose: 'email_verify', digits: 6 })
  const wrong: Shown = { purpose: 'email_verify', handle: made.handle, digits: other(made.digits) }
  await Promise.all(Array.from({ length: 20 }, () => refused(codes.show(registering, wrong))))
  assert.equal((await rowOf(made.id)).attempts, 5)
  await refused(codes.show(registering, { ...wrong, digits: made.digits }))
  assert.equal((await database.admin("select 1 from redoubt.audit_logs where action = 'auth.otp_failed' and resource_id = $1", [ada.actor])).length, 5)
})

test('a try counts although the work of its caller is rolled back', async () => {
  const ada = await makeAccount(database, 'rolled')
  const made = await issue(registering, { user: ada.actor, purpose: 'email_verify', digits: 6 })
  await assert.rejects(transaction(gate, registering, 'test.look', async () => {
    await codes.show(registering, { purpose: 'email_verify', handle: made.handle, digits: other(made.digits) })
  }))
  assert.equal((await rowOf(made.id)).attempts, 1)
})

test('attack: digits without the handle, under another purpose, past their time, or of somebody who was not asked are refused', async () => {
  const [ada, ben] = [await makeAccount(database, 'ada2'), await makeAccount(database, 'ben')]
  const made = await issue(registering, { user: ada.actor, purpose: 'email_verify', digits: 6 })
  await refused(codes.show(registering, { purpose: 'email_verify', handle: newHandle(), digits: made.digits }))
  await refused(codes.show(registering, { purpose: 'email_verify', handle: "' or true --", digits: made.digits }))
  await refused(codes.show(registering, { purpose: 'email_verify', handle: made.handle }))
  await refused(codes.show(signIn, { purpose: 'login', handle: made.handle, digits: made.digits }))
  await refused(codes.show(signIn, { purpose: 'email_verify', handle: made.handle, digits: made.digits }), 'forbidden')
  const own = await issue(ada, { user: ada.actor, purpose: 'email_change', digits: 6 })
  await refused(codes.show(ben, { purpose: 'email_change', handle: own.handle, digits: own.digits }))
  await refused(issue(ben, { user: ada.actor, purpose: 'email_change', digits: 6 }), 'forbidden')
  await refused(issue(ben, { user: ben.actor, purpose: 'reset', digits: 6 }), 'forbidden')
  await database.admin("update redoubt.one_time_codes set expires_at = now() - interval '1 second' where id = $1", [own.id])
  await refused(codes.show(ada, { purpose: 'email_change', handle: own.handle, digits: own.digits }))
})

test('a code for one resource is refused for another, and the try counts', async () => {
  const ada = await makeAccount(database, 'context')
  const made = await issue(ada, { user: ada.actor, purpose: 'email_change', digits: 6, context: 'export 1' })
  const shown: Shown = { purpose: 'email_change', handle: made.handle, digits: made.digits }
  await refused(codes.show(ada, { ...shown, context: 'export 2' }))
  await refused(codes.show(ada, shown))
  assert.equal((await rowOf(made.id)).attempts, 2)
  assert.equal((await codes.show(ada, { ...shown, context: 'export 1' })).id, made.id)
})

test('a handle without digits may be tried five times and stays open until it is redeemed', async () => {
  const ada = await makeAccount(database, 'handle')
  const made = await issue(signIn, { user: ada.actor, purpose: 'login', minutes: 5 })
  assert.equal(made.digits, undefined)
  for (let i = 0; i < 5; i++) assert.equal((await codes.show(signIn, { purpose: 'login', handle: made.handle })).user, ada.actor)
  await refused(codes.show(signIn, { purpose: 'login', handle: made.handle }))
  assert.equal((await rowOf(made.id)).consumed_at, null)
})

test('attack: a database administrator gives their code to another account, or a longer life', async () => {
  const [mallory, ada] = [await makeAccount(database, 'mallory'), await makeAccount(database, 'victim')]
  const changes = [['user_id = $2', ada.actor], ["expires_at = now() + interval '7 days', purpose = coalesce(purpose, $2::text)", 'x'], ['context_hash = null, tenant = coalesce(tenant, $2::text)', 'x']] as const
  for (const [change, value] of changes) {
    const made = await issue(registering, { user: mallory.actor, purpose: 'email_verify', digits: 6, context: 'a' })
    await database.admin(`update redoubt.one_time_codes set ${change} where id = $1`, [made.id, value])
    const context = change.startsWith('context_hash') ? undefined : 'a'
    opened.events.length = 0
    await refused(codes.show(registering, { purpose: 'email_verify', handle: made.handle, digits: made.digits, context }))
    assert.ok(opened.events.some((event) => event.type === 'auth.otp_failed' && event.reason === 'tampered'), change)
  }
})

test('attack: a stolen table holds neither digits nor handle, and equal digits of two codes look unlike', async () => {
  const ada = await makeAccount(database, 'stolen')
  const made = await issue(registering, { user: ada.actor, purpose: 'email_verify', digits: 6 })
  const [row] = await database.admin<{ text: string; code_hash: Buffer }>('select c::text as text, code_hash from redoubt.one_time_codes c where id = $1', [made.id])
  assert.ok(row !== undefined && !row.text.includes(made.handle) && !row.text.includes(made.digits ?? ''))
  // Without the key the whole space of digits explains nothing.
  for (const text of [made.digits ?? '', `${made.handle}${made.digits}`]) assert.notDeepEqual(row.code_hash.subarray(1), createHash('sha256').update(text).digest())
})

test('attack: what a stranger asks for again and again does not pile up', async () => {
  const ada = await makeAccount(database, 'flood')
  for (let i = 0; i < 10; i++) await issue(registering, { user: ada.actor, purpose: 'email_verify', digits: 6 })
  assert.equal(await transaction(gate, registering, 'test.look', (tx) => codes.issue(tx, { user: ada.actor, purpose: 'email_verify', digits: 6 })), undefined)
})

test('a code for a handle that was given out before is issued once, and its digits are told again to whoever has the key', async () => {
  const ada = await makeAccount(database, 'later')
  const [handle, id] = [newHandle(), randomUUID()]
  const handleHash = await codes.hashOf('email_verify', handle)
  for (let i = 0; i < 2; i++) assert.equal(await transaction(gate, registering, 'test.look', (tx) => codes.issueFor(tx, { id, handleHash }, { user: ada.actor, purpose: 'email_verify', digits: 8 })), true)
  assert.equal((await codes.show(registering, { purpose: 'email_verify', handle, digits: await codes.digitsOf({ id, handleHash }, 8) })).id, id)
})

test('what the sender means by a code is checked', async () => {
  const ada = await makeAccount(database, 'meant')
  await assert.rejects(issue(ada, { user: ada.actor, purpose: 'step_up', digits: 4 as never }), /digits must be 6, 7 or 8/)
  await assert.rejects(issue(ada, { user: ada.actor, purpose: 'step_up', minutes: 0 }), /minutes/)
  await assert.rejects(transaction(gate, ada, 'test.look', (tx) => codes.issueFor(tx, { id: randomUUID(), handleHash: Buffer.alloc(3) }, { user: ada.actor, purpose: 'step_up' })), /hashOf/)
})

test('injected SQL can neither redeem a code nor read the table', async () => {
  const ada = await makeAccount(database, 'inject')
  const made = await issue(registering, { user: ada.actor, purpose: 'email_verify', digits: 6 })
  for (const text of ["select guard.redeem_code($1, 'email_verify')", 'select * from redoubt.one_time_codes where id = $1', 'delete from redoubt.one_time_codes where id = $1']) {
    await assert.rejects(transaction(gate, registering, 'test.look', (tx) => tx.query({ text, values: [made.id] })))
  }
})

test('the sweep deletes what has been over for a day', async () => {
  const ada = await makeAccount(database, 'sweep')
  const [old, live] = [await issue(registering, { user: ada.actor, purpose: 'email_verify' }), await issue(registering, { user: ada.actor, purpose: 'email_verify' })]
  await database.admin("update redoubt.one_time_codes set expires_at = now() - interval '25 hours' where id = $1", [old.id])
  const pool = openPool({ url: database.url('worker'), max: 1, emit: gate.emit })
  const sweep = startSweep({ pool, emit: gate.emit, more: [forgetCodes] })
  for (const end = performance.now() + 5_000; performance.now() < end; await new Promise((resolve) => setTimeout(resolve, 10))) {
    if ((await database.admin('select 1 from redoubt.one_time_codes where id = $1', [old.id])).length === 0) break
  }
  await sweep.stop()
  await pool.close()
  assert.deepEqual(await database.admin('select id from redoubt.one_time_codes where id = any($1)', [[old.id, live.id]]), [{ id: live.id }])
})
