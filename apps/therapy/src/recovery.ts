import { newId } from 'redoubt/bytes'
import { systemCaller, type Visitor } from 'redoubt/context'
import { evenly } from 'redoubt/http/even-time'
import { route, type Route } from 'redoubt/http/route'
import { putMail } from 'redoubt/outbox'
import type { BlindIndex } from 'redoubt/tables'
import { codeAccount, mailAgain, resetPassword, undoEmail, verifyEmail } from 'redoubt/tokens/accounts'
import { newHandle } from 'redoubt/tokens/codes'
import { passwordLength, refuseWeak } from 'redoubt/tokens/password'
import { canonicalEmail } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { tenant, type App } from './app.ts'
import { email } from './fields.ts'
import type { SignInRequest } from './sign-in-steps.ts'

/** What an asker holds: 256 bits. Any other text is a request of nobody. */
export const handle = z.string().regex(/^[A-Za-z0-9_-]{43}$/)
export const digits = z.string().transform((text) => text.replaceAll(' ', '')).pipe(z.string().regex(/^\d{8}$/))
export const accepted = z.object({ status: z.literal('accepted'), request: z.string() })
export const newPassword = z.string().min(passwordLength.least).max(passwordLength.most)

/** Milliseconds before which none of these answers: what each does depends on whether there is an account, or a code. */
const answerAfter = 100

/** Addresses shown to be somebody's, and passwords that were forgotten: for whoever is not signed in. */
export function recoveryRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'POST', path: '/api/auth/email/verify', tags: ['auth'], summary: 'Open the account that was registered, with the code that was mailed to its address',
      access: 'public', body: z.strictObject({ request: handle, code: digits }), answer: z.object({ status: z.literal('verified') }), refuses: ['code_refused', 'already_exists'],
      handle: async ({ visitor, body }) => {
        await showAddress(app, visitor, { handle: body.request, digits: body.code })
        return { status: 'verified' as const }
      },
    }),
    route({
      method: 'POST', path: '/api/auth/email/resend', tags: ['auth'], summary: 'Send the code of a registration once more, three times at most. The answer is the same when there is none',
      access: 'public', body: z.strictObject({ request: handle }), answer: z.object({ status: z.literal('accepted') }), status: 202,
      handle: async ({ visitor, body }) => {
        await askForMailAgain(app, visitor, body.request)
        return { status: 'accepted' as const }
      },
    }),
    ...forgottenRoutes(app),
    route({
      method: 'POST', path: '/api/auth/email/undo', tags: ['auth'], summary: 'Take a change of address back, with the token that was mailed to the former one; ends every session and voids the password',
      access: 'public', body: z.strictObject({ token: handle }), answer: z.object({ status: z.literal('restored') }), refuses: ['code_refused', 'already_exists'],
      handle: async ({ visitor, body }) => {
        await restoreEmail(app, visitor, body.token)
        return { status: 'restored' as const }
      },
    }),
  ]
}

/**
 * Passwords that were forgotten. Of whoever administers a code is mailed only while another administrator's request for
 * their recovery holds; the answer is the same.
 */
export function forgottenRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'POST', path: '/api/auth/password/forgot', tags: ['auth'], summary: 'Ask for a code to set a new password. The answer is the same whether or not the address has an account; the code goes there by mail',
      access: 'public', body: z.strictObject({ email }), answer: accepted, status: 202, refuses: ['too_many_requests'],
      handle: async ({ visitor, body, headers }) => ({ status: 'accepted' as const, request: await askForReset(app, { headers, visitor }, body.email) }),
    }),
    route({
      method: 'POST', path: '/api/auth/password/reset', tags: ['auth'], summary: 'Set a new password with the code that was mailed; ends every session. A refused password uses the code up only when it is made of the account’s own address',
      access: 'public', body: z.strictObject({ request: handle, code: digits, password: newPassword }), answer: z.object({ status: z.literal('changed') }), refuses: ['code_refused', 'busy'],
      handle: async ({ visitor, body }) => {
        await setForgotten(app, visitor, { handle: body.request, digits: body.code }, body.password)
        return { status: 'changed' as const }
      },
    }),
  ]
}

type Code = { readonly handle: string; readonly digits: string }

/** Of the routes and of the pages alike: `confirmRegistration` in even time. @throws Refusal as it does */
export function showAddress(app: App, visitor: Visitor, given: Code): Promise<string> {
  return evenly(answerAfter, () => confirmRegistration(app, visitor, given))
}

/** Has the code of a registration mailed once more, three times at most; in even time, whether or not there is one. */
export function askForMailAgain(app: App, visitor: Visitor, request: string): Promise<void> {
  return evenly(answerAfter, async () => mailAgain(app.db, systemCaller('register', tenant, visitor), [await app.codes.hashOf('email_verify', request)]))
}

