import { systemCaller } from '../../context.ts'
import type { System, Visitor } from '../../context.ts'
import { Refusal } from '../../errors.ts'
import type { Tx } from '../../pg.ts'
import { transaction } from '../../transaction.ts'
import { addressPrefix, agentHash } from '../device.ts'
import { checkProof, checkWait, cloned, failed } from '../factors.ts'
import type { FactorRow, Proof, Proven, SecondFactors } from '../factors.ts'
import { openSession } from '../sessions.ts'
import type { Account, Identity, SignedIn } from '../sessions.ts'
import type { AuthenticationResponseJSON, PublicKeyCredentialRequestOptionsJSON } from './passkey.ts'
import { resetDue } from './reset.ts'

/** Minutes a sign-in may wait for its second factor. */
export const pendingMinutes = 5

export type Pending = {
  /** 256 bits, for whoever knew the password: with it and a factor the sign-in is completed, from the same device. */
  readonly pending: string
  readonly factors: readonly Proof['kind'][]
  /** For navigator.credentials.get, where the account has a passkey. */
  readonly passkey: PublicKeyCredentialRequestOptionsJSON | undefined
}

/** A pending sign-in goes on in the browser and network that it began in: a handle that leaked is of no use elsewhere. */
function contextOf(visitor: Visitor, agent: string | undefined): string {
  return `${agentHash(agent).toString('hex')} ${addressPrefix(visitor.address) ?? ''}`
}
const useOf = (pending: string): string => `second factor ${pending}`
const signInUse = (visitor: Visitor, agent: string | undefined): string => `sign in ${contextOf(visitor, agent)}`

/**
 * The second step of a sign-in, where the account has a confirmed factor: a handle to go on with.
 * @param account as checkPassword gave it
 * @returns undefined where a reset of lost factors has waited long enough: they are gone now, and openSession goes on
 * @throws Refusal too_many_requests when ten sign-ins of this account are pending
 */
export async function beginSecondFactor(factors: SecondFactors, identity: Identity, visitor: Visitor, account: Account, given: { readonly agent: string | undefined }): Promise<Pending | undefined> {
  const caller = systemCaller('sign-in', identity.tenant, visitor)
  type Kind = { readonly kind: Proof['kind']; readonly credential_id: Buffer | null; readonly transports: readonly string[] | null }
  const { rows, due, issued } = await transaction(factors.gate, caller, { action: 'auth.second_factor_asked', resource: { type: 'user', id: account.id } }, async (tx) => {
    const [kinds, [reset]] = await Promise.all([
      tx.query<Kind>({ name: 'redoubt_sign_in_factors', text: 'select kind, credential_id, transports from guard.sign_in_factors($1, $2)', values: [account.id, account.indexes] }),
      tx.query(resetDue(account.id, account.indexes)),
    ])
    if (reset?.due === true) return { rows: kinds, due: true, issued: undefined }
    const made = await factors.codes.issue(tx, { user: account.id, purpose: 'login', context: contextOf(visitor, given.agent), minutes: pendingMinutes })
    return { rows: kinds, due: false, issued: made }
  })
  if (due) return applyReset(factors, caller, account)
  if (issued === undefined) throw new Refusal('too_many_requests', { retryAfter: pendingMinutes * 60 })
  factors.emit({ type: 'auth.second_factor_asked', requestId: visitor.requestId, actor: account.id })
  const allow = rows.flatMap(({ credential_id, transports }) => (credential_id === null ? [] : [{ id: credential_id, transports: transports ?? [] }]))
  return {
    pending: issued.handle, factors: [...new Set(rows.map(({ kind }) => kind))],
    passkey: allow.length === 0 ? undefined : await factors.passkeys?.requestOptions(allow, useOf(issued.handle)),
  }
}

/**
 * A new challenge for a pending sign-in, where a page is shown anew; undefined where there are no passkeys.
 * @param allow the credentials that may answer, as the browser was told before; none: any it has for this site
 */
export async function pendingPasskey(factors: SecondFactors, pending: string, allow: readonly { readonly id: Buffer; readonly transports: readonly string[] }[]): Promise<PublicKeyCredentialRequestOptionsJSON | undefined> {
  return factors.passkeys?.requestOptions(allow, useOf(pending))
}

/** What the app does in the transaction of the sign-in, such as telling its person of a new device. */
export type Also = (tx: Tx, user: string) => Promise<void>

