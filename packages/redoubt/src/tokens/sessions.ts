import { newId } from '../bytes.ts'
import { systemCaller } from '../context.ts'
import type { Person, System, Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Keyring } from '../keyring.ts'
import type { Statement, Tx } from '../pg.ts'
import type { BlindIndex } from '../tables.ts'
import type { Tokens } from '../tokens.ts'
import { transaction } from '../transaction.ts'
import type { Actions, Gate } from '../transaction.ts'
import { bindingKeys, sessionBinding } from './binding.ts'
import { addressPrefix, agentHash, deviceLabel } from './device.ts'
import type { Passwords } from './password.ts'
import { familyHash, firstToken, tokenHash } from './refresh-token.ts'

/** The door an account uses: people of the service, or those who administer and audit it. */
export type Realm = 'tenant' | 'platform'

/** How long sessions live, in seconds. */
export type Lifetimes = {
  /** Without a refresh. */
  readonly idle: number
  /** From the sign-in on, however busy. */
  readonly absolute: number
}

/** domain.md, numbers to pin: 24 hours and 30 days. Short for those who administer. */
export const lifetimes = {
  tenant: { idle: 24 * 3600, absolute: 30 * 24 * 3600 },
  platform: { idle: 30 * 60, absolute: 12 * 3600 },
} as const satisfies Record<Realm, Lifetimes>

/** The actions of sign-in and sessions, to be spread into an app's table of actions. */
export const sessionActions = {
  'auth.sign_in': { audited: false },
  'auth.registered': { audited: true, keep: 'change', purpose: 'account' },
  'auth.login_succeeded': { audited: true, keep: 'access', purpose: 'account' },
  'auth.login_failed': { audited: true, keep: 'access', purpose: 'account' },
  // Every ten minutes of every session: an entry each would say nothing that the sign-in's does not. An event tells it.
  'auth.refreshed': { audited: false },
  'auth.session_checked': { audited: false },
  'auth.refresh_reused': { audited: true, keep: 'access', purpose: 'account' },
  'auth.session_refused': { audited: true, keep: 'access', purpose: 'account' },
  'auth.sessions_viewed': { audited: true, keep: 'access', purpose: 'account' },
  'auth.session_revoked': { audited: true, keep: 'access', purpose: 'account' },
  'auth.logout': { audited: true, keep: 'access', purpose: 'account' },
  'auth.logout_all': { audited: true, keep: 'access', purpose: 'account' },
} as const satisfies Actions

type Found = { readonly id: string; readonly password_hash: string; readonly status: string; readonly role: string; readonly tenant: string; readonly factors: boolean }

/** An account whose password was right. */
export type Account = {
  readonly id: string
  readonly role: string
  readonly tenant: string
  /** It has a confirmed second factor, without which the database opens no session for it. */
  readonly factors: boolean
  /** By which it was found; the database asks for them again. */
  readonly indexes: readonly BlindIndex[]
}

/** What signing in and staying signed in need; made once at the start, one for each realm. */
export type Identity = {
  readonly gate: Gate<typeof sessionActions & Actions>
  readonly passwords: Passwords
  readonly tokens: Tokens
  readonly keyring: Pick<Keyring, 'indexKeys'>
  readonly realm: Realm
  /** The isolation scope before the account is known. */
  readonly tenant: string
  readonly lifetimes: Lifetimes
  readonly emit: Emit
}

/** What a sign-in or a refresh gives. */
export type SignedIn = {
  readonly token: string
  /** Seconds the access token lives. */
  readonly expiresIn: number
  readonly refresh: string
  readonly session: string
  readonly actor: string
  readonly role: string
}

/**
 * The form of an address that sign-in and uniqueness go by: NFC, small letters. RFC 5321 §2.4 lets the local part
 * tell cases apart; no large provider does, and two accounts that differ in case only help an impostor.
 */
export function canonicalEmail(email: string): string {
  return email.normalize('NFC').toLowerCase()
}

function lookupStatement(indexes: readonly BlindIndex[], realm: Realm): Statement<Found> {
  return { name: 'redoubt.sign_in_lookup', text: 'select id, password_hash, status, role, tenant, factors from guard.sign_in_lookup($1, $2)', values: [indexes, realm] }
}

/**
 * The first step of a sign-in: whose password this is.
 *
 * An unknown address, a wrong password, an account that is not active and one of the other realm get the same refusal
 * after the same work: one look-up, one argon2id (on a dummy where there is no account), one transaction.
 * @param given.indexes the blind indexes of canonicalEmail(address), newest first
 * @throws Refusal sign_in_failed; busy when too many sign-ins wait
 */
