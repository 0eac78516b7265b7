import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { openControls } from './controls.ts'
import type { Controls } from './controls.ts'
import { setField } from './head.ts'
import { answerProblem } from './problem.ts'
import { sendEmpty } from './send.ts'
import { requestStateOf } from './request-state.ts'
import type { Middleware } from './request-state.ts'

const methods = 'GET, HEAD, POST, PUT, PATCH, DELETE'
const requestHeaders = 'Authorization, Content-Type, Idempotency-Key, If-Match, Step-Up, X-CSRF-Token'
const exposed = 'X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, Location, ETag'
const preflightSeconds = '600'

/**
 * Cross-origin rules by exact match (Fetch standard §3.2). A request whose Origin is not listed is refused, not
 * merely left without headers: a "simple" POST takes effect before its page is denied the answer. The service's own
 * public origin belongs on the list, since browsers send Origin with same-origin POSTs too.
 * @param origins serialised origins, such as https://app.example.com
 * @param credentials whether browsers may send cookies
 * @param controls the mode of `origin`; default: enforced
 * @throws TypeError for `*`, `null`, a path, a pattern, or credentials with an empty list
 */
export function cors(origins: readonly string[], credentials: boolean, emit: Emit, controls: Controls = openControls({}, { emit })): Middleware {
  if (!Array.isArray(origins)) throw new TypeError('origins must be a list of exact origins')
  for (const origin of origins) {
    if (!isOrigin(origin)) {
      throw new TypeError('origins: each must be an exact http(s) origin without path; * and null are not possible')
    }
  }
  if (credentials && origins.length === 0) throw new TypeError('credentials does nothing while origins is empty')
  const allowed = new Set(origins)
  return (req, res, next) => {
    setField(res, 'Vary', 'Origin')
    const origin = req.headers.origin
    if (origin === undefined) return next()
    if (!allowed.has(origin)) {
      // Where it only reports, the page still cannot read the answer: there are no Access-Control headers for it.
      if (!controls.refuses('origin', requestStateOf(req)?.visitor.requestId ?? '', 'unlisted')) return next()
      return answerProblem(req, res, new Refusal('origin_refused'), emit)
    }
    setField(res, 'Access-Control-Allow-Origin', origin)
    if (credentials) setField(res, 'Access-Control-Allow-Credentials', 'true')
    if (req.method === 'OPTIONS' && req.headers['access-control-request-method'] !== undefined) {
      setField(res, 'Vary', 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers')
      setField(res, 'Access-Control-Allow-Methods', methods)
      setField(res, 'Access-Control-Allow-Headers', requestHeaders)
      setField(res, 'Access-Control-Max-Age', preflightSeconds)
      return sendEmpty(res, 204)
    }
    setField(res, 'Access-Control-Expose-Headers', exposed)
    next()
  }
}

/** An origin exactly as browsers send it (RFC 6454 §6.2). */
export function isOrigin(text: unknown): text is string {
  if (typeof text !== 'string' || !URL.canParse(text)) return false
  const url = new URL(text)
  return (url.protocol === 'https:' || url.protocol === 'http:') && url.origin === text && !text.includes('*')
}
