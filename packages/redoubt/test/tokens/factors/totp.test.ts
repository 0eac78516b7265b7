import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Refusal } from '../../../src/errors.ts'
import { listFactors } from '../../../src/tokens/factors.ts'
import { confirmTotp, enrolTotp } from '../../../src/tokens/factors/enrol.ts'
import { newTotpSecret, totpStep, totpUri } from '../../../src/tokens/factors/totp.ts'
import { checkPassword, openSession } from '../../../src/tokens/sessions.ts'
import { stepUp } from '../../../src/tokens/step-up.ts'
import { transaction } from '../../../src/transaction.ts'
import { systemCaller } from '../../../src/context.ts'
import { testDatabase } from '../../support/database.ts'
import { codeOf, openFactorWorld, wrongCode } from '../../support/factors.ts'
import { agent, password, visitor } from '../../support/identity.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await openFactorWorld(database)
after(() => world.close())
const { factors, identity, opened } = world

const refused = (work: Promise<unknown>, code: string): Promise<void> => assert.rejects(work, (error) => error instanceof Refusal && error.code === code)
const sessionsOf = async (id: string): Promise<number> => (await database.admin('select 1 from redoubt.sessions where user_id = $1 and revoked_at is null', [id])).length

test('the codes of RFC 6238, appendix B, in six digits; one step either way, no further', () => {
  const secret = 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ'
  for (const [seconds, code] of [[59, '287082'], [1111111109, '081804'], [1111111111, '050471'], [1234567890, '005924'], [2000000000, '279037']] as const) {
    const step = Math.floor(seconds / 30)
    assert.equal(totpStep(secret, code, seconds * 1000), step)
    assert.equal(totpStep(secret, code, seconds * 1000 + 30_000), step)
    assert.equal(totpStep(secret, code, Math.max(seconds - 30, 0) * 1000), step)
    assert.equal(totpStep(secret, code, seconds * 1000 + 60_000), undefined)
    assert.equal(totpStep(secret, code, seconds * 1000 + 90_000), undefined)
  }
  for (const code of ['28708', '2870820', '28708a', ' 287082', '', '٢٨٧٠٨٢']) assert.equal(totpStep(secret, code, 59_000), undefined)
  assert.match(newTotpSecret(), /^[A-Z2-7]{32}$/)
  assert.match(totpUri({ issuer: 'A & B', account: 'x@y', secret }), /^otpauth:\/\/totp\/A%20%26%20B:x%40y\?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ/)
})

test('enrolled, confirmed, and then asked for: the password alone opens no session', async () => {
  const ada = await world.guarded()
  assert.deepEqual((await listFactors(factors, ada.person)).factors.map(({ kind, label }) => [kind, label]), [['totp', 'phone']])
  const before = await sessionsOf(ada.id)
  const account = await checkPassword(identity, visitor, { indexes: ada.indexes, password })
  assert.equal(account.factors, true)
  await refused(openSession(identity, visitor, account, { agent }), 'forbidden')
  const pending = await world.begin(ada)
  assert.deepEqual(pending.factors.toSorted(), ['recovery', 'totp'])
  assert.equal(pending.passkey, undefined)
  assert.equal(await sessionsOf(ada.id), before)
  const done = await world.complete(pending.pending, { kind: 'totp', code: codeOf(ada.secret) })
  assert.equal(done.actor, ada.id)
  assert.equal(done.role, 'patient')
  assert.deepEqual(await opened.look(opened.person(done.token)), [{ actor: ada.id }])
})

test('the secret stands sealed, and an unconfirmed factor is not asked for', async () => {
  const someone = await world.person()
  const { handle } = await stepUp(factors, identity, someone.person, { action: 'factor.enrol', resource: someone.id, proof: { kind: 'password', password } })
  const { id, secret } = await enrolTotp(factors, someone.person, { label: 'phone', account: 'x', stepUp: handle })
  const [row] = await database.admin<{ text: string }>('select encode(secret_enc, $2) || mfa_factors::text as text from redoubt.mfa_factors where id = $1', [id, 'escape'])
  assert.ok(row !== undefined && !row.text.includes(secret))
  assert.equal((await checkPassword(identity, visitor, { indexes: someone.indexes, password })).factors, false)
  await refused(confirmTotp(factors, someone.person, { factor: id, code: wrongCode(secret) }), 'factor_refused')
  assert.equal((await checkPassword(identity, visitor, { indexes: someone.indexes, password })).factors, false)
})

