import { cspReports } from 'redoubt/http/csp-report'
import { route, type Route } from 'redoubt/http/route'
import type { Tokens } from 'redoubt/tokens'
import { z } from 'zod'
import { accountRoutes } from './account.ts'
import { adminRoutes } from './admin.ts'
import { apiClientRoutes, clientTokenRoutes } from './api-clients.ts'
import type { App } from './app.ts'
import { appointmentRoutes } from './appointment-routes.ts'
import { registrationRoutes } from './registration.ts'
import { consentRoutes } from './consents.ts'
import { conversationRoutes } from './conversations.ts'
import { disclosureRoutes } from './disclosures.ts'
import { factorResetRoutes, factorRoutes } from './factor-routes.ts'
import { noteRoutes } from './notes.ts'
import { patientRoutes } from './patients.ts'
import { recordRoutes } from './records.ts'
import { forgottenRoutes, recoveryRoutes } from './recovery.ts'
import { relationshipRoutes } from './relationships.ts'
import { signInRoutes } from './sign-in.ts'
import { profileRoutes, therapistRoutes } from './therapists.ts'

/** Every route of the service's API: the one list that is served, documented and tested. */
export function routesOf(app: App): readonly Route[] {
  const roles = ['patient', 'therapist'] as const
  return [
    ...registrationRoutes(app), ...recoveryRoutes(app), ...accountRoutes(app, roles), ...signInRoutes(app, roles), ...factorRoutes(app, roles),
    ...patientRoutes(app), ...disclosureRoutes(app), ...therapistRoutes(app), ...relationshipRoutes(app), ...consentRoutes(app),
    ...appointmentRoutes(app), ...noteRoutes(app), ...conversationRoutes(app), ...recordRoutes(app),
    keySetRoute(app.identity.tokens), ...clientTokenRoutes(app), cspReports('/csp-report', app.emit),
  ]
}

/**
 * Every route of the administration. Without a second factor and a password of one's own one is in the role of
 * enrolment, which can set both up and no more.
 */
export function adminRoutesOf(app: App): readonly Route[] {
  const roles = ['admin', 'auditor', 'enrolment'] as const
  return [
    ...signInRoutes(app, roles), ...factorRoutes(app, roles), ...accountRoutes(app, roles),
    ...forgottenRoutes(app), ...adminRoutes(app), ...profileRoutes(app, ['admin', 'auditor']), ...factorResetRoutes(app), ...apiClientRoutes(app),
    keySetRoute(app.identity.tokens), cspReports('/csp-report', app.emit),
  ]
}

/** RFC 7517: how others verify our access tokens. */
function keySetRoute(tokens: Tokens): Route {
  const key = z.object({ kty: z.string(), crv: z.string(), x: z.string(), kid: z.string(), alg: z.string(), use: z.string() })
  return route({
    method: 'GET', path: '/.well-known/jwks.json', tags: ['auth'], summary: 'Public keys of the access tokens', access: 'public', answer: z.object({ keys: z.array(key) }),
    handle: () => z.object({ keys: z.array(key) }).parse(tokens.jwks()),
  })
}
