import { generateKeyPairSync } from 'node:crypto'
import { request } from 'node:http'
import type { IncomingHttpHeaders, RequestListener, Server } from 'node:http'
import { connect } from 'node:net'
import express from 'express'
import { z } from 'zod'
import type { Event } from '../../src/events.ts'
import { Refusal } from '../../src/errors.ts'
import { bearer } from '../../src/http/authenticate.ts'
import { mount } from '../../src/http/mount.ts'
import type { MountOptions } from '../../src/http/mount.ts'
import { queryInteger, rowId } from '../../src/http/parse.ts'
import { problems } from '../../src/http/problem.ts'
import { reply, route } from '../../src/http/route.ts'
import type { Route } from '../../src/http/route.ts'
import { listener, perimeter } from '../../src/http.ts'
import type { PerimeterOptions } from '../../src/http.ts'
import { openTokens } from '../../src/tokens.ts'
import { nestApp } from './nest.ts'
import { serving } from './serving.ts'

export type Kind = 'express' | 'nest' | 'node'
export const kinds: readonly Kind[] = ['express', 'nest', 'node']

export const signing = generateKeyPairSync('ed25519')
export const tokens = openTokens({ issuer: 'https://auth.test', audience: 'edge-test', keys: [{ kid: 'k1', ...signing }] })
export const actor = '0190a8f0-0000-7000-8000-000000000001'
export const session = '0190a8f0-0000-7000-8000-000000000002'
export const thing = '0190a8f0-0000-7000-8000-000000000003'
export const tokenFor = (role: string): string => tokens.issue({ actor, session, role, tenant: 'clinic' }).token

const thingAnswer = z.object({ id: rowId, name: z.string(), limit: z.int().optional() })
const note = z.strictObject({ name: z.string().min(2).max(10), tags: z.array(z.strictObject({ label: z.string() })).max(3).optional(), count: z.int().optional() })

/** One route of each kind; `failWith` decides what /api/fail throws. */
export function sampleRoutes(failWith: { error: unknown } = { error: new Error('secret detail 4711') }): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/things/:id', summary: 'One thing', access: ['patient'],
      params: z.strictObject({ id: rowId }), query: z.strictObject({ limit: queryInteger(1, 100).optional() }), answer: thingAnswer,
      handle: ({ caller, params, query }) => ({ id: params.id, name: 'thing', limit: query.limit, password_hash: caller.actor }),
    }),
    route({
      method: 'POST', path: '/api/things', summary: 'A new thing', access: ['patient', 'therapist'], status: 201, idempotent: true,
      body: note, answer: thingAnswer, refuses: ['already_exists'],
      handle: async ({ body }) => reply({ id: thing, name: body.name }, { headers: { Location: `/api/things/${thing}` } }),
    }),
    route({ method: 'DELETE', path: '/api/things/{id}', summary: 'No thing', access: ['therapist'], params: z.strictObject({ id: rowId }), answer: null, handle: () => undefined }),
    route({ method: 'POST', path: '/api/echo', summary: 'Echo', access: 'public', body: z.strictObject({ name: z.string() }), answer: z.object({ name: z.string() }), handle: ({ body }) => body }),
    route({ method: 'GET', path: '/api/segments/{a}', summary: 'Segment', access: 'public', params: z.strictObject({ a: z.string() }), answer: z.object({ a: z.string() }), handle: ({ params }) => params }),
    route({ method: 'GET', path: '/api/where', summary: 'Who asks', access: 'public', answer: z.object({ address: z.string().nullable(), request: z.string() }), handle: ({ visitor }) => ({ address: visitor.address, request: visitor.requestId }) }),
    route({ method: 'GET', path: '/api/fail', summary: 'Fails', access: 'public', answer: z.object({}), handle: () => { throw failWith.error } }),
    route({ method: 'GET', path: '/api/busy', summary: 'Busy', access: 'public', answer: z.object({}), handle: () => Promise.reject(new Refusal('busy', { retryAfter: 1.2 })) }),
    route({ method: 'GET', path: '/api/jump', summary: 'Header from outside', access: 'public', query: z.strictObject({ to: z.string() }), answer: z.object({}), handle: ({ query }) => reply({}, { headers: { Location: query.to } }) }),
    route({ method: 'POST', path: '/api/hook', summary: 'Bytes as sent', access: 'public', raw: { limit: 300_000, type: 'application/json' }, answer: z.object({ bytes: z.int() }), handle: ({ body }) => ({ bytes: body.length }) }),
  ]
}

