import type { ControlModes } from 'redoubt/controls'
import type { PagesOptions } from 'redoubt/http/pages'
import type { Route } from 'redoubt/http/route'
import type { Realm } from 'redoubt/tokens/sessions'
import type { App } from '../app.ts'
import { accountPages } from './account.ts'
import { assetRoutes, refusedPage } from './frame.ts'
import { forgottenPages } from './forgotten.ts'
import { newFactorPages } from './new-factor.ts'
import { pendingSignIn } from './pending.ts'
import { registerPages } from './register.ts'
import { secondFactorPages } from './second-factor.ts'
import { securityPages } from './security.ts'
import { sessionPages } from './sessions.ts'
import { signInPages } from './sign-in.ts'

/** Every page of Therapy and the files they are made of. @param service prefix of its cookies */
export function pageRoutes(app: App, service: string, roles: readonly [string, ...string[]]): readonly Route[] {
  const pending = pendingSignIn(service)
  return [...signInPages(app, pending), ...registerPages(app, service), ...forgottenPages(app, service), ...secondFactorPages(app, pending), ...sessionPages(app, roles), ...securityPages(app, roles), ...newFactorPages(app, roles), ...accountPages(app, service, roles, roles), ...assetRoutes]
}

/** How they are answered, by the modes of the controls. */
export function pagesOptions(door: Realm, modes: ControlModes): PagesOptions {
  return { headers: { csp: modes.csp, https: modes.https === 'enforce', report: '/csp-report' }, signIn: '/sign-in', refused: (about) => refusedPage(door, about) }
}
