import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect, show } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { stepCookie } from 'redoubt/http/step-cookie'
import { codeMinutes } from 'redoubt/tokens/codes'
import { passwordLength } from 'redoubt/tokens/password'
import { z } from 'zod'
import type { App } from '../app.ts'
import { email as emailField } from '../fields.ts'
import { undoDays } from '../mail-texts.ts'
import { askForReset, digits, handle, restoreEmail, setForgotten } from '../recovery.ts'
import { busySaid, field, lookBelow, mailedCodeField, newPasswordField, passwordSlip, type Slips } from './field.ts'
import { frame } from './frame.ts'

/** Seconds the browser keeps the handle: longer than the code lives, so that it can be said that it is over. */
const kept = 3_600

/** A forgotten password, by what was mailed. Nothing here tells who has an account. */
export function forgottenPages(app: App, service: string): readonly Route[] {
  const waiting = stepCookie(service, 'reset')
  return [
    page({ method: 'GET', path: '/forgotten', summary: 'Ask for a new password', access: 'public', handle: () => askPage(app, {}) }),
    page({
      method: 'POST', path: '/forgotten', summary: 'Asks for a new password', access: 'public', form: z.strictObject({ email: z.string() }),
      handle: async ({ headers, visitor, form }) => {
        const { data: address } = emailField.safeParse(form.email)
        if (address === undefined) return show(askPage(app, { email: form.email, wrong: 'Enter your e-mail address, such as name@example.org.' }), { status: 422 })
        try {
          return redirect('/forgotten/code', { cookies: [waiting.set(await askForReset(app, { headers, visitor }, address), kept)] })
        } catch (error) {
          const wrong = busySaid(error)
          if (wrong === undefined) throw error
          return show(askPage(app, { email: form.email, wrong }), { status: 429 })
        }
      },
    }),
    page({
      method: 'GET', path: '/forgotten/code', summary: 'Set a new password', access: 'public',
      handle: ({ headers }) => (waiting.read(headers) === undefined ? redirect('/forgotten') : resetPage(app, {})),
    }),
    page({
      method: 'POST', path: '/forgotten/code', summary: 'Sets a new password, with the code that was mailed', access: 'public', form: z.strictObject({ code: z.string().max(60), password: z.string().max(4 * passwordLength.most) }),
      handle: async ({ headers, visitor, form }) => {
        const { data: request } = handle.safeParse(waiting.read(headers))
        if (request === undefined) return redirect('/forgotten')
        const { data: code } = digits.safeParse(form.code)
        if (code === undefined) return show(resetPage(app, { wrong: lookBelow, slips: { code: 'Enter the eight digits from the mail.' } }), { status: 422 })
        try {
          await setForgotten(app, visitor, { handle: request, digits: code }, form.password)
          return redirect('/sign-in?note=reset', { cookies: [waiting.clear(), ...app.browser.cookies.clear()] })
        } catch (error) {
          const weak = passwordSlip(error)
          const wrong = busySaid(error)
          if (weak !== undefined) return show(resetPage(app, { wrong: lookBelow, slips: { password: weak }, code }), { status: 422 })
          if (wrong !== undefined) return show(resetPage(app, { wrong }), { status: 429 })
          if (!(error instanceof Refusal) || error.code !== 'code_refused') throw error
          return show(resetPage(app, { wrong: lookBelow, slips: { code: `This code is not right, or is over: it is good for ${codeMinutes} minutes, five tries and one password. If in doubt, ask for a new one.` } }), { status: 422 })
        }
      },
    }),
  ]
}

