import type { IncomingHttpHeaders } from 'node:http'
import type { Person } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { mayOpen } from 'redoubt/http/browser'
import { route, type Route } from 'redoubt/http/route'
import { listFactors } from 'redoubt/tokens/factors'
import { confirmTotp, enrolPasskey, enrolTotp, factorPurposes, passkeyOptions, removeFactor, replaceRecoveryCodes } from 'redoubt/tokens/factors/enrol'
import { cancelReset, requestReset, resetPurpose } from 'redoubt/tokens/factors/reset'
import { passkeySignInOptions } from 'redoubt/tokens/factors/sign-in'
import { stepUp, stepUpOptions } from 'redoubt/tokens/step-up'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { visible, sql, type App } from './app.ts'
import { idParams, line, rowId, utc, utcOf } from './fields.ts'
import { creationOptions, creationResponse, proof, requestOptions, requestResponse, stepUpProof, totpCode } from './passkey-fields.ts'
import { opened, openedAnswer, sessionMode } from './sign-in.ts'
import { factorStep, passkeyStep } from './sign-in-steps.ts'

const label = line(1, 60)
const ownFactor = z.object({ id: rowId, kind: z.enum(['totp', 'webauthn']), label: z.string(), created_at: utc, confirmed_at: utc.nullable(), last_used_at: utc.nullable() })
const recoveryCodes = z.array(z.string())
/** What a step-up of somebody with a second factor has to be made for, on themself, before they change these. */
export const accountPurposes = { password: 'account.password', email: 'account.email' } as const
const purpose = { action: z.enum([accountPurposes.password, accountPurposes.email, factorPurposes.enrol, factorPurposes.remove, factorPurposes.recovery, resetPurpose]), resource: rowId }
const behindStepUp = ['step_up_required', 'conflict'] as const

/** The handle of a step-up: a header, so that requests without body carry it too and no log of addresses does. */
export function stepUpOf(headers: IncomingHttpHeaders): string | undefined {
  const handle = headers['step-up']
  return typeof handle === 'string' ? handle : undefined
}

/** The caller's own address: also what authenticators call the account. */
export async function ownEmail(app: App, caller: Person): Promise<string> {
  return transaction(app.db, caller, 'account.viewed', async (tx) => {
    const rows = await tx.run(sql.selectFrom('redoubt.users').select(['id', 'tenant', 'email_enc']).where('id', '=', caller.actor))
    return visible(await app.columns.open(tx, 'redoubt.users', rows)).email
  })
}

/** @throws Refusal not_found where browsers give this site no passkeys */
function given<T>(options: T | undefined): T {
  if (options === undefined) throw new Refusal('not_found')
  return options
}

