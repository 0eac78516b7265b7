import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { perimeter, sequence } from '../src/http.ts'
import { cors } from '../src/http/cors.ts'
import { openProxies } from '../src/http/proxies.ts'
import { ask, edge, json, kinds, problemOf, thing, wire, withToken } from './support/edge.ts'
import type { Edge, Received } from './support/edge.ts'

const security = {
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
  vary: 'Origin',
}
const perConnection = ['date', 'connection', 'keep-alive', 'content-length', 'content-type', 'x-request-id', 'permissions-policy']

for (const kind of kinds) {
  test(`${kind}: every kind of answer carries the same security headers, and nothing else`, async () => {
    const at = await edge(kind)
    const token = withToken()
    const answers: readonly [string, number, Received, Record<string, string>][] = [
      ['200', 200, await ask(at, 'GET', `/api/things/${thing}`, token), {}],
      ['HEAD', 200, await ask(at, 'HEAD', `/api/things/${thing}`, token), {}],
      ['201', 201, await ask(at, 'POST', '/api/things', { ...json({ name: 'new' }), headers: { ...token.headers, 'content-type': 'application/json' } }), { location: `/api/things/${thing}` }],
      ['204', 204, await ask(at, 'DELETE', `/api/things/${thing}`, withToken('therapist')), {}],
      ['400', 400, await ask(at, 'POST', '/api/echo', json('{')), {}],
      ['401', 401, await ask(at, 'GET', `/api/things/${thing}`), { 'www-authenticate': 'Bearer' }],
      ['403', 403, await ask(at, 'GET', `/api/things/${thing}`, withToken('therapist')), {}],
      ['403 origin', 403, await ask(at, 'GET', '/api/where', { headers: { origin: 'https://evil.test' } }), {}],
      ['404', 404, await ask(at, 'GET', '/nothing'), {}],
      ['405', 405, await ask(at, 'PUT', '/api/echo', json({})), { allow: 'POST' }],
      ['413', 413, await ask(at, 'POST', '/api/echo', json({ name: 'x'.repeat(200_000) })), {}],
      ['415', 415, await ask(at, 'POST', '/api/echo', { headers: { 'content-type': 'text/plain' }, body: '{}' }), {}],
      ['422', 422, await ask(at, 'POST', '/api/echo', json({ nam: 'x' })), {}],
      ['500', 500, await ask(at, 'GET', '/api/fail'), {}],
      ['503', 503, await ask(at, 'GET', '/api/busy'), { 'retry-after': '2' }],
      ['document', 200, await ask(at, 'GET', '/openapi.json'), {}],
    ]
    for (const [name, status, received, own] of answers) {
      assert.equal(received.status, status, name)
      const { headers } = received
      const rest = Object.fromEntries(Object.entries(headers).filter(([header]) => !perConnection.includes(header)))
      assert.deepEqual(rest, { ...security, ...own }, name)
      assert.match(headers['permissions-policy'] as string, /^accelerometer=\(\), .*camera=\(\)/, name)
      assert.match(headers['x-request-id'] as string, /^[0-9a-f-]{36}$/, name)
      if (status === 204) continue
      assert.equal(headers['content-type'], status < 400 ? 'application/json' : 'application/problem+json', name)
    }
  })

  test(`${kind}: every refusal is a problem document and never carries what was sent or thrown`, async () => {
    const at = await edge(kind)
    const marker = 'zz9-plural-z-alpha'
    const received = [
      await ask(at, 'POST', '/api/echo', json({ name: 1, [marker]: marker })),
      await ask(at, 'POST', '/api/echo', json(`{"name": "${marker}`)),
      await ask(at, 'GET', `/api/things/${marker}`, withToken()),
      await ask(at, 'GET', `/api/things/${thing}?limit=${marker}`, withToken()),
      await ask(at, 'GET', `/${marker}`),
      await ask(at, 'GET', '/api/fail'),
      await ask(at, 'POST', '/api/echo', { headers: { 'content-type': 'application/json', 'content-encoding': marker }, body: '{}' }),
    ]
    for (const answer of received) {
      const problem = problemOf(answer)
      assert.equal(problem.status, answer.status)
      assert.equal(problem.type, `urn:redoubt:problem:${problem.code}`)
      assert.equal(problem.request_id, answer.headers['x-request-id'])
      assert.ok(problem.title.length > 0)
      for (const member of Object.keys(problem)) assert.ok(['type', 'title', 'status', 'code', 'request_id', 'detail', 'errors'].includes(member), member)
      assert.ok(!answer.text.replaceAll(`"field":"${marker}"`, '').includes(marker), answer.text)
      // A random request id may hold any digits: what the handler threw is looked for in the rest.
      const rest = answer.text.replaceAll(String(problem.request_id), '')
      assert.ok(!rest.includes('4711') && !rest.includes('    at ') && !rest.includes('.ts'), answer.text)
    }
    assert.deepEqual(problemOf(received[0] as Received).errors, [{ field: 'name', rule: 'type' }, { field: marker, rule: 'unknown' }])
    const failed = at.events.filter((event) => event.type === 'http.failed')
    assert.equal(failed.length, 1)
    assert.match(String(failed[0]?.error), /secret detail 4711/)
  })

  test(`${kind}: http.answered names the route, not the path, and comes once per request`, async () => {
    const at = await edge(kind)
    await ask(at, 'GET', `/api/things/${thing}`, withToken())
    await ask(at, 'GET', '/api/things/nobody', withToken())
    await ask(at, 'GET', '/openapi.json')
    await ask(at, 'GET', '/secret/person@example.test')
    await settled(at, 4)
    const seen = at.events.filter((event) => event.type === 'http.answered').map(({ route, status, code }) => [route, status, code])
    assert.deepEqual(seen, [['/api/things/{id}', 200, undefined], ['/api/things/{id}', 400, 'malformed_request'], ['/openapi.json', 200, undefined], ['unmatched', 404, 'not_found']])
  })
}