test('attack: a code that was used is refused in the same step, and so is the one before it', async () => {
  const ada = await world.guarded()
  const code = codeOf(ada.secret)
  await world.complete((await world.begin(ada)).pending, { kind: 'totp', code })
  for (const again of [code, codeOf(ada.secret, -1)]) await refused(world.complete((await world.begin(ada)).pending, { kind: 'totp', code: again }), 'factor_refused')
})

test('attack: of eight sign-ins at once with one code, one is signed in', async () => {
  const ada = await world.guarded()
  const pending = await Promise.all(Array.from({ length: 8 }, () => world.begin(ada)))
  // The pause between tries would hide the race: what is shown here is that the code itself is used up once.
  await database.admin(`create or replace function guard.count_factor_try(p_user uuid, p_door text) returns int language sql security definer set search_path = pg_catalog, pg_temp as 'select 0'`)
  const before = await sessionsOf(ada.id)
  const code = codeOf(ada.secret)
  const all = await Promise.allSettled(pending.map((each) => world.complete(each.pending, { kind: 'totp', code })))
  assert.equal(all.filter(({ status }) => status === 'fulfilled').length, 1)
  for (const each of all) if (each.status === 'rejected') assert.ok(each.reason instanceof Refusal && each.reason.code === 'factor_refused')
  assert.equal(await sessionsOf(ada.id), before + 1)
})

test('attack: SQL injected into the sign-in’s own transactions opens no session without the factor', async () => {
  const ada = await world.guarded()
  const before = await sessionsOf(ada.id)
  const { pending } = await world.begin(ada)
  await refused(world.complete(pending, { kind: 'totp', code: wrongCode(ada.secret) }), 'factor_refused')
  const [row] = await database.admin<{ id: string }>(`select id from redoubt.one_time_codes where user_id = $1 and purpose = 'login' order by created_at desc limit 1`, [ada.id])
  const tryIt = (name: string, action: keyof typeof factors.gate.actions, texts: readonly string[]): Promise<unknown> =>
    transaction(factors.gate, systemCaller(name, identity.tenant, visitor), action, async (tx) => {
      for (const text of texts) await tx.query({ text, values: [] })
    })
  const step = Math.floor(Date.now() / 30_000)
  const [index] = ada.indexes.slice(-1)
  const open = `select guard.open_session(gen_random_uuid(), '${ada.id}', array['\\x${index?.toString('hex') ?? ''}'::bytea], 'tenant', array[sha256('a'), sha256('b')], 'x', null, null, 3600, 7200)`
  const complete = `select guard.complete_pending('${row?.id ?? ''}', '${ada.factor}', ${step}, 0, null)`
  await refused(tryIt('sign-in', 'auth.login_succeeded', [open]), 'forbidden')
  await refused(tryIt('sign-in', 'auth.login_succeeded', [complete, open]), 'forbidden')
  await refused(tryIt('second-factor', 'auth.login_succeeded', [open]), 'forbidden')
  // The transaction that reads the factors has another action in its signature.
  await refused(tryIt('second-factor', 'auth.factor_tried', [complete, open]), 'forbidden')
  for (const text of [`update redoubt.mfa_factors set proven_in = pg_current_xact_id(), last_used_at = now() where id = '${ada.factor}'`, `select guard.spend_proof('${ada.id}', '${ada.factor}', ${step}, 0, null)`, `select guard.redeem_code('${row?.id ?? ''}', 'login')`, `delete from redoubt.mfa_factors where id = '${ada.factor}'`]) {
    await assert.rejects(tryIt('second-factor', 'auth.login_succeeded', [text, open]), (error) => error instanceof Refusal, text)
  }
  // A proof that was given, in another transaction, is none in this one.
  await world.complete(pending, { kind: 'totp', code: codeOf(ada.secret) })
  await refused(tryIt('sign-in', 'auth.login_succeeded', [open]), 'forbidden')
  assert.equal(await sessionsOf(ada.id), before + 1)
})
