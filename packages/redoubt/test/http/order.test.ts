import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import type { Event } from '../../src/events.ts'
import { anyOf, bearer, cookie } from '../../src/http/authenticate.ts'
import { openControls } from '../../src/http/controls.ts'
import { openCsrf } from '../../src/http/csrf.ts'
import { edgeLimits } from '../../src/http/limit.ts'
import { route } from '../../src/http/route.ts'
import { openLimits } from '../../src/limits.ts'
import { standardNumbers } from '../../src/limits/standard.ts'
import { rowId } from '../../src/http/parse.ts'
import { cookies, own, secret, signedIn } from '../support/browser.ts'
import { ask, edge, kinds, problemOf, session, thing, tokens, wire, type Edge, type Kind } from '../support/edge.ts'

type Sent = { readonly method: string; readonly path: string; readonly query: string; readonly headers: Readonly<Record<string, string | string[]>>; readonly body: string; readonly spent: readonly ('flood' | 'caller')[] }
/** One thing that is wrong with a request, and the words that its refusal has for it. */
type Fault = { readonly step: string; readonly told: string; readonly event?: string; readonly break: (sent: Sent) => Sent }

const header = (name: string, value: string | string[] | undefined) => ({ headers, ...rest }: Sent): Sent => {
  const { [name]: _gone, ...others } = headers
  return { ...rest, headers: value === undefined ? others : { ...others, [name]: value } }
}

/**
 * The order table: of two faults in one request, the one further up is answered. Each is told by `http.answered` with its
 * code; what an attack would look like has an event of its own as well.
 */
