import { html } from 'redoubt/http/html'
import { page } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { transaction } from 'redoubt/transaction'
import type { Person } from 'redoubt/context'
import { visible, sql, type App } from '../../app.ts'
import { frame, token } from '../frame.ts'
import { isGuarded } from '../security.ts'

/**
 * What somebody of the administration has to do first: a password that the operator did not see, and a second factor.
 * Both are asked for by the database, which opens nothing but this role without them.
 */
export function enrolmentPages(app: App): readonly Route[] {
  return [
    page({
      method: 'GET', path: '/enrolment', summary: 'The first steps of somebody who administers', access: ['enrolment'],
      handle: async ({ caller, csrf }) => {
        const [own, guarded] = [await hasOwnPassword(app, caller), await isGuarded(app, caller)]
        const step = (done: boolean, path: `/${string}`, name: string, why: string) =>
          html`<li class="card"><h2>${name}${done && html` <span class="badge">Done</span>`}</h2><p>${why}</p>${!done && html`<p><a class="button" href="${path}">${name}</a></p>`}</li>`
        return frame(app.identity.realm, {
          title: 'First steps', by: { caller, csrf }, here: '/enrolment',
          content: html`<p class="lead">Before you can administer anything, your account has to be yours alone. This has to be done within a day.</p>
<ol class="list">${step(own, '/account/password', 'Choose a password', 'The one you began with was seen by whoever made the account.')}
${step(guarded, '/account/security', 'Set up a second step', 'An app on your telephone or a passkey. Keep the recovery codes: nobody here can give you new ones without you.')}
<li class="card"><h2>Sign in anew</h2><p>${own && guarded ? 'Everything is there. With your password and your second step you get in.' : 'Once both are done.'}</p>
${own && guarded && html`<form method="post" action="/account/sign-out">${token(csrf)}<button>Sign out, and in again</button></form>`}</li></ol>`,
        })
      },
    }),
  ]
}

/** As guard.open_session decides it. */
async function hasOwnPassword(app: App, caller: Person): Promise<boolean> {
  const rows = await transaction(app.db, caller, 'account.viewed', (tx) => tx.run(sql.selectFrom('redoubt.users').select(['created_at', 'password_changed_at']).where('id', '=', caller.actor)))
  const { created_at: created, password_changed_at: changed } = visible(rows)
  return changed > created
}
