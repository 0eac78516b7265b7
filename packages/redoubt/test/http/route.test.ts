import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { Refusal } from '../../src/errors.ts'
import { mount } from '../../src/http/mount.ts'
import { queryInteger, rowId } from '../../src/http/parse.ts'
import { route } from '../../src/http/route.ts'
import { actor, ask, edge, json, kinds, problemOf, sampleRoutes, thing, tokenFor, withToken } from '../support/edge.ts'

const plain = { method: 'GET', path: '/x', summary: 'x', access: 'public', answer: z.object({ a: z.string() }), handle: () => ({ a: 'x' }) } as const

for (const kind of kinds) {
  test(`${kind}: every route that is not public refuses a caller without token, and with a token of another role`, async () => {
    const at = await edge(kind)
    for (const each of sampleRoutes().filter(({ access }) => access !== 'public')) {
      const path = each.path.replace('{id}', thing)
      for (const header of [undefined, '', 'Bearer', 'Bearer ', 'Basic YTpi', 'Bearer a.b.c', `Bearer ${tokenFor('patient')}x`, `Token ${tokenFor('patient')}`, `Bearer ${tokenFor('patient')} ${tokenFor('patient')}`]) {
        const received = await ask(at, each.method, path, header === undefined ? {} : { headers: { authorization: header } })
        assert.equal(received.status, 401, `${each.method} ${path} ${header ?? ''}`)
        assert.equal(problemOf(received).code, 'unauthenticated')
        assert.equal(received.headers['www-authenticate'], header === undefined ? 'Bearer' : 'Bearer error="invalid_token"')
      }
      const other = await ask(at, each.method, path, withToken('auditor'))
      assert.equal(other.status, 403)
    }
    assert.ok(at.events.some((event) => event.type === 'security.unauthorized_access' && event.actor === actor && event.code === 'forbidden'))
  })

  test(`${kind}: only the fields of the answer's schema leave`, async () => {
    const at = await edge(kind)
    const received = await ask(at, 'GET', `/api/things/${thing}?limit=7`, withToken())
    assert.deepEqual(JSON.parse(received.text), { id: thing, name: 'thing', limit: 7 })
  })

  test(`${kind}: HEAD answers like GET, without body`, async () => {
    const at = await edge(kind)
    const get = await ask(at, 'GET', `/api/things/${thing}`, withToken())
    const head = await ask(at, 'HEAD', `/api/things/${thing}`, withToken())
    assert.equal(head.status, 200)
    assert.equal(head.text, '')
    assert.equal(head.headers['content-length'], get.headers['content-length'])
  })

  test(`${kind}: each rule broken is named with its field`, async () => {
    const at = await edge(kind)
    const send = async (body: unknown): Promise<unknown> => {
      const received = await ask(at, 'POST', '/api/things', { ...json(body), headers: { ...withToken().headers, 'content-type': 'application/json' } })
      assert.equal(received.status, 422)
      return problemOf(received).errors
    }
    assert.deepEqual(await send({}), [{ field: 'name', rule: 'required' }])
    assert.deepEqual(await send({ name: 'x' }), [{ field: 'name', rule: 'min' }])
    assert.deepEqual(await send({ name: 'x'.repeat(11) }), [{ field: 'name', rule: 'max' }])
    assert.deepEqual(await send({ name: 'ok', role: 'admin' }), [{ field: 'role', rule: 'unknown' }])
    assert.deepEqual(await send({ name: 'ok', tags: [{ label: 'a' }, { label: 1, x: 2 }], count: 1.5 }), [
      { field: 'tags.1.label', rule: 'type' }, { field: 'tags.1.x', rule: 'unknown' }, { field: 'count', rule: 'type' },
    ])
    assert.deepEqual(await send([]), [{ field: 'body', rule: 'type' }])
    for (const query of ['limit=0', 'limit=101', 'limit=', 'limit=1e1', 'limit=0x1', 'limit=%201', 'limit=-1', 'limit=1.0', 'other=1']) {
      const received = await ask(at, 'GET', `/api/things/${thing}?${query}`, withToken())
      assert.equal(received.status, 422, query)
    }
    assert.equal((await ask(at, 'GET', `/api/things/${thing}?limit=1&limit=2`, withToken())).status, 400)
    assert.equal((await ask(at, 'GET', `/api/things/${thing.toUpperCase()}`, withToken())).status, 400)
  })

  test(`${kind}: an answer that does not fit its schema is 500, names the field in the event and leaks nothing`, async () => {
    const bad = route({ ...plain, handle: () => ({ a: 4711 }) as unknown as { a: string } })
    const at = await edge(kind, {}, { routes: [bad] })
    const received = await ask(at, 'GET', '/x')
    assert.equal(received.status, 500)
    const { request_id, ...rest } = JSON.parse(received.text) as Record<string, unknown>
    assert.equal(request_id, received.headers['x-request-id'])
    assert.ok(!JSON.stringify(rest).includes('4711'))
    const [failed] = at.events.filter((event) => event.type === 'http.failed')
    assert.match(String(failed?.error), /GET \/x: the answer does not fit its schema: a type/)
  })
}

