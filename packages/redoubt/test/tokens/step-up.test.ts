import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { systemCaller, type Person } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import type { Tx } from '../../src/pg.ts'
import { removeFactor } from '../../src/tokens/factors/enrol.ts'
import { requireStepUp, stepUp, stepUpOptions, type StepUpProof } from '../../src/tokens/step-up.ts'
import { transaction } from '../../src/transaction.ts'
import { testDatabase } from '../support/database.ts'
import { codeOf, openFactorWorld, origin, softwareAuthenticator, wrongCode } from '../support/factors.ts'
import { password } from '../support/identity.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await openFactorWorld(database)
after(() => world.close())
const { factors, identity, opened } = world

const refused = (work: Promise<unknown>, code: string): Promise<void> => assert.rejects(work, (error) => error instanceof Refusal && error.code === code)
const purpose = { action: 'export.made', resource: 'export-1' } as const
const prove = async (person: Person, proof: StepUpProof = { kind: 'password', password }, of: { action: string; resource: string } = purpose): Promise<string> =>
  (await stepUp(factors, identity, person, { ...of, proof })).handle
/** The sensitive action: the step-up is used up in its transaction. */
const act = (person: Person, handle: string | undefined, of: { action: string; resource: string } = purpose): Promise<void> =>
  transaction(factors.gate, person, 'test.act', (tx) => requireStepUp(factors, tx, { ...of, handle }))

test('a step-up serves the one action it was made for, once', async () => {
  const { person } = await world.person()
  const handle = await prove(person)
  await act(person, handle)
  await refused(act(person, handle), 'step_up_required')
})

test('attack: for another resource, another action, another session or another person it is none', async () => {
  const ada = await world.person()
  const ben = await world.person()
  const handle = await prove(ada.person)
  const elsewhere = opened.person((await opened.signIn(ada.indexes)).token)
  await refused(act(ada.person, handle, { ...purpose, resource: 'export-2' }), 'step_up_required')
  await refused(act(ada.person, handle, { ...purpose, action: 'export.read' }), 'step_up_required')
  await refused(act(elsewhere, handle), 'step_up_required')
  await refused(act(ben.person, handle), 'step_up_required')
  for (const none of [undefined, '', 'A'.repeat(43), "' or true --"]) await refused(act(ada.person, none), 'step_up_required')
  await act(ada.person, handle)
})

test('attack: of fifty at once one has it', async () => {
  const { person } = await world.person()
  const handle = await prove(person)
  const all = await Promise.allSettled(Array.from({ length: 50 }, () => act(person, handle)))
  assert.equal(all.filter(({ status }) => status === 'fulfilled').length, 1)
  for (const each of all) if (each.status === 'rejected') assert.equal((each.reason as Refusal).code, 'step_up_required')
})

test('it comes back when the action it was for fails', async () => {
  const { person } = await world.person()
  const handle = await prove(person)
  await assert.rejects(transaction(factors.gate, person, 'test.act', async (tx) => {
    await requireStepUp(factors, tx, { ...purpose, handle })
    throw new Refusal('conflict')
  }))
  await act(person, handle)
})

test('attack: after five minutes it is none', async (t) => {
  const { person } = await world.person()
  const since = async (seconds: number): Promise<string> => {
    // Only the clock that its end is reckoned from; the database and the signer keep theirs.
    t.mock.timers.enable({ apis: ['Date'], now: Date.now() - seconds * 1000 })
    const handle = await prove(person)
    t.mock.timers.reset()
    return handle
  }
  await refused(act(person, await since(301)), 'step_up_required')
  await act(person, await since(270))
})

test('attack: a row whose end was put off in the table is not believed', async () => {
  const { person } = await world.person()
  const handle = await prove(person)
  await database.admin(`update redoubt.one_time_codes set expires_at = now() + interval '1 hour' where user_id = $1`, [person.actor])
  await refused(act(person, handle), 'step_up_required')
})

test('attack: with a factor the password proves nothing, a wrong or used code nothing either, another’s code nothing', async () => {
  const ada = await world.guarded()
  const ben = await world.guarded()
  await refused(prove(ada.person), 'factor_refused')
  await refused(prove(ada.person, { kind: 'totp', code: wrongCode(ada.secret) }), 'factor_refused')
  if (codeOf(ben.secret) !== codeOf(ada.secret)) await refused(prove(ada.person, { kind: 'totp', code: codeOf(ben.secret) }), 'factor_refused')
  await refused(prove(ada.person, { kind: 'recovery', code: ben.recovery[0] ?? '' }), 'factor_refused')
  const code = codeOf(ada.secret)
  await act(ada.person, await prove(ada.person, { kind: 'totp', code }))
  await refused(prove(ada.person, { kind: 'totp', code }), 'factor_refused')
  await act(ada.person, await prove(ada.person, { kind: 'recovery', code: ada.recovery[3] ?? '' }))
})