/**
 * A forgotten password, in even time.
 * @returns the handle that the code will work with, if there is an account
 * @throws Refusal too_many_requests
 */
export function askForReset(app: App, { headers, visitor }: SignInRequest, address: string): Promise<string> {
  return evenly(answerAfter, async () => {
    const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(address))
    // Never given back: each may cost its owner a mail.
    await app.attempts.begin({ headers, visitor }, { tried: 'reset', account: indexes[0] ?? '' })
    return forgetPassword(app, visitor, indexes)
  })
}

/** `recoverPassword` in even time. @throws Refusal as it does */
export function setForgotten(app: App, visitor: Visitor, given: Code, password: string): Promise<void> {
  return evenly(answerAfter, () => recoverPassword(app, visitor, given, password))
}

/**
 * Brings a registered account to life.
 * @returns its id
 * @throws Refusal code_refused; already_exists when the address became another account's meanwhile
 */
export async function confirmRegistration(app: App, visitor: Visitor, given: Code): Promise<string> {
  const caller = systemCaller('register', tenant, visitor)
  const code = await app.codes.show(caller, { purpose: 'email_verify', ...given })
  await transaction(app.db, caller, { action: 'auth.email_verified', resource: { type: 'user', id: code.user } }, async (tx) => {
    const [account] = await app.columns.open(tx, 'redoubt.users', [await codeAccount(tx, code.id)])
    await verifyEmail(tx, code.id, await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(account?.email ?? '')))
  })
  app.emit({ type: 'auth.email_verified', requestId: visitor.requestId, actor: code.user })
  return code.user
}

/**
 * Notes that somebody asks for a code for an address. Whose it is, if anybody's, is looked for by the worker: here
 * nothing depends on it, neither the answer nor the time it takes.
 * @param indexes every blind index of the address
 * @returns the handle that the code will work with
 */
async function forgetPassword(app: App, visitor: Visitor, indexes: readonly BlindIndex[]): Promise<string> {
  const request = newHandle()
  const handleHash = await app.codes.hashOf('reset', request)
  await transaction(app.db, systemCaller('forgot', tenant, visitor), 'auth.reset_asked', (tx) => putMail(app.columns, tx, { id: newId(), topic: 'reset', address: indexes, handleHash }))
  app.emit({ type: 'auth.reset_asked', requestId: visitor.requestId })
  return request
}

/** @throws Refusal invalid_input before the code is spent, except for rule personal; code_refused; busy */
async function recoverPassword(app: App, visitor: Visitor, given: Code, password: string): Promise<void> {
  refuseWeak(password)
  const caller = systemCaller('reset', tenant, visitor)
  const code = await app.codes.show(caller, { purpose: 'reset', ...given })
  const resource = { type: 'user', id: code.user }
  // Hashed between two transactions, so that hashing holds no connection.
  const address = await transaction(app.db, caller, { action: 'auth.code_account', resource }, async (tx) => {
    const [account] = await app.columns.open(tx, 'redoubt.users', [await codeAccount(tx, code.id)])
    return account?.email ?? ''
  })
  const hash = await app.passwords.hash(code.user, password, { personal: [address] })
  await transaction(app.db, caller, { action: 'auth.password_reset', resource }, async (tx) => {
    await resetPassword(tx, code.id, hash)
    await putMail(app.columns, tx, { id: newId(), topic: 'password_changed', user: code.user })
  })
  app.emit({ type: 'auth.password_changed', requestId: visitor.requestId, actor: code.user, by: 'reset' })
}

/** @throws Refusal code_refused; already_exists when the former address has become another account's */
export async function restoreEmail(app: App, visitor: Visitor, token: string): Promise<void> {
  const caller = systemCaller('email-undo', tenant, visitor)
  const code = await app.codes.show(caller, { purpose: 'email_undo', handle: token })
  await transaction(app.db, caller, { action: 'auth.email_restored', resource: { type: 'user', id: code.user } }, async (tx) => {
    const [account] = await app.columns.open(tx, 'redoubt.users', [await codeAccount(tx, code.id)])
    const former = account?.former_email ?? ''
    const { email_enc } = await app.columns.seal(tx, 'redoubt.users', { id: code.user, tenant, email: former })
    await undoEmail(tx, code.id, { email_enc, indexes: await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(former)) })
    await putMail(app.columns, tx, { id: newId(), topic: 'email_restored', user: code.user })
  })
  app.emit({ type: 'auth.email_restored', requestId: visitor.requestId, actor: code.user })
}
