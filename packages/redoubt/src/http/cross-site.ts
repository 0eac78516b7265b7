import type { IncomingMessage } from 'node:http'
import type { Visitor } from '../context.ts'
import type { Csrf } from './csrf.ts'
import type { Route } from './route.ts'

/**
 * Whether the page that sends this may: asked of callers by cookie, and of every form, since signing in by a foreign
 * form is an attack of its own (login CSRF).
 * @param session of a caller by cookie, undefined for everybody else
 * @throws Refusal csrf_refused; TypeError when a caller came by cookie and nothing can ask
 */
export function checkSource(csrf: Csrf | undefined, route: Route, session: string | undefined, req: IncomingMessage, { requestId }: Visitor): void {
  if (csrf === undefined) {
    if (session !== undefined) throw new TypeError('mount: a caller came by cookie, and there is no csrf to ask')
    return
  }
  if (route.method !== 'GET' && (session !== undefined || route.kind === 'page')) csrf.fromOurPage(req.headers, requestId)
  else if (session !== undefined) csrf.notEmbedded(req.headers, requestId)
}

/**
 * The CSRF token of an unsafe request of a caller by cookie: the header X-CSRF-Token, once, or else the form's field.
 * Undefined at once where none is asked.
 * @param field the token that stood in the form
 * @throws Refusal csrf_refused
 */
export function checkToken(csrf: Csrf | undefined, route: Route, session: string | undefined, req: IncomingMessage, { requestId }: Visitor, field?: string): Promise<void> | undefined {
  if (csrf === undefined || session === undefined || route.method === 'GET') return undefined
  const header = req.headers['x-csrf-token']
  return csrf.check(session, typeof header === 'string' ? header : field, requestId)
}
