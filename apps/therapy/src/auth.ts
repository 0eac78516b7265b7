import { newId } from 'redoubt/bytes'
import { systemCaller, type Visitor } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { claimEmail } from 'redoubt/tokens/accounts'
import { passwordLength } from 'redoubt/tokens/password'
import { canonicalEmail } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { realm, sql, type App } from './app.ts'
import { birthDate, email, personName, phone, reference } from './fields.ts'
import { profileFields } from './therapists.ts'

const password = z.string().min(passwordLength.least).max(passwordLength.most)
const patientBody = z.strictObject({
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
      summary: 'Open an account. The answer is the same whether or not the address had one; signing in afterwards tells, since addresses are not verified',
      access: 'public', body: registerBody, answer: z.object({ status: z.literal('accepted') }), status: 202,
      handle: async ({ visitor, body, headers }) => {
        const [account = ''] = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(body.email))
        // Never given back: accounts opened count as well as tries that find the address taken.
        await app.attempts.begin({ headers, visitor }, { tried: 'register', account })
        await register(app, visitor, body, app.now()).catch((error: unknown) => {
          // One answer for both hides little: whoever signs in afterwards with the password they sent learns by a 200 or a
          // 401 whether the address had an account. Only a mail to the address, before it counts, would keep that from them.
          if (!(error instanceof Refusal) || error.code !== 'already_exists') throw error
        })
        return { status: 'accepted' as const }
      },
    }),
  ]
}

/**
 * Makes an account with its patient or therapist row, as the system caller that may do nothing else. The password is
 * hashed before the transaction, so that hashing holds no connection.
 * @returns the id of the account
 * @throws Refusal already_exists; busy when too many passwords wait to be hashed
 */
export async function register(app: App, visitor: Visitor, given: Registration, now: Date): Promise<string> {
  const id = newId()
  const names = given.role === 'patient' ? [given.first_name, given.last_name] : [given.display_name]
  const password_hash = await app.passwords.hash(id, given.password, { personal: [given.email, ...names] })
  const caller = systemCaller('register', realm, visitor)
  await transaction(app.db, caller, { action: 'auth.registered', resource: { type: 'user', id } }, async (tx) => {
    // Kept as written, found by its canonical form.
    const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(given.email))
    const [index] = indexes
    if (index === undefined) throw new Refusal('key_refused')
    // While the index key rotates, the unique index does not see that values of two versions mean one address.
    if (indexes.length > 1) await tx.query(claimEmail(indexes))
    const user = await app.columns.seal(tx, 'redoubt.users', { id, tenant: realm, email: given.email, password_hash, role: given.role })
    await tx.run(sql.insertInto('redoubt.users').values({ ...user, email_bidx: index }))
    await (given.role === 'patient' ? insertPatient(app, tx, id, given, now) : insertTherapist(app, tx, id, given, now))
  })
  app.emit({ type: 'auth.registered', requestId: visitor.requestId, actor: id })
  return id
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
