import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { ControlMode } from '../controls.ts'
import { setField } from './head.ts'
import { isOwnPath } from './html.ts'
import { answerProblem } from './problem.ts'
import { sendEmpty } from './send.ts'
import { requestStateOf } from './request-state.ts'
import type { Middleware } from './request-state.ts'

/**
 * Refuses plain HTTP with 421. An API host does not redirect: the token has already crossed the wire in clear,
 * and a redirect would hide that from the client's author. A person who typed the name of a page's host is sent to
 * HTTPS, for GET and HEAD alone: a form or a password must not be sent twice, once in clear. On such a host too, what
 * carries an Authorization, or asks for a path below /api/, is an API's and is refused.
 * @param pageHosts exact values of Host; the redirect goes to the name on this list, never to what was sent
 * @throws TypeError when the mode is unknown, or pageHosts would do nothing or are no hosts
 */
export function https(mode: ControlMode, emit: Emit, pageHosts: readonly string[] = []): Middleware {
  if (!['off', 'report', 'enforce'].includes(mode)) throw new TypeError("https must be 'off', 'report' or 'enforce'")
  if (pageHosts.length > 0 && mode !== 'enforce') throw new TypeError("pageHosts does nothing unless https is 'enforce'")
  for (const host of pageHosts) if (!/^[a-z0-9.-]+$/.test(host)) throw new TypeError('pageHosts: each must be a host name in small letters, without port')
  if (mode === 'off') return (_req, _res, next) => next()
  const hosts = new Set(pageHosts)
  return (req, res, next) => {
    const state = requestStateOf(req)
    if (state?.secure === true) return next()
    emit({ type: 'security.control_triggered', requestId: state?.visitor.requestId ?? '', control: 'https', mode, rule: 'plain' })
    if (mode === 'report') return next()
    const host = req.headers.host?.toLowerCase().replace(/:80$/, '') ?? ''
    const target = req.url ?? ''
    if ((req.method === 'GET' || req.method === 'HEAD') && hosts.has(host) && isOwnPath(target) && !target.startsWith('/api/') && req.headers.authorization === undefined) {
      setField(res, 'Location', `https://${host}${target}`)
      return sendEmpty(res, 308)
    }
    answerProblem(req, res, new Refusal('https_required'), emit)
  }
}