test('a request the HTTP parser refuses gets the same kind of answer', async () => {
  const at = await edge('node')
  for (const bytes of [
    'GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n',
    'POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456',
    'nonsense\r\n\r\n',
  ]) {
    const text = await wire(at, bytes)
    assert.match(text, /^HTTP\/1\.1 400 Bad Request\r\n/, bytes)
    assert.match(text, /application\/problem\+json/)
    assert.match(text, /nosniff/)
    assert.match(text, /"code":"malformed_request"/)
    assert.equal(text.match(/HTTP\/1\.1/g)?.length, 1, 'one answer: nothing was smuggled behind it')
  }
})

test('attack: CORS: only the exact origin, not its suffix, prefix, port, scheme, case, null or a wildcard', async () => {
  const allowed = 'https://app.example.test'
  const at = await edge('node', { origins: [allowed, 'http://localhost:5173'], credentials: true })
  for (const origin of [
    'https://app.example.test.evil.test', 'https://evil-app.example.test', 'https://evilapp.example.test', 'https://example.test',
    'https://app.example.test:8443', 'http://app.example.test', 'HTTPS://APP.EXAMPLE.TEST', 'https://app.example.test/', 'https://app.example.test, https://evil.test',
    'null', '*', '', 'https://app.example.test@evil.test', 'http://localhost:51730', 'file://', 'https://аpp.example.test',
  ]) {
    for (const method of ['GET', 'OPTIONS'] as const) {
      const sent = { headers: { origin: Buffer.from(origin).toString('latin1'), 'access-control-request-method': 'POST' } }
      const received = await ask(at, method, '/api/where', sent)
      assert.equal(received.status, 403, origin)
      assert.equal(problemOf(received).code, 'origin_refused')
      for (const header of Object.keys(received.headers)) assert.ok(!header.startsWith('access-control-'), `${origin}: ${header}`)
      assert.equal(received.headers.vary, 'Origin')
    }
  }
  const simple = await ask(at, 'GET', '/api/where', { headers: { origin: allowed } })
  assert.equal(simple.status, 200)
  assert.equal(simple.headers['access-control-allow-origin'], allowed)
  assert.equal(simple.headers['access-control-allow-credentials'], 'true')
  const preflight = await ask(at, 'OPTIONS', '/api/things', { headers: { origin: allowed, 'access-control-request-method': 'POST', 'access-control-request-headers': 'x-evil' } })
  assert.equal(preflight.status, 204)
  assert.equal(preflight.headers['access-control-allow-origin'], allowed)
  assert.equal(preflight.headers['access-control-allow-headers'], 'Authorization, Content-Type, Idempotency-Key, If-Match, Step-Up, X-CSRF-Token')
  assert.equal(preflight.headers['access-control-max-age'], '600')
  assert.match(preflight.headers.vary as string, /^Origin, /)
  const refusedAnswer = await ask(at, 'GET', '/nothing', { headers: { origin: allowed } })
  assert.equal(refusedAnswer.headers['access-control-allow-origin'], allowed, 'the page can read why it was refused')
  const none = await ask(at, 'GET', '/api/where')
  assert.equal(none.headers['access-control-allow-origin'], undefined)
  assert.equal(none.headers.vary, 'Origin')
})

test('attack: a cross-site simple POST from an unlisted origin has no effect', async () => {
  const at = await edge('node')
  const received = await ask(at, 'POST', '/api/echo', { ...json({ name: 'x' }), headers: { origin: 'https://evil.test', 'content-type': 'application/json' } })
  assert.equal(received.status, 403)
})

test('CORS options that are unsafe or do nothing are refused when built', () => {
  const emit = (): void => undefined
  for (const origins of [['*'], ['null'], ['https://a.test/'], ['https://a.test/path'], ['https://*.a.test'], ['a.test'], ['https://A.test'], ['https://a.test:443'], ['ftp://a.test'], ['https://u:p@a.test'], '*']) {
    assert.throws(() => cors(origins as readonly string[], false, emit), TypeError, JSON.stringify(origins))
  }
  assert.throws(() => cors([], true, emit), /credentials/)
})