test('under a path prefix of Express the declared paths are still the full ones', async () => {
  const { default: express } = await import('express')
  const { perimeter } = await import('../../src/http.ts')
  const emit = (): void => undefined
  const app = express()
  for (const step of perimeter({ trustedProxies: [], https: 'off', origins: [], emit })) app.use(step as never)
  app.use('/api', mount(sampleRoutes(), { authenticate: () => { throw new Refusal('unauthenticated') }, roles: ['patient', 'therapist'], emit }) as never)
  const server = app.listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  assert.equal((await fetch(`http://127.0.0.1:${port}/api/where`)).status, 200)
  assert.equal((await fetch(`http://127.0.0.1:${port}/api/api/where`)).status, 404)
  server.closeAllConnections()
  server.close()
})

test('Idempotency-Key: handed over where declared, refused when malformed, required where it must be', async () => {
  const seen: (readonly [string, string | undefined])[] = []
  const make = (path: `/${string}`, idempotent: true | 'required') =>
    route({ method: 'POST', path, summary: 'x', access: 'public', idempotent, answer: null, handle: ({ repeatable }) => void seen.push([repeatable.route, repeatable.key]) })
  const at = await edge('node', {}, { routes: [make('/may', true), make('/must', 'required')] })
  assert.equal((await ask(at, 'POST', '/may', {})).status, 204)
  assert.equal((await ask(at, 'POST', '/must', {})).status, 400)
  for (const key of ['short', 'a b c d e f g', 'x'.repeat(129), ['one-key-1', 'two-key-2']]) {
    assert.equal((await ask(at, 'POST', '/must', { headers: { 'idempotency-key': key } })).status, 400, String(key))
  }
  assert.equal((await ask(at, 'POST', '/must', { headers: { 'idempotency-key': 'order-4711' } })).status, 204)
  assert.deepEqual(seen, [['POST /may', undefined], ['POST /must', 'order-4711']])
})

test('checks run after authentication and before the body, and can refuse', async () => {
  const order: string[] = []
  const at = await edge('node', {}, {
    mount: { checks: [async (_req, res, { caller, route: which }) => {
      order.push(`${caller?.role ?? 'nobody'} ${which.path}`)
      res.setHeader('RateLimit', '"minute";r=0')
      throw new Refusal('too_many_requests', { retryAfter: 30 })
    }] },
  })
  const received = await ask(at, 'POST', '/api/things', { ...json('{ not json'), headers: { ...withToken().headers, 'content-type': 'application/json' } })
  assert.equal(received.status, 429)
  assert.equal(received.headers['retry-after'], '30')
  assert.equal(received.headers['ratelimit'], '"minute";r=0')
  assert.equal((await ask(at, 'POST', '/api/things', json({}))).status, 401)
  assert.deepEqual(order, ['patient /api/things'])
})

test('routes without the perimeter answer nobody', async () => {
  const { createServer } = await import('node:http')
  const api = mount([route(plain)], { authenticate: () => { throw new Refusal('unauthenticated') }, roles: [], emit: () => undefined })
  const server = createServer((req, res) => api(req, res, () => undefined))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  const received = await fetch(`http://127.0.0.1:${port}/x`)
  assert.equal(received.status, 500)
  server.closeAllConnections()
  server.close()
})

test('a body another parser has read is an error, not an empty body', async () => {
  const { default: express } = await import('express')
  const { perimeter } = await import('../../src/http.ts')
  const errors: unknown[] = []
  const emit = (event: { readonly type: string; readonly error?: unknown }): void => void (event.type === 'http.failed' && errors.push(event.error))
  const app = express()
  for (const step of perimeter({ trustedProxies: [], https: 'off', origins: [], emit })) app.use(step as never)
  app.use(express.json())
  app.use(mount(sampleRoutes(), { authenticate: () => { throw new Refusal('unauthenticated') }, roles: ['patient', 'therapist'], emit }) as never)
  const server = app.listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  const received = await fetch(`http://127.0.0.1:${port}/api/echo`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"name":"x"}' })
  assert.equal(received.status, 500)
  assert.match(String(errors[0]), /read by another parser/)
  server.closeAllConnections()
  server.close()
})