const order: readonly Fault[] = [
  { step: 'lines of the head', told: '400 malformed_request content-type duplicate', break: header('content-type', ['application/json', 'application/json']) },
  { step: 'HTTPS', told: '421 https_required', event: 'security.control_triggered https enforce plain', break: header('x-forwarded-proto', 'http') },
  { step: 'origin', told: '403 origin_refused', event: 'security.control_triggered origin enforce unlisted', break: header('origin', 'https://evil.test') },
  { step: 'coding and declared length of the body', told: '415 unsupported_media_type', break: header('content-encoding', 'gzip') },
  { step: 'limit by address, in this process', told: '429 flood', event: 'security.rate_limited flood enforce', break: (sent) => ({ ...sent, spent: [...sent.spent, 'flood'] }) },
  { step: 'form of the path', told: '400 malformed_request path form', break: (sent) => ({ ...sent, path: `/${sent.path}` }) },
  { step: 'route', told: '404 not_found', break: (sent) => ({ ...sent, path: sent.path.replace(/notes$/, 'nothing') }) },
  { step: 'method', told: '405 method_not_allowed', break: (sent) => ({ ...sent, method: 'PUT' }) },
  { step: 'who calls', told: '401 unauthenticated', break: header('cookie', undefined) },
  { step: 'from whose page', told: '403 csrf_refused fetch-metadata', event: 'security.control_triggered fetch-metadata enforce foreign', break: header('sec-fetch-site', 'cross-site') },
  { step: 'limit by caller and address', told: '429 caller', event: 'security.rate_limited caller enforce', break: (sent) => ({ ...sent, spent: [...sent.spent, 'caller'] }) },
  { step: 'role', told: '403 forbidden', event: 'security.unauthorized_access forbidden POST /api/things/{id}/notes', break: (sent) => (sent.headers['cookie'] === undefined ? sent : header('cookie', signedIn('therapist'))(sent)) },
  { step: 'CSRF token', told: '403 csrf_refused csrf', event: 'security.control_triggered csrf enforce missing', break: header('x-csrf-token', undefined) },
  { step: 'parameters of the path', told: '400 malformed_request id uuid', break: (sent) => ({ ...sent, path: sent.path.replace(thing, 'nobody') }) },
  { step: 'query', told: '422 invalid_input x unknown', break: (sent) => ({ ...sent, query: '?x=1' }) },
  { step: 'Idempotency-Key', told: '400 malformed_request idempotency-key required', break: header('idempotency-key', undefined) },
  { step: 'type of the body', told: '415 unsupported_media_type', break: (sent) => (Array.isArray(sent.headers['content-type']) ? sent : header('content-type', 'text/plain')(sent)) },
  { step: 'size of the body', told: '413 body_too_large', break: (sent) => ({ ...sent, body: sent.body.replace(/"\}?$/, `${'x'.repeat(300)}"}`) }) },
  { step: 'JSON', told: '400 malformed_request body json', break: (sent) => ({ ...sent, body: sent.body.slice(0, -1) }) },
  { step: 'schema', told: '422 invalid_input text type', break: (sent) => ({ ...sent, body: sent.body.startsWith('{"text":1') ? sent.body : `{"text":1,"more":${sent.body.slice(8)}` }) },
]

/** Services whose limits are used up as asked; each with the events of its controls. */
async function services(kind: Kind): Promise<(spent: Sent['spent']) => Promise<{ readonly at: Edge; readonly events: Event[] }>> {
  const made = new Map<string, Promise<{ readonly at: Edge; readonly events: Event[] }>>()
  const open = async (spent: Sent['spent']): Promise<{ readonly at: Edge; readonly events: Event[] }> => {
    const events: Event[] = []
    const emit = (event: Event): void => void events.push(event)
    const controls = openControls({}, { emit })
    const few = (name: 'flood' | 'caller'): number => (spent.includes(name) ? 1 : 1_000_000)
    const limits = edgeLimits({ limits: openLimits(), numbers: { ...standardNumbers, anonymous: 1_000_000, address: 1_000_000, flood: few('flood'), caller: few('caller') }, mode: () => 'enforce', emit })
    const csrf = openCsrf({ secrets: () => Promise.resolve([secret]), origins: [own], controls })
    const notes = route({
      method: 'POST', path: '/api/things/{id}/notes', summary: 'A note', access: ['patient'], idempotent: 'required', params: z.strictObject({ id: rowId }), limit: 200,
      body: z.strictObject({ text: z.string() }), answer: z.object({ done: z.boolean() }), handle: () => ({ done: true }),
    })
    const at = await edge(kind, { trustedProxies: ['127.0.0.1'], https: 'enforce', origins: [own], controls, limit: limits.step, emit }, {
      routes: [notes], mount: { authenticate: limits.counting(anyOf(bearer(tokens), cookie(tokens, cookies))), csrf, checks: [limits.check], emit },
    })
    if (spent.length > 0) await send({ at, events }, { ...(await right()), spent: [] })
    return { at, events }
  }
  return (spent) => {
    const key = spent.toSorted().join()
    const found = made.get(key) ?? open(spent)
    made.set(key, found)
    return found
  }
}

const token = openCsrf({ secrets: () => Promise.resolve([secret]), origins: [own], controls: openControls({}, { emit: () => undefined }) })
async function right(): Promise<Sent> {
  const headers = {
    'x-forwarded-proto': 'https', origin: own, 'sec-fetch-site': 'same-origin', cookie: signedIn(), 'x-csrf-token': await token.token(session), 'content-type': 'application/json', 'idempotency-key': '0123456789abcdef',
  }
  return { method: 'POST', path: `/api/things/${thing}/notes`, query: '', headers, body: '{"text":"x"}', spent: [] }
}

/** Status and code of the answer, and what else tells refusals of one code apart. @param base before the path: an origin makes it the absolute form */
async function send({ at, events }: { readonly at: Edge; readonly events: Event[] }, { method, path, query, headers, body }: Sent, base = ''): Promise<string> {
  const before = events.length
  const received = await ask(at, method, base + path + query, { headers, body })
  if (received.status === 200) return '200'
  const { code, errors } = problemOf(received)
  if (code === 'too_many_requests') return `429 ${/^"(\w+)"/.exec(String(received.headers['ratelimit-policy']))?.[1] ?? ''}`
  const control = code === 'csrf_refused' ? events.slice(before).flatMap((event) => (event.type === 'security.control_triggered' ? [event.control] : [])) : []
  const [first] = errors ?? []
  return [received.status, code, ...control, ...(first === undefined ? [] : [first.field, first.rule])].join(' ')
}

for (const kind of kinds) {
  test(`${kind}: the order table: of any two faults in one request the earlier step answers, and the right request passes`, async () => {
    const service = await services(kind)
    assert.equal(await send(await service([]), await right()), '200')
    for (const [at, fault] of order.entries()) {
      const one = fault.break(await right())
      assert.equal(await send(await service(one.spent), one), fault.told, fault.step)
      for (const later of order.slice(at + 1)) {
        const both = later.break(fault.break(await right()))
        assert.equal(await send(await service(both.spent), both), fault.told, `${fault.step} before ${later.step}`)
      }
    }
  })
}

for (const kind of kinds) {
  test(`attack: ${kind}: a target in absolute form passes no step of the order table`, async () => {
    const service = await services(kind)
    const absolutely = async (one: Sent): Promise<string> => {
      const opened = await service(one.spent)
      return send(opened, one, opened.at.url.replace('http:', 'https:'))
    }
    assert.equal(await absolutely(await right()), '200')
    for (const fault of order) assert.equal(await absolutely(fault.break(await right())), fault.told, fault.step)
  })
}

/** An event as the table writes it: its type, and the words that say what it tells. */
function worded(event: Event): string {
  switch (event.type) {
    case 'security.control_triggered':
      return `${event.type} ${event.control} ${event.mode} ${event.rule}`
    case 'security.rate_limited':
      return `${event.type} ${event.limit} ${event.mode}`
    case 'security.unauthorized_access':
      return `${event.type} ${event.code} ${event.action}`
    case 'http.answered':
      return `${event.type} ${event.status} ${event.code ?? ''}`
    default:
      return event.type
  }
}

for (const kind of kinds) {
  test(`${kind}: each refusal before the gate is told by its events, once, under its request id, and none tells a value`, async () => {
    const service = await services(kind)
    for (const fault of order) {
      const one = fault.break(await right())
      const { at, events } = await service(one.spent)
      const received = await ask(at, one.method, one.path + one.query, one)
      const { code, request_id: id } = problemOf(received)
      const mine = (): readonly Event[] => events.filter((event) => 'requestId' in event && event.requestId === id)
      // That it was answered is told once the connection has taken the answer.
      while (!mine().some(({ type }) => type === 'http.answered')) await new Promise((resolve) => setImmediate(resolve))
      assert.deepEqual(mine().map(worded), [...(fault.event === undefined ? [] : [fault.event]), `http.answered ${received.status} ${code}`], fault.step)
      assert.equal(received.headers['x-request-id'], id)
      for (const value of ['evil.test', 'nobody', String(one.headers['cookie'] ?? 'no cookie')]) assert.ok(!JSON.stringify(mine()).includes(value), fault.step)
    }
  })
}

test('what the parser refuses, before any step, is told by an event too', async () => {
  const at = await edge('node')
  at.server.headersTimeout = 300
  for (const [bytes, code] of [['GET / HTTP/9.9\r\n\r\n', 'malformed_request'], [`GET / HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 'malformed_request'], ['GET / HTTP/1.1\r\nHost: ', 'request_timeout']] as const) {
    const before = at.events.length
    const answer = await wire(at, bytes)
    assert.ok(answer.includes(`"code":"${code}"`), answer)
    const [event, ...more] = at.events.slice(before)
    assert.deepEqual([event, more], [{ type: 'http.unreadable', requestId: /"request_id":"([^"]+)"/.exec(answer)?.[1], code }, []])
  }
})