test('attack: X-Forwarded-For, X-Forwarded-Proto and X-Request-Id from an untrusted hop are ignored', async () => {
  const at = await edge('node')
  const received = await ask(at, 'GET', '/api/where', { headers: { 'x-forwarded-for': '6.6.6.6', 'x-forwarded-proto': 'https', 'x-request-id': 'chosen-by-client' } })
  const { address, request } = JSON.parse(received.text) as { address: string; request: string }
  assert.equal(address, '127.0.0.1')
  assert.match(request, /^[0-9a-f-]{36}$/)
  const strict = await edge('node', { https: 'enforce', hsts: { maxAge: 300 } })
  const plain = await ask(strict, 'GET', '/api/where', { headers: { 'x-forwarded-proto': 'https' } })
  assert.equal(plain.status, 421)
  assert.equal(plain.headers['strict-transport-security'], undefined)
  assert.equal(plain.headers['x-content-type-options'], 'nosniff')
})

test('behind a trusted proxy the address is the first hop from the right that is not one of ours', async () => {
  const at = await edge('node', { trustedProxies: ['127.0.0.1', '10.0.0.0/8', '2001:db8::/32'], https: 'enforce', hsts: { maxAge: 300 } })
  const from = async (forwarded: string | string[], proto: string | string[] = 'https'): Promise<Received> =>
    ask(at, 'GET', '/api/where', { headers: { 'x-forwarded-for': forwarded, 'x-forwarded-proto': proto, 'x-request-id': 'from-the-proxy-1' } })
  const seen: [string | string[], string][] = [
    ['203.0.113.7', '203.0.113.7'],
    ['6.6.6.6, 203.0.113.7', '203.0.113.7'],
    ['6.6.6.6, 203.0.113.7, 10.1.2.3', '203.0.113.7'],
    [['6.6.6.6', '203.0.113.7'], '203.0.113.7'],
    ['::ffff:203.0.113.7', '203.0.113.7'],
    ['2001:db9::1, 2001:db8::5', '2001:db9::1'],
    ['6.6.6.6, <script>', '127.0.0.1'],
    ['6.6.6.6, 203.0.113.7:4711, 10.0.0.1', '10.0.0.1'],
    ['', '127.0.0.1'],
  ]
  for (const [header, address] of seen) {
    const received = await from(header)
    assert.deepEqual(JSON.parse(received.text), { address, request: 'from-the-proxy-1' }, JSON.stringify(header))
    assert.equal(received.headers['strict-transport-security'], 'max-age=300')
  }
  for (const proto of ['http', 'https, http', 'httpsx', '']) assert.equal((await from('203.0.113.7', proto)).status, 421, proto)
  assert.equal((await from('203.0.113.7', 'http, https')).status, 200)
  const odd = await ask(at, 'GET', '/api/where', { headers: { 'x-forwarded-proto': 'https', 'x-request-id': 'a b\tc'.repeat(3) } })
  assert.match(odd.headers['x-request-id'] as string, /^[0-9a-f-]{36}$/)
})

test('trusting every proxy is not possible', () => {
  for (const list of [true, '127.0.0.1', ['loopback'], ['0.0.0.0/0'], ['::/0'], ['10.0.0.0/33'], ['10.0.0.0/8/8'], ['10.0.0.0/'], ['proxy.local'], [1], [true]]) {
    assert.throws(() => openProxies(list as readonly string[]), TypeError, JSON.stringify(list))
  }
})

test('perimeter options that are unknown, unsafe or without effect are refused when built', () => {
  const base = { trustedProxies: [], https: 'off', origins: [], emit: () => undefined } as const
  for (const wrong of [
    { hsts: { maxAge: 300 } },
    { https: 'enforce', hsts: { maxAge: 300, preload: true } },
    { https: 'enforce', hsts: { maxAge: -1 } },
    { https: 'enforce', hsts: { maxage: 300 } },
    { https: 'redirect' },
    { credentials: true },
    { maxBody: 0 },
    { maxBody: '100kb' },
    { permissions: 'camera=()\r\nx: y' },
    { trustProxy: true },
    { emit: undefined },
  ]) assert.throws(() => perimeter({ ...base, ...wrong } as never), TypeError, JSON.stringify(wrong))
})

test('an error or a second call of a step does not reach the step behind it', () => {
  const seen: unknown[] = []
  const last = (): void => void seen.push('last')
  const end = (error?: unknown): void => void seen.push(error ?? 'end')
  const thrown = new Error('thrown')
  sequence([() => { throw thrown }, last])({} as never, {} as never, end)
  sequence([(_req, _res, next) => next(thrown), last])({} as never, {} as never, end)
  sequence([(_req, _res, next) => { next(); next() }])({} as never, {} as never, end)
  assert.deepEqual(seen, [thrown, thrown, 'end'])
  assert.throws(() => sequence([]), TypeError)
  assert.throws(() => sequence([undefined as never]), TypeError)
})

/** Waits for the events of answers that the client has already read. */
async function settled(at: Edge, count: number): Promise<void> {
  while (at.events.filter((event) => event.type === 'http.answered').length < count) await once(at.server, 'connection', { signal: AbortSignal.timeout(20) }).catch(() => undefined)
}
