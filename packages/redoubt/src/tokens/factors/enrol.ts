import { newId } from '../../bytes.ts'
import type { Person } from '../../context.ts'
import { Refusal } from '../../errors.ts'
import type { Tx } from '../../pg.ts'
import { transaction } from '../../transaction.ts'
import { openSecret, recoveryKeys } from '../factors.ts'
import type { FactorRow, SecondFactors } from '../factors.ts'
import { requireStepUp } from '../step-up.ts'
import type { PublicKeyCredentialCreationOptionsJSON, RegistrationResponseJSON } from './passkey.ts'
import { canonicalRecovery, newRecoveryCodes, recoveryHash } from './recovery.ts'
import { newTotpSecret, totpStep, totpUri } from './totp.ts'

/** What a step-up has to be made for: the resource is the person, or for a removal the factor. */
export const factorPurposes = { enrol: 'factor.enrol', remove: 'factor.remove', recovery: 'factor.recovery' } as const

const useOf = (caller: Person): string => `enrol ${caller.session}`
const about = (caller: Person): { readonly resource: { readonly type: 'user'; readonly id: string } } => ({ resource: { type: 'user', id: caller.actor } })

async function insertFactor(factors: SecondFactors, tx: Tx, caller: Person, row: { readonly kind: 'totp' | 'webauthn'; readonly label: string; readonly secret: string; readonly credential?: Buffer; readonly transports?: readonly string[]; readonly count?: number; readonly step?: number }): Promise<string> {
  const id = newId()
  const { secret_enc } = (await factors.columns.seal(tx, 'redoubt.mfa_factors', { id, user_id: caller.actor, tenant: caller.tenant, secret: row.secret } as never)) as { readonly secret_enc: Buffer }
  await tx.query({
    name: 'redoubt_enrol_factor', text: 'select guard.enrol_factor($1, $2, $3, $4, $5, $6, $7, $8)',
    values: [id, row.kind, row.label, secret_enc, row.credential ?? null, row.transports ?? null, row.count ?? 0, row.step ?? 0],
  })
  return id
}

/**
 * A new secret for an authenticator app, which counts once its first code was confirmed. It replaces one that never was.
 * @param given.account what the person knows their account by, for the app's list; given.stepUp for factor.enrol on the person
 * @throws Refusal step_up_required; conflict with ten factors
 */
export async function enrolTotp(factors: SecondFactors, caller: Person, given: { readonly label: string; readonly account: string; readonly stepUp: string | undefined }): Promise<{ readonly id: string; readonly secret: string; readonly uri: string }> {
  const secret = newTotpSecret()
  const id = await transaction(factors.gate, caller, { action: 'auth.factor_enrolled', ...about(caller), metadata: { kind: 'totp' } }, async (tx) => {
    await requireStepUp(factors, tx, { action: factorPurposes.enrol, resource: caller.actor, handle: given.stepUp })
    return insertFactor(factors, tx, caller, { kind: 'totp', label: given.label, secret })
  })
  return { id, secret, uri: totpUri({ issuer: factors.issuer, account: given.account, secret }) }
}

/**
 * Confirms an authenticator app by its first code, ends all other sessions of the person and, with their first factor, makes
 * recovery codes.
 * @returns the recovery codes, shown this once; undefined where there are some
 * @throws Refusal not_found; factor_refused for a wrong code; too_many_requests
 */
export async function confirmTotp(factors: SecondFactors, caller: Person, given: { readonly factor: string; readonly code: string }): Promise<readonly string[] | undefined> {
  const [row] = await transaction.one<typeof factors.gate.actions, FactorRow>(factors.gate, caller, 'auth.factor_tried', {
    name: 'redoubt_unconfirmed', text: `select id, user_id, tenant, kind, secret_enc, credential_id, sign_count from redoubt.mfa_factors where id = $1 and user_id = $2 and kind = 'totp' and confirmed_at is null`,
    values: [given.factor, caller.actor],
  })
  if (row === undefined) throw new Refusal('not_found')
  const step = totpStep(await openSecret(factors, row), given.code, factors.now())
  if (step === undefined) throw new Refusal('factor_refused')
  const codes = await transaction(factors.gate, caller, { action: 'auth.factor_confirmed', ...about(caller), metadata: { kind: 'totp' } }, async (tx) => {
    await tx.query({ name: 'redoubt_confirm_factor', text: 'select guard.confirm_factor($1, $2)', values: [row.id, step] })
    await factors.notify(tx, 'factor_changed', caller.actor)
    return firstRecoveryCodes(factors, tx, caller)
  })
  factors.emit({ type: 'auth.mfa_changed', requestId: caller.requestId, actor: caller.actor, change: 'enrolled' })
  return codes
}

