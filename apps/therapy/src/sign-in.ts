import type { IncomingHttpHeaders } from 'node:http'
import type { Renew } from 'redoubt/http/authenticate'
import { mayOpen, refreshCookie } from 'redoubt/http/browser'
import { reply, route, type Reply, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { endSession, listSessions, signOutEverywhere } from 'redoubt/tokens/own-sessions'
import { passwordLength } from 'redoubt/tokens/password'
import { refreshSession } from 'redoubt/tokens/refresh'
import { signOut, type Identity, type SignedIn } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { visible, sql, type App } from './app.ts'
import { email, idParams, rowId, utc, utcOf } from './fields.ts'
import { requestOptions } from './passkey-fields.ts'
import { passwordStep } from './sign-in-steps.ts'

const signedIn = z.object({ access_token: z.string(), token_type: z.literal('Bearer'), expires_in: z.int(), refresh_token: z.string(), user_id: rowId, role: z.string() })
/** The password was right, and the account has a second factor: POST /api/auth/second-factor goes on. */
const factorRequired = z.object({ status: z.literal('factor_required'), pending: z.string(), factors: z.array(z.enum(['totp', 'webauthn', 'recovery'])), passkey: requestOptions.nullable() })
const ownSession = z.object({ id: rowId, device: z.string(), address_prefix: z.string().nullable(), created_at: utc, last_used_at: utc, current: z.boolean() })

const inBrowser = z.object({ status: z.literal('signed_in'), user_id: rowId, role: z.string() })
/** How a sign-in is answered: tokens in the body, or in cookies where the client is a browser. */
export const sessionMode = z.enum(['bearer', 'cookie']).optional()
export const opened = z.union([signedIn, inBrowser])

function signedInAnswer({ token, expiresIn, refresh, actor, role }: SignedIn): z.input<typeof signedIn> {
  return { access_token: token, token_type: 'Bearer', expires_in: expiresIn, refresh_token: refresh, user_id: actor, role }
}

/** In cookie mode the tokens go into the cookies alone, where no script reads them. */
function browserAnswer({ browser: { cookies }, identity }: App, { token, refresh, actor, role }: SignedIn, more: readonly string[] = []): Reply<z.input<typeof inBrowser>> {
  return reply({ status: 'signed_in' as const, user_id: actor, role }, { cookies: [...cookies.set({ access: token, refresh }, identity.lifetimes.idle), ...more] })
}

/** What a sign-in that succeeded answers, in the mode it was asked in. */
export function openedAnswer(app: App, mode: z.output<typeof sessionMode>, done: SignedIn, cookies: readonly string[] = []): Reply<z.input<typeof signedIn>> | Reply<z.input<typeof inBrowser>> {
  return mode === 'cookie' ? browserAnswer(app, done, cookies) : reply(signedInAnswer(done), { cookies })
}

/** For pages: a browser that runs no script of ours gets its next pair while it asks for a page. */
export function renewal(identity: Identity): Renew {
  return async (token, headers, visitor) => {
    const next = await refreshSession(identity, visitor, { token, agent: headers['user-agent'] })
    return { access: next.token, refresh: next.refresh, seconds: identity.lifetimes.idle }
  }
}

/**
 * Sign-in and sessions of the app's realm: the same routes at both doors.
 * @param roles the roles of that realm, with what an account without second factor gets where it needs one
 */
export function signInRoutes(app: App, roles: readonly [string, ...string[]]): readonly Route[] {
  const { identity, browser } = app
  /** Ends the session in the browser too, where it came by cookie. */
  const signedOut = (headers: IncomingHttpHeaders): Reply<null> | null =>
    browser.cookies.read(headers).refresh === undefined ? null : reply(null, { cookies: browser.cookies.clear(), headers: { 'Clear-Site-Data': '"cache", "storage"' } })
  return [
    route({
      method: 'POST', path: '/api/auth/login', tags: ['auth'], summary: 'Sign in; where the account has a second factor the answer is a handle to go on with, and no session',
      access: 'public', body: z.strictObject({ email, password: z.string().max(passwordLength.most), session: sessionMode }),
      answer: z.union([signedIn, inBrowser, factorRequired]),
      refuses: ['sign_in_failed', 'busy', 'csrf_refused', 'too_many_requests'],
      handle: async ({ visitor, body, headers }) => {
        if (body.session === 'cookie') mayOpen(browser, { headers, visitor })
        const { cookies, done, pending } = await passwordStep(app, { headers, visitor }, body)
        if (pending === undefined) return openedAnswer(app, body.session, done, cookies)
        return reply({ status: 'factor_required' as const, ...pending, passkey: pending.passkey ?? null }, { cookies })
      },
    }),
    route({
      method: 'POST', path: '/api/auth/refresh', tags: ['auth'],
      summary: 'Exchange a refresh token for its successor and a new access token. A retry sends the same attempt (128 random bits) and gets the same successor, within 10 seconds and while that is unused; any other second use ends the session. Without refresh_token the browser’s cookie is exchanged',
      access: 'public', body: z.strictObject({ refresh_token: z.string().min(1).max(200).optional(), attempt: z.string().regex(/^[A-Za-z0-9_-]{22}$/).optional() }),
      answer: z.union([signedIn, inBrowser]),
      refuses: ['caller_refused', 'csrf_refused'],
      handle: async ({ visitor, body, headers }) => {
        const token = body.refresh_token ?? (await refreshCookie(browser, identity.tokens, { headers, visitor }))
        const next = await refreshSession(identity, visitor, { token, attempt: body.attempt, agent: headers['user-agent'] })
        return body.refresh_token === undefined ? browserAnswer(app, next) : signedInAnswer(next)
      },
    }),
    route({
      method: 'POST', path: '/api/auth/logout', tags: ['auth'], summary: 'End this session, at once and everywhere',
      access: roles, answer: null,
      handle: async ({ caller, headers }) => {
        await signOut(identity, caller)
        return signedOut(headers)
      },
    }),
    route({
      method: 'POST', path: '/api/auth/logout-all', tags: ['auth'], summary: 'End all of one’s sessions, this one too',
      access: roles, answer: null,
      handle: async ({ caller, headers }) => {
        await signOutEverywhere(identity, caller)
        return signedOut(headers)
      },
    }),
    route({
      method: 'GET', path: '/api/csrf-token', tags: ['auth'], summary: 'The token that unsafe requests by session cookie carry as X-CSRF-Token; good until the session ends',
      access: roles, answer: z.object({ csrf_token: z.string() }),
      handle: async ({ caller }) => ({ csrf_token: await browser.csrf.token(caller.session) }),
    }),
    route({
      method: 'GET', path: '/api/auth/sessions', tags: ['auth'], summary: 'One’s sessions: the present one first, then by last use',
      access: roles, answer: z.object({ items: z.array(ownSession) }),
      handle: async ({ caller }) => ({
        items: (await listSessions(identity, caller)).map((row) => ({ ...row, created_at: utcOf(row.created_at), last_used_at: utcOf(row.last_used_at) })),
      }),
    }),
    route({
      method: 'DELETE', path: '/api/auth/sessions/{id}', tags: ['auth'], summary: 'End one of one’s sessions, at once and everywhere',
      access: roles, params: idParams, answer: null, refuses: ['not_found'],
      handle: ({ caller, params }) => endSession(identity, caller, params.id),
    }),
    route({
      method: 'GET', path: '/api/auth/me', tags: ['auth'], summary: 'One’s own account',
      access: roles,
      answer: z.object({ id: rowId, email: z.string(), role: z.string(), created_at: utc }),
      // The role that counts is that of the session: enrolment, as long as an administrator's is no more than that.
      handle: ({ caller }) => transaction(app.db, caller, 'account.viewed', async (tx) => ({ ...(await readAccount(app, tx, caller.actor)), role: caller.role })),
    }),
  ]
}

async function readAccount(app: App, tx: Tx, id: string): Promise<{ readonly id: string; readonly email: string; readonly created_at: string }> {
  const rows = await tx.run(sql.selectFrom('redoubt.users').select(['id', 'tenant', 'email_enc', 'created_at']).where('id', '=', id))
  const row = visible(await app.columns.open(tx, 'redoubt.users', rows))
  return { ...row, created_at: utcOf(row.created_at) }
}
