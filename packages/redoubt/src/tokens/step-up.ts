import type { Person } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Tx } from '../pg.ts'
import type { BlindIndex } from '../tables.ts'
import { transaction } from '../transaction.ts'
import { checkProof, checkWait, cloned, failed } from './factors.ts'
import type { FactorRow, Proof, SecondFactors } from './factors.ts'
import type { PublicKeyCredentialRequestOptionsJSON } from './factors/passkey.ts'
import { checkPassword } from './sessions.ts'
import type { Identity } from './sessions.ts'

/** domain.md, numbers to pin: minutes a step-up is good for. */
const stepUpMinutes = 5

/** The one thing a step-up is for. */
export type Purpose = {
  /** A word such as `factor.remove`. */
  readonly action: string
  /** What it is done to, by its id. */
  readonly resource: string
}

/** Of somebody who has no factor yet, the password is asked again. */
export type StepUpProof = Proof | { readonly kind: 'password'; readonly password: string }

const wordForm = /^[a-z][a-z0-9_.-]{0,63}$/
const resourceForm = /^[A-Za-z0-9_.:-]{1,128}$/

/** Session, action and resource, none of which can have a space in it. @throws TypeError for another form */
function contextOf(caller: Person, { action, resource }: Purpose): string {
  if (!wordForm.test(action)) throw new TypeError('step-up: action must be small letters, digits, points, dashes and underscores, at most 64')
  if (!resourceForm.test(resource)) throw new TypeError('step-up: resource must be an id: letters, digits, points, colons and dashes, at most 128')
  return `${caller.session} ${action} ${resource}`
}
const useOf = (caller: Person, purpose: Purpose): string => `step up ${contextOf(caller, purpose)}`

async function ownFactors(factors: SecondFactors, caller: Person, guessable: boolean): Promise<{ readonly rows: readonly FactorRow[]; readonly wait: number; readonly indexes: readonly BlindIndex[] }> {
  return transaction(factors.gate, caller, 'auth.factor_tried', async (tx) => {
    const [tried] = guessable ? await tx.query<{ readonly wait: number }>({ name: 'redoubt_count_own_try', text: 'select guard.count_own_try() as wait', values: [] }) : []
    const [rows, users] = await Promise.all([
      tx.query<FactorRow>({ name: 'redoubt_own_secrets', text: 'select id, user_id, tenant, kind, secret_enc, credential_id, sign_count from redoubt.mfa_factors where user_id = $1 and confirmed_at is not null', values: [caller.actor] }),
      tx.query<{ readonly email_bidx: BlindIndex }>({ name: 'redoubt_own_index', text: 'select email_bidx from redoubt.users where id = $1', values: [caller.actor] }),
    ])
    return { rows, wait: tried?.wait ?? 0, indexes: users.map(({ email_bidx }) => email_bidx) }
  })
}

/** What a browser needs for a step-up by passkey; undefined without one. */
export async function stepUpOptions(factors: SecondFactors, caller: Person, purpose: Purpose): Promise<PublicKeyCredentialRequestOptionsJSON | undefined> {
  const use = useOf(caller, purpose)
  const { rows } = await ownFactors(factors, caller, false)
  const allow = rows.flatMap(({ credential_id }) => (credential_id === null ? [] : [{ id: credential_id, transports: [] }]))
  return allow.length === 0 ? undefined : factors.passkeys?.requestOptions(allow, use)
}

/**
 * Proves anew who asks, for one action on one resource: five minutes, this session, one use.
 * @throws Refusal factor_refused, also for a password where there is a factor; sign_in_failed for a wrong password;
 *   too_many_requests while codes or passwords were tried too often
 */
export async function stepUp(factors: SecondFactors, identity: Identity, caller: Person, given: Purpose & { readonly proof: StepUpProof }): Promise<{ readonly handle: string; readonly expiresAt: Date }> {
  const { proof } = given
  const { requestId, actor } = caller
  const context = contextOf(caller, given)
  const { rows, wait, indexes } = await ownFactors(factors, caller, proof.kind === 'totp' || proof.kind === 'password')
  checkWait(factors, requestId, actor, wait)
  let values: readonly unknown[] = [null, null, null, null]
  if (proof.kind === 'password') {
    if (rows.length > 0) return failed(factors, caller, actor, proof, 'auth.step_up_failed')
    const { id } = await checkPassword(identity, caller, { indexes, password: proof.password })
    if (id !== actor) throw new Refusal('sign_in_failed')
  } else {
    const proven = await checkProof(factors, actor, rows, proof, useOf(caller, given))
    if (proven === undefined || cloned(factors, requestId, rows, proven)) return failed(factors, caller, actor, proof, 'auth.step_up_failed')
    values = proven.values
  }
  const operation = { action: 'auth.step_up_succeeded', resource: { type: 'user', id: actor }, metadata: { for: given.action } } as const
  const issued = await transaction(factors.gate, caller, operation, async (tx) => {
    await tx.query({ name: 'redoubt_prove_own', text: 'select guard.prove_own($1, $2, $3, $4)', values })
    if (proof.kind === 'recovery') await factors.notify(tx, 'recovery_code_used', actor)
    const made = await factors.codes.issue(tx, { user: actor, purpose: 'step_up', context, minutes: stepUpMinutes })
    if (made === undefined) throw new Refusal('too_many_requests', { retryAfter: stepUpMinutes * 60 })
    return made
  })
  factors.emit({ type: 'auth.step_up_succeeded', requestId, actor })
  if (proof.kind === 'recovery') factors.emit({ type: 'auth.mfa_changed', requestId, actor, change: 'recovery_code_used' })
  return { handle: issued.handle, expiresAt: issued.expiresAt }
}

/**
 * Uses up a step-up in the transaction of what it is for: the first statement of a sensitive action. It comes back if that
 * fails, and of many at once one has it.
 * @throws Refusal step_up_required for one that is missing, used, too old, of another session, or for something else
 */
export async function requireStepUp(factors: Pick<SecondFactors, 'codes'>, tx: Tx, given: Purpose & { readonly handle: string | undefined }): Promise<void> {
  const { caller } = tx
  if (caller.kind !== 'user') throw new TypeError('requireStepUp: only a person steps up')
  const context = contextOf(caller, given)
  if (given.handle === undefined || !(await factors.codes.redeemStepUp(tx, { handle: given.handle, context }))) throw new Refusal('step_up_required')
}
