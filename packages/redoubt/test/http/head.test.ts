import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import type { IncomingHttpHeaders, RequestListener } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import express from 'express'
import { bearer } from '../../src/http/authenticate.ts'
import { mount } from '../../src/http/mount.ts'
import type { Check } from '../../src/http/mount.ts'
import type { Middleware } from '../../src/http/request-state.ts'
import { listener, perimeter, sequence } from '../../src/http.ts'
import { json, sampleRoutes, tokens } from '../support/edge.ts'
import { serving } from '../support/serving.ts'

const emit = (): void => undefined
const outer = (): readonly Middleware[] => perimeter({ trustedProxies: [], https: 'off', origins: ['https://own.test'], credentials: true, emit })
const routes = (checks: readonly Check[] = []): Middleware => mount(sampleRoutes(), { authenticate: bearer(tokens), roles: ['patient', 'therapist'], checks, emit })

async function serve(app: RequestListener): Promise<{ readonly port: number; ask(path: string, init?: RequestInit): Promise<Response> }> {
  const { url, port } = await serving(app)
  return { port, ask: (path, init) => fetch(`${url}${path}`, init) }
}

const express5 = (...steps: readonly Middleware[]): RequestListener => {
  const app = express()
  for (const step of steps) app.use(step as express.RequestHandler)
  return app
}

/** What differs from request to request, or from connection to connection. */
const own = ['x-request-id', 'date', 'connection', 'keep-alive']
const fieldsOf = ({ headers }: Response): IncomingHttpHeaders => Object.fromEntries([...headers].filter(([name]) => !own.includes(name)))

test('the same fields whether they are collected or set one by one, for answers, refusals and preflights', async () => {
  const apart = await serve(express5(...outer(), routes()))
  const together = await serve(express5(sequence([...outer(), routes()])))
  const bare = await serve(listener([...outer(), routes()], emit))
  const origin = 'https://own.test'
  for (const [path, init] of [
    ['/api/where', {}], ['/api/where', { headers: { origin } }], ['/api/where', { method: 'HEAD' }], ['/api/where', { method: 'POST' }], ['/api/none', {}], ['/api/things/x', {}], ['/api/busy', {}],
    ['/api/fail', {}], ['/api/where', { headers: { origin: 'https://evil.test' } }], ['/api/echo', { method: 'POST', ...json('{"name":"ab"}') }], ['/api/echo', { method: 'POST', ...json('{"name":') }],
    ['/api/where', { method: 'OPTIONS', headers: { origin, 'access-control-request-method': 'POST' } }], ['/api/jump?to=/there', {}], ['/api/hook', { method: 'POST', headers: { origin, 'content-type': 'application/json' }, body: '{}' }],
  ] as const) {
    // Twice: the first answer of an Express app still carries what it is told to leave.
    for (const turn of [1, 2]) {
      const [wanted, ...found] = await Promise.all([apart, together, bare].map(async ({ ask }) => {
        const answer = await ask(path, init)
        await answer.arrayBuffer()
        return { status: answer.status, fields: fieldsOf(answer) }
      }))
      for (const each of found) assert.deepEqual(each, wanted, `${path} ${JSON.stringify(init)} ${turn}`)
      assert.equal(wanted?.fields['x-powered-by'], undefined)
      assert.match(String(wanted?.fields['content-security-policy']), /default-src 'none'/)
    }
  }
})

test('a step or a check of somebody else sees, changes and takes away what the perimeter has set', async () => {
  const mine: Middleware = (_req, res, next) => {
    res.setHeader('X-Mine', res.getHeader('X-Frame-Options') === 'DENY' ? 'seen' : 'unseen')
    res.setHeader('cache-control', 'private')
    res.removeHeader('Cross-Origin-Opener-Policy')
    next()
  }
  const asCheck: Check = (req, res) => mine(req, res, emit)
  for (const app of [listener([...outer(), mine, routes()], emit), listener([...outer(), routes([asCheck])], emit), express5(sequence([...outer()]), mine, routes())]) {
    const { headers } = await (await serve(app)).ask('/api/where')
    assert.deepEqual(
      ['x-mine', 'cache-control', 'cross-origin-opener-policy', 'x-frame-options', 'x-powered-by'].map((name) => headers.get(name)),
      ['seen', 'private', null, 'DENY', null],
    )
  }
})

test('a body in one piece with its head, in pieces, or byte by byte is the same body, and one too large is refused in each', async () => {
  const { port } = await serve(listener([...outer(), routes()], emit))
  const said = (body: string): string => `POST /api/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n${body}`
  const small = said('Content-Length: 13\r\n\r\n{"name":"ab"}')
  const chunked = said('Transfer-Encoding: chunked\r\n\r\n6\r\n{"name\r\n7\r\n":"ab"}\r\n0\r\n\r\n')
  const large = `x`.repeat(110_000)
  const tooLarge = said(`Transfer-Encoding: chunked\r\n\r\n${large.length.toString(16)}\r\n${large}\r\n0\r\n\r\n`)
  const send = (pieces: readonly string[]): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect(port, '127.0.0.1').setNoDelay(true).setEncoding('latin1')
      let text = ''
      socket.on('data', (chunk: string) => (text += chunk)).on('error', emit).on('close', () => resolve(text))
      const next = (at: number): void => void (at < pieces.length && socket.write(pieces[at] ?? '', () => setImmediate(next, at + 1)))
      next(0)
    })
  const cut = (text: string): readonly string[] => [text.slice(0, text.indexOf('\r\n\r\n') + 4), text.slice(text.indexOf('\r\n\r\n') + 4)]
  for (const pieces of [[small], cut(small), [...small], [chunked], cut(chunked), [...chunked]]) assert.match(await send(pieces), /^HTTP\/1\.1 200 [^]*\{"name":"ab"\}/)
  for (const pieces of [[tooLarge], cut(tooLarge)]) assert.match(await send(pieces), /^HTTP\/1\.1 413 /)
})

test('the head of an answer has one door: a field set past it would not be collected', () => {
  const folder = join(import.meta.dirname, '../../src/http')
  const past = readdirSync(folder).filter((file) => file !== 'head.ts' && /\bres\.(?:setHeader|removeHeader|writeHead)\(/.test(readFileSync(join(folder, file), 'utf8')))
  assert.deepEqual(past, [])
})
