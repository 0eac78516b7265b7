import type { Person } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Tx } from '../pg.ts'
import type { BlindIndex } from '../tables.ts'
import { transaction } from '../transaction.ts'
import type { Actions, Gate } from '../transaction.ts'
import { endSessionsOf } from './own-sessions.ts'
import type { Identity } from './sessions.ts'

/** What administrators do to accounts, to be spread into an app's table of actions. */
export const administrationActions = {
  'account.listed': { audited: true, keep: 'access', purpose: 'administration' },
  'auth.account_suspended': { audited: true, keep: 'change', purpose: 'administration' },
  'auth.account_restored': { audited: true, keep: 'change', purpose: 'administration' },
  'auth.role_changed': { audited: true, keep: 'change', purpose: 'administration' },
  'auth.sessions_ended': { audited: true, keep: 'change', purpose: 'administration' },
} as const satisfies Actions

type Administration = Pick<Identity, 'emit'> & { readonly gate: Gate<typeof administrationActions & Actions> }

/** An account as an administrator may see it: what it is, not whose. */
export type ListedAccount = {
  readonly id: string
  readonly role: string
  readonly realm: string
  readonly status: string
  readonly created_at: Date
  /** Sessions that stand. */
  readonly sessions: number
}

/**
 * Accounts, newest first, for an administrator.
 * @param wanted.indexes blind indexes of one address; wanted.before the id after which a page begins; wanted.limit 1 to 101
 * @throws Refusal forbidden for anybody else
 */
export function listAccounts(
  service: Administration,
  caller: Person,
  wanted: { readonly indexes?: readonly BlindIndex[]; readonly role?: string | undefined; readonly status?: string | undefined; readonly before?: string | undefined; readonly limit: number },
): Promise<readonly ListedAccount[]> {
  const values = [wanted.indexes ?? null, wanted.role ?? null, wanted.status ?? null, wanted.before ?? null, wanted.limit]
  const text = 'select id, role, realm, status, created_at, sessions from guard.list_accounts($1, $2, $3, $4, $5)'
  return transaction.one<Administration['gate']['actions'], ListedAccount>(service.gate, caller, 'account.listed', { name: 'redoubt.list_accounts', text, values })
}

/**
 * Suspends an account: no sign-in, no refresh, and its sessions end at once and on every instance.
 * @throws Refusal not_found; conflict when it is suspended already; forbidden for oneself and for all but administrators
 */
export async function suspendAccount(service: Administration, caller: Person, user: string): Promise<void> {
  await change(service, caller, { action: 'auth.account_suspended', user }, 'select guard.set_account_status($1, $2) as outcome', 'suspended')
  service.emit({ type: 'auth.account_suspended', requestId: caller.requestId, actor: caller.actor, account: user })
}

/** Lets an account sign in again; its sessions stay ended. @throws Refusal as suspendAccount */
export async function restoreAccount(service: Administration, caller: Person, user: string): Promise<void> {
  await change(service, caller, { action: 'auth.account_restored', user }, 'select guard.set_account_status($1, $2) as outcome', 'active')
  service.emit({ type: 'auth.account_restored', requestId: caller.requestId, actor: caller.actor, account: user })
}

/**
 * Gives somebody of the platform another role there; their sessions, which say the old one, end at once.
 * @throws Refusal not_found, also for an account that is not of the platform; conflict when it has the role; forbidden
 */
export async function changeRole(service: Administration, caller: Person, user: string, role: 'admin' | 'auditor'): Promise<void> {
  await change(service, caller, { action: 'auth.role_changed', user }, 'select guard.set_account_role($1, $2) as outcome', role)
  service.emit({ type: 'auth.role_changed', requestId: caller.requestId, actor: caller.actor, account: user })
}

/** Ends all sessions of somebody. @returns how many @throws Refusal forbidden for all but administrators */
export async function endAccountSessions(service: Administration, caller: Person, user: string): Promise<number> {
  const resource = { type: 'user', id: user }
  const sessions = await transaction(service.gate, caller, { action: 'auth.sessions_ended', resource }, (tx) => endSessionsOf(tx, user, 'ended_by_admin'))
  service.emit({ type: 'auth.session_revoked', requestId: caller.requestId, actor: caller.actor, sessions })
  return sessions
}

async function change(service: Administration, caller: Person, operation: { readonly action: keyof typeof administrationActions; readonly user: string }, text: string, to: string): Promise<void> {
  await transaction(service.gate, caller, { action: operation.action, resource: { type: 'user', id: operation.user } }, (tx) => changed(tx, text, [operation.user, to]))
}

async function changed(tx: Tx, text: string, values: readonly string[]): Promise<void> {
  const [row] = await tx.query<{ readonly outcome: 'changed' | 'unchanged' | 'unknown' }>({ text, values })
  if (row?.outcome === 'unchanged') throw new Refusal('conflict')
  if (row?.outcome !== 'changed') throw new Refusal('not_found')
}
