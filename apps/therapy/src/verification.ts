import { systemCaller, type Visitor } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { canonicalEmail } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import { tenant, type App } from './app.ts'

/**
 * Marks a therapist's licence as verified: the operator's command. Runs as a system
 * caller of its own that can do this one thing, and leaves an entry like everything else.
 * @returns the therapist's id
 * @throws Refusal not_found when no therapist has this address, or they are verified already
 */
export async function verifyTherapist(app: App, visitor: Visitor, address: string): Promise<string> {
  const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(address))
  return transaction(app.db, systemCaller('verify-therapist', tenant, visitor), 'therapist.verified', async (tx) => {
    const [row] = await tx.query<{ readonly id: string | null }>({ text: 'select therapy.verify_therapist($1) as id', values: [indexes] })
    if (row?.id === null || row === undefined) throw new Refusal('not_found')
    tx.about('therapist', row.id)
    return row.id
  })
}