/** What a browser needs to make a passkey for this person in this session. */
export async function passkeyOptions(factors: SecondFactors, caller: Person, given: { readonly account: string }): Promise<PublicKeyCredentialCreationOptionsJSON> {
  if (factors.passkeys === undefined) throw new Refusal('not_found')
  const rows = await transaction.one<typeof factors.gate.actions, { readonly credential_id: Buffer }>(factors.gate, caller, 'auth.factor_tried', {
    name: 'redoubt_own_credentials', text: 'select credential_id from redoubt.mfa_factors where user_id = $1 and credential_id is not null', values: [caller.actor],
  })
  return factors.passkeys.creationOptions({ id: caller.actor, name: given.account, have: rows.map(({ credential_id }) => credential_id) }, useOf(caller))
}

/**
 * Keeps a passkey that the browser made, ends all other sessions and, with the first factor, makes recovery codes.
 * @throws Refusal step_up_required; factor_refused for an answer to another challenge, page or session; already_exists
 */
export async function enrolPasskey(
  factors: SecondFactors, caller: Person, given: { readonly label: string; readonly response: RegistrationResponseJSON; readonly stepUp: string | undefined },
): Promise<{ readonly id: string; readonly recoveryCodes: readonly string[] | undefined }> {
  const made = await factors.passkeys?.created(given.response, useOf(caller))
  if (made === undefined) throw new Refusal('factor_refused')
  const done = await transaction(factors.gate, caller, { action: 'auth.factor_enrolled', ...about(caller), metadata: { kind: 'webauthn' } }, async (tx) => {
    await requireStepUp(factors, tx, { action: factorPurposes.enrol, resource: caller.actor, handle: given.stepUp })
    const { id: credential, publicKey: secret, transports, count, step } = made
    const id = await insertFactor(factors, tx, caller, { kind: 'webauthn', label: given.label, secret, credential, transports, count, step })
    await factors.notify(tx, 'factor_changed', caller.actor)
    return { id, recoveryCodes: await firstRecoveryCodes(factors, tx, caller) }
  })
  factors.emit({ type: 'auth.mfa_changed', requestId: caller.requestId, actor: caller.actor, change: 'enrolled' })
  return done
}

/**
 * Removes one of one's own factors and ends all other sessions. With the last one the recovery codes go too.
 * @param given.stepUp for factor.remove on this factor
 * @throws Refusal step_up_required; not_found; conflict for the last factor of somebody who administers
 */
export async function removeFactor(factors: SecondFactors, caller: Person, given: { readonly factor: string; readonly stepUp: string | undefined }): Promise<void> {
  await transaction(factors.gate, caller, { action: 'auth.factor_removed', resource: { type: 'factor', id: given.factor } }, async (tx) => {
    await requireStepUp(factors, tx, { action: factorPurposes.remove, resource: given.factor, handle: given.stepUp })
    await tx.query({ name: 'redoubt_remove_factor', text: 'select guard.remove_factor($1)', values: [given.factor] })
    await factors.notify(tx, 'factor_changed', caller.actor)
  })
  factors.emit({ type: 'auth.mfa_changed', requestId: caller.requestId, actor: caller.actor, change: 'removed' })
}

/**
 * Ten new recovery codes; the earlier ones end.
 * @param given.stepUp for factor.recovery on the person
 * @throws Refusal step_up_required, also for somebody without a factor
 */
export async function replaceRecoveryCodes(factors: SecondFactors, caller: Person, given: { readonly stepUp: string | undefined }): Promise<readonly string[]> {
  const codes = await transaction(factors.gate, caller, { action: 'auth.recovery_codes_replaced', ...about(caller) }, async (tx) => {
    await requireStepUp(factors, tx, { action: factorPurposes.recovery, resource: caller.actor, handle: given.stepUp })
    await factors.notify(tx, 'factor_changed', caller.actor)
    return putRecoveryCodes(factors, tx, caller)
  })
  factors.emit({ type: 'auth.mfa_changed', requestId: caller.requestId, actor: caller.actor, change: 'recovery_codes_replaced' })
  return codes
}

async function firstRecoveryCodes(factors: SecondFactors, tx: Tx, caller: Person): Promise<readonly string[] | undefined> {
  const [{ left } = { left: 0 }] = await tx.query<{ readonly left: number }>({ name: 'redoubt_own_recovery', text: 'select count(*)::int as left from redoubt.recovery_codes where user_id = $1 and last_used_at is null', values: [caller.actor] })
  return left > 0 ? undefined : putRecoveryCodes(factors, tx, caller)
}

async function putRecoveryCodes(factors: SecondFactors, tx: Tx, caller: Person): Promise<readonly string[]> {
  const [key] = await recoveryKeys(factors)
  if (key === undefined) throw new Refusal('key_refused')
  const codes = newRecoveryCodes()
  const hashes = codes.map((code) => recoveryHash(key, caller.actor, canonicalRecovery(code) ?? ''))
  await tx.query({ name: 'redoubt_recovery_codes', text: 'select guard.replace_recovery_codes($1, $2)', values: [codes.map(() => newId()), hashes] })
  return codes
}
