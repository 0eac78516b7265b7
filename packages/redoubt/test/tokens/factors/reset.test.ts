import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { systemCaller, type Person } from '../../../src/context.ts'
import { Refusal } from '../../../src/errors.ts'
import { listFactors } from '../../../src/tokens/factors.ts'
import { cancelReset, requestReset } from '../../../src/tokens/factors/reset.ts'
import { beginSecondFactor } from '../../../src/tokens/factors/sign-in.ts'
import { checkPassword, openSession, type SignedIn } from '../../../src/tokens/sessions.ts'
import { stepUp } from '../../../src/tokens/step-up.ts'
import { transaction } from '../../../src/transaction.ts'
import { testDatabase } from '../../support/database.ts'
import { codeOf, openFactorWorld, type Protected } from '../../support/factors.ts'
import { agent, password, visitor } from '../../support/identity.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await openFactorWorld(database)
after(() => world.close())
const { factors, identity, opened } = world

const refused = (work: Promise<unknown>, code: string): Promise<void> => assert.rejects(work, (error) => error instanceof Refusal && error.code === code)

/** An administrator as the admin realm has them: signed in with a factor. */
async function administrator(): Promise<Protected> {
  const someone = await world.guarded()
  await database.admin(`update redoubt.users set role = 'admin', realm = 'platform' where id = $1`, [someone.id])
  await database.admin(`update redoubt.sessions set realm = 'platform' where user_id = $1`, [someone.id])
  return { ...someone, person: { ...someone.person, role: 'admin' } }
}
const root = await administrator()
const allowed = async (user: string): Promise<string> => {
  // One code of the administrator's is enough for the whole file.
  await database.admin('update redoubt.recovery_codes set last_used_at = null where user_id = $1', [root.id])
  return (await stepUp(factors, { ...identity, realm: 'platform' }, root.person, { action: 'factor.reset', resource: user, proof: { kind: 'recovery', code: root.recovery[0] ?? '' } })).handle
}
const request = async (user: string, by: Person = root.person): Promise<Date> => requestReset(factors, by, { user, stepUp: await allowed(user) })
/** The request has waited: its times are moved into the past. */
const wait = (user: string, hours: number): Promise<unknown> =>
  database.admin('update redoubt.factor_resets set effective_at = effective_at - make_interval(hours => $2), expires_at = expires_at - make_interval(hours => $2) where user_id = $1', [user, hours])
/** A sign-in by password: a session where the second step is no more. */
async function signIn(someone: Pick<Protected, 'indexes'>): Promise<SignedIn | 'factor_required'> {
  const account = await checkPassword(identity, visitor, { indexes: someone.indexes, password })
  const pending = account.factors ? await beginSecondFactor(factors, identity, visitor, account, { agent }) : undefined
  return pending === undefined ? openSession(identity, visitor, account, { agent }) : 'factor_required'
}

test('asked for by an administrator, told to the person, and in effect a day later at their sign-in with the password', async () => {
  const ada = await world.guarded()
  const at = await request(ada.id)
  assert.ok(Math.abs(at.getTime() - Date.now() - 24 * 3_600_000) < 60_000)
  assert.ok(world.told.includes(`factor_reset_requested ${ada.id} admin`))
  assert.deepEqual((await listFactors(factors, ada.person)).resetAt, at)
  assert.equal(await signIn(ada), 'factor_required')
  await wait(ada.id, 23)
  assert.equal(await signIn(ada), 'factor_required')
  await wait(ada.id, 1)
  const done = await signIn(ada)
  assert.ok(done !== 'factor_required')
  assert.ok(world.told.includes(`factors_reset ${ada.id} system.sign-in`))
  // Earlier sessions, which a thief may hold, have ended; factors and codes are gone; the account may enrol anew.
  await refused(opened.look(ada.person), 'caller_refused')
  assert.deepEqual(await listFactors(factors, { ...opened.person(done.token) }), { factors: [], recoveryCodes: 0, resetAt: undefined })
  const entries = await database.admin<{ action: string }>(`select action from redoubt.audit_logs where resource_id = $1 and action like 'auth.factor%reset%' order by id`, [ada.id])
  assert.deepEqual(entries.map(({ action }) => action), ['auth.factor_reset_requested', 'auth.factors_reset'])
})

test('the person cancels it, an administrator cancels it, and using the factor cancels it', async () => {
  const ada = await world.guarded()
  for (const cancel of [
    () => cancelReset(factors, ada.person, ada.id),
    () => cancelReset(factors, root.person, ada.id),
    async () => world.complete((await world.begin(ada)).pending, { kind: 'totp', code: codeOf(ada.secret) }),
  ]) {
    await request(ada.id)
    await cancel()
    await wait(ada.id, 25)
    assert.equal(await signIn(ada), 'factor_required')
    await refused(cancelReset(factors, ada.person, ada.id), 'not_found')
  }
})

test('a recovery code, which one uses who has lost the factor, does not cancel it', async () => {
  const ada = await world.guarded()
  await request(ada.id)
  await world.complete((await world.begin(ada)).pending, { kind: 'recovery', code: ada.recovery[0] ?? '' })
  await wait(ada.id, 25)
  assert.notEqual(await signIn(ada), 'factor_required')
})

test('one that nobody needed lapses after a week', async () => {
  const ada = await world.guarded()
  await request(ada.id)
  await wait(ada.id, 24 * 8 + 1)
  assert.equal(await signIn(ada), 'factor_required')
  await request(ada.id)
})

test('asking again neither hastens nor delays it', async () => {
  const ada = await world.guarded()
  const at = await request(ada.id)
  await refused(request(ada.id), 'already_exists')
  assert.deepEqual((await listFactors(factors, ada.person)).resetAt, at)
})

test('attack: nobody asks for their own, without a step-up, with less than an hour, or without being an administrator', async () => {
  const [ada, ben] = [await world.guarded(), await world.guarded()]
  const inject = (by: Person, text: string, values: readonly unknown[]): Promise<unknown> => transaction(factors.gate, by, 'test.act', (tx) => tx.query({ text, values }))
  await refused(requestReset(factors, root.person, { user: ada.id, stepUp: undefined }), 'step_up_required')
  await refused(requestReset(factors, root.person, { user: ada.id, stepUp: await allowed(ben.id) }), 'step_up_required')
  await refused(request(root.id), 'forbidden')
  await refused(requestReset({ ...factors, resetHours: 0 }, root.person, { user: ada.id, stepUp: await allowed(ada.id) }), 'forbidden')
  await refused(inject(root.person, 'select guard.request_factor_reset(gen_random_uuid(), $1, 24)', [ada.id]), 'step_up_required')
  await refused(inject(ben.person, 'select guard.request_factor_reset(gen_random_uuid(), $1, 24)', [ada.id]), 'forbidden')
  await refused(inject(ben.person, 'select guard.cancel_factor_reset($1)', [ada.id]), 'forbidden')
})

test('attack: SQL injected into a sign-in applies none that is not due, and without the address’s index none that is', async () => {
  const [ada, ben] = [await world.guarded(), await world.guarded()]
  await request(ada.id)
  const inject = (values: readonly unknown[]): Promise<unknown> =>
    transaction(factors.gate, systemCaller('sign-in', identity.tenant, visitor), 'auth.sign_in', (tx) => tx.query({ text: 'select guard.apply_factor_reset($1, $2)', values }))
  await refused(inject([ada.id, ada.indexes]), 'forbidden')
  await wait(ada.id, 25)
  await refused(inject([ada.id, ben.indexes]), 'forbidden')
  assert.equal((await listFactors(factors, ada.person)).factors.length, 1)
})