/** The password was right, and an administrator's request to remove the lost factors has waited its time. */
async function applyReset(factors: SecondFactors, caller: System, account: Account): Promise<undefined> {
  await transaction(factors.gate, caller, { action: 'auth.factors_reset', resource: { type: 'user', id: account.id } }, async (tx) => {
    await tx.query({ name: 'redoubt_apply_reset', text: 'select guard.apply_factor_reset($1, $2)', values: [account.id, account.indexes] })
    await factors.notify(tx, 'factors_reset', account.id)
  })
  factors.emit({ type: 'auth.factor_reset', requestId: caller.requestId, actor: account.id, step: 'applied' })
}

/**
 * Completes a pending sign-in. Five tries a handle, counted before anything is looked at; codes that can be guessed are
 * slowed down by account too. The session is a new one, whatever was sent along.
 * @throws Refusal code_refused for the handle; factor_refused for the proof; too_many_requests
 */
export async function completeSecondFactor(
  factors: SecondFactors, identity: Identity, visitor: Visitor,
  given: { readonly pending: string; readonly proof: Proof; readonly agent: string | undefined; readonly also?: Also },
): Promise<SignedIn> {
  const { gate } = factors
  const { proof, agent } = given
  const { requestId } = visitor
  const caller = systemCaller('second-factor', identity.tenant, visitor)
  const { id, user } = await factors.codes.show(caller, { purpose: 'login', handle: given.pending, context: contextOf(visitor, agent) })
  const rows = await transaction.one<typeof gate.actions, FactorRow & { readonly wait: number }>(gate, caller, 'auth.factor_tried', {
    name: 'redoubt_pending_factors', text: 'select wait, id, user_id, tenant, kind, secret_enc, credential_id, sign_count from guard.pending_factors($1, $2)', values: [id, proof.kind === 'totp'],
  })
  checkWait(factors, requestId, user, rows[0]?.wait ?? 0)
  const proven = await checkProof(factors, user, rows, proof, useOf(given.pending))
  if (proven === undefined || cloned(factors, requestId, rows, proven)) return failed(factors, caller, user, proof, 'auth.factor_failed')
  const done = await openSession(identity, visitor, { id: user, indexes: [] }, {
    agent, as: 'second-factor',
    first: async (tx) => {
      await tx.query({ name: 'redoubt_complete_pending', text: 'select guard.complete_pending($1, $2, $3, $4, $5)', values: [id, ...proven.values] })
      if (proof.kind === 'recovery') await factors.notify(tx, 'recovery_code_used', user)
      await given.also?.(tx, user)
    },
  })
  if (proof.kind === 'recovery') factors.emit({ type: 'auth.mfa_changed', requestId, actor: user, change: 'recovery_code_used' })
  return done
}

/** What a browser needs to sign somebody in by passkey alone. Nothing is written, and nobody is named. */
export async function passkeySignInOptions(factors: SecondFactors, visitor: Visitor, given: { readonly agent: string | undefined }): Promise<PublicKeyCredentialRequestOptionsJSON> {
  if (factors.passkeys === undefined) throw new Refusal('not_found')
  return factors.passkeys.requestOptions([], signInUse(visitor, given.agent))
}

/**
 * Signs in by passkey alone: it is something one has, and the authenticator has checked its owner.
 * @throws Refusal factor_refused, whether the credential is unknown, of a suspended account, or its signature wrong
 */
export async function passkeySignIn(
  factors: SecondFactors, identity: Identity, visitor: Visitor,
  given: { readonly response: AuthenticationResponseJSON; readonly agent: string | undefined; readonly also?: Also },
): Promise<SignedIn> {
  const { gate } = factors
  const { response, agent } = given
  const caller = systemCaller('second-factor', identity.tenant, visitor)
  const rows = await transaction.one<typeof gate.actions, FactorRow>(gate, caller, 'auth.factor_tried', {
    name: 'redoubt_passkey_lookup', text: 'select id, user_id, tenant, kind, secret_enc, credential_id, sign_count from guard.passkey_lookup($1)', values: [Buffer.from(response.id, 'base64url')],
  })
  const [row] = rows
  const proof = { kind: 'webauthn', response } as const
  const proven: Proven | undefined = row === undefined ? undefined : await checkProof(factors, row.user_id, rows, proof, signInUse(visitor, agent))
  if (row === undefined) throw new Refusal('factor_refused')
  if (proven === undefined || cloned(factors, visitor.requestId, rows, proven)) return failed(factors, caller, row.user_id, proof, 'auth.factor_failed')
  return openSession(identity, visitor, { id: row.user_id, indexes: [] }, {
    agent, as: 'second-factor',
    first: async (tx) => {
      await tx.query({ name: 'redoubt_complete_passkey', text: 'select guard.complete_passkey($1, $2, $3)', values: proven.values.slice(0, 3) })
      await given.also?.(tx, row.user_id)
    },
  })
}
