import type { Person } from 'redoubt/context'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect, show, type PageAnswer } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { listFactors, type OwnFactor } from 'redoubt/tokens/factors'
import { factorPurposes, removeFactor, replaceRecoveryCodes } from 'redoubt/tokens/factors/enrol'
import { z } from 'zod'
import type { App } from '../app.ts'
import { idParams } from '../fields.ts'
import type { Asking } from './doors.ts'
import { frame, token } from './frame.ts'
import { orPasskey, proofBy, proofByOf, proofField, proofInput, proven, saidOf, type ProofBy } from './proof.ts'
import { timeOf } from './sessions.ts'

const notes = { added: 'It is set up. Your other devices were signed out.', removed: 'It is removed. Your other devices were signed out.', password: 'Your password is changed. Your other devices were signed out.', email: 'Your address is changed. Sign in with it from now on.' } as const
const proofForm = z.strictObject({ proof: proofField })

/** Whether the account has a factor already, which then is the proof. */
export async function isGuarded(app: App, caller: Person): Promise<boolean> {
  return (await proofBy(app, caller)) !== 'password'
}

/** The page anew with what went wrong; other errors go their way. */
export async function corrected(app: App, asking: Asking, error: unknown): Promise<PageAnswer> {
  const wrong = saidOf(error)
  if (wrong === undefined) throw error
  return show(await overview(app, asking, { wrong }), { status: 422 })
}

/** One's second factors and recovery codes. */
export function securityPages(app: App, roles: readonly [string, ...string[]]): readonly Route[] {
  return [
    page({
      method: 'GET', path: '/account/security', summary: 'One’s second factors', access: roles, query: z.strictObject({ note: z.enum(['added', 'removed', 'password', 'email']).optional() }),
      handle: ({ caller, csrf, query }) => overview(app, { caller, csrf }, query.note === undefined ? {} : { told: notes[query.note] }),
    }),
    page({
      method: 'POST', path: '/account/security/{id}/remove', summary: 'Removes a second factor', access: roles, params: idParams, form: proofForm,
      handle: async ({ caller, csrf, params, form }) => {
        try {
          await removeFactor(app.factors, caller, { factor: params.id, stepUp: await proven(app, caller, { action: factorPurposes.remove, resource: params.id }, true, form.proof) })
          return redirect('/account/security?note=removed')
        } catch (error) {
          return corrected(app, { caller, csrf }, error)
        }
      },
    }),
    page({
      method: 'POST', path: '/account/security/recovery', summary: 'Makes new recovery codes', access: roles, form: proofForm,
      handle: async ({ caller, csrf, form }) => {
        try {
          const handle = await proven(app, caller, { action: factorPurposes.recovery, resource: caller.actor }, true, form.proof)
          return codesPage(app, await replaceRecoveryCodes(app.factors, caller, { stepUp: handle }), { caller, csrf }, '/account/security')
        } catch (error) {
          return corrected(app, { caller, csrf }, error)
        }
      },
    }),
  ]
}

/** Recovery codes, shown this once. @param next where one goes from there */
export function codesPage({ identity }: App, codes: readonly string[], by: Asking, next: string): Html {
  return frame(identity.realm, {
    title: 'Your recovery codes', by, here: '/account/security',
    content: html`<section class="card"><p>Write these codes down or print them, and keep them where you keep papers. Each signs you in once if you lose your telephone.
<strong>They are not shown again.</strong></p><ol class="codes">${codes.map((code) => html`<li><code>${code}</code></li>`)}</ol><p><a class="button" href="${next}">I have kept them</a></p></section>`,
  })
}

async function overview(app: App, by: Asking, more: { readonly wrong?: string; readonly told?: string } = {}): Promise<Html> {
  const { caller, csrf } = by
  const { factors, recoveryCodes } = await listFactors(app.factors, caller)
  const kept = factors.filter(({ confirmed_at: confirmed }) => confirmed !== null)
  const guard = proofByOf(app, factors)
  const guarded = guard !== 'password'
  return frame(app.identity.realm, {
    title: 'Security', heading: 'Signing in safely', by, here: '/account/security', passkeys: guard === 'passkey', ...more,
    content: html`<p class="lead">${guarded ? 'Whoever knows your password still needs one of these to sign in.' : 'So far your password alone opens your account. A second step keeps others out even if they learn it.'}</p>
<ul class="list">${kept.map((factor) => factorRow(factor, csrf, guard))}</ul>
${guarded && html`<section class="card"><h2>Recovery codes</h2><p>${recoveryCodes} of 10 are left. New ones replace them.</p>
<details><summary>Make new recovery codes</summary><form method="post" action="/account/security/recovery">${token(csrf)}${proofInput('proof-recovery', true)}<button>Make new codes</button>${orPasskey(guard, { action: factorPurposes.recovery, resource: caller.actor })}</form></details></section>`}
<section class="card"><h2>Authenticator app</h2><p>An app on your telephone shows a new code every half minute.</p>
<details><summary>Set up an app</summary>${adding('/account/security/totp', 'app', 'My telephone', guard, by)}</details></section>
${app.factors.passkeys !== undefined && html`<section class="card"><h2>Passkey</h2><p>Your finger, your face or the PIN of this device signs you in, without a password. Needs JavaScript.</p>
<details><summary>Set up a passkey</summary>${adding('/account/security/passkey', 'passkey', 'This device', guard, by)}</details></section>`}
<section class="card"><h2>${caller.role === 'enrolment' ? 'Password' : 'Password and address'}</h2><p class="links"><a href="/account/password">Change your password</a>${caller.role !== 'enrolment' && html`<a href="/account/email">Change your e-mail address</a>`}</p></section>`,
  })
}

function adding(action: string, id: string, name: string, guard: ProofBy, { caller, csrf }: Asking): Html {
  return html`<form method="post" action="${action}">${token(csrf)}<label for="${`label-${id}`}">A name to know it by</label>
<input id="${`label-${id}`}" name="label" value="${name}" maxlength="60" autocomplete="off" required>${proofInput(`proof-${id}`, guard !== 'password')}<button>Continue</button>${orPasskey(guard, { action: factorPurposes.enrol, resource: caller.actor })}</form>`
}

function factorRow({ id, kind, label, created_at: created, last_used_at: used }: OwnFactor, csrf: string, guard: ProofBy): Html {
  return html`<li class="card"><h2>${label} <span class="badge">${kind === 'totp' ? 'Authenticator app' : 'Passkey'}</span></h2>
<dl><div><dt>Set up</dt><dd>${timeOf(created)}</dd></div><div><dt>Last used</dt><dd>${used === null ? 'Never' : timeOf(used)}</dd></div></dl>
<details><summary>Remove<span class="unseen"> ${label}</span></summary><form method="post" action="${`/account/security/${id}/remove`}">${token(csrf)}${proofInput(`proof-${id}`, true)}<button class="danger">Remove</button>${orPasskey(guard, { action: factorPurposes.remove, resource: id })}</form></details></li>`
}