test('a route that is not fully declared is refused when built', () => {
  const handle = (): { a: string } => ({ a: 'x' })
  const wrong: readonly [string, Record<string, unknown>][] = [
    ['access', { access: undefined }], ['access', { access: [] }], ['access', { access: 'admin' }], ['access', { access: ['public'] }],
    ['summary', { summary: '' }], ['answer', { answer: undefined }], ['handle', { handle: undefined }], ['method', { method: 'get' }],
    ['path', { path: 'x' }], ['segment', { path: '/x/' }], ['segment', { path: '//x' }], ['segment', { path: '/x/*' }], ['segment', { path: '/x/a{b}' }], ['segment', { path: '/../x' }],
    ['params', { path: '/x/{id}' }], ['params', { path: '/x/{id}', params: z.strictObject({ other: z.string() }) }], ['params', { params: z.strictObject({ id: rowId }) }],
    ['strictObject', { path: '/x/{id}', params: z.object({ id: rowId }) }],
    ['GET takes no body', { body: z.strictObject({}) }], ['does nothing', { idempotent: true }], ['does nothing', { limit: 5 }],
    ['strictObject', { query: z.object({ a: z.string() }) }],
    ['strictObject', { method: 'POST', body: z.object({ a: z.string() }) }],
    ['strictObject', { method: 'POST', body: z.strictObject({ a: z.array(z.object({ b: z.string() })) }) }],
    ['takes anything', { method: 'POST', body: z.strictObject({ a: z.unknown() }) }],
    ['anything out', { answer: z.object({ a: z.any() }) }], ['anything out', { answer: z.looseObject({}) }], ['anything out', { answer: z.object({ a: z.array(z.object({ b: z.record(z.string(), z.unknown()) })) }) }],
    ['JSON', { answer: z.object({ a: z.date() }) }], ['JSON', { answer: z.object({ a: z.bigint() }) }],
    ['status', { status: 404 }], ['204', { status: 204 }], ['204', { answer: null, status: 200 }], ['refusal', { refuses: ['nope'] }], ['option', { acess: 'public' }],
  ]
  for (const [word, change] of wrong) {
    assert.throws(() => route({ ...plain, handle, ...change }), (error) => error instanceof TypeError && error.message.includes(word), `${word}: ${JSON.stringify(Object.keys(change))}`)
  }
})

test('two routes in one place, an unknown role or an unknown option are refused when mounted', () => {
  const options = { authenticate: () => { throw new Refusal('unauthenticated') }, roles: ['patient'], emit: () => undefined }
  assert.throws(() => mount([route(plain), route(plain)], options), /declared twice/)
  assert.throws(() => mount([route({ ...plain, access: ['pateint'] })], options), /unknown role pateint/)
  assert.throws(() => mount([route(plain)], { ...options, openapi: { title: 'x', version: '1', path: '/x' } }), /route already/)
  assert.throws(() => mount([], { ...options, role: [] } as never), /no option role/)
  assert.throws(() => mount([], { ...options, authenticate: undefined } as never), TypeError)
})

test('plain text wins over a parameter, and a parameter is tried where plain text leads nowhere', async () => {
  const make = (path: `/${string}`, params?: z.ZodObject) => route({ ...plain, path, ...(params === undefined ? {} : { params }), handle: () => ({ a: path }) })
  const id = z.strictObject({ id: z.string() })
  const at = await edge('node', {}, { routes: [make('/a/{id}', id), make('/a/me'), make('/a/{id}/notes', id), make('/a/me/files')] })
  for (const [path, expected] of [['/a/me', '/a/me'], ['/a/you', '/a/{id}'], ['/a/me/notes', '/a/{id}/notes'], ['/a/me/files', '/a/me/files']]) {
    assert.equal((await ask(at, 'GET', path ?? '')).text, JSON.stringify({ a: expected }))
  }
})

test('queryInteger refuses bounds that make no sense', () => {
  assert.throws(() => queryInteger(-1, 1), TypeError)
  assert.throws(() => queryInteger(2, 1), TypeError)
})
