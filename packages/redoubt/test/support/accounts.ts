import { randomBytes, randomUUID } from 'node:crypto'
import type { Person } from '../../src/context.ts'
import type { TestDatabase } from './database.ts'

/** A row of redoubt.users and a live session of it, planted past every policy. */
export type Account = Person & { readonly emailIndex: Buffer; readonly passwordHash: string }

/**
 * Somebody signed in, without the cost of argon2id.
 * @param name becomes the request id, so that an entry of the audit tells who was meant
 */
export async function makeAccount(database: TestDatabase, name: string, role = 'patient', ids: { readonly actor?: string; readonly session?: string } = {}): Promise<Account> {
  const account = {
    kind: 'user', actor: ids.actor ?? randomUUID(), role, tenant: database.service, session: ids.session ?? randomUUID(), requestId: `request-${name}`, address: null,
    emailIndex: Buffer.concat([Buffer.from([1]), randomBytes(16)]), passwordHash: `$argon2id$${randomBytes(18).toString('base64url')}`,
  } as const
  await database.admin(
    'insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role, realm) values ($1, $2, $3, $4, $5, $6, $7)',
    [account.actor, account.tenant, randomBytes(61), account.emailIndex, account.passwordHash, role, ['admin', 'auditor'].includes(role) ? 'platform' : 'tenant'],
  )
  await database.admin(`insert into redoubt.sessions (id, user_id, tenant, absolute_expires_at) values ($1, $2, $3, now() + interval '1 day')`, [
    account.session, account.actor, account.tenant,
  ])
  return account
}
