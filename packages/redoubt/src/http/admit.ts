import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ApiClient, Person } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Authenticate, Known } from './authenticate.ts'
import { setField } from './head.ts'
import type { Route } from './route.ts'
import type { Visit } from './visit.ts'

/**
 * The caller of a route that is not public, by what they show. A promise only where authentication makes one, so that a
 * bearer token costs no turn of the event loop.
 * @throws Refusal what `authenticate` refuses with
 */
export function identify(authenticate: Authenticate, route: Route, req: IncomingMessage, res: ServerResponse, visit: Visit): Known | Promise<Known> {
  const known = authenticate(req, visit.visitor, route.kind)
  return known instanceof Promise ? known.then((each) => note(each, res, visit)) : note(known, res, visit)
}

function note(known: Known, res: ServerResponse, visit: Visit): Known {
  visit.actor = known.caller.actor
  if (known.renewed !== undefined) {
    visit.renewed = known.renewed
    setField(res, 'Set-Cookie', known.renewed)
  }
  return known
}

/**
 * Lets a caller in by role or scope.
 * @throws Refusal forbidden, with an event
 */
export function authorize(caller: Person | ApiClient, route: Route, { visitor }: Visit, emit: Emit): void {
  if (mayCall(route, caller)) return
  emit({ type: 'security.unauthorized_access', requestId: visitor.requestId, action: `${route.method} ${route.path}`, code: 'forbidden', actor: caller.actor })
  throw new Refusal('forbidden')
}

/** People by their role, API clients by their scope alone. */
function mayCall(route: Route, caller: Person | ApiClient): boolean {
  if (caller.kind === 'api_client') return route.scope !== undefined && caller.scopes.includes(route.scope)
  return route.access.includes(caller.role)
}
