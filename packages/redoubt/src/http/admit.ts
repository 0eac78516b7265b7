import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ApiClient, Person } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Authenticate, Authenticated } from './authenticate.ts'
import { setField } from './head.ts'
import type { Route } from './route.ts'
import type { RequestState } from './request-state.ts'

/**
 * The caller of a route that is not public, by what they show. A promise only where authentication makes one, so that a
 * bearer token costs no turn of the event loop.
 * @throws Refusal what `authenticate` refuses with
 */
export function identify(authenticate: Authenticate, route: Route, req: IncomingMessage, res: ServerResponse, state: RequestState): Authenticated | Promise<Authenticated> {
  const known = authenticate(req, state.visitor, route.kind)
  return known instanceof Promise ? known.then((each) => note(each, res, state)) : note(known, res, state)
}

function note(known: Authenticated, res: ServerResponse, state: RequestState): Authenticated {
  state.actor = known.caller.actor
  if (known.renewed !== undefined) {
    state.renewed = known.renewed
    setField(res, 'Set-Cookie', known.renewed)
  }
  return known
}

/**
 * Lets a caller in by role or scope.
 * @throws Refusal forbidden, with an event
 */
export function authorize(caller: Person | ApiClient, route: Route, { visitor }: RequestState, emit: Emit): void {
  if (mayCall(route, caller)) return
  emit({ type: 'security.unauthorized_access', requestId: visitor.requestId, action: `${route.method} ${route.path}`, code: 'forbidden', actor: caller.actor })
  throw new Refusal('forbidden')
}

/** People by their role, API clients by their scope alone. */
function mayCall(route: Route, caller: Person | ApiClient): boolean {
  if (caller.kind === 'api_client') return route.scope !== undefined && caller.scopes.includes(route.scope)
  return route.access.includes(caller.role)
}
