import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BadRequestException, ForbiddenException, HttpException, UnauthorizedException } from '@nestjs/common'
import express from 'express'
import type { Event } from '../../src/events.ts'
import { bearer } from '../../src/http/authenticate.ts'
import { mount } from '../../src/http/mount.ts'
import { problems } from '../../src/http/problem.ts'
import { page } from '../../src/http/page.ts'
import { route } from '../../src/http/route.ts'
import { perimeter, sequence } from '../../src/http.ts'
import { browserEdge, friend, own } from '../support/browser.ts'
import { ask, edge, json, kinds, problemOf, sampleRoutes, thing, tokens, withToken } from '../support/edge.ts'
import type { Edge } from '../support/edge.ts'
import { serving } from '../support/serving.ts'

const emit = (): void => undefined

/** An Express app whose own router decides before ours: prefixes, parameters and case as Express reads them. */
async function routedFirst(): Promise<Edge> {
  const events: Event[] = []
  const app = express()
  app.disable('x-powered-by')
  const ours = sequence([
    ...perimeter({ trustedProxies: [], https: 'off', origins: [], emit: (event) => void events.push(event) }),
    mount(sampleRoutes(), { authenticate: bearer(tokens), roles: ['patient', 'therapist'], emit }),
  ]) as express.RequestHandler
  const router = express.Router()
  router.all('/things/:id', ours)
  router.use(ours)
  app.use('/api', router)
  app.use(ours)
  app.use(problems({ emit }) as express.ErrorRequestHandler)
  return listening(app, events)
}

async function listening(app: express.Express, events: Event[]): Promise<Edge> {
  return { ...(await serving(app)), events }
}

/** Spellings under which a router may find the protected thing and a guard may not, or the other way round. */
const spellings = [
  `/api/things/${thing}`, `/api/things/${thing}/`, `/api/things/${thing}.`, `/api//things/${thing}`, `//api/things/${thing}`, `/API/things/${thing}`, `/api/Things/${thing}`, `/api/things/${thing.toUpperCase()}`,
  `/api/%74hings/${thing}`, `/%61pi/things/${thing}`, `/api%2fthings/${thing}`, `/api/things%2f${thing}`, `/api/things/%30${thing.slice(1)}`, `/api/./things/${thing}`, `/api/x/../things/${thing}`, `/api/things/../things/${thing}`,
  `/api/things/${thing}%00`, `/api/things/${thing}%20`, `/api/things/${thing};a=b`, `/api/things/${thing}?`, `/api/things/${thing}#x`, `/api/things/${thing}%2e`, `/api\\things/${thing}`, `/api/things/${thing}/..;/`, `/api/things/${thing}%2f`,
]

test('attack: a spelling of the path, or a method, that a router takes and a guard does not', async () => {
  const apps: readonly (readonly [string, Edge])[] = [['routed first', await routedFirst()], ...(await Promise.all(kinds.map(async (kind) => [kind, await edge(kind)] as const)))]
  for (const [name, at] of apps) {
    for (const path of spellings) {
      for (const method of ['GET', 'HEAD', 'DELETE', 'POST', 'PUT', 'OPTIONS', 'QUERY', 'PROPFIND', 'TRACE']) {
        const { status, text } = await ask(at, method, path)
        assert.ok([400, 401, 404, 405].includes(status), `${name}: ${method} ${path} without a token: ${status}`)
        assert.ok(!text.includes('"thing"'), `${name}: ${method} ${path}`)
      }
      const { status } = await ask(at, 'GET', path, withToken('therapist'))
      assert.ok([400, 403, 404].includes(status), `${name}: GET ${path} in another role: ${status}`)
    }
    for (const path of ['/api/things/%zz', '/api/things/%c0%ae', '/%']) {
      const refused = await ask(at, 'GET', path, withToken())
      assert.ok([400, 404].includes(refused.status), `${name}: ${path}: a router that cannot read it says so: ${refused.status}`)
      assert.ok(refused.headers['content-type'] === 'application/problem+json' && !refused.text.includes('decode'), `${name}: ${path}`)
    }
    assert.equal((await ask(at, 'HEAD', `/api/things/${thing}`, withToken())).status, 200, name)
    for (const header of ['x-http-method-override', 'x-method-override', 'x-original-url', 'x-rewrite-url', 'x-forwarded-path', 'x-forwarded-prefix']) {
      const received = await ask(at, 'GET', '/nothing', { headers: { [header]: header.includes('method') ? 'DELETE' : `/api/things/${thing}`, ...withToken().headers } })
      assert.equal(received.status, 404, `${name}: ${header}`)
    }
  }
})

test('what a framework refuses by itself keeps its status and loses its words; an error that merely carries a status is ours', async () => {
  const failing = Object.assign(new Error('upstream said 4711'), { status: 404 })
  const refusing = Object.assign(new Error('entity 4711'), { status: 413, expose: true })
  for (const [thrown, status, code] of [
    [new ForbiddenException('secret 4711'), 403, 'forbidden'], [new UnauthorizedException({ secret: 4711 }), 401, 'unauthenticated'], [new BadRequestException(['4711']), 400, 'malformed_request'],
    [new HttpException('4711', 429), 429, 'too_many_requests'], [new HttpException('4711', 418), 500, 'internal'], [refusing, 413, 'body_too_large'], [failing, 500, 'internal'],
  ] as const) {
    const seen: Event[] = []
    const app = express()
    for (const step of perimeter({ trustedProxies: [], https: 'off', origins: [], emit })) app.use(step as express.RequestHandler)
    app.use(() => { throw thrown })
    app.use(problems({ emit: (event) => void seen.push(event) }) as express.ErrorRequestHandler)
    const received = await ask(await listening(app, seen), 'GET', '/')
    assert.deepEqual([received.status, problemOf(received).code], [status, code], String(thrown))
    assert.ok(!received.text.replaceAll(problemOf(received).request_id, '').includes('4711'))
    assert.equal(seen.filter((event) => event.type === 'http.failed').length, status === 500 ? 1 : 0)
  }
})

test('default deny: a route or page that does not say who may call it does not start', () => {
  const plain = { method: 'GET', path: '/x', summary: 'x', answer: null, handle: () => undefined } as const
  for (const access of [undefined, null, '', 'everybody', [], [''], ['public'], ['api_client'], true, {}]) {
    if (Array.isArray(access) && access[0] === '') continue
    assert.throws(() => route({ ...plain, access } as never), /access must be/, JSON.stringify(access))
    assert.throws(() => page({ method: 'GET', path: '/x', summary: 'x', access, handle: () => undefined } as never), /access must be/, JSON.stringify(access))
  }
  assert.throws(() => route({ ...plain, access: 'public', scope: 'a:b' } as never), /scope/)
  assert.throws(() => route({ ...plain, access: ['patient'], scope: 'A B' } as never), /scope/)
})

test('no page of another origin reads what is said from server to server, whatever the list of origins says', async () => {
  const at = await browserEdge('node', sampleRoutes())
  for (const origin of [own, friend]) {
    const hook = await ask(at, 'POST', '/api/hook', { ...json('{}'), headers: { origin, 'content-type': 'application/json' } })
    assert.equal(hook.status, 200)
    assert.equal(hook.headers['access-control-allow-origin'], undefined)
    assert.equal((await ask(at, 'GET', '/api/where', { headers: { origin } })).headers['access-control-allow-origin'], origin)
  }
  assert.equal(problemOf(await ask(at, 'POST', '/api/hook', { ...json('{}'), headers: { origin: 'https://evil.test', 'content-type': 'application/json' } })).code, 'origin_refused')
})
