import { request as httpRequest } from 'node:http'
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { bodyOf, listen, type Certificate } from './http-server.ts'

export type Fault =
  /** The request is taken and nothing comes back. */
  | { readonly kind: 'hang' }
  /** The true answer, late. */
  | { readonly kind: 'slow'; readonly milliseconds: number }
  /** The connection is closed without a word. */
  | { readonly kind: 'reset' }
  /** Half of the true answer, then the connection is closed. */
  | { readonly kind: 'cut' }
  /** Half of the true answer, as if that were all. */
  | { readonly kind: 'truncated' }
  /** What a gateway or a sign-in in front answers. */
  | { readonly kind: 'page' }
  /** What the real service would say and the double behind cannot. */
  | { readonly kind: 'answer'; readonly status: number; readonly body: string; readonly headers?: Readonly<Record<string, string>> }

export type Passed = { readonly method: string; readonly path: string; readonly headers: IncomingHttpHeaders; readonly body: string }

export type FaultProxy = {
  readonly origin: string
  readonly port: number
  /** All requests, in order, also those that were answered by a fault. */
  readonly requests: Passed[]
  /** From now on, `times` requests that match fare like this; null ends it. */
  fault(fault: Fault | null, options?: { readonly times?: number; readonly when?: (request: Passed) => boolean }): void
  close(): Promise<void>
}

type Answer = { readonly status: number; readonly headers: IncomingHttpHeaders; readonly body: Buffer }

function forward(target: URL, ca: string | undefined, request: IncomingMessage, body: Buffer): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const send = target.protocol === 'https:' ? httpsRequest : httpRequest
    const outgoing = send(
      new URL(request.url ?? '/', target),
      { method: request.method ?? 'GET', headers: { ...request.headers, connection: 'close' }, ...(ca === undefined ? {} : { ca, servername: 'localhost' }) },
      (answer) => void bodyOf(answer).then((whole) => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: whole }), reject),
    )
    outgoing.once('error', reject)
    outgoing.end(body)
  })
}

function give(response: ServerResponse, answer: Answer, body: Buffer): void {
  const { 'transfer-encoding': _chunked, connection: _connection, ...headers } = answer.headers
  response.writeHead(answer.status, { ...headers, 'content-length': String(body.length) })
  response.end(body)
}

/**
 * Stands before a key service and fails as the network and the real service do; passes everything else on.
 * @param target where the service is
 * @param certificate what the proxy itself answers with; TLS when given
 * @param ca authority of the service behind
 */
export async function startFaultProxy(target: string, certificate?: Certificate, ca?: string): Promise<FaultProxy> {
  const requests: Passed[] = []
  let current: { readonly fault: Fault; left: number; readonly when: (request: Passed) => boolean } | null = null

  function faultFor(request: Passed): Fault | null {
    if (current === null || current.left === 0 || !current.when(request)) return null
    current.left--
    return current.fault
  }

  const server = await listen(async (request, response) => {
    const body = await bodyOf(request)
    const passed = { method: request.method ?? '', path: request.url ?? '', headers: request.headers, body: body.toString('utf8') }
    requests.push(passed)
    const fault = faultFor(passed)
    switch (fault?.kind) {
      case 'hang':
        return
      case 'reset':
        return void response.destroy()
      case 'page':
        return give(response, { status: 200, headers: { 'content-type': 'text/html; charset=utf-8' }, body: Buffer.alloc(0) }, Buffer.from('<!doctype html><title>Sign in</title>'))
      case 'answer':
        return give(response, { status: fault.status, headers: { 'content-type': 'application/json', ...fault.headers }, body: Buffer.alloc(0) }, Buffer.from(fault.body))
      case 'slow':
        await new Promise((resolve) => setTimeout(resolve, fault.milliseconds))
        break
      default:
    }
    const answer = await forward(new URL(target), ca, request, body)
    if (fault?.kind === 'truncated') return give(response, answer, answer.body.subarray(0, answer.body.length >> 1))
    if (fault?.kind !== 'cut') return give(response, answer, answer.body)
    const { 'transfer-encoding': _chunked, connection: _connection, ...headers } = answer.headers
    response.writeHead(answer.status, { ...headers, 'content-length': String(answer.body.length) })
    response.write(answer.body.subarray(0, answer.body.length >> 1), () => response.destroy())
  }, certificate)

  return {
    origin: server.origin,
    port: server.port,
    requests,
    fault(fault, { times = Number.POSITIVE_INFINITY, when = () => true } = {}) {
      current = fault === null ? null : { fault, left: times, when }
    },
    close: () => server.close(),
  }
}
