import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { systemCaller } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import { openPool } from '../../src/pg.ts'
import { endSession, endSessionsOf, forgetSessions, listSessions, signOutEverywhere } from '../../src/tokens/own-sessions.ts'
import { refreshSession } from '../../src/tokens/refresh.ts'
import { signOut, type SignedIn } from '../../src/tokens/sessions.ts'
import { transaction } from '../../src/transaction.ts'
import { testDatabase } from '../support/database.ts'
import { agent, openIdentity, visitor } from '../support/identity.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const one = await openIdentity(database)
after(() => one.close())
const { identity } = one
const worker = openPool({ url: database.url('worker'), max: 1, emit: () => undefined })
after(() => worker.close())

const refuses = (code: string) => (error: unknown): boolean => error instanceof Refusal && error.code === code
const refresh = (session: SignedIn): Promise<SignedIn> => refreshSession(identity, visitor, { token: session.refresh, agent })
const stands = async (session: SignedIn): Promise<boolean> => one.look(one.person(session.token)).then(() => true, (error: unknown) => (assert.ok(refuses('caller_refused')(error)), false))

/** How a session comes to its end, from the outside. */
const ends: Readonly<Record<string, (session: SignedIn) => Promise<unknown>>> = {
  logout: (session) => signOut(identity, one.person(session.token)),
  logout_all: (session) => signOutEverywhere(identity, one.person(session.token)),
  ended: (session) => endSession(identity, one.person(session.token), session.session),
  reuse: async (session) => {
    await refresh(await refresh(session))
    await assert.rejects(refresh(session), refuses('caller_refused'))
  },
  password_changed: (session) => transaction(identity.gate, systemCaller('reset', identity.tenant, visitor), 'auth.session_revoked', (tx) => endSessionsOf(tx, session.actor, 'password_changed')),
  ended_by_admin: (session) => asAdmin(session, 'ended_by_admin'),
  suspended: (session) => asAdmin(session, 'suspended'),
  role_changed: (session) => asAdmin(session, 'role_changed'),
  idle: (session) => database.admin('update redoubt.sessions set idle_expires_at = now() where id = $1', [session.session]),
  absolute: (session) => database.admin('update redoubt.sessions set absolute_expires_at = now() where id = $1', [session.session]),
}

async function asAdmin(session: SignedIn, reason: 'ended_by_admin' | 'suspended' | 'role_changed'): Promise<void> {
  const admin = await one.signIn((await one.account({ role: 'admin' })).indexes)
  await transaction(identity.gate, one.person(admin.token), 'auth.session_revoked', (tx) => endSessionsOf(tx, session.actor, reason))
}

for (const [how, end] of Object.entries(ends)) {
  test(`state machine of a session: issued, used, refreshed, then ${how}: no token of it opens anything, and no step leads back`, async () => {
    const { indexes } = await one.account()
    const first = await one.signIn(indexes)
    assert.ok(await stands(first))
    const second = await refresh(first)
    assert.ok(await stands(first) && await stands(second), 'access tokens of both generations are of one session')
    await end(second)
    // An access token outlives the idle limit by itself, for at most ten minutes: what ends then is the refreshing.
    if (how !== 'idle') for (const each of [first, second]) assert.equal(await stands(each), false)
    for (const each of [first, second]) await assert.rejects(refresh(each), refuses('caller_refused'))
    await assert.rejects(refresh(second), refuses('caller_refused'))
    const [row] = await database.admin<{ revoke_reason: string | null }>('select revoke_reason from redoubt.sessions where id = $1', [second.session])
    assert.equal(row?.revoke_reason, how === 'idle' || how === 'absolute' ? null : how)
    const next = await one.signIn(indexes)
    assert.ok(await stands(next) && next.session !== second.session)
    assert.deepEqual((await listSessions(identity, one.person(next.token))).map(({ id }) => id), [next.session])
  })
}

test('ending the others keeps the session that asks', async () => {
  const { indexes } = await one.account()
  const [asking, other, third] = [await one.signIn(indexes), await one.signIn(indexes), await one.signIn(indexes)]
  assert.deepEqual(await transaction(identity.gate, one.person(asking.token), 'auth.session_revoked', (tx) => tx.query({ text: 'select guard.end_other_sessions($1) as ended', values: ['password_changed'] })), [{ ended: 2 }])
  assert.deepEqual([await stands(asking), await stands(other), await stands(third)], [true, false, false])
})

test('attack: nobody but an administrator or the work of a reset ends another person’s sessions, and each only for its reasons', async () => {
  const victim = await one.signIn((await one.account()).indexes)
  const therapist = await one.signIn((await one.account({ role: 'therapist' })).indexes)
  const admin = await one.signIn((await one.account({ role: 'admin' })).indexes)
  const callers = [
    [one.person(therapist.token), 'suspended'], [one.person(therapist.token), 'password_changed'], [one.person(admin.token), 'password_changed'],
    [systemCaller('sign-in', identity.tenant, visitor), 'suspended'], [systemCaller('refresh', identity.tenant, visitor), 'suspended'], [systemCaller('reset', identity.tenant, visitor), 'suspended'],
  ] as const
  for (const [caller, reason] of callers) {
    await assert.rejects(transaction(identity.gate, caller, 'auth.session_revoked', (tx) => endSessionsOf(tx, victim.actor, reason)), refuses('forbidden'), `${caller.role} ${reason}`)
  }
  await assert.rejects(endSession(identity, one.person(therapist.token), victim.session), refuses('not_found'))
  assert.ok(await stands(victim))
})

test('the worker forgets sessions a week after their absolute end, and can neither see nor delete others', async () => {
  const { indexes } = await one.account()
  const [old, recent, live] = [await one.signIn(indexes), await one.signIn(indexes), await one.signIn(indexes)]
  await database.admin(`update redoubt.sessions set absolute_expires_at = now() - interval '8 days' where id = $1`, [old.session])
  await database.admin(`update redoubt.sessions set absolute_expires_at = now() - interval '6 days' where id = $1`, [recent.session])
  assert.deepEqual(await worker.query({ ...forgetSessions, values: [100] }), [{ gone: 1 }])
  assert.deepEqual(await worker.query({ ...forgetSessions, values: [100] }), [{ gone: 0 }])
  assert.deepEqual(await worker.query({ text: 'delete from redoubt.sessions returning id', values: [] }), [])
  await assert.rejects(worker.query({ text: 'select refresh_hash from redoubt.sessions', values: [] }))
  const rows = await database.admin<{ id: string }>('select id from redoubt.sessions where id = any($1)', [[old.session, recent.session, live.session]])
  assert.equal(rows.length, 2)
})
