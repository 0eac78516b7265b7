import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { systemCaller } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import { refreshSession } from '../../src/tokens/refresh.ts'
import type { SignedIn } from '../../src/tokens/sessions.ts'
import { transaction } from '../../src/transaction.ts'
import { testDatabase } from '../support/database.ts'
import { agent, openTwo, refreshRefused, visitor } from '../support/identity.ts'

// Refreshes that are asked for in one turn of the event loop share a statement; each is still its own.

const database = await testDatabase({ origins: ['redoubt'] })
const { one, two, seen } = await openTwo(database)
const refresh = (token: string, by = one, attempt?: string): Promise<SignedIn> => refreshSession(by.identity, visitor, { token, agent, attempt })
const people = await Promise.all(Array.from({ length: 5 }, () => one.account()))
/** Sessions of five people: one password is checked at a time. */
const open = async (many: number): Promise<readonly SignedIn[]> => Promise.all(Array.from({ length: many }, (_, i) => one.signIn(people[i % people.length]?.indexes ?? [])))

test('twenty sessions refreshed at once: each gets tokens of its own, in two transactions', async () => {
  const sessions = await open(20)
  for (let round = 1; round <= 2; round++) {
    const before: readonly string[] = sessions.map(({ refresh: token }) => token)
    const answers = await Promise.all(before.map((token) => refresh(token)))
    for (const [at, answer] of answers.entries()) {
      assert.equal(answer.session, sessions[at]?.session)
      assert.equal(answer.refresh.slice(0, 21), before[at]?.slice(0, 21), 'of the same family')
      const { session, actor } = one.identity.tokens.verify(answer.token)
      assert.deepEqual({ session, actor }, { session: sessions[at]?.session, actor: sessions[at]?.actor })
    }
    assert.equal(new Set(answers.map((answer) => answer.refresh)).size, 20)
    const [row] = await database.admin<{ writes: number; oldest: number; newest: number }>(
      'select count(distinct xmin::text)::int as writes, min(generation) as oldest, max(generation) as newest from redoubt.sessions where id = any($1)', [sessions.map(({ session }) => session)])
    assert.deepEqual(row, { writes: 2, oldest: round, newest: round })
    for (const [at, answer] of answers.entries()) Object.assign(sessions[at] ?? {}, { refresh: answer.refresh })
  }
})

test('attack: in the same burst as healthy sessions, a stolen, a guessed, an ended and a planted token: they alone are refused', async () => {
  const [stolen, over, planted, twice, ...healthy] = await open(12) as [SignedIn, SignedIn, SignedIn, SignedIn, ...SignedIn[]]
  await refresh((await refresh(stolen.refresh)).refresh)
  await database.admin('update redoubt.sessions set idle_expires_at = now() where id = $1', [over.session])
  await database.admin('update redoubt.sessions set binding = $1 where id = $2', [randomBytes(33), planted.session])
  const bad = [stolen.refresh, over.refresh, planted.refresh, randomBytes(48).toString('base64url')]
  const [good, wrong] = await Promise.all([
    Promise.all([twice, ...healthy, twice].map(({ refresh: token }) => refresh(token))),
    Promise.allSettled(bad.map((token) => refresh(token))),
  ])
  assert.ok(wrong.every((answer) => answer.status === 'rejected' && refreshRefused(answer.reason)))
  assert.equal(good[0]?.refresh, good.at(-1)?.refresh, 'the retry of a token in the same burst gets the same successor')
  assert.equal(seen('auth.refresh_replayed', twice.session), 1)
  const rows = await database.admin<{ id: string; revoke_reason: string | null }>('select id, revoke_reason from redoubt.sessions where id = any($1)', [[stolen, over, planted, twice, ...healthy].map(({ session }) => session)])
  const reason = (session: string): string | null | undefined => rows.find(({ id }) => id === session)?.revoke_reason
  assert.deepEqual([stolen, over, planted, twice].map(({ session }) => reason(session)), ['reuse', null, 'refused', null])
  for (const answer of good) await one.look(one.person(answer.token))
})

