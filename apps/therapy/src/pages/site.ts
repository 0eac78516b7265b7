import type { ControlModes } from 'redoubt/controls'
import type { PagesOptions } from 'redoubt/http/pages'
import type { Route } from 'redoubt/http/route'
import type { Realm } from 'redoubt/tokens/sessions'
import type { App } from '../app.ts'
import { accountPages } from './account.ts'
import { accountsPages } from './administration/accounts.ts'
import { enrolmentPages } from './administration/enrolment.ts'
import { recordPages } from './administration/record.ts'
import { insteadOf } from './doors.ts'
import { assetRoutes, refusedPage } from './frame.ts'
import { forgottenPages, takeBackPages } from './forgotten.ts'
import { newFactorPages } from './new-factor.ts'
import { pendingSignIn } from './pending.ts'
import { registerPages } from './register.ts'
import { secondFactorPages } from './second-factor.ts'
import { securityPages } from './security.ts'
import { sessionPages } from './sessions.ts'
import { signInPages } from './sign-in.ts'

type Roles = readonly [string, ...string[]]

/** What both doors have: signing in, one's devices, factors, password and address. @param settled roles that may move their address */
function ownPages(app: App, service: string, roles: Roles, settled: Roles): readonly Route[] {
  const pending = pendingSignIn(service)
  return [...signInPages(app, pending), ...secondFactorPages(app, pending), ...sessionPages(app, roles), ...securityPages(app, roles), ...newFactorPages(app, roles), ...accountPages(app, service, roles, settled), ...assetRoutes]
}

/** Every page for patients and therapists, and the files they are made of. @param service prefix of its cookies */
export function pageRoutes(app: App, service: string): readonly Route[] {
  const roles: Roles = ['patient', 'therapist']
  return [...ownPages(app, service, roles, roles), ...registerPages(app, service), ...forgottenPages(app, service), ...takeBackPages(app)]
}

/** Every page of the administration. @param app with the browser, tokens and identity of that door */
export function adminPageRoutes(app: App, service: string): readonly Route[] {
  return [...ownPages(app, service, ['admin', 'auditor', 'enrolment'], ['admin', 'auditor']), ...forgottenPages(app, service), ...enrolmentPages(app), ...accountsPages(app), ...recordPages(app)]
}

/** How they are answered, by the modes of the controls. */
export function pagesOptions(door: Realm, modes: ControlModes): PagesOptions {
  return { headers: { csp: modes.csp, https: modes.https === 'enforce', report: '/csp-report' }, signIn: '/sign-in', instead: insteadOf, refused: (about) => refusedPage(door, about) }
}
