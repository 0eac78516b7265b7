import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { endSession, listSessions, signOutEverywhere, type OwnSession } from 'redoubt/tokens/own-sessions'
import { signOut } from 'redoubt/tokens/sessions'
import { z } from 'zod'
import type { App } from '../app.ts'
import { idParams } from '../fields.ts'
import { firstPage, type Asking } from './doors.ts'
import { frame, token } from './frame.ts'

const nothing = z.strictObject({})

/** One's sessions and devices, and ending them. */
export function sessionPages(app: App, roles: readonly [string, ...string[]]): readonly Route[] {
  const { identity, browser } = app
  return [
    page({ method: 'GET', path: '/', summary: 'The first page', access: roles, handle: ({ caller }) => redirect(firstPage(caller.role)) }),
    page({
      method: 'GET', path: '/account/sessions', summary: 'One’s sessions and devices', access: roles, query: z.strictObject({ note: z.literal('ended').optional() }),
      handle: async ({ caller, csrf, query }) => sessionsPage(app, { caller, csrf }, await listSessions(identity, caller), query.note === undefined ? undefined : 'The device is signed out.'),
    }),
    page({
      method: 'POST', path: '/account/sessions/{id}/end', summary: 'Ends one of one’s sessions', access: roles, params: idParams, form: nothing,
      handle: async ({ caller, params }) => {
        try {
          await endSession(identity, caller, params.id)
        } catch (error) {
          // It has ended meanwhile, which is what was wanted.
          if (!(error instanceof Refusal) || error.code !== 'not_found') throw error
        }
        return params.id === caller.session ? redirect('/sign-in?note=signed-out', { cookies: browser.cookies.clear() }) : redirect('/account/sessions?note=ended')
      },
    }),
    page({
      method: 'POST', path: '/account/sessions/end-all', summary: 'Ends all of one’s sessions, this one too', access: roles, form: nothing,
      handle: async ({ caller }) => {
        await signOutEverywhere(identity, caller)
        return redirect('/sign-in?note=everywhere', { cookies: browser.cookies.clear() })
      },
    }),
    page({
      method: 'POST', path: '/account/sign-out', summary: 'Ends this session', access: roles, form: nothing,
      handle: async ({ caller }) => {
        await signOut(identity, caller)
        return redirect('/sign-in?note=signed-out', { cookies: browser.cookies.clear() })
      },
    }),
  ]
}

const form = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'long', year: 'numeric', hour: '2-digit', minute: '2-digit', timeZone: 'UTC' })

/** A point in time, in UTC: the page has no script that knows the zone of whoever reads it. */
export function timeOf(at: Date): Html {
  return html`<time datetime="${at.toISOString()}">${form.format(at)} UTC</time>`
}

function sessionsPage({ identity }: App, by: Asking, sessions: readonly OwnSession[], told: string | undefined): Html {
  const { csrf } = by
  return frame(identity.realm, {
    title: 'Your devices', by, here: '/account/sessions', told,
    content: html`<p class="lead">These devices are signed in to your account. If you do not know one of them, sign it out and change your password.</p>
<ul class="list">${sessions.map((row) => html`<li class="card row">
<div><h2>${row.device}${row.current && html` <span class="badge">This device</span>`}</h2>
<dl><div><dt>Last used</dt><dd>${timeOf(row.last_used_at)}</dd></div><div><dt>Signed in</dt><dd>${timeOf(row.created_at)}</dd></div>${row.address_prefix !== null && html`<div><dt>Network</dt><dd>${row.address_prefix}</dd></div>`}</dl></div>
<form method="post" action="${`/account/sessions/${row.id}/end`}">${token(csrf)}<button class="second">${row.current ? 'Sign out here' : html`Sign out<span class="unseen"> ${row.device}, last used ${timeOf(row.last_used_at)}</span>`}</button></form>
</li>`)}</ul>
<form method="post" action="/account/sessions/end-all" class="end">${token(csrf)}<button class="danger">Sign out on all devices</button></form>`,
  })
}