export type Edge = { readonly url: string; readonly port: number; readonly events: Event[]; readonly server: Server }

/** A listening service under Express 5, NestJS or bare node:http, stopped at the end of the file. */
export async function edge(
  kind: Kind,
  options: Partial<PerimeterOptions> = {},
  more: { readonly routes?: readonly Route[]; readonly mount?: Partial<MountOptions> } = {},
): Promise<Edge> {
  const events: Event[] = []
  const emit = (event: Event): void => void events.push(event)
  const steps = perimeter({ trustedProxies: [], https: 'off', origins: [], maxBody: 300_000, emit, ...options })
  const api = mount(more.routes ?? sampleRoutes(), {
    authenticate: bearer(tokens), roles: ['patient', 'therapist'], emit, openapi: { title: 'Edge', version: '1.0.0' }, ...more.mount,
  })
  const apps = { node: () => listener([...steps, api], emit), express: () => expressApp([...steps, api], emit), nest: () => nestApp(steps, api, emit) }
  return { ...(await serving(await apps[kind](), options.emit ?? emit)), events }
}

function expressApp(steps: readonly unknown[], emit: (event: Event) => void): RequestListener {
  const app = express()
  for (const step of steps) app.use(step as express.RequestHandler)
  app.use(problems({ emit }) as express.ErrorRequestHandler)
  return app
}

export type Received = { readonly status: number; readonly headers: IncomingHttpHeaders; readonly text: string }

/** A request by node:http: unlike fetch it sends the path, Host and Origin exactly as given. */
export function ask(
  edge: Edge,
  method: string,
  path: string,
  more: { readonly headers?: Record<string, string | string[]>; readonly body?: string | Buffer } = {},
): Promise<Received> {
  return new Promise((resolve, reject) => {
    const body = more.body === undefined ? {} : { 'content-length': String(Buffer.byteLength(more.body)) }
    const req = request({ host: '127.0.0.1', port: edge.port, method, path, headers: { ...body, ...more.headers }, agent: false }, (res) => {
      const chunks: Buffer[] = []
      res.on('data', (chunk: Buffer) => chunks.push(chunk))
      res.on('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, text: Buffer.concat(chunks).toString('utf8') }))
      res.on('error', reject)
    })
    req.on('error', reject)
    req.end(more.body)
  })
}

/** Bytes on the wire as they are; resolves with all that came back when the server closes or `until` was seen. */
export function wire(edge: Edge, bytes: string, until?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(edge.port, '127.0.0.1', () => socket.write(bytes, 'latin1'))
    let text = ''
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => {
      text += chunk
      if (until !== undefined && text.includes(until)) socket.destroy()
    })
    socket.on('close', () => resolve(text))
    socket.on('error', (error: NodeJS.ErrnoException) => (error.code === 'ECONNRESET' ? resolve(text) : reject(error)))
  })
}

export type Problem = { readonly type: string; readonly title: string; readonly status: number; readonly code: string; readonly request_id: string; readonly errors?: readonly { readonly field: string; readonly rule: string }[] }
export const problemOf = (received: Received): Problem => JSON.parse(received.text) as Problem
export const withToken = (role = 'patient'): { headers: Record<string, string> } => ({ headers: { authorization: `Bearer ${tokenFor(role)}` } })
export const json = (value: unknown): { headers: Record<string, string>; body: string } => ({ headers: { 'content-type': 'application/json' }, body: typeof value === 'string' ? value : JSON.stringify(value) })
