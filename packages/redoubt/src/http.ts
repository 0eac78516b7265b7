import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { Refusal } from './errors.ts'
import type { Emit } from './events.ts'
import { toOriginForm } from './http/absolute-form.ts'
import { bodyLimit, defaultBodyLimit } from './http/body.ts'
import type { ControlMode } from './controls.ts'
import type { Controls } from './http/controls.ts'
import { cors } from './http/cors.ts'
import { closing, fieldLines, mostFieldLines } from './http/field-lines.ts'
import { collectHead, doesKeepHead, keepsHead, settleHead } from './http/head.ts'
import { securityHeaders } from './http/headers.ts'
import type { Hsts } from './http/headers.ts'
import { https } from './http/https.ts'
import { onlyKnown } from './http/options.ts'
import { answerProblem, problemText } from './http/problem.ts'
import { openProxies } from './http/proxies.ts'
import { requestId } from './http/request-id.ts'
import type { Middleware } from './http/request-state.ts'
import { newId } from './bytes.ts'

export type PerimeterOptions = {
  /** Addresses or CIDR ranges whose X-Forwarded-* are believed; empty: nobody's. */
  readonly trustedProxies: readonly string[]
  readonly https: ControlMode
  /** Hosts whose pages people ask for by name: their GET and HEAD are sent from HTTP to HTTPS; all others get 421. */
  readonly pageHosts?: readonly string[]
  readonly hsts?: Hsts
  /** Modes of the other controls, for a rollout in steps; default: all enforced. */
  readonly controls?: Controls
  /** Exact origins browsers may call from, the service's own included. */
  readonly origins: readonly string[]
  readonly credentials?: boolean
  /** Bytes of the largest body any route takes, default 100 KiB. */
  readonly maxBody?: number
  /** `edgeLimits(…).step`: the limit by address, behind everything that refuses for free. */
  readonly limit?: Middleware
  /** Permissions-Policy, default everything off. */
  readonly permissions?: string
  readonly emit: Emit
}

/**
 * The perimeter, in its order. Headers come before what refuses, so that a 400 or a 421 carries them too.
 * @throws TypeError for an option that is unsafe, unknown or would do nothing
 */
export function perimeter(options: PerimeterOptions): readonly Middleware[] {
  onlyKnown('perimeter', options, ['trustedProxies', 'https', 'pageHosts', 'hsts', 'controls', 'origins', 'credentials', 'maxBody', 'limit', 'permissions', 'emit'])
  const { emit, hsts, permissions } = options
  if (typeof emit !== 'function') throw new TypeError('perimeter: emit must be a function')
  if (hsts !== undefined && options.https === 'off') throw new TypeError("perimeter: hsts does nothing useful while https is 'off'")
  const own = [
    requestId(openProxies(options.trustedProxies), emit),
    securityHeaders({ ...(hsts === undefined ? undefined : { hsts }), ...(permissions === undefined ? undefined : { permissions }) }),
    fieldLines(emit),
    https(options.https, emit, options.pageHosts),
    cors(options.origins, options.credentials ?? false, emit, options.controls),
    bodyLimit(options.maxBody ?? defaultBodyLimit, emit),
  ].map((step) => keepsHead(step))
  return Object.freeze(options.limit === undefined ? own : [...own, options.limit])
}

/**
 * Several steps as one, for Express and NestJS: `app.use(sequence([...perimeter(options), mount(routes, …)]))` passes
 * the framework's own router once instead of once per step.
 * @throws TypeError when a step is no function
 */
export function sequence(steps: readonly Middleware[]): Middleware {
  if (steps.length === 0 || steps.some((step) => typeof step !== 'function')) throw new TypeError('sequence: steps must be functions')
  const collected = steps.every(doesKeepHead)
  return (req, res, next) => {
    if (collected) collectHead(res)
    const leave: typeof next = (error) => {
      settleHead(res)
      if (error === undefined) next()
      else next(error)
    }
    const run = (at: number): void => {
      const step = steps[at]
      if (step === undefined) return leave()
      let gone = false
      const go = (error?: unknown): void => {
        if (gone) return
        gone = true
        if (error === undefined) run(at + 1)
        else leave(error)
      }
      try {
        step(req, res, go)
      } catch (error) {
        go(error)
      }
    }
    run(0)
  }
}

/** The steps as the handler of a bare node:http server. What no step answers is 404: nothing is open by default. */
export function listener(steps: readonly Middleware[], emit: Emit): (req: IncomingMessage, res: ServerResponse) => void {
  const all = sequence(steps)
  return (req, res) => all(req, res, (error) => answerProblem(req, res, error ?? new Refusal('not_found'), emit))
}

/**
 * Bounds what a client can hold open, answers requests the parser refuses like every other refusal, and hands requests in
 * absolute form on as what they mean.
 * Times are in milliseconds: head 10 s, whole request 60 s, looked at every second; idle connection 65 s (above the usual
 * 60 s of proxies).
 * @param emit told of what the parser refuses (`http.unreadable`): no step of the perimeter sees it
 * @throws TypeError when the server listens already: it would go on looking every 30 s
 */
export function hardenServer(server: Server, emit: Emit): void {
  if (typeof emit !== 'function') throw new TypeError('hardenServer: emit must be a function')
  if (server.listening) throw new TypeError('hardenServer: the server must not listen yet')
  Object.assign(server, { connectionsCheckingInterval: 1_000 })
  server.headersTimeout = 10_000
  server.requestTimeout = 60_000
  server.keepAliveTimeout = 65_000
  // One more than is accepted: node:http drops what is beyond without a word, and then nobody could refuse it.
  server.maxHeadersCount = mostFieldLines + 1
  // fieldLines refuses it instead: node:http would answer, and go on with whatever stands behind.
  Object.assign(server, { requireHostHeader: false })
  server.prependListener('request', toOriginForm)
  // What else is expected than 100-continue is not looked at (RFC 9110 §10.1.1): node:http would answer past the perimeter.
  server.on('checkExpectation', (req, res) => server.emit('request', req, res))
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy()
      return
    }
    if (closing.has(socket)) {
      socket.end()
      return
    }
    const refusal = new Refusal(error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 'request_timeout' : 'malformed_request')
    const requestId = newId()
    emit({ type: 'http.unreadable', requestId, code: refusal.code })
    const text = problemText(refusal, requestId)
    socket.end(
      `HTTP/1.1 ${refusal.status} ${refusal.status === 408 ? 'Request Timeout' : 'Bad Request'}\r\n` +
        'Content-Type: application/problem+json\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n' +
        "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'; base-uri 'none'\r\n" +
        `Content-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`,
    )
  })
}
