import { newId } from 'redoubt/bytes'
import { systemCaller, type Visitor } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import { putMail } from 'redoubt/outbox'
import type { Tx } from 'redoubt/pg'
import { canonicalEmail } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { tenant, sql, type App } from './app.ts'
import { birthDate, email, personName, phone, reference } from './fields.ts'
import { verifyMinutes } from './mail-texts.ts'
import { accepted, newPassword as password } from './recovery.ts'
import type { SignInRequest } from './sign-in-steps.ts'
import { profileFields } from './therapists.ts'

export const patientBody = z.strictObject({
  role: z.literal('patient'), email, password, first_name: personName, last_name: personName, dob: birthDate, phone: phone.optional(),
})
const therapistBody = z.strictObject({
  role: z.literal('therapist'), email, password, licence_number: reference, ...profileFields, bio: profileFields.bio.optional(),
})
const registerBody = z.discriminatedUnion('role', [patientBody, therapistBody])
export type Registration = z.output<typeof registerBody>

export function registrationRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'POST', path: '/api/auth/register', tags: ['auth'],
      summary: 'Ask for an account. A code goes to the address, with which POST /api/auth/email/verify opens it; an address that has an account gets a mail that says so. The answer is the same for both',
      access: 'public', body: registerBody, answer: accepted, status: 202, refuses: ['busy'],
      handle: async ({ visitor, body, headers }) => ({ status: 'accepted' as const, request: await askForAccount(app, { headers, visitor }, body) }),
    }),
  ]
}

/**
 * A registration, for the API and for the pages: one place counts them.
 * @returns the handle its code works with. @throws Refusal too_many_requests; busy; invalid_input for a weak password
 */
export async function askForAccount(app: App, { headers, visitor }: SignInRequest, given: Registration): Promise<string> {
  const [account = ''] = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(given.email))
  // Never given back: accounts opened count as well as tries that find the address taken.
  await app.attempts.begin({ headers, visitor }, { tried: 'register', account })
  return (await register(app, visitor, given, app.now())).request
}

/**
 * Makes an account with its patient or therapist row, as the system caller that may do nothing else. It waits for its
 * address to be shown; whether the address has an account already is not looked at here, so that neither answer nor time
 * can tell. The password is hashed before the transaction, so that hashing holds no connection.
 * @returns the id of the account, and the handle its code works with
 * @throws Refusal busy when too many passwords wait to be hashed
 */
export async function register(app: App, visitor: Visitor, given: Registration, now: Date): Promise<{ readonly id: string; readonly request: string; readonly code: string }> {
  const id = newId()
  const names = given.role === 'patient' ? [given.first_name, given.last_name] : [given.display_name]
  const password_hash = await app.passwords.hash(id, given.password, { personal: [given.email, ...names] })
  const caller = systemCaller('register', tenant, visitor)
  const { handle, digits } = await transaction(app.db, caller, { action: 'auth.registered', resource: { type: 'user', id } }, async (tx) => {
    // Kept as written, found by its canonical form.
    const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(given.email))
    const [index] = indexes
    if (index === undefined) throw new Refusal('key_refused')
    const user = await app.columns.seal(tx, 'redoubt.users', { id, tenant, email: given.email, password_hash, role: given.role, status: 'pending' })
    await tx.run(sql.insertInto('redoubt.users').values({ ...user, email_bidx: index }))
    await (given.role === 'patient' ? insertPatient(app, tx, id, given, now) : insertTherapist(app, tx, id, given, now))
    const code = await app.codes.issue(tx, { user: id, purpose: 'email_verify', digits: 8, minutes: verifyMinutes })
    if (code?.digits === undefined) throw new Refusal('conflict')
    await putMail(app.columns, tx, { id: code.id, topic: 'email_verify', user: id, address: indexes, handleHash: code.handleHash })
    return code
  })
  app.emit({ type: 'auth.registered', requestId: visitor.requestId, actor: id })
  return { id, request: handle, code: digits ?? '' }
}

async function insertPatient(app: App, tx: Tx, id: string, given: z.output<typeof patientBody>, now: Date): Promise<void> {
  const { first_name, last_name, dob, phone: number } = given
  const row = await app.columns.seal(tx, 'therapy.patients', { id, first_name, last_name, dob, phone: number ?? null, created_at: now })
  await tx.run(sql.insertInto('therapy.patients').values(row))
}

async function insertTherapist(app: App, tx: Tx, id: string, given: z.output<typeof therapistBody>, now: Date): Promise<void> {
  const { role: _, email: __, password: ___, bio, ...profile } = given
  const row = await app.columns.seal(tx, 'therapy.therapist_profiles', { user_id: id, ...profile, bio: bio ?? '', created_at: now })
  await tx.run(sql.insertInto('therapy.therapist_profiles').values(row))
}
