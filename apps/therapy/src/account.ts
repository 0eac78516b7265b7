import type { IncomingHttpHeaders } from 'node:http'
import { newId } from 'redoubt/bytes'
import type { Person } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import { putMail } from 'redoubt/outbox'
import { changeEmail, changePassword } from 'redoubt/tokens/accounts'
import { passwordLength, refuseWeak } from 'redoubt/tokens/password'
import { canonicalEmail, checkPassword } from 'redoubt/tokens/sessions'
import { requireStepUp } from 'redoubt/tokens/step-up'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { visible, sql, type App } from './app.ts'
import { accountPurposes, ownEmail, stepUpOf } from './factor-routes.ts'
import { email } from './fields.ts'
import { undoDays } from './mail-texts.ts'
import { accepted, digits, handle, newPassword } from './recovery.ts'

const present = z.string().max(passwordLength.most)

/**
 * One's own password and address. Each change asks for the present password, and of somebody with a second factor for a
 * step-up too: a session left open is not enough, nor is a password that was phished.
 * @param roles of the app's realm
 */
export function accountRoutes(app: App, roles: readonly [string, ...string[]]): readonly Route[] {
  // Who is invited and not there yet has a password that somebody else chose: with it the address must not move away.
  const settled = roles.filter((role) => role !== 'enrolment') as unknown as readonly [string, ...string[]]
  return [
    route({
      method: 'POST', path: '/api/auth/password', tags: ['auth'], summary: 'Change one’s password; other sessions end, and a mail tells of it. With a second factor it needs a step-up for account.password on oneself',
      access: roles, body: z.strictObject({ old_password: present, password: newPassword }), answer: z.object({ status: z.literal('changed') }), refuses: ['sign_in_failed', 'busy', 'too_many_requests', 'step_up_required'],
      handle: async ({ caller, body, headers }) => {
        await replacePassword(app, { caller, headers, stepUp: () => stepUpOf(headers) }, body.old_password, body.password)
        return { status: 'changed' as const }
      },
    }),
    route({
      method: 'POST', path: '/api/auth/email', tags: ['auth'], summary: 'Ask to change one’s address; a code goes to the new one. The answer is the same when that is another account’s. With a second factor it needs a step-up for account.email on oneself',
      access: settled, body: z.strictObject({ email, password: present }), answer: accepted, status: 202, refuses: ['sign_in_failed', 'busy', 'conflict', 'too_many_requests', 'step_up_required'],
      handle: async ({ caller, body, headers }) => ({ status: 'accepted' as const, request: await askEmailChange(app, { caller, headers, stepUp: () => stepUpOf(headers) }, body.password, body.email) }),
    }),
    route({
      method: 'POST', path: '/api/auth/email/confirm', tags: ['auth'], summary: 'Change one’s address, with the code that was mailed to it. A mail to the former one tells of it, and how to take it back within seven days',
      access: settled, body: z.strictObject({ request: handle, code: digits, email }), answer: z.object({ status: z.literal('changed') }), refuses: ['code_refused', 'already_exists'],
      handle: async ({ caller, body }) => {
        await confirmEmailChange(app, caller, { handle: body.request, digits: body.code }, body.email)
        return { status: 'changed' as const }
      },
    }),
  ]
}

/** Who asks, with what tells their device. */
export type Asker = {
  readonly caller: Person
  readonly headers: IncomingHttpHeaders
  /** The handle of the step-up of somebody with a second factor; asked for once the password was right. */
  readonly stepUp: () => string | undefined | Promise<string | undefined>
}

/** The same check as a sign-in's, with its entry and its event when it fails. @throws Refusal sign_in_failed, busy */
async function provePassword(app: App, { caller, headers, stepUp }: Asker, password: string): Promise<{ readonly address: string; readonly factors: boolean; readonly handle: string | undefined }> {
  const address = await ownEmail(app, caller)
  const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(address))
  // Counted like a sign-in: a session left open must not become a place to guess from.
  const attempt = await app.attempts.begin({ headers, visitor: caller }, { tried: 'sign-in', account: indexes[0] ?? '' })
  const account = await checkPassword(app.identity, caller, { indexes, password })
  if (account.id !== caller.actor) throw new Refusal('sign_in_failed')
  await attempt.giveBack()
  return { address, factors: account.factors, handle: account.factors ? await stepUp() : undefined }
}

/** @throws Refusal sign_in_failed when the old one is wrong; step_up_required; invalid_input; busy */
export async function replacePassword(app: App, asker: Asker, old: string, password: string): Promise<void> {
  refuseWeak(password)
  const { caller } = asker
  const { address, factors, handle: proof } = await provePassword(app, asker, old)
  const hash = await app.passwords.hash(caller.actor, password, { personal: [address] })
  await transaction(app.db, caller, { action: 'auth.password_changed', resource: { type: 'user', id: caller.actor } }, async (tx) => {
    if (factors) await requireStepUp(app.factors, tx, { action: accountPurposes.password, resource: caller.actor, handle: proof })
    await changePassword(tx, hash)
    await putMail(app.columns, tx, { id: newId(), topic: 'password_changed', user: caller.actor })
  })
  app.emit({ type: 'auth.password_changed', requestId: caller.requestId, actor: caller.actor, by: 'owner' })
}

/** @returns the handle that the code works with. @throws Refusal sign_in_failed; step_up_required; conflict when ten codes are open already */
export async function askEmailChange(app: App, asker: Asker, password: string, address: string): Promise<string> {
  const { factors, handle: proof } = await provePassword(app, asker, password)
  const { caller } = asker
  const user = caller.actor
  return transaction(app.db, caller, { action: 'auth.email_change_asked', resource: { type: 'user', id: user } }, async (tx) => {
    if (factors) await requireStepUp(app.factors, tx, { action: accountPurposes.email, resource: user, handle: proof })
    const code = await app.codes.issue(tx, { user, purpose: 'email_change', digits: 8, context: canonicalEmail(address) })
    if (code === undefined) throw new Refusal('conflict')
    await putMail(app.columns, tx, {
      id: code.id, topic: 'email_change', user, payload: { to: address }, handleHash: code.handleHash,
      address: await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(address)),
    })
    return code.handle
  })
}

/** @throws Refusal code_refused, also for another address than the code was mailed to; already_exists */
export async function confirmEmailChange(app: App, caller: Person, given: { readonly handle: string; readonly digits: string }, address: string): Promise<void> {
  const user = caller.actor
  const code = await app.codes.show(caller, { purpose: 'email_change', ...given, context: canonicalEmail(address) })
  await transaction(app.db, caller, { action: 'auth.email_changed', resource: { type: 'user', id: user } }, async (tx) => {
    const rows = await tx.run(sql.selectFrom('redoubt.users').select(['id', 'tenant', 'email_enc']).where('id', '=', user))
    const { email: former, tenant } = visible(await app.columns.open(tx, 'redoubt.users', rows))
    const { email_enc, former_email_enc } = await app.columns.seal(tx, 'redoubt.users', { id: user, tenant, email: address, former_email: former })
    await changeEmail(tx, code.id, { email_enc, indexes: await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(address)) }, former_email_enc)
    const undo = await app.codes.issue(tx, { user, purpose: 'email_undo', minutes: undoDays * 24 * 60 })
    if (undo === undefined) throw new Refusal('conflict')
    await putMail(app.columns, tx, { id: undo.id, topic: 'email_changed', user, payload: { to: former, undo: undo.handle } })
  })
  app.emit({ type: 'auth.email_changed', requestId: caller.requestId, actor: user })
}
