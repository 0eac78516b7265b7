import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect, show, type PageAnswer } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import type { Proof } from 'redoubt/tokens/factors'
import type { PublicKeyCredentialRequestOptionsJSON } from 'redoubt/tokens/factors/passkey'
import { pendingPasskey } from 'redoubt/tokens/factors/sign-in'
import { z } from 'zod'
import type { App } from '../app.ts'
import { factorStep, type SignInRequest } from '../sign-in-steps.ts'
import { frame } from './frame.ts'
import { passkeyForm, passkeyResponse } from './passkey-form.ts'
import type { PendingSignIn, Waiting } from './pending.ts'
import { openedPage } from './sign-in.ts'
import { waitOf } from './wait.ts'

/** People type codes as they are shown, in groups. */
const typed = z.string().max(60).transform((text) => text.replaceAll(/\s/g, ''))

/** The second step of a sign-in: a code of an app, a passkey, or a recovery code. */
export function secondFactorPages(app: App, pending: PendingSignIn): readonly Route[] {
  const again = (): PageAnswer => redirect('/sign-in?note=late', { cookies: [pending.clear()] })
  const shown = async (waiting: Waiting, wrong?: string): Promise<Html> =>
    secondFactorPage(app, waiting, waiting.factors.includes('webauthn') ? await pendingPasskey(app.factors, waiting.pending, waiting.allow) : undefined, wrong)

  /** @param proof undefined for something that cannot be one, which costs no try */
  async function prove(asked: SignInRequest, proof: Proof | undefined, form: string): Promise<PageAnswer> {
    const waiting = pending.read(asked.headers)
    if (waiting === undefined) return again()
    if (proof === undefined) return show(await shown(waiting, form), { status: 422 })
    try {
      return openedPage(app, await factorStep(app, asked, { pending: waiting.pending, proof }), [pending.clear()])
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      if (error.code === 'code_refused') return again()
      if (error.code === 'factor_refused') return show(await shown(waiting, refusedWords[proof.kind]), { status: 422 })
      if (error.code === 'too_many_requests') return show(await shown(waiting, `There were too many wrong codes. Please wait ${waitOf(error.retryAfter)}, or use another way below.`), { status: 429 })
      throw error
    }
  }

  return [
    page({
      method: 'GET', path: '/sign-in/second-factor', summary: 'The second step of signing in', access: 'public',
      handle: ({ headers }) => {
        const waiting = pending.read(headers)
        return waiting === undefined ? redirect('/sign-in') : shown(waiting)
      },
    }),
    page({
      method: 'POST', path: '/sign-in/second-factor/code', summary: 'Signs in by the code of an authenticator app', access: 'public', form: z.strictObject({ code: typed }),
      handle: (asked) => prove(asked, /^\d{6}$/.test(asked.form.code) ? { kind: 'totp', code: asked.form.code } : undefined, 'Enter the six digits that your authenticator app shows.'),
    }),
    page({
      method: 'POST', path: '/sign-in/second-factor/recovery', summary: 'Signs in by a recovery code', access: 'public', form: z.strictObject({ code: typed }),
      handle: (asked) => prove(asked, asked.form.code !== '' && asked.form.code.length <= 40 ? { kind: 'recovery', code: asked.form.code } : undefined, 'Enter one of your recovery codes.'),
    }),
    page({
      method: 'POST', path: '/sign-in/second-factor/passkey', summary: 'Signs in by a passkey behind the password', access: 'public', form: z.strictObject({ response: z.string().max(12_000) }),
      handle: (asked) => {
        const response = passkeyResponse(asked.form.response)
        return prove(asked, response === undefined ? undefined : { kind: 'webauthn', response }, refusedWords.webauthn)
      },
    }),
  ]
}

const refusedWords: Readonly<Record<Proof['kind'], string>> = {
  totp: 'This code is not right, or was used before. Wait for the next one and try again.',
  recovery: 'This recovery code is not right, or was used before.',
  webauthn: 'This passkey was not accepted. Try once more, or use another way.',
}

function secondFactorPage({ identity }: App, { factors }: Waiting, options: PublicKeyCredentialRequestOptionsJSON | undefined, wrong: string | undefined): Html {
  const marked = wrong !== undefined && html` aria-invalid="true" aria-describedby="wrong"`
  const byApp = factors.includes('totp')
  return frame(identity.realm, {
    title: 'Second step', heading: 'One more step', wrong, passkeys: options !== undefined,
    content: html`<section class="card">
${byApp && html`<form method="post" action="/sign-in/second-factor/code">
<label for="code">Code from your authenticator app</label>
<input id="code" name="code" class="code" inputmode="numeric" autocomplete="one-time-code" pattern="[0-9 ]*" maxlength="7" required autofocus${marked}>
<button>Continue</button>
</form>`}
${options !== undefined && passkeyForm({ action: '/sign-in/second-factor/passkey', options, label: 'Use a passkey', ...(byApp ? { divider: 'or' } : {}) })}
${factors.includes('recovery') && html`<details${!byApp && options === undefined && html` open`}>
<summary>Use a recovery code</summary>
<form method="post" action="/sign-in/second-factor/recovery">
<label for="recovery">Recovery code</label>
<input id="recovery" name="code" class="code" autocomplete="off" autocapitalize="characters" spellcheck="false" maxlength="40" required>
<button>Continue</button>
</form>
</details>`}
</section>
<p class="beside"><a href="/sign-in">Sign in as somebody else</a></p>`,
  })
}
