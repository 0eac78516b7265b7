import { randomBytes } from 'node:crypto'
import { newId } from 'redoubt/bytes'
import { systemCaller, type Visitor } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { claimEmail } from 'redoubt/tokens/accounts'
import { canonicalEmail } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import type { actions } from './actions.ts'
import { realm, sql, type App } from './app.ts'
import { email } from './fields.ts'

/**
 * Makes an account of somebody who administers or audits: the operator's command, since nobody registers as one. Signing
 * in with it leads to setting up a second factor and no further, and only for a day. Where the address has such an account
 * that never got so far, it begins anew.
 * @param address their e-mail address
 * @returns the id, and the password to begin with, which is kept nowhere
 * @throws Refusal already_exists; invalid_input when the address is none
 */
export async function createAdministrator(app: App, visitor: Visitor, address: string, role: 'admin' | 'auditor'): Promise<{ readonly id: string; readonly password: string }> {
  const given = email.safeParse(address)
  if (!given.success) throw new Refusal('invalid_input', { fields: [{ field: 'email', rule: 'form' }] })
  const caller = systemCaller('create-admin', realm, visitor)
  const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(given.data))
  const [index] = indexes
  if (index === undefined) throw new Refusal('key_refused')
  const [known] = await transaction.one<typeof actions, { readonly id: string | null }>(app.db, caller, 'auth.administrator_sought', { text: 'select guard.find_unenrolled($1) as id', values: [indexes] })
  const id = known?.id ?? newId()
  // 120 random bits: no list holds it, and nobody guesses it.
  const password = randomBytes(15).toString('base64url')
  const password_hash = await app.passwords.hash(id, password, { personal: [given.data] })
  await transaction(app.db, caller, { action: 'auth.administrator_created', resource: { type: 'user', id } }, async (tx) => {
    if (id === known?.id) return void (await tx.query({ text: 'select guard.renew_enrolment($1, $2, $3)', values: [id, password_hash, role] }))
    if (indexes.length > 1) await tx.query(claimEmail(indexes))
    const user = await app.columns.seal(tx, 'redoubt.users', { id, tenant: realm, email: given.data, password_hash, role, realm: 'platform' })
    await tx.run(sql.insertInto('redoubt.users').values({ ...user, email_bidx: index }))
  })
  return { id, password }
}
