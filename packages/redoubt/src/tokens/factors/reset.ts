import { newId } from '../../bytes.ts'
import type { Person } from '../../context.ts'
import { Refusal } from '../../errors.ts'
import type { Statement, Tx } from '../../pg.ts'
import { transaction } from '../../transaction.ts'
import type { SecondFactors } from '../factors.ts'
import { requireStepUp } from '../step-up.ts'

/** What the step-up of an administrator has to be made for; the resource is the account. */
export const resetPurpose = 'factor.reset'

/** Whether a sign-in finds a reset that has waited long enough, and its statement. */
export function resetDue(account: string, indexes: readonly unknown[]): Statement<{ readonly due: boolean }> {
  return { name: 'redoubt_factor_reset_due', text: 'select guard.factor_reset_due($1, $2) as due', values: [account, indexes] }
}

/**
 * Asks for the removal of somebody's lost factors: takes effect at their first sign-in after the delay, unless the person
 * or an administrator cancels it, or one of the factors is used. The person is told in the same transaction.
 * @param given.user the account; given.stepUp for factor.reset on the account
 * @returns from when on it takes effect
 * @throws Refusal step_up_required; not_found without account or factor; already_exists while one is open; forbidden for oneself
 */
export async function requestReset(factors: SecondFactors, caller: Person, given: { readonly user: string; readonly stepUp: string | undefined }): Promise<Date> {
  const { user, stepUp } = given
  const at = await transaction(factors.gate, caller, { action: 'auth.factor_reset_requested', resource: { type: 'user', id: user } }, async (tx: Tx) => {
    await requireStepUp(factors, tx, { action: resetPurpose, resource: user, handle: stepUp })
    const [row] = await tx.query<{ readonly at: Date }>({ name: 'redoubt_request_reset', text: 'select guard.request_factor_reset($1, $2, $3) as at', values: [newId(), user, factors.resetHours] })
    await factors.notify(tx, 'factor_reset_requested', user, row?.at)
    return row?.at
  })
  if (at === undefined) throw new Refusal('not_found')
  factors.emit({ type: 'auth.factor_reset', requestId: caller.requestId, actor: user, step: 'requested' })
  return at
}

/**
 * Cancels a reset that waits: one's own, or as an administrator anybody's.
 * @throws Refusal not_found when none waits
 */
export async function cancelReset(factors: SecondFactors, caller: Person, user: string): Promise<void> {
  await transaction(factors.gate, caller, { action: 'auth.factor_reset_cancelled', resource: { type: 'user', id: user } }, async (tx) => {
    const [row] = await tx.query<{ readonly done: boolean }>({ name: 'redoubt_cancel_reset', text: 'select guard.cancel_factor_reset($1) as done', values: [user] })
    if (row?.done !== true) throw new Refusal('not_found')
  })
  factors.emit({ type: 'auth.factor_reset', requestId: caller.requestId, actor: user, step: 'cancelled' })
}