/** A stolen address, by what was mailed to the former one. */
export function takeBackPages(app: App): readonly Route[] {
  return [
    page({ method: 'GET', path: '/take-back', summary: 'Take back a change of one’s address', access: 'public', handle: () => takeBackPage(app, undefined) }),
    page({
      method: 'POST', path: '/take-back', summary: 'Takes back a change of one’s address', access: 'public', form: z.strictObject({ token: z.string().max(200) }),
      handle: async ({ visitor, form }) => {
        try {
          await restoreEmail(app, visitor, handle.parse(form.token.replaceAll(/\s/g, '')))
          return redirect('/sign-in?note=restored', { cookies: app.browser.cookies.clear() })
        } catch (error) {
          if (!(error instanceof z.ZodError) && (!(error instanceof Refusal) || (error.code !== 'code_refused' && error.code !== 'already_exists'))) throw error
          return show(takeBackPage(app, 'This is not what the mail says, or it was used, or seven days have passed.'), { status: 422 })
        }
      },
    }),
  ]
}

function askPage({ identity }: App, { email, wrong }: { readonly email?: string; readonly wrong?: string }): Html {
  const form = html`<form method="post" action="/forgotten">${field({ name: 'email', label: 'E-mail address', type: 'email', autocomplete: 'username', value: email, marked: wrong !== undefined, focus: identity.realm === 'tenant' })}<button>Send me a code</button></form>`
  if (identity.realm === 'platform') {
    return frame(identity.realm, {
      title: 'Cannot sign in', heading: 'Lost your password or your second step?', wrong,
      content: html`<section class="card"><p>A mailbox alone opens no account here. A lost second step: use a recovery code when you sign in. Without one, or without your password:</p>
<ol><li>Ask another administrator, in person or by telephone, to recover your account. You get a mail.</li>
<li>After the delay that the mail names, and for seven days: have a code for a new password sent to you, below.</li>
<li>Sign in with it. Your old second step is gone then; set up another one within a day.</li></ol>
<p>Whoever still has their second step and uses it meanwhile ends all that. Is there no other administrator, ask whoever operates this service: there is a command for it.</p></section>
<section class="card"><h2>A code for a new password</h2><p>It is sent only while your account is being recovered, after the delay.</p>${form}</section>
<p class="beside"><a href="/sign-in">Back to signing in</a></p>`,
    })
  }
  return frame(identity.realm, {
    title: 'Forgotten password', wrong,
    content: html`<section class="card"><p>Tell us the address of your account. A code to choose a new password goes there.</p>
${form}</section>
<p class="beside"><a href="/sign-in">Back to signing in</a></p>
<p class="beside">Your address was changed, and not by you? <a href="/take-back">Take it back</a></p>`,
  })
}

function resetPage({ identity }: App, { wrong, slips = {}, code }: { readonly wrong?: string; readonly slips?: Slips; readonly code?: string }): Html {
  return frame(identity.realm, {
    title: 'New password', heading: 'Choose a new password', wrong,
    content: html`<section class="card"><p>${identity.realm === 'tenant' ? 'If the address has an account, a code' : 'If the address has an account that is being recovered, and the delay is over, a code'} of eight digits is on its way there. It is good for ${codeMinutes} minutes.</p>
<form method="post" action="/forgotten/code">${mailedCodeField(slips['code'], code)}${newPasswordField(slips['password'], 'New password')}<button>Set the new password</button></form>
<p class="fine">Every device is signed out by it. ${identity.realm === 'tenant' && 'A second step of your sign-in stays.'}</p></section>
<p class="beside"><a href="/forgotten">Ask for a new code</a></p>`,
  })
}

function takeBackPage({ identity }: App, wrong: string | undefined): Html {
  return frame(identity.realm, {
    title: 'Take back your address', wrong,
    content: html`<section class="card"><p>When the address of an account is changed, the former one gets a mail. For ${undoDays} days what stands in it takes the change back: every device is signed out, and the password is void.</p>
<form method="post" action="/take-back">${field({ name: 'token', label: 'The 43 characters from the mail', autocomplete: 'off', most: 60, focus: true, marked: wrong !== undefined })}<button>Take it back</button></form></section>
<p class="beside"><a href="/sign-in">Back to signing in</a></p>`,
  })
}
