import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Refusal } from '../../src/errors.ts'
import { administrationActions, changeRole, endAccountSessions, listAccounts, restoreAccount, suspendAccount } from '../../src/tokens/administration.ts'
import { checkPassword, openSession, sessionActions } from '../../src/tokens/sessions.ts'
import { transaction } from '../../src/transaction.ts'
import { testDatabase } from '../support/database.ts'
import { openIdentity, password, visitor } from '../support/identity.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const one = await openIdentity(database)
after(() => one.close())
const { identity } = one
const service = { gate: { ...identity.gate, actions: { ...sessionActions, ...administrationActions } }, emit: identity.emit }
const admin = one.person((await one.signIn((await one.account({ role: 'admin' })).indexes)).token)
const refuses = (code: string) => (error: unknown): boolean => error instanceof Refusal && error.code === code

/** Whether somebody waits for a row that another transaction holds. */
const waiting = async (): Promise<boolean> => (await database.admin(`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)).length > 0

test('attack: a sign-in whose password was right meets a suspension that is under way: it waits, and gets no session', async () => {
  const { id, indexes } = await one.account()
  const account = await checkPassword(identity, visitor, { indexes, password })
  let signingIn: Promise<unknown> = Promise.resolve()
  await transaction(service.gate, admin, 'auth.account_suspended', async (tx) => {
    await tx.query({ text: 'select guard.set_account_status($1, $2)', values: [id, 'suspended'] })
    let settled = false
    signingIn = openSession(identity, visitor, account, { agent: undefined }).finally(() => (settled = true))
    signingIn.catch(() => undefined)
    // Until it waits for the row, or has got past it.
    while (!settled && !(await waiting())) await delay(5)
  })
  await assert.rejects(signingIn, refuses('forbidden'))
  assert.deepEqual(await database.admin('select from redoubt.sessions where user_id = $1', [id]), [])
})

test('a sign-in that was first is ended by the suspension that waited for it', async () => {
  const { id, indexes } = await one.account()
  const account = await checkPassword(identity, visitor, { indexes, password })
  let suspending: Promise<void> = Promise.resolve()
  const session = await openSession(identity, visitor, account, {
    agent: undefined,
    // The row is locked as the session's opening will lock it; the suspension comes in between.
    first: async (tx) => {
      await tx.query({ text: 'select guard.open_session(gen_random_uuid(), $1, $2, $3, array[sha256($4), sha256($4)], $5, sha256($4), null, 3600, 3600)', values: [id, indexes, 'tenant', Buffer.from(id), 'x'] })
      let settled = false
      suspending = suspendAccount(service, admin, id).finally(() => (settled = true))
      while (!settled && !(await waiting())) await delay(5)
    },
  })
  await suspending
  await assert.rejects(one.look(one.person(session.token)), refuses('caller_refused'))
  assert.deepEqual(await database.admin('select from redoubt.sessions where user_id = $1 and revoked_at is null', [id]), [])
})

test('attack: nobody but an administrator does any of this, whatever they call, and not to accounts of another tenant', async () => {
  const { id, indexes } = await one.account()
  const elsewhere = await one.account()
  await database.admin(`update redoubt.users set tenant = 'another' where id = $1`, [elsewhere.id])
  const callers = await Promise.all(['patient', 'therapist', 'auditor', 'enrolment'].map(async (role) => one.person((await one.signIn((await one.account({ role })).indexes)).token)))
  for (const caller of callers) {
    for (const attempt of [
      () => suspendAccount(service, caller, id), () => restoreAccount(service, caller, id), () => changeRole(service, caller, id, 'admin'), () => endAccountSessions(service, caller, id),
      () => listAccounts(service, caller, { limit: 10 }), () => listAccounts(service, caller, { indexes, limit: 1 }),
    ]) await assert.rejects(attempt(), refuses('forbidden'), caller.role)
  }
  await assert.rejects(suspendAccount(service, admin, elsewhere.id), refuses('not_found'))
  assert.ok((await listAccounts(service, admin, { limit: 100 })).every((account) => account.id !== elsewhere.id))
})