export async function checkPassword(identity: Identity, visitor: Visitor, given: { readonly indexes: readonly BlindIndex[]; readonly password: string }): Promise<Account> {
  const { gate, passwords, emit } = identity
  const caller = systemCaller('sign-in', identity.tenant, visitor)
  const { found, answer } = await passwords.room(async () => {
    const [row] = await transaction.one(gate, caller, 'auth.sign_in', lookupStatement(given.indexes, identity.realm))
    return { found: row, answer: await passwords.verify(row === undefined ? undefined : { account: row.id, hash: row.password_hash }, given.password) }
  })
  const right = answer !== 'wrong'
  if (found === undefined || !right || found.status !== 'active') {
    const about = found === undefined ? {} : { resource: { type: 'user', id: found.id } }
    await transaction(gate, caller, { action: 'auth.login_failed', ...about }, () => Promise.resolve())
    emit({ type: 'auth.login_failed', requestId: visitor.requestId, reason: found === undefined ? 'unknown_account' : right ? 'not_active' : 'wrong_password' })
    throw new Refusal('sign_in_failed')
  }
  const { id, role, tenant, factors } = found
  if (answer === 'outdated') await rehash(identity, caller, found, given)
  return { id, role, tenant, factors, indexes: given.indexes }
}

/** The password is at hand now alone: hashed anew with the parameters and the key of today. Sign-in goes on without it. */
async function rehash(identity: Identity, caller: System, found: Found, given: { readonly indexes: readonly BlindIndex[]; readonly password: string }): Promise<void> {
  const { gate, passwords, emit } = identity
  const fresh = await passwords.rehash(found.id, given.password).catch(() => undefined)
  if (fresh === undefined) return
  const values = [given.indexes, found.password_hash, fresh]
  await transaction.one(gate, caller, 'auth.sign_in', { name: 'redoubt.rehash_password', text: 'select guard.rehash_password($1, $2, $3)', values })
  emit({ type: 'auth.password_rehashed', requestId: caller.requestId, actor: found.id })
}

/** What a session is issued as that is good for setting up a second factor alone. */
export const enrolmentRole = 'enrolment'

type Opened = { readonly role: string; readonly tenant: string }

/**
 * The last step of a sign-in: a new session with an access and a refresh token. Always a new one: whatever the client
 * brought along names none (session fixation).
 * @param given.agent the User-Agent header; given.first runs before it in the same transaction, as the system caller given.as
 * @throws Refusal forbidden when the database opens none: suspended since, or the second factor is missing
 */
export async function openSession(
  identity: Identity,
  visitor: Visitor,
  account: Pick<Account, 'id' | 'indexes'>,
  given: { readonly agent: string | undefined; readonly as?: 'sign-in' | 'second-factor'; readonly first?: (tx: Tx) => Promise<void> },
): Promise<SignedIn> {
  const { gate, tokens, emit, realm, lifetimes: { idle, absolute } } = identity
  const session = newId()
  const refresh = firstToken()
  const family = familyHash(refresh)
  const values = [
    session, account.id, account.indexes, realm, [family, tokenHash(refresh)], deviceLabel(given.agent), agentHash(given.agent),
    addressPrefix(visitor.address), idle, absolute,
  ]
  const [key] = await bindingKeys(identity.keyring, 'session')
  if (key === undefined) throw new Refusal('key_refused')
  const caller = systemCaller(given.as ?? 'sign-in', identity.tenant, visitor)
  const opened = await transaction(gate, caller, { action: 'auth.login_succeeded', resource: { type: 'user', id: account.id } }, async (tx) => {
    await given.first?.(tx)
    const [row] = await tx.query<Opened>({ name: 'redoubt.open_session', text: 'select role, tenant from guard.open_session($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)', values })
    if (row === undefined) throw new Refusal('forbidden')
    const binding = sessionBinding(key, { session, user: account.id, tenant: row.tenant, realm, enrolling: row.role === enrolmentRole, family })
    await tx.query({ name: 'redoubt.bind_session', text: 'select guard.bind_session($1, $2)', values: [session, binding] })
    return row
  })
  emit({ type: 'auth.login_succeeded', requestId: visitor.requestId, actor: account.id })
  const { token, expiresIn } = tokens.issue({ actor: account.id, session, ...opened })
  return { token, expiresIn, refresh: refresh.toString('base64url'), session, actor: account.id, role: opened.role }
}

/**
 * Ends the caller's own session. From the moment this returns, the gate refuses the session on every instance.
 * @throws Refusal caller_refused when it has ended already
 */
export async function signOut(service: Pick<Identity, 'gate' | 'emit'>, caller: Person): Promise<void> {
  await transaction(service.gate, caller, { action: 'auth.logout', resource: { type: 'user', id: caller.actor } }, async (tx) => {
    await tx.query({ name: 'redoubt.end_own_session', text: 'select guard.end_own_session()', values: [] })
  })
  service.emit({ type: 'auth.logout', requestId: caller.requestId, actor: caller.actor })
}
