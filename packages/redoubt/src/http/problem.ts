import type { IncomingMessage, ServerResponse } from 'node:http'
import { newId } from '../bytes.ts'
import { Refusal, refusals } from '../errors.ts'
import type { RefusalCode } from '../errors.ts'
import type { Emit } from '../events.ts'
import { removeField, setField, writeStatus } from './head.ts'
import { sendJson } from './send.ts'
import { requestStateOf } from './request-state.ts'

/** How long a refused body is still read so that the client sees the answer instead of a reset, in milliseconds. */
const lingerMilliseconds = 1_000

const heads = new Map<RefusalCode, string>()
for (const code of Object.keys(refusals) as RefusalCode[]) {
  const { title, status } = refusals[code]
  // RFC 6749 §5.2 names its errors by the member `error`; a client's library looks there.
  const oauth = ['invalid_client', 'invalid_scope', 'unsupported_grant_type'].includes(code) ? { error: code } : {}
  const head = JSON.stringify({ type: problemType(code), title, status, code, ...oauth })
  heads.set(code, head.slice(0, -1))
}

/** The `type` member of the problem: a name, not an address (RFC 9457 §3.1.1 allows one that does not resolve). */
export function problemType(code: RefusalCode): string {
  return `urn:redoubt:problem:${code}`
}

/**
 * The text of a problem document: type, title, status, code, request_id, and the fields with the rule each broke.
 * Never a value, a message of another library or a stack (RFC 9457 §5).
 */
export function problemText(refusal: Refusal, requestId: string): string {
  let text = `${heads.get(refusal.code)},"request_id":${JSON.stringify(requestId)}`
  if (refusal.detail !== undefined && refusal.status < 500) text += `,"detail":${JSON.stringify(refusal.detail)}`
  if (refusal.fields.length > 0) text += `,"errors":${JSON.stringify(refusal.fields.map(({ field, rule }) => ({ field, rule })))}`
  return `${text}}`
}

/**
 * What an error is to the outside, noted for `http.answered`: a Refusal keeps its code; anything else is `internal`, and
 * the error itself goes to the event `http.failed` only. After the head is out, the connection is cut: a body that
 * stops short must not look complete.
 * @returns undefined when there is nothing left to answer
 */
export function noteProblem(req: IncomingMessage, res: ServerResponse, error: unknown, emit: Emit): { readonly refusal: Refusal; readonly requestId: string } | undefined {
  const refusal = error instanceof Refusal ? error : new Refusal('internal')
  const state = requestStateOf(req)
  const requestId = state?.visitor.requestId ?? newId()
  if (state !== undefined) state.code = refusal.code
  if (refusal.status >= 500) emit({ type: 'http.failed', requestId, error })
  if (res.headersSent) {
    res.destroy()
    return undefined
  }
  for (const name of ['Content-Encoding', 'Content-Disposition', 'ETag', 'Last-Modified', 'Set-Cookie']) removeField(res, name)
  if (state !== undefined && state.renewed.length > 0) setField(res, 'Set-Cookie', state.renewed)
  removeField(res, 'X-Powered-By')
  setField(res, 'Cache-Control', 'no-store')
  if (refusal.retryAfter !== undefined) setField(res, 'Retry-After', Math.max(1, Math.ceil(refusal.retryAfter)))
  return { refusal, requestId }
}

/** The one place where an error becomes an answer of an API; pages have their own (pages.ts), for the same errors. */
export function answerProblem(req: IncomingMessage, res: ServerResponse, error: unknown, emit: Emit): void {
  const noted = noteProblem(req, res, error, emit)
  if (noted === undefined) return
  const { refusal, requestId } = noted
  if (refusal.status === 401) {
    // RFC 6750 §3: the error attribute only where a token was presented.
    if (refusal.code === 'invalid_client') setField(res, 'WWW-Authenticate', 'Basic realm="token"')
    else setField(res, 'WWW-Authenticate', req.headers.authorization === undefined ? 'Bearer' : 'Bearer error="invalid_token"')
  }
  const text = problemText(refusal, requestId)
  if (refusal.status === 413 || refusal.status === 408) return sendAndClose(req, res, refusal.status, text)
  sendJson(res, refusal.status, text, 'application/problem+json')
}

const ofFrameworks = new Map<unknown, RefusalCode>([
  [400, 'malformed_request'], [401, 'unauthenticated'], [403, 'forbidden'], [404, 'not_found'], [405, 'method_not_allowed'],
  [408, 'request_timeout'], [413, 'body_too_large'], [415, 'unsupported_media_type'], [429, 'too_many_requests'],
])

/**
 * What a framework refuses by itself keeps its status, and nothing else of it: a path that Express cannot decode (URIError), an
 * exception of NestJS (getStatus), an error of http-errors meant for the client (expose). An error that merely carries
 * a status, as those of HTTP clients do, stays `internal`.
 */
function refusedByFramework(error: unknown): Refusal | undefined {
  if (!(error instanceof Error) || error instanceof Refusal) return undefined
  const { status, expose, getStatus } = error as Error & { readonly status?: unknown; readonly expose?: unknown; readonly getStatus?: unknown }
  const code = error instanceof URIError || expose === true || typeof getStatus === 'function' ? ofFrameworks.get(status) : undefined
  return code === undefined ? undefined : new Refusal(code)
}

/** The error handler for the end of an Express or NestJS app: what other handlers, or the framework, refuse is answered alike. */
export function problems(options: { readonly emit: Emit }): (
  error: unknown,
  req: IncomingMessage,
  res: ServerResponse,
  next: (error?: unknown) => void,
) => void {
  const { emit } = options
  if (typeof emit !== 'function') throw new TypeError('problems: emit must be a function')
  // Express knows an error handler by its four parameters.
  return (error, req, res, _next) => answerProblem(req, res, refusedByFramework(error) ?? error, emit)
}

/*
 * A client still sending would lose the answer to a TCP reset if the connection were closed at once: write the
 * answer, discard what still comes for a moment, then close (nginx calls it lingering_close).
 */
function sendAndClose(req: IncomingMessage, res: ServerResponse, status: number, text: string): void {
  setField(res, 'Content-Type', 'application/problem+json')
  setField(res, 'Content-Length', Buffer.byteLength(text))
  setField(res, 'Connection', 'close')
  writeStatus(res, status)
  if (req.readableEnded || req.destroyed) {
    res.end(text)
    return
  }
  res.write(text)
  const timer = setTimeout(close, lingerMilliseconds)
  req.on('end', close).on('error', close).on('close', close)
  req.resume()
  function close(): void {
    clearTimeout(timer)
    req.off('end', close).off('close', close)
    if (!res.writableEnded) res.end()
  }
}
