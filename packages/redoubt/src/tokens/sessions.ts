import { newId } from '../bytes.ts'
import { systemCaller } from '../context.ts'
import type { Person, Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Statement, Tx } from '../pg.ts'
import type { BlindIndex } from '../tables.ts'
import type { Tokens } from '../tokens.ts'
import { transaction } from '../transaction.ts'
import type { Actions, Gate } from '../transaction.ts'
import type { Passwords } from './password.ts'

/** domain.md, numbers to pin: seconds a session may live at the longest, 30 days. */
export const sessionSeconds = 30 * 24 * 3600

/** The actions of this file, to be spread into an app's table of actions. */
export const sessionActions = {
  'auth.sign_in': { audited: false },
  'auth.registered': { audited: true, keep: 'change', purpose: 'account' },
  'auth.login_succeeded': { audited: true, keep: 'access', purpose: 'account' },
  'auth.login_failed': { audited: true, keep: 'access', purpose: 'account' },
  'auth.logout': { audited: true, keep: 'access', purpose: 'account' },
} as const satisfies Actions

/** The account an e-mail address belongs to, as sign-in may see it. */
export type Account = { readonly id: string; readonly password_hash: string; readonly status: string; readonly role: string; readonly tenant: string }

/** What signing in needs; made once at the start. */
export type SignIn = {
  readonly gate: Gate<typeof sessionActions & Actions>
  readonly passwords: Passwords
  readonly tokens: Tokens
  /** The isolation scope before the account is known. */
  readonly tenant: string
  readonly emit: Emit
}

/**
 * The form of an address that sign-in and uniqueness go by: NFC, small letters. RFC 5321 §2.4 lets the local part
 * tell cases apart; no large provider does, and two accounts that differ in case only help an impostor.
 */
export function canonicalEmail(email: string): string {
  return email.normalize('NFC').toLowerCase()
}

/** Finds the account of an address by its blind indexes (newest first). Only system.sign-in may. */
export async function findAccount(tx: Tx, indexes: readonly BlindIndex[]): Promise<Account | undefined> {
  const [account] = await tx.query(lookupStatement(indexes))
  return account
}

function lookupStatement(indexes: readonly BlindIndex[]): Statement<Account> {
  return { name: 'redoubt.sign_in_lookup', text: 'select id, password_hash, status, role, tenant from guard.sign_in_lookup($1)', values: [indexes] }
}

/** Opens a session for the account of these blind indexes; the database refuses one that is not active. */
export async function openSession(tx: Tx, session: string, indexes: readonly BlindIndex[]): Promise<void> {
  await tx.query({ name: 'redoubt.open_session', text: 'select guard.open_session($1, $2, $3)', values: [session, indexes, sessionSeconds] })
}

/**
 * Signs a person in: an access token over a new session.
 *
 * An unknown address, a wrong password and an account that is not active get the same refusal after the same work:
 * one look-up, one argon2id (on a dummy where there is no account), one transaction. The password is checked between
 * two transactions, so that hashing holds no connection.
 * @param indexes the blind indexes of canonicalEmail(address)
 * @throws Refusal sign_in_failed; busy when too many sign-ins wait
 */
export async function signIn(
  service: SignIn,
  visitor: Visitor,
  given: { readonly indexes: readonly BlindIndex[]; readonly password: string },
): Promise<{ readonly token: string; readonly expiresIn: number; readonly actor: string; readonly role: string }> {
  const { gate, passwords, tokens, emit } = service
  const { requestId } = visitor
  const caller = systemCaller('sign-in', service.tenant, visitor)
  const [account] = await transaction.one(gate, caller, 'auth.sign_in', lookupStatement(given.indexes))
  const right = await passwords.verify(account?.password_hash, given.password)
  if (account === undefined || !right || account.status !== 'active') {
    const about = account === undefined ? {} : { resource: { type: 'user', id: account.id } }
    await transaction(gate, caller, { action: 'auth.login_failed', ...about }, () => Promise.resolve())
    emit({ type: 'auth.login_failed', requestId, reason: account === undefined ? 'unknown_account' : right ? 'not_active' : 'wrong_password' })
    throw new Refusal('sign_in_failed')
  }
  const session = newId()
  await transaction(gate, caller, { action: 'auth.login_succeeded', resource: { type: 'user', id: account.id } }, (tx) => openSession(tx, session, given.indexes))
  emit({ type: 'auth.login_succeeded', requestId, actor: account.id })
  return { ...tokens.issue({ actor: account.id, session, role: account.role, tenant: account.tenant }), actor: account.id, role: account.role }
}

/**
 * Ends the caller's own session. From the moment this returns, the gate refuses the session on every instance.
 * @throws Refusal caller_refused when it has ended already
 */
export async function signOut(service: Pick<SignIn, 'gate' | 'emit'>, caller: Person): Promise<void> {
  await transaction(service.gate, caller, { action: 'auth.logout', resource: { type: 'user', id: caller.actor } }, async (tx) => {
    await tx.query({ name: 'redoubt.end_own_session', text: 'select guard.end_own_session()', values: [] })
  })
  service.emit({ type: 'auth.logout', requestId: caller.requestId, actor: caller.actor })
}