test('attack: whoever holds the row of one session holds up no other, and that one goes on when it is free', async () => {
  const sessions = await open(8)
  const [held, ...others] = sessions as [SignedIn, ...SignedIn[]]
  await database.admin('begin')
  await database.admin('select 1 from redoubt.sessions where id = $1 for update', [held.session])
  const waiting = refresh(held.refresh)
  const answers = await Promise.all(others.map(({ refresh: token }) => refresh(token)))
  assert.equal(answers.length, 7)
  await database.admin('commit')
  assert.equal((await waiting).session, held.session)
})

test('bursts of the same sessions on two instances: one successor each, and no session is lost', async () => {
  const sessions = await open(20)
  const attempt = randomBytes(16).toString('base64url')
  const tokens = sessions.map(({ refresh: token }) => token)
  const answers = await Promise.all([...tokens.map((token) => refresh(token, one, attempt)), ...tokens.toReversed().map((token) => refresh(token, two, attempt))])
  const bySession = Map.groupBy(answers, ({ session }) => session)
  for (const { session } of sessions) assert.equal(new Set(bySession.get(session)?.map((answer) => answer.refresh)).size, 1)
  const ids = sessions.map(({ session }) => session)
  assert.deepEqual([seen('auth.refreshed', ...ids), seen('auth.refresh_replayed', ...ids), seen('auth.refresh_reused', ...ids)], [20, 20, 0])
})

test('attack: a burst of refreshes and the end of all sessions of their person lock the same rows: neither fails, and nothing stands', async () => {
  const { indexes, id } = await one.account()
  const sessions = await Promise.all(Array.from({ length: 12 }, () => one.signIn(indexes)))
  const [first] = sessions as [SignedIn, ...SignedIn[]]
  const asked = sessions.map(({ refresh: token }) => refresh(token))
  const leave = transaction(one.identity.gate, one.person(first.token), 'auth.logout_all', (tx) => tx.query({ text: `select guard.end_other_sessions('logout_all')`, values: [] }))
  for (const answer of await Promise.allSettled(asked)) if (answer.status === 'rejected') assert.ok(refreshRefused(answer.reason))
  await leave
  const [row] = await database.admin('select count(*)::int as standing from redoubt.sessions where user_id = $1 and revoked_at is null', [id])
  assert.deepEqual(row, { standing: 0 })
})

test('attack: the access token is for what the row says now, whatever it said at the last refresh', async () => {
  const { id, indexes } = await one.account({ role: 'therapist' })
  const first = await refresh((await one.signIn(indexes)).refresh)
  assert.equal(one.identity.tokens.verify(first.token).role, 'therapist')
  await database.admin(`update redoubt.users set role = 'patient' where id = $1`, [id])
  const second = await refresh(first.refresh)
  assert.equal(one.identity.tokens.verify(second.token).role, 'patient')
  await database.admin(`update redoubt.users set status = 'suspended' where id = $1`, [id])
  await assert.rejects(refresh(second.refresh), refreshRefused)
})

test('only the refresh may ask for many at once, and for no more than 64', async () => {
  const ask = (role: string, many: number): Promise<unknown> => {
    const list = Array.from({ length: many }, () => randomBytes(32))
    return transaction.one(one.identity.gate, systemCaller(role, database.service, visitor), 'auth.session_checked', { text: 'select place from guard.refresh_sessions($1, $2, $2, $2, $2, $2, $2, $3, 60)', values: ['tenant', list, list.map(() => null)] })
  }
  assert.deepEqual(await ask('refresh', 64), [])
  for (const [role, many] of [['refresh', 65], ['sign-in', 1]] as const) await assert.rejects(ask(role, many), (error) => error instanceof Refusal && error.code === 'forbidden')
})
