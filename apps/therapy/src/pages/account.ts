import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect, show, type PageAnswer } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { parseJson } from 'redoubt/http/json'
import { stepCookie } from 'redoubt/http/step-cookie'
import { codeMinutes } from 'redoubt/tokens/codes'
import { passwordLength } from 'redoubt/tokens/password'
import { z } from 'zod'
import { askEmailChange, confirmEmailChange, replacePassword } from '../account.ts'
import type { App } from '../app.ts'
import { accountPurposes } from '../factor-routes.ts'
import { email as emailField } from '../fields.ts'
import { undoDays } from '../mail-texts.ts'
import { digits, handle } from '../recovery.ts'
import type { Asking } from './doors.ts'
import { field, lookBelow, mailedCodeField, newPasswordField, passwordSlip, type Slips } from './field.ts'
import { frame, token } from './frame.ts'
import { orPasskey, proofBy, proofField, proofInput, proven, saidOf } from './proof.ts'

const present = z.string().max(passwordLength.most)
/** The proof is there for whoever has a second factor. */
const proof = proofField.optional()
const asked = z.strictObject({ request: handle, email: emailField })
type Shown = { readonly wrong?: string; readonly slips?: Slips; readonly email?: string; readonly code?: string }

/**
 * Change of password and of address while signed in. Each asks for the present password, and of whoever has a second
 * factor for that as well, in one form.
 * @param settled roles that may move their address
 */
export function accountPages(app: App, service: string, roles: readonly [string, ...string[]], settled: readonly [string, ...string[]]): readonly Route[] {
  const waiting = stepCookie(service, 'address')
  const stepUp = (by: Asking, action: string, given: string | undefined) => () => proven(app, by.caller, { action, resource: by.caller.actor }, true, given ?? '')

  return [
    page({ method: 'GET', path: '/account/password', summary: 'Change one’s password', access: roles, handle: (by) => passwordPage(app, by, {}) }),
    page({
      method: 'POST', path: '/account/password', summary: 'Changes one’s password', access: roles, form: z.strictObject({ old_password: present, password: z.string().max(4 * passwordLength.most), proof }),
      handle: async ({ caller, csrf, headers, form }) => {
        const by = { caller, csrf }
        try {
          await replacePassword(app, { caller, headers, stepUp: stepUp(by, accountPurposes.password, form.proof) }, form.old_password, form.password)
          return redirect('/account/security?note=password')
        } catch (error) {
          const weak = passwordSlip(error)
          if (weak !== undefined) return show(await passwordPage(app, by, { wrong: lookBelow, slips: { password: weak } }), { status: 422 })
          return corrected(error, (wrong) => passwordPage(app, by, { wrong }))
        }
      },
    }),
    page({ method: 'GET', path: '/account/email', summary: 'Change one’s address', access: settled, handle: (by) => emailPage(app, by, {}) }),
    page({
      method: 'POST', path: '/account/email', summary: 'Asks to change one’s address', access: settled, form: z.strictObject({ email: z.string(), password: present, proof }),
      handle: async ({ caller, csrf, headers, form }) => {
        const by = { caller, csrf }
        const { data: address } = emailField.safeParse(form.email)
        if (address === undefined) return show(await emailPage(app, by, { wrong: lookBelow, email: form.email, slips: { email: 'Enter an e-mail address, such as name@example.org.' } }), { status: 422 })
        try {
          const request = await askEmailChange(app, { caller, headers, stepUp: stepUp(by, accountPurposes.email, form.proof) }, form.password, address)
          return redirect('/account/email/confirm', { cookies: [waiting.set(JSON.stringify({ request, email: address }), 3_600)] })
        } catch (error) {
          return corrected(error, (wrong) => emailPage(app, by, { wrong, email: form.email }))
        }
      },
    }),
    page({
      method: 'GET', path: '/account/email/confirm', summary: 'Confirm one’s new address', access: settled,
      handle: ({ caller, csrf, headers }) => {
        const begun = readAsked(waiting.read(headers))
        return begun === undefined ? redirect('/account/email') : confirmPage(app, { caller, csrf }, begun.email)
      },
    }),
    page({
      method: 'POST', path: '/account/email/confirm', summary: 'Changes one’s address, with the code that was mailed there', access: settled, form: z.strictObject({ code: z.string().max(60) }),
      handle: async ({ caller, csrf, headers, form }) => {
        const begun = readAsked(waiting.read(headers))
        if (begun === undefined) return redirect('/account/email')
        const again = (wrong: string): PageAnswer => show(confirmPage(app, { caller, csrf }, begun.email, wrong), { status: 422 })
        const { data: code } = digits.safeParse(form.code)
        if (code === undefined) return again('Enter the eight digits from the mail.')
        try {
          await confirmEmailChange(app, caller, { handle: begun.request, digits: code }, begun.email)
          return redirect('/account/security?note=email', { cookies: [waiting.clear()] })
        } catch (error) {
          // Another account's address never had a code, so that whoever comes here with one has read its mail.
          if (!(error instanceof Refusal) || (error.code !== 'code_refused' && error.code !== 'already_exists')) throw error
          return again(`This code is not right, or is over: it is good for ${codeMinutes} minutes and five tries.`)
        }
      },
    }),
  ]
}

