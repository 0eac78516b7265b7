import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ApiClient, Person } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Authenticate, Known } from './authenticate.ts'
import { setField } from './head.ts'
import type { Route } from './route.ts'
import type { Visit } from './visit.ts'

/**
 * The caller of a route that is not public: authenticated, and let in by role or scope. A promise only where
 * authentication makes one, so that a bearer token costs no turn of the event loop.
 * @throws Refusal what `authenticate` refuses with; forbidden, with an event
 */
export function admit(authenticate: Authenticate, route: Route, req: IncomingMessage, res: ServerResponse, visit: Visit, emit: Emit): Known | Promise<Known> {
  const known = authenticate(req, visit.visitor, route.kind)
  return known instanceof Promise ? known.then((each) => letIn(each, route, res, visit, emit)) : letIn(known, route, res, visit, emit)
}

function letIn(known: Known, route: Route, res: ServerResponse, visit: Visit, emit: Emit): Known {
  const { actor } = known.caller
  visit.actor = actor
  if (known.renewed !== undefined) {
    visit.renewed = known.renewed
    setField(res, 'Set-Cookie', known.renewed)
  }
  if (mayCall(route, known.caller)) return known
  emit({ type: 'security.unauthorized_access', requestId: visit.visitor.requestId, action: `${route.method} ${route.path}`, code: 'forbidden', actor })
  throw new Refusal('forbidden')
}

/** People by their role, API clients by their scope alone. */
function mayCall(route: Route, caller: Person | ApiClient): boolean {
  if (caller.kind === 'api_client') return route.scope !== undefined && caller.scopes.includes(route.scope)
  return route.access.includes(caller.role)
}
