import { createHash } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { newId } from 'redoubt/bytes'
import type { Visitor } from 'redoubt/context'
import { putMail } from 'redoubt/outbox'
import type { Tx } from 'redoubt/pg'
import { newDevice } from 'redoubt/tokens/accounts'
import type { Proof } from 'redoubt/tokens/factors'
import type { AuthenticationResponseJSON } from 'redoubt/tokens/factors/passkey'
import { beginSecondFactor, completeSecondFactor, passkeySignIn, type Pending } from 'redoubt/tokens/factors/sign-in'
import { canonicalEmail, checkPassword, openSession, type SignedIn } from 'redoubt/tokens/sessions'
import type { App } from './app.ts'

/** Who is at the door, as a route and a page know it. */
export type SignInRequest = { readonly headers: IncomingHttpHeaders; readonly visitor: Visitor }

/** What the right password leads to; cookies: the device is known from now on. */
export type PasswordStep = { readonly cookies: readonly string[] } & ({ readonly done: SignedIn; readonly pending: undefined } | { readonly done: undefined; readonly pending: Pending })

/**
 * The first step of a sign-in, for the API and for the pages: one place counts the tries.
 * @throws Refusal sign_in_failed, the same for an unknown address and a wrong password; busy; too_many_requests
 */
export async function passwordStep(app: App, { headers, visitor }: SignInRequest, given: { readonly email: string; readonly password: string }): Promise<PasswordStep> {
  const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(given.email))
  const attempt = await app.attempts.begin({ headers, visitor }, { tried: 'sign-in', account: indexes[0] ?? '' })
  const account = await checkPassword(app.identity, visitor, { indexes, password: given.password })
  const cookies = [await attempt.rememberDevice(account.id)]
  const agent = headers['user-agent']
  const pending = account.factors ? await beginSecondFactor(app.factors, app.identity, visitor, account, { agent }) : undefined
  if (pending !== undefined) return { cookies, done: undefined, pending }
  return { cookies, done: await openSession(app.identity, visitor, account, { agent, first: (tx) => tellOfNewDevice(app, visitor, agent)(tx, account.id) }), pending: undefined }
}

/** The second step. @throws Refusal code_refused for the handle; factor_refused for the proof; too_many_requests */
export async function factorStep(app: App, { headers, visitor }: SignInRequest, given: { readonly pending: string; readonly proof: Proof }): Promise<SignedIn> {
  // Whose sign-in is pending only the database knows; it slows down guessing by account. Here: by handle and by address.
  const attempt = await app.attempts.begin({ headers, visitor }, { tried: 'second-factor', account: createHash('sha256').update(given.pending).digest() })
  const agent = headers['user-agent']
  const done = await completeSecondFactor(app.factors, app.identity, visitor, { pending: given.pending, proof: given.proof, agent, also: tellOfNewDevice(app, visitor, agent) })
  await attempt.giveBack()
  return done
}

/** Both steps in one, by passkey. @throws Refusal factor_refused; too_many_requests */
export async function passkeyStep(app: App, { headers, visitor }: SignInRequest, response: AuthenticationResponseJSON): Promise<SignedIn> {
  // By credential and by address: each try costs a signature check and a transaction, and whose it is shows only afterwards.
  const attempt = await app.attempts.begin({ headers, visitor }, { tried: 'second-factor', account: createHash('sha256').update(response.id).digest() })
  const agent = headers['user-agent']
  const done = await passkeySignIn(app.factors, app.identity, visitor, { response, agent, also: tellOfNewDevice(app, visitor, agent) })
  await attempt.giveBack()
  return done
}

/** Runs in the transaction of the sign-in: the mail goes out if and only if there is a session. */
function tellOfNewDevice(app: App, visitor: Visitor, agent: string | undefined): (tx: Tx, user: string) => Promise<void> {
  return async (tx, user) => {
    const device = await newDevice(tx, user, { agent, address: visitor.address })
    if (device === undefined) return
    await putMail(app.columns, tx, { id: newId(), topic: 'new_device', user, payload: { device } })
    app.emit({ type: 'auth.new_device', requestId: visitor.requestId, actor: user })
  }
}
