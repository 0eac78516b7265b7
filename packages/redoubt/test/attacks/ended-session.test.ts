import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { generateKeyPairSync } from 'node:crypto'
import { z } from 'zod'
import { Refusal } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import { anyOf, bearer, cookie } from '../../src/http/authenticate.ts'
import { openControls } from '../../src/http/controls.ts'
import { openCsrf } from '../../src/http/csrf.ts'
import { edgeLimits } from '../../src/http/limit.ts'
import { rowId } from '../../src/http/parse.ts'
import { route } from '../../src/http/route.ts'
import { openLimits } from '../../src/limits.ts'
import { standardNumbers } from '../../src/limits/standard.ts'
import { openTokens } from '../../src/tokens.ts'
import { checkSession, endSession, listSessions } from '../../src/tokens/own-sessions.ts'
import { signOut } from '../../src/tokens/sessions.ts'
import { until } from '../support/audit.ts'
import { cookies, fromOwn, own, secret } from '../support/browser.ts'
import { testDatabase } from '../support/database.ts'
import { ask, edge, kinds, problemOf, thing, type Edge, type Kind } from '../support/edge.ts'
import { openIdentity } from '../support/identity.ts'
import { pooled } from '../support/way.ts'

const database = await testDatabase()
const { identity, account, signIn, person, close } = await openIdentity(database)
after(close)

const text = z.strictObject({ text: z.string().max(10) })
const routes = [
  route({ method: 'POST', path: '/api/things/{id}/notes', summary: 'A note', access: ['patient'], params: z.strictObject({ id: rowId }), idempotent: true, limit: 200, body: text, answer: text, handle: ({ body }) => body }),
  route({ method: 'GET', path: '/api/rule', summary: 'Has a rule of its own', access: ['patient'], answer: text, refuses: ['conflict'], handle: () => Promise.reject(new Refusal('conflict')) }),
  route({ method: 'GET', path: '/api/sessions', summary: 'Answered by the gate', access: ['patient'], answer: text, handle: async ({ caller }) => (await listSessions(identity, caller), { text: '' }) }),
  route({ method: 'DELETE', path: '/api/sessions/{id}', summary: 'Refused by the gate', access: ['patient'], params: z.strictObject({ id: rowId }), answer: null, refuses: ['not_found'], handle: ({ caller, params }) => endSession(identity, caller, params.id) }),
  route({ method: 'GET', path: '/api/things', summary: 'Others may', access: ['therapist'], answer: text, handle: () => ({ text: '' }) }),
]

/** A service whose sessions are in the database, and how often it was asked whether one still stands. */
async function service(kind: Kind, quota = 1_000_000): Promise<{ readonly at: Edge; readonly asked: () => number }> {
  const events: Event[] = []
  const emit = (event: Event): void => void events.push(event)
  let asked = 0
  const controls = openControls({}, { emit })
  const limits = edgeLimits({ limits: openLimits(), numbers: { ...standardNumbers, anonymous: 1_000_000, address: 1_000_000, flood: 1_000_000, caller: quota }, mode: () => 'enforce', emit })
  const at = await edge(kind, { origins: [own], controls, emit }, {
    routes,
    mount: {
      authenticate: limits.counting(anyOf(bearer(identity.tokens), cookie(identity.tokens, cookies))), checks: [limits.check], emit,
      csrf: openCsrf({ secrets: () => Promise.resolve([secret]), origins: [own], controls }),
      standing: (caller) => {
        asked++
        return checkSession(identity, caller)
      },
    },
  })
  return { at, asked: () => asked }
}

type Asked = { readonly what: string; readonly told: readonly [number, string]; readonly method?: string; readonly path?: string; readonly headers?: Record<string, string>; readonly body?: string; readonly byCookie?: true }
const notes = `/api/things/${thing}/notes`
/** What a standing session is refused for, each at a step of its own before the handler. */
const faults: readonly Asked[] = [
  { what: 'a role it has not', told: [403, 'forbidden'], method: 'GET', path: '/api/things' },
  { what: 'no CSRF token', told: [403, 'csrf_refused'], byCookie: true, headers: fromOwn },
  { what: 'a parameter out of form', told: [400, 'malformed_request'], path: '/api/things/nobody/notes' },
  { what: 'a query', told: [422, 'invalid_input'], path: `${notes}?x=1` },
  { what: 'an Idempotency-Key out of form', told: [400, 'malformed_request'], headers: { 'idempotency-key': 'x' } },
  { what: 'a type of body', told: [415, 'unsupported_media_type'], headers: { 'content-type': 'text/plain' } },
  { what: 'the size of a body', told: [413, 'body_too_large'], body: JSON.stringify({ text: 'x'.repeat(300) }) },
  { what: 'no JSON', told: [400, 'malformed_request'], body: '{' },
  { what: 'a field', told: [422, 'invalid_input'], body: '{"text":1}' },
  { what: 'a rule of the handler', told: [409, 'conflict'], method: 'GET', path: '/api/rule' },
]

