import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { endSession, listSessions, signOutEverywhere } from 'redoubt/tokens/own-sessions'
import { passwordLength } from 'redoubt/tokens/password'
import { refreshSession } from 'redoubt/tokens/refresh'
import { canonicalEmail, checkPassword, openSession, signOut, type Identity, type SignedIn } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { found, sql, type App } from './app.ts'
import { email, idParams, rowId, utc, utcOf } from './fields.ts'

const signedIn = z.object({ access_token: z.string(), token_type: z.literal('Bearer'), expires_in: z.int(), refresh_token: z.string(), user_id: rowId, role: z.string() })
const ownSession = z.object({ id: rowId, device: z.string(), address_prefix: z.string().nullable(), created_at: utc, last_used_at: utc, current: z.boolean() })

function signedInAnswer({ token, expiresIn, refresh, actor, role }: SignedIn): z.input<typeof signedIn> {
  return { access_token: token, token_type: 'Bearer', expires_in: expiresIn, refresh_token: refresh, user_id: actor, role }
}

/**
 * Sign-in and sessions of one realm: the same routes at both doors.
 * @param identity whose accounts, keys and lifetimes
 * @param roles the roles of that realm, with what an account without second factor gets where it needs one
 */
export function signInRoutes(app: App, identity: Identity, roles: readonly [string, ...string[]]): readonly Route[] {
  return [
    route({
      method: 'POST', path: '/api/auth/login', tags: ['auth'], summary: 'Sign in',
      access: 'public', body: z.strictObject({ email, password: z.string().max(passwordLength.most) }),
      answer: signedIn,
      refuses: ['sign_in_failed', 'busy'],
      handle: async ({ visitor, body, headers }) => {
        const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(body.email))
        const account = await checkPassword(identity, visitor, { indexes, password: body.password })
        return signedInAnswer(await openSession(identity, visitor, account, { agent: headers['user-agent'] }))
      },
    }),
    route({
      method: 'POST', path: '/api/auth/refresh', tags: ['auth'],
      summary: 'Exchange a refresh token for its successor and a new access token. A retry sends the same attempt (128 random bits) and gets the same successor, within 10 seconds and while that is unused; any other second use ends the session',
      access: 'public', body: z.strictObject({ refresh_token: z.string().min(1).max(200), attempt: z.string().regex(/^[A-Za-z0-9_-]{22}$/).optional() }),
      answer: signedIn,
      refuses: ['caller_refused'],
      handle: async ({ visitor, body, headers }) =>
        signedInAnswer(await refreshSession(identity, visitor, { token: body.refresh_token, attempt: body.attempt, agent: headers['user-agent'] })),
    }),
    route({
      method: 'POST', path: '/api/auth/logout', tags: ['auth'], summary: 'End this session, at once and everywhere',
      access: roles, answer: null,
      handle: ({ caller }) => signOut(identity, caller),
    }),
    route({
      method: 'POST', path: '/api/auth/logout-all', tags: ['auth'], summary: 'End all of one’s sessions, this one too',
      access: roles, answer: null,
      handle: ({ caller }) => signOutEverywhere(identity, caller),
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
      handle: ({ caller }) => transaction(app.db, caller, 'account.viewed', (tx) => readAccount(app, tx, caller.actor)),
    }),
  ]
}

async function readAccount(app: App, tx: Tx, id: string): Promise<{ readonly id: string; readonly email: string; readonly role: string; readonly created_at: string }> {
  const rows = await tx.run(sql.selectFrom('redoubt.users').select(['id', 'tenant', 'email_enc', 'role', 'created_at']).where('id', '=', id))
  const row = found(await app.columns.open(tx, 'redoubt.users', rows))
  return { ...row, created_at: utcOf(row.created_at) }
}