test('attack: a thief of a session guesses ever more slowly, and slows no sign-in', async () => {
  const ada = await world.guarded()
  for (let i = 0; i < 5; i++) await refused(prove(ada.person, { kind: 'totp', code: wrongCode(ada.secret) }), 'factor_refused')
  await assert.rejects(prove(ada.person, { kind: 'totp', code: codeOf(ada.secret) }), (error) => error instanceof Refusal && error.code === 'too_many_requests' && (error.retryAfter ?? 0) >= 1)
  const { pending } = await world.begin(ada)
  await world.complete(pending, { kind: 'totp', code: codeOf(ada.secret) })
  const ben = await world.person()
  for (let i = 0; i < 5; i++) await refused(prove(ben.person, { kind: 'password', password: 'guessed it is' }), 'sign_in_failed')
  await refused(prove(ben.person), 'too_many_requests')
})

test('a passkey steps up for what its challenge names, and for nothing else', async () => {
  const ada = await world.person()
  const device = softwareAuthenticator()
  await world.passkey(ada, device, { kind: 'password', password })
  const options = await stepUpOptions(factors, ada.person, purpose)
  assert.ok(options !== undefined)
  const response = device.get(options, { origin })
  await refused(prove(ada.person, { kind: 'webauthn', response }, { ...purpose, resource: 'export-2' }), 'factor_refused')
  await act(ada.person, await prove(ada.person, { kind: 'webauthn', response }))
  await refused(prove(ada.person, { kind: 'webauthn', response }), 'factor_refused')
})

test('attack: SQL injected into a person’s transactions makes no step-up, and without one changes no factor', async () => {
  const ada = await world.guarded()
  const handle = Buffer.alloc(33, 7)
  const issue = { text: `select guard.issue_code(gen_random_uuid(), $1, 'step_up', $2, null, $2, $2, now() + interval '5 minutes', 5)`, values: [ada.id, handle] }
  const redeem = { text: 'select * from guard.redeem_step_up(array[$1::bytea], array[$1::bytea])', values: [handle] }
  const remove = { text: 'select guard.remove_factor($1)', values: [ada.factor] }
  const prove = { text: 'select guard.prove_own(null, null, null, null)', values: [] }
  const inject = (action: keyof typeof factors.gate.actions, statements: readonly { text: string; values: readonly unknown[] }[]): Promise<unknown> =>
    transaction(factors.gate, ada.person, action, async (tx) => {
      for (const statement of statements) await tx.query(statement)
    })
  await refused(inject('test.act', [issue, redeem, remove]), 'forbidden')
  await refused(inject('auth.step_up_succeeded', [issue, redeem, remove]), 'forbidden')
  await refused(inject('auth.step_up_succeeded', [prove]), 'factor_refused')
  await refused(inject('test.act', [remove]), 'step_up_required')
  for (const text of ['select guard.replace_recovery_codes(array[gen_random_uuid()], array[$1::bytea])', `select guard.enrol_factor(gen_random_uuid(), 'totp', 'x', $1, null, null, 0, 0)`]) {
    await refused(inject('test.act', [{ text, values: [handle] }]), 'step_up_required')
  }
  await removeFactor(factors, ada.person, { factor: ada.factor, stepUp: (await stepUp(factors, identity, ada.person, { action: 'factor.remove', resource: ada.factor, proof: { kind: 'recovery', code: ada.recovery[0] ?? '' } })).handle })
})

test('what the caller means by a step-up is checked', async () => {
  const { person } = await world.person()
  for (const meant of [{ action: 'Two words', resource: 'x' }, { action: 'a', resource: 'a b' }, { action: '', resource: 'x' }, { action: 'a', resource: '' }]) {
    await assert.rejects(stepUp(factors, identity, person, { ...meant, proof: { kind: 'password', password } }), TypeError)
  }
})

test('only a person steps up: a job or a client that asks is a mistake', async () => {
  const caller = systemCaller('probe', 'test', { requestId: 'probe', address: null })
  await assert.rejects(requireStepUp(factors, { caller } as Tx, { ...purpose, handle: undefined }), TypeError)
})