async function refused(at: Edge, token: string, { method = 'POST', path = notes, headers = {}, body = '{"text":"x"}', byCookie }: Asked): Promise<readonly [number, string]> {
  const shown = byCookie === true ? { cookie: `${cookies.names.access}=${token}; ${cookies.names.refresh}=r` } : { authorization: `Bearer ${token}` }
  const received = await ask(at, method, path, { headers: { ...shown, 'content-type': 'application/json', ...headers }, ...(method === 'GET' ? {} : { body }) })
  return received.status < 300 ? [received.status, ''] : [received.status, problemOf(received).code]
}
const read: Asked = { what: 'a reading', told: [200, ''], method: 'GET', path: '/api/sessions' }
const right: Asked = { what: 'nothing', told: [200, ''] }
const byGate: Asked = { what: 'the gate', told: [404, 'not_found'], method: 'DELETE', path: `/api/sessions/${thing}`, headers: { 'content-type': '' }, body: '' }

for (const kind of kinds) {
  test(`attack: ${kind}: whoever holds the token of an ended session learns neither what its role may do nor what a route takes`, async () => {
    const { at, asked } = await service(kind)
    const { token } = await signIn((await account()).indexes)
    for (const each of [byGate, read]) assert.deepEqual(await refused(at, token, each), each.told)
    assert.equal(asked(), 0, 'what passed the gate is not asked twice')
    assert.deepEqual(await refused(at, token, right), right.told)
    assert.equal(asked(), 1, 'a handler that needs no data')
    for (const fault of faults) assert.deepEqual(await refused(at, token, fault), fault.told, fault.what)
    await signOut(identity, person(token))
    for (const fault of [right, read, byGate, ...faults]) assert.deepEqual(await refused(at, token, fault), [401, 'caller_refused'], fault.what)
  })

  test(`attack: ${kind}: a flood of faulty requests makes the database look no oftener than a caller's limit allows, and without a signed token never`, async () => {
    const { at, asked } = await service(kind, 5)
    const { token } = await signIn((await account()).indexes)
    const { session, actor, role, tenant } = identity.tokens.verify(token)
    const strange = openTokens({ issuer: 'https://auth.test', audience: 'sessions-test', keys: [{ kid: 'k1', ...generateKeyPairSync('ed25519') }] }).issue({ session, actor, role, tenant }).token
    for (const forged of [strange, `${token.slice(0, -4)}AAAA`, token.split('.').slice(0, 2).join('.'), 'x']) {
      for (const fault of faults) if (fault.byCookie === undefined) assert.deepEqual(await refused(at, forged, fault), [401, 'unauthenticated'], fault.what)
    }
    assert.equal(asked(), 0)
    await signOut(identity, person(token))
    const answers: (readonly [number, string])[] = []
    for (const round of [1, 2, 3]) for (const fault of faults) if (fault.byCookie === undefined) answers.push(await refused(at, token, { ...fault, what: `${fault.what} ${round}` }))
    assert.equal(asked(), 5)
    assert.deepEqual([...new Set(answers.map(([status]) => status))], [401, 429])
  })
}

test('where the database cannot say whether a session stands, nothing else is told', async () => {
  const { at } = await service('node')
  const { token } = await signIn((await account()).indexes)
  const [role] = faults
  // Of this database alone: roles, and the server, are those of other test files too.
  await database.admin(`alter database ${database.name} connection limit 0`)
  try {
    await database.admin('select pg_terminate_backend(pid, 2000) from pg_stat_activity where usename = $1 and datname = $2', [`${database.service}_app`, database.name])
    // A pooler keeps what the app has open, and takes more: there the question waits in it until query_wait_timeout.
    if (!pooled) await until('the pool has noticed', () => identity.gate.pool.gauge().open === 0)
    const [status, code] = await refused(at, token, role ?? right)
    assert.deepEqual([status, code], [503, 'database_unavailable'])
  } finally {
    await database.admin(`alter database ${database.name} connection limit -1`)
  }
})
