import { randomBytes } from 'node:crypto'
import { newId } from 'redoubt/bytes'
import { systemCaller, type Caller, type Visitor } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { putMail } from 'redoubt/outbox'
import { claimEmail } from 'redoubt/tokens/accounts'
import { canonicalEmail } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import type { actions } from './actions.ts'
import { tenant, sql, type App } from './app.ts'
import { email } from './fields.ts'

type Begun = { readonly id: string; readonly password: string }
type Role = 'admin' | 'auditor'

/**
 * Makes an account of somebody who administers or audits: the operator's command, since nobody registers as one. Signing
 * in with it leads to setting up a second factor and no further, and only for a day.
 * @param address their e-mail address
 * @returns the id, and the password to begin with, which is kept nowhere
 * @throws Refusal already_exists, saying what can be done instead; invalid_input when the address is none
 */
export async function createAdministrator(app: App, visitor: Visitor, address: string, role: Role): Promise<Begun> {
  const { email: given, indexes, caller, known } = await sought(app, visitor, address, 'unenrolled')
  if (known !== null) throw new Refusal('already_exists', { detail: `${known} has this address and no second factor yet; with --new-password it begins anew, and the password before it ends` })
  const [index] = indexes
  if (index === undefined) throw new Refusal('key_refused')
  const id = newId()
  const password = passwordToBegin()
  const password_hash = await app.passwords.hash(id, password, { personal: [given] })
  try {
    await transaction(app.db, caller, { action: 'auth.administrator_created', resource: { type: 'user', id } }, async (tx) => {
      if (indexes.length > 1) await tx.query(claimEmail(indexes))
      const user = await app.columns.seal(tx, 'redoubt.users', { id, tenant, email: given, password_hash, role, realm: 'platform' })
      await tx.run(sql.insertInto('redoubt.users').values({ ...user, email_bidx: index }))
    })
  } catch (error) {
    if (!(error instanceof Refusal) || error.code !== 'already_exists') throw error
    throw new Refusal('already_exists', { detail: 'this address has an account: one with a second factor, which another administrator can reset, or a patient’s or therapist’s, who needs another address for this', cause: error })
  }
  return { id, password }
}

/**
 * A new password and another day for an account that administers or audits and has no second factor yet; the sessions
 * that began with the password before it end. One that has a factor is never touched: that is a reset by an administrator.
 * @param role what the account is from now on
 * @throws Refusal not_found where no such account has the address; invalid_input when the address is none
 */
export async function renewAdministrator(app: App, visitor: Visitor, address: string, role: Role): Promise<Begun> {
  const { email: given, caller, known: id } = await sought(app, visitor, address, 'unenrolled')
  if (id === null) throw new Refusal('not_found', { detail: 'no account that administers or audits and has no second factor yet has this address' })
  const password = passwordToBegin()
  const password_hash = await app.passwords.hash(id, password, { personal: [given] })
  await transaction(app.db, caller, { action: 'auth.administrator_renewed', resource: { type: 'user', id } }, async (tx) => {
    await tx.query({ text: 'select guard.renew_enrolment($1, $2, $3)', values: [id, password_hash, role] })
  })
  return { id, password }
}

/**
 * Where nobody else administers and could ask for it: an account that administers or audits begins anew though it has a
 * second factor. Its factors, recovery codes and sessions are gone at once, and its owner is told by mail.
 * @throws Refusal not_found where no such account has the address; invalid_input when the address is none
 */
export async function recoverAdministrator(app: App, visitor: Visitor, address: string): Promise<Begun> {
  const { email: given, caller, known: id } = await sought(app, visitor, address, 'any')
  if (id === null) throw new Refusal('not_found', { detail: 'no account that administers or audits and is not suspended has this address' })
  const password = passwordToBegin()
  const password_hash = await app.passwords.hash(id, password, { personal: [given] })
  await transaction(app.db, caller, { action: 'auth.administrator_recovered', resource: { type: 'user', id } }, async (tx) => {
    await tx.query({ text: 'select guard.recover_administrator($1, $2)', values: [id, password_hash] })
    await putMail(app.columns, tx, { id: newId(), topic: 'administrator_recovered', user: id })
  })
  app.emit({ type: 'auth.factor_reset', requestId: visitor.requestId, actor: id, step: 'applied' })
  return { id, password }
}

/** 120 random bits: no list holds it, and nobody guesses it. */
function passwordToBegin(): string {
  return randomBytes(15).toString('base64url')
}

type Sought = { readonly email: string; readonly indexes: Awaited<ReturnType<App['columns']['lookup']>>; readonly caller: Caller; readonly known: string | null }

/** Who administers or audits and has the address; `unenrolled`: where no second factor was ever set up. */
async function sought(app: App, visitor: Visitor, address: string, which: 'any' | 'unenrolled'): Promise<Sought> {
  const given = email.safeParse(address)
  if (!given.success) throw new Refusal('invalid_input', { detail: 'this is no e-mail address', fields: [{ field: 'email', rule: 'form' }] })
  const caller = systemCaller('create-admin', tenant, visitor)
  const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(given.data))
  const find = { text: 'select guard.find_administrator($1, $2) as id', values: [indexes, which === 'unenrolled'] }
  const [found] = await transaction.one<typeof actions, { readonly id: string | null }>(app.db, caller, 'auth.administrator_sought', find)
  return { email: given.data, indexes, caller, known: found?.id ?? null }
}
