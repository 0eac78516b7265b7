import type { System } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Statement, Tx } from '../pg.ts'
import type { BlindIndex } from '../tables.ts'
import { transaction } from '../transaction.ts'
import type { Actions, Gate } from '../transaction.ts'
import { addressPrefix, agentHash, deviceLabel } from './device.ts'

/** The actions of accounts, to be spread into an app's table of actions. */
export const accountActions = {
  'auth.email_verified': { audited: true, keep: 'change', purpose: 'account' },
  'auth.mail_asked': { audited: false },
  'auth.reset_asked': { audited: true, keep: 'access', purpose: 'account' },
  'auth.code_account': { audited: true, keep: 'access', purpose: 'account' },
  'auth.password_reset': { audited: true, keep: 'change', purpose: 'account' },
  'auth.password_changed': { audited: true, keep: 'change', purpose: 'account' },
  'auth.email_change_asked': { audited: true, keep: 'change', purpose: 'account' },
  'auth.email_changed': { audited: true, keep: 'change', purpose: 'account' },
  'auth.email_restored': { audited: true, keep: 'change', purpose: 'account' },
} as const satisfies Actions

/**
 * Before an address is written to an account while its blind index has two versions: takes the address until the end of
 * the transaction. Fails with already_exists when an account other than the caller's own has it under any version.
 * @param indexes every version, as `columns.lookup` gives them
 */
export function claimEmail(indexes: readonly BlindIndex[]): Statement {
  return { name: 'redoubt_claim_email', text: 'select guard.claim_email($1)', values: [indexes] }
}

/** The account behind a code that has just been shown, as columns opens it. */
export type CodeAccount = { readonly id: string; readonly tenant: string; readonly email_enc: Buffer; readonly former_email_enc: Buffer | null }

/** @throws Refusal code_refused when the code was redeemed, or shown too long ago */
export async function codeAccount(tx: Tx, code: string): Promise<CodeAccount> {
  const [row] = await tx.query<CodeAccount>({ name: 'redoubt_code_account', text: 'select id, tenant, email_enc, former_email_enc from guard.code_account($1)', values: [code] })
  if (row === undefined) throw new Refusal('code_refused')
  return row
}

/** Brings an account to life whose address its owner has shown to read. @throws Refusal already_exists */
export async function verifyEmail(tx: Tx, code: string, indexes: readonly BlindIndex[]): Promise<void> {
  await tx.query({ name: 'redoubt_verify_email', text: 'select guard.verify_email($1, $2)', values: [code, indexes] })
}

/** Sets the password that was forgotten, and ends all sessions of the account. */
export async function resetPassword(tx: Tx, code: string, hash: string): Promise<void> {
  await tx.query({ name: 'redoubt_reset_password', text: 'select guard.reset_password($1, $2)', values: [code, hash] })
}

/** Sets the caller's own password, and ends their other sessions. That they know the present one was asked before. */
export async function changePassword(tx: Tx, hash: string): Promise<void> {
  await tx.query({ name: 'redoubt_change_password', text: 'select guard.change_password($1)', values: [hash] })
}

export type SealedEmail = { readonly email_enc: Buffer; readonly indexes: readonly BlindIndex[] }

/** @throws Refusal already_exists */
export async function changeEmail(tx: Tx, code: string, email: SealedEmail, former: Buffer | null): Promise<void> {
  await tx.query({ name: 'redoubt_change_email', text: 'select guard.change_email($1, $2, $3, $4)', values: [code, email.email_enc, email.indexes, former] })
}

/** Puts the former address back, voids the password and ends all sessions. @throws Refusal already_exists */
export async function undoEmail(tx: Tx, code: string, email: SealedEmail): Promise<void> {
  await tx.query({ name: 'redoubt_undo_email', text: 'select guard.undo_email($1, $2, $3)', values: [code, email.email_enc, email.indexes] })
}

/** Sends the code of a registration once more, where there is one that waits. Tells nobody whether there was. */
export async function mailAgain<A extends Actions & typeof accountActions>(gate: Gate<A>, caller: System, handles: readonly Buffer[]): Promise<void> {
  await transaction.one(gate, caller, 'auth.mail_asked', { name: 'redoubt_mail_again', text: 'select guard.mail_again($1)', values: [handles] })
}

/** What is told to a person of the device that signed in; undefined when they have been seen with it before. */
export async function newDevice(tx: Tx, user: string, from: { readonly agent: string | undefined; readonly address: string | null }): Promise<string | undefined> {
  const device = deviceLabel(from.agent)
  const [row] = await tx.query<{ readonly fresh: boolean }>({
    name: 'redoubt_is_new_device', text: 'select guard.is_new_device($1, $2, $3, $4) as fresh', values: [user, agentHash(from.agent), device, addressPrefix(from.address)],
  })
  return row?.fresh === true ? device : undefined
}