/** The page anew with what was refused; other errors go their way. */
async function corrected(error: unknown, anew: (wrong: string) => Promise<Html>): Promise<PageAnswer> {
  const wrong = saidOf(error)
  if (wrong === undefined) throw error
  return show(await anew(wrong), { status: error instanceof Refusal && error.code === 'too_many_requests' ? 429 : 422 })
}

/** What the browser was given to keep; it is not signed, and all of it is asked for by the code. */
function readAsked(text: string | undefined): z.output<typeof asked> | undefined {
  try {
    return text === undefined ? undefined : asked.safeParse(parseJson(Buffer.from(text, 'utf8'))).data
  } catch (error) {
    if (error instanceof Refusal) return undefined
    throw error
  }
}

function presentPassword(name: string, label: string): Html {
  return field({ name, label, type: 'password', autocomplete: 'current-password', most: passwordLength.most })
}

async function passwordPage(app: App, by: Asking, { wrong, slips = {} }: Shown): Promise<Html> {
  const guard = await proofBy(app, by.caller)
  return frame(app.identity.realm, {
    title: 'Change your password', by, here: '/account/security', wrong, passkeys: guard === 'passkey',
    content: html`<section class="card"><p>Your other devices are signed out by it, and a mail tells you of it.</p>
<form method="post" action="/account/password">${token(by.csrf)}${presentPassword('old_password', 'Present password')}${newPasswordField(slips['password'], 'New password')}${guard !== 'password' && proofInput('proof', true)}<button>Change the password</button>${orPasskey(guard, { action: accountPurposes.password, resource: by.caller.actor })}</form></section>`,
  })
}

async function emailPage(app: App, by: Asking, { wrong, slips = {}, email }: Shown): Promise<Html> {
  const guard = await proofBy(app, by.caller)
  return frame(app.identity.realm, {
    title: 'Change your address', by, here: '/account/security', wrong, passkeys: guard === 'passkey',
    content: html`<section class="card"><p>A code goes to the new address. Once you have entered it, you sign in with that address. The former one gets a mail with which it can be taken back for ${undoDays} days.</p>
<form method="post" action="/account/email">${token(by.csrf)}${field({ name: 'email', label: 'New e-mail address', type: 'email', autocomplete: 'email', value: email, slip: slips['email'] })}${presentPassword('password', 'Your password')}${guard !== 'password' && proofInput('proof', true)}<button>Send me a code</button>${orPasskey(guard, { action: accountPurposes.email, resource: by.caller.actor })}</form></section>`,
  })
}

function confirmPage({ identity }: App, by: Asking, address: string, wrong?: string): Html {
  return frame(identity.realm, {
    title: 'Confirm your new address', by, here: '/account/security', wrong,
    content: html`<section class="card"><p>If <strong>${address}</strong> can be the address of your account, a code of eight digits is on its way there. It is good for ${codeMinutes} minutes.</p>
<form method="post" action="/account/email/confirm">${token(by.csrf)}${mailedCodeField(wrong === undefined ? undefined : true)}<button>Confirm</button></form>
<p><a href="/account/email">Begin anew</a></p></section>`,
  })
}
