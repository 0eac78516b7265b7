import type { Person } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { listFactors, type OwnFactor } from 'redoubt/tokens/factors'
import { passwordLength } from 'redoubt/tokens/password'
import { stepUp, type Purpose, type StepUpProof } from 'redoubt/tokens/step-up'
import { z } from 'zod'
import type { App } from '../app.ts'
import { passkeyResponse } from './passkey-form.ts'
import { waitOf } from './wait.ts'

/** The field in which somebody proves anew who they are; what a passkey answers is longer than a password. */
export const proofField = z.string().max(12_000)

/** What somebody proves with: the password where there is no factor; a code; where they have one, a passkey as well. */
export type ProofBy = 'password' | 'code' | 'passkey'

export async function proofBy(app: App, caller: Person): Promise<ProofBy> {
  return proofByOf(app, (await listFactors(app.factors, caller)).factors)
}

export function proofByOf(app: App, factors: readonly OwnFactor[]): ProofBy {
  const kinds = factors.flatMap(({ kind, confirmed_at: confirmed }) => (confirmed === null ? [] : [kind]))
  if (kinds.length === 0) return 'password'
  return app.factors.passkeys !== undefined && kinds.includes('webauthn') ? 'passkey' : 'code'
}

/**
 * A fresh proof for one thing, in the form of that thing itself: the password where there is no factor, a code of the app
 * or a recovery code where there is one.
 * @param id of the field; a page may have several
 */
export function proofInput(id: string, guarded: boolean): Html {
  return guarded
    ? html`<label for="${id}">Code from your app, or a recovery code</label><input id="${id}" name="proof" class="code" autocomplete="one-time-code" spellcheck="false" maxlength="40" required>`
    : html`<label for="${id}">Your password</label><input id="${id}" name="proof" type="password" autocomplete="current-password" maxlength="${passwordLength.most}" required>`
}

/**
 * The other way to prove it, behind the button of the form, shown by the script alone: it asks for a question for this
 * very thing once the button is pressed, and posts the form with the answer.
 */
export function orPasskey(by: ProofBy, purpose: Purpose): Html | undefined {
  if (by !== 'passkey') return undefined
  return html`<div data-step-up="${JSON.stringify(purpose)}" hidden><input type="hidden" name="proof" disabled><p class="divider"><span>or</span></p><button type="button" class="second">Use a passkey instead</button><p class="fine" role="status"></p></div>`
}

/** The handle for what the proof was given for. @throws Refusal sign_in_failed, factor_refused, too_many_requests, busy */
export async function proven(app: App, caller: Person, purpose: Purpose, guarded: boolean, given: string): Promise<string> {
  const { handle } = await stepUp(app.factors, app.identity, caller, { ...purpose, proof: proofOf(given, guarded) })
  return handle
}

function proofOf(given: string, guarded: boolean): StepUpProof {
  if (!guarded) {
    if (given.length > passwordLength.most) throw new Refusal('sign_in_failed')
    return { kind: 'password', password: given }
  }
  if (given.startsWith('{')) {
    const response = passkeyResponse(given)
    if (response === undefined) throw new Refusal('factor_refused')
    return { kind: 'webauthn', response }
  }
  const code = given.replaceAll(/\s/g, '')
  return /^\d{6}$/.test(code) ? { kind: 'totp', code } : { kind: 'recovery', code: code.slice(0, 40) }
}

/** What to say of a proof or a code that did not hold; undefined for an error of another kind. */
export function saidOf(error: unknown): string | undefined {
  if (!(error instanceof Refusal)) return undefined
  switch (error.code) {
    case 'sign_in_failed':
      return 'The password is not right. Nothing was changed.'
    case 'factor_refused':
      return 'That was not accepted: it is not right, or was used before. Nothing was changed.'
    case 'step_up_required':
      return 'That took too long. Please begin anew.'
    case 'conflict':
      return 'Your account has as many of these as it can have.'
    case 'already_exists':
      return 'This passkey is known already.'
    case 'too_many_requests':
      return `There were too many tries. Please wait ${waitOf(error.retryAfter)} and try again.`
    default:
      return undefined
  }
}
