import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect, show, type PageAnswer } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import type { Passkeys } from 'redoubt/tokens/factors/passkey'
import { passkeySignInOptions, pendingMinutes } from 'redoubt/tokens/factors/sign-in'
import { passwordLength } from 'redoubt/tokens/password'
import type { SignedIn } from 'redoubt/tokens/sessions'
import { z } from 'zod'
import type { App } from '../app.ts'
import { email as emailField } from '../fields.ts'
import { passkeyStep, passwordStep, type SignInRequest } from '../sign-in-steps.ts'
import { firstPage } from './doors.ts'
import { frame } from './frame.ts'
import { passkeyForm, passkeyResponse } from './passkey-form.ts'
import type { PendingSignIn } from './pending.ts'
import { waitOf } from './wait.ts'

const notes = {
  'signed-out': 'You are signed out on this device.',
  everywhere: 'You are signed out on all devices.',
  registered: 'Your address is confirmed. You can sign in now.',
  reset: 'Your new password is set, and every device is signed out. Sign in with it.',
  restored: 'The address is yours again. Every device is signed out and the password is void: ask for a new one below.',
  late: 'The sign-in took too long or had too many tries. Please begin anew.',
} as const

type Shown = { readonly email?: string; readonly wrong?: string; readonly told?: string }

/** Where one goes once there is a session, with its cookies. */
export function openedPage({ browser, identity }: App, { token, refresh, role }: SignedIn, cookies: readonly string[]): PageAnswer {
  return redirect(firstPage(role), { cookies: [...browser.cookies.set({ access: token, refresh }, identity.lifetimes.idle), ...cookies] })
}

/** Signing in by password or by passkey. The pages are public: that a form is ours is told by where the browser says it comes from. */
export function signInPages(app: App, pending: PendingSignIn): readonly Route[] {
  const signIn = async ({ headers, visitor }: SignInRequest, shown: Shown = {}): Promise<Html> => {
    const options = app.factors.passkeys === undefined ? undefined : await passkeySignInOptions(app.factors, visitor, { agent: headers['user-agent'] })
    return signInPage(app, shown, options)
  }
  return [
    page({
      method: 'GET', path: '/sign-in', summary: 'Sign in', access: 'public', query: z.strictObject({ note: z.enum(Object.keys(notes) as [keyof typeof notes]).optional() }),
      handle: (asked) => signIn(asked, asked.query.note === undefined ? {} : { told: notes[asked.query.note] }),
    }),
    page({
      method: 'POST', path: '/sign-in', summary: 'Signs in by password', access: 'public', form: z.strictObject({ email: z.string().max(254), password: z.string().max(passwordLength.most) }),
      handle: async (asked) => {
        const { email, password } = asked.form
        const address = emailField.safeParse(email)
        if (!address.success || password === '') return show(await signIn(asked, { email, wrong: 'Enter your e-mail address, such as name@example.org, and your password.' }), { status: 422 })
        try {
          const { cookies, done, pending: more } = await passwordStep(app, asked, { email: address.data, password })
          if (more === undefined) return openedPage(app, done, cookies)
          return redirect('/sign-in/second-factor', { cookies: [...cookies, pending.cookie(more, pendingMinutes * 60)] })
        } catch (error) {
          const wrong = error instanceof Refusal ? sayWrong(error) : undefined
          if (wrong === undefined) throw error
          return show(await signIn(asked, { email, wrong }), { status: error instanceof Refusal && error.code === 'too_many_requests' ? 429 : 422 })
        }
      },
    }),
    page({
      method: 'POST', path: '/sign-in/passkey', summary: 'Signs in by passkey', access: 'public', form: z.strictObject({ response: z.string().max(12_000) }),
      handle: async (asked) => {
        const response = passkeyResponse(asked.form.response)
        try {
          if (response === undefined) throw new Refusal('factor_refused')
          return openedPage(app, await passkeyStep(app, asked, response), [])
        } catch (error) {
          if (!(error instanceof Refusal) || error.code !== 'factor_refused') throw error
          return show(await signIn(asked, { wrong: 'This passkey was not accepted. Try once more, or sign in with your password.' }), { status: 422 })
        }
      },
    }),
  ]
}

/** One sentence for an unknown address and a wrong password: whoever asks learns nothing of who has an account. */
function sayWrong({ code, retryAfter }: Refusal): string | undefined {
  if (code === 'sign_in_failed') return 'The e-mail address or the password is not right.'
  // Only after the right password: an account of the administration that was not set up within its day.
  if (code === 'forbidden') return 'The time to set this account up is over. Ask whoever made it to begin anew.'
  if (code === 'too_many_requests') return `There were too many tries. Please wait ${waitOf(retryAfter)} and try again.`
  return undefined
}

function signInPage({ identity }: App, { email, wrong, told }: Shown, options: Awaited<ReturnType<Passkeys['requestOptions']>> | undefined): Html {
  const marked = wrong !== undefined && html` aria-invalid="true" aria-describedby="wrong"`
  return frame(identity.realm, {
    title: 'Sign in', heading: 'Welcome back', wrong, told, passkeys: options !== undefined,
    content: html`<section class="card">
<form method="post" action="/sign-in">
<label for="email">E-mail address</label>
<input id="email" name="email" type="email" autocomplete="username webauthn" maxlength="254" required${marked}${email === undefined && html` autofocus`} value="${email}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="${passwordLength.most}" required${marked}${email !== undefined && html` autofocus`}>
<button>Sign in</button>
</form>
${options !== undefined && passkeyForm({ action: '/sign-in/passkey', options, label: 'Sign in with a passkey', divider: 'or', fresh: '/api/auth/passkey/options' })}
</section>
${identity.realm === 'tenant' && html`<p class="beside"><a href="/forgotten">Forgotten password</a></p><p class="beside">New here? <a href="/register">Create an account</a></p>`}
${identity.realm === 'platform' && html`<p class="beside"><a href="/forgotten">Lost your password or second step?</a></p>`}`,
  })
}