/** Second factors and step-up of one realm; parameters as of signInRoutes. */
export function factorRoutes(app: App, roles: readonly [string, ...string[]]): readonly Route[] {
  const { factors } = app
  return [
    route({
      method: 'POST', path: '/api/auth/second-factor', tags: ['auth'],
      summary: 'Complete a sign-in that asked for a second factor: five minutes and five tries, from the browser and network it began in',
      access: 'public', body: z.strictObject({ pending: z.string().max(64), proof, session: sessionMode }), answer: opened, refuses: ['code_refused', 'factor_refused', 'too_many_requests', 'forbidden', 'csrf_refused'],
      handle: async ({ visitor, body, headers }) => {
        if (body.session === 'cookie') mayOpen(app.browser, { headers, visitor })
        return openedAnswer(app, body.session, await factorStep(app, { headers, visitor }, body))
      },
    }),
    route({
      method: 'POST', path: '/api/auth/passkey/options', tags: ['auth'], summary: 'A challenge for signing in by passkey alone', access: 'public',
      body: z.strictObject({}), answer: requestOptions, refuses: ['not_found'],
      handle: ({ visitor, headers }) => passkeySignInOptions(factors, visitor, { agent: headers['user-agent'] }),
    }),
    route({
      method: 'POST', path: '/api/auth/passkey', tags: ['auth'], summary: 'Sign in by passkey alone', access: 'public',
      body: z.strictObject({ response: requestResponse, session: sessionMode }), answer: opened, refuses: ['factor_refused', 'forbidden', 'csrf_refused'],
      handle: async ({ visitor, body, headers }) => {
        if (body.session === 'cookie') mayOpen(app.browser, { headers, visitor })
        return openedAnswer(app, body.session, await passkeyStep(app, { headers, visitor }, body.response))
      },
    }),
    route({
      method: 'POST', path: '/api/auth/step-up/options', tags: ['auth'], summary: 'A challenge for a step-up by passkey', access: roles,
      body: z.strictObject(purpose), answer: requestOptions, refuses: ['not_found'],
      handle: async ({ caller, body }) => given(await stepUpOptions(factors, caller, body)),
    }),
    route({
      method: 'POST', path: '/api/auth/step-up', tags: ['auth'],
      summary: 'Prove anew who asks, for one action on one resource: the handle goes into the header Step-Up of that request, within five minutes, once. Without any factor the password is the proof',
      access: roles, body: z.strictObject({ ...purpose, proof: stepUpProof }), status: 201, answer: z.object({ step_up: z.string(), expires_at: utc }),
      refuses: ['factor_refused', 'sign_in_failed', 'too_many_requests', 'busy'],
      handle: async ({ caller, body }) => {
        const { handle, expiresAt } = await stepUp(factors, app.identity, caller, body)
        return { step_up: handle, expires_at: utcOf(expiresAt) }
      },
    }),
    route({
      method: 'GET', path: '/api/auth/factors', tags: ['auth'], summary: 'One’s second factors, how many recovery codes are left, and from when on a reset that an administrator asked for takes effect', access: roles,
      answer: z.object({ items: z.array(ownFactor), recovery_codes: z.int(), reset_at: utc.nullable() }),
      handle: async ({ caller }) => {
        const { factors: items, recoveryCodes: left, resetAt } = await listFactors(factors, caller)
        return { items: items.map((row) => ({ ...row, created_at: utcOf(row.created_at), confirmed_at: utcOf(row.confirmed_at), last_used_at: utcOf(row.last_used_at) })), recovery_codes: left, reset_at: utcOf(resetAt ?? null) }
      },
    }),
    route({
      method: 'POST', path: '/api/auth/factors/totp', tags: ['auth'], summary: 'A secret for an authenticator app; it counts once its first code is confirmed. Needs a step-up for factor.enrol on oneself',
      access: roles, body: z.strictObject({ label }), status: 201, answer: z.object({ id: rowId, secret: z.string(), uri: z.string() }), refuses: behindStepUp,
      handle: async ({ caller, body, headers }) => enrolTotp(factors, caller, { label: body.label, account: await ownEmail(app, caller), stepUp: stepUpOf(headers) }),
    }),
    route({
      method: 'POST', path: '/api/auth/factors/totp/confirm', tags: ['auth'], summary: 'Confirm an authenticator app by its code; ends all other sessions. With the first factor come recovery codes, shown this once',
      access: roles, body: z.strictObject({ id: rowId, code: totpCode }), answer: z.object({ recovery_codes: recoveryCodes.nullable() }), refuses: ['not_found', 'factor_refused'],
      handle: async ({ caller, body }) => ({ recovery_codes: (await confirmTotp(factors, caller, { factor: body.id, code: body.code })) ?? null }),
    }),
    route({
      method: 'POST', path: '/api/auth/factors/passkey/options', tags: ['auth'], summary: 'What a browser needs to make a passkey', access: roles,
      body: z.strictObject({}), answer: creationOptions, refuses: ['not_found'],
      handle: async ({ caller }) => passkeyOptions(factors, caller, { account: await ownEmail(app, caller) }),
    }),
    route({
      method: 'POST', path: '/api/auth/factors/passkey', tags: ['auth'], summary: 'Keep a passkey that the browser made; ends all other sessions. Needs a step-up for factor.enrol on oneself',
      access: roles, body: z.strictObject({ label, response: creationResponse }), status: 201, answer: z.object({ id: rowId, recovery_codes: recoveryCodes.nullable() }),
      refuses: [...behindStepUp, 'factor_refused', 'already_exists'],
      handle: async ({ caller, body, headers }) => {
        const made = await enrolPasskey(factors, caller, { ...body, stepUp: stepUpOf(headers) })
        return { id: made.id, recovery_codes: made.recoveryCodes ?? null }
      },
    }),
    route({
      method: 'POST', path: '/api/auth/factors/recovery', tags: ['auth'], summary: 'Ten new recovery codes in place of the earlier ones. Needs a step-up for factor.recovery on oneself',
      access: roles, body: z.strictObject({}), answer: z.object({ recovery_codes: recoveryCodes }), refuses: behindStepUp,
      handle: async ({ caller, headers }) => ({ recovery_codes: await replaceRecoveryCodes(factors, caller, { stepUp: stepUpOf(headers) }) }),
    }),
    route({
      method: 'DELETE', path: '/api/auth/factors/{id}', tags: ['auth'], summary: 'Remove a factor; ends all other sessions. Needs a step-up for factor.remove on it', access: roles, params: idParams,
      answer: null, refuses: [...behindStepUp, 'not_found'],
      handle: ({ caller, params, headers }) => removeFactor(factors, caller, { factor: params.id, stepUp: stepUpOf(headers) }),
    }),
    route({
      method: 'DELETE', path: '/api/auth/factor-reset', tags: ['auth'], summary: 'Cancel the reset of one’s factors that an administrator asked for', access: roles,
      answer: null, refuses: ['not_found'],
      handle: ({ caller }) => cancelReset(factors, caller, caller.actor),
    }),
  ]
}

/** What administrators do for people who lost their factors and recovery codes. */
export function factorResetRoutes({ factors }: App): readonly Route[] {
  const tags = ['administration'] as const
  return [
    route({
      method: 'POST', path: '/api/admin/users/{id}/factor-reset', tags, access: ['admin'], params: idParams, body: z.strictObject({}), status: 202, answer: z.object({ effective_at: utc }),
      summary: 'Ask for the removal of somebody’s lost factors: they are told, and after the delay their next sign-in with the right password goes on without. Needs a step-up for factor.reset on the account',
      refuses: ['step_up_required', 'not_found', 'already_exists'],
      handle: async ({ caller, params, headers }) => ({ effective_at: utcOf(await requestReset(factors, caller, { user: params.id, stepUp: stepUpOf(headers) })) }),
    }),
    route({
      method: 'DELETE', path: '/api/admin/users/{id}/factor-reset', tags, summary: 'Cancel such a reset', access: ['admin'], params: idParams, answer: null, refuses: ['not_found'],
      handle: ({ caller, params }) => cancelReset(factors, caller, params.id),
    }),
  ]
}
