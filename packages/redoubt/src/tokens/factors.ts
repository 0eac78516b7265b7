import type { Columns } from '../columns.ts'
import type { Caller, Person } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Keyring } from '../keyring.ts'
import type { Tx } from '../pg.ts'
import type { Tables } from '../tables.ts'
import { kernelTables } from '../tables/kernel.ts'
import { transaction } from '../transaction.ts'
import type { Actions, Gate } from '../transaction.ts'
import type { Codes } from './codes.ts'
import type { AuthenticationResponseJSON, Passkeys } from './factors/passkey.ts'
import { canonicalRecovery, recoveryHash } from './factors/recovery.ts'
import { totpStep } from './factors/totp.ts'
import type { sessionActions } from './sessions.ts'

/** The actions of second factors and step-up, to be spread into an app's table of actions. */
export const factorActions = {
  'auth.second_factor_asked': { audited: true, keep: 'access', purpose: 'account' },
  // The secret is read to check a code, by nobody; what came of it has an entry.
  'auth.factor_tried': { audited: false },
  'auth.factor_failed': { audited: true, keep: 'access', purpose: 'account' },
  'auth.factors_viewed': { audited: true, keep: 'access', purpose: 'account' },
  'auth.factor_enrolled': { audited: true, keep: 'change', purpose: 'account' },
  'auth.factor_confirmed': { audited: true, keep: 'change', purpose: 'account' },
  'auth.factor_removed': { audited: true, keep: 'change', purpose: 'account' },
  'auth.recovery_codes_replaced': { audited: true, keep: 'change', purpose: 'account' },
  'auth.factor_reset_requested': { audited: true, keep: 'change', purpose: 'account' },
  'auth.factor_reset_cancelled': { audited: true, keep: 'change', purpose: 'account' },
  'auth.factors_reset': { audited: true, keep: 'change', purpose: 'account' },
  'auth.step_up_succeeded': { audited: true, keep: 'access', purpose: 'account' },
} as const satisfies Actions

/** Any declaration that spreads the kernel's tables in. */
export type FactorTables = Tables & { readonly tables: Pick<typeof kernelTables, 'redoubt.mfa_factors'> }

/** What a person is told of. */
export type FactorNotice = 'factor_changed' | 'recovery_code_used' | 'factor_reset_requested' | 'factors_reset'

/** What second factors need; made once at the start. */
export type SecondFactors<D extends FactorTables = FactorTables> = {
  readonly gate: Gate<typeof factorActions & typeof sessionActions & Actions>
  readonly columns: Columns<D>
  readonly codes: Codes
  readonly keyring: Pick<Keyring, 'indexKeys'>
  /** Hours that a reset of lost factors waits, 1 to 720. */
  readonly resetHours: number
  /** Undefined where the site has an origin to which browsers give no passkeys. */
  readonly passkeys: Passkeys | undefined
  /** The service's name as authenticator apps show it. */
  readonly issuer: string
  /**
   * Tells the person by another way than the one just used, if and only if `tx` commits.
   * @param at from when on a reset takes effect
   */
  readonly notify: (tx: Tx, topic: FactorNotice, user: string, at?: Date) => Promise<void>
  readonly emit: Emit
  /** Milliseconds since 1970. */
  readonly now: () => number
}

/** What somebody proves themselves with. */
export type Proof =
  | { readonly kind: 'totp'; readonly code: string }
  | { readonly kind: 'recovery'; readonly code: string }
  | { readonly kind: 'webauthn'; readonly response: AuthenticationResponseJSON }

/** A confirmed factor as the definer functions hand it out for verification. */
export type FactorRow = {
  readonly id: string
  readonly user_id: string
  readonly tenant: string
  readonly kind: 'totp' | 'webauthn'
  readonly secret_enc: Buffer
  readonly credential_id: Buffer | null
  readonly sign_count: bigint
}

/** A proof that held, as guard.spend_proof takes it: factor, step, counter, hashes of a recovery code. */
export type Proven = { readonly kind: Proof['kind']; readonly values: readonly [string | null, number | null, number | null, readonly Buffer[] | null] }

/** The secret of a factor: what a TOTP code is computed from, or a passkey's public key. */
export async function openSecret(factors: SecondFactors, row: FactorRow): Promise<string> {
  // No person reads it: it decides over a proof, and that has its entry.
  const [opened] = await factors.columns.open({ opened: () => undefined }, 'redoubt.mfa_factors', [row])
  const secret = (opened as { readonly secret?: unknown } | undefined)?.secret
  if (typeof secret !== 'string') throw new Refusal('key_destroyed')
  return secret
}

/**
 * Whether a proof is that of one of these factors. That it was not used before, and its use, are the database's.
 * @param rows the account's confirmed factors
 * @param use what a passkey's challenge was made for
 */
export async function checkProof(factors: SecondFactors, user: string, rows: readonly FactorRow[], proof: Proof, use: string): Promise<Proven | undefined> {
  if (proof.kind === 'recovery') {
    const canonical = canonicalRecovery(proof.code)
    if (canonical === undefined) return undefined
    const keys = await recoveryKeys(factors)
    return { kind: 'recovery', values: [null, null, null, keys.map((key) => recoveryHash(key, user, canonical))] }
  }
  if (proof.kind === 'totp') {
    for (const row of rows.filter(({ kind }) => kind === 'totp')) {
      const step = totpStep(await openSecret(factors, row), proof.code, factors.now())
      if (step !== undefined) return { kind: 'totp', values: [row.id, step, Number(row.sign_count), null] }
    }
    return undefined
  }
  const row = rows.find(({ credential_id }) => credential_id?.toString('base64url') === proof.response.id)
  if (row === undefined || row.credential_id === null || factors.passkeys === undefined) return undefined
  const held = await factors.passkeys.verified(proof.response, use, { id: row.credential_id, publicKey: await openSecret(factors, row) }, user)
  return held === undefined ? undefined : { kind: 'webauthn', values: [row.id, held.step, held.count, null] }
}

/**
 * Tells of a counter that did not grow: two authenticators have this credential (WebAuthn Level 3, §7.2, step 22).
 * Synchronised passkeys count nothing and stay at 0.
 */
export function cloned(factors: SecondFactors, requestId: string, rows: readonly FactorRow[], { values: [factor, , count] }: Proven): boolean {
  const row = rows.find(({ id, kind }) => id === factor && kind === 'webauthn')
  if (row === undefined || count === null || (count === 0 && row.sign_count === 0n) || BigInt(count) > row.sign_count) return false
  factors.emit({ type: 'security.credential_cloned', requestId, actor: row.user_id, factor: row.id })
  return true
}

/** The entry and event of a proof that did not hold. @throws Refusal factor_refused, always */
export async function failed(factors: SecondFactors, caller: Caller, user: string, proof: { readonly kind: string }, event: 'auth.factor_failed' | 'auth.step_up_failed'): Promise<never> {
  await transaction(factors.gate, caller, { action: 'auth.factor_failed', resource: { type: 'user', id: user }, metadata: { kind: proof.kind } }, () => Promise.resolve())
  factors.emit({ type: event, requestId: caller.requestId, actor: user, kind: proof.kind })
  throw new Refusal('factor_refused')
}

/** @throws Refusal too_many_requests when the account's codes were tried too often; only codes that can be guessed wait */
export function checkWait(factors: SecondFactors, requestId: string, actor: string, seconds: number): void {
  if (seconds === 0) return
  factors.emit({ type: 'auth.factor_delayed', requestId, actor, seconds })
  throw new Refusal('too_many_requests', { retryAfter: seconds })
}

/** Keys of recovery codes, newest first. */
export function recoveryKeys(factors: SecondFactors): ReturnType<Keyring['indexKeys']> {
  return factors.keyring.indexKeys(kernelTables['redoubt.recovery_codes'].id, 1)
}

/** A person's factor as they see it. */
export type OwnFactor = { readonly id: string; readonly kind: 'totp' | 'webauthn'; readonly label: string; readonly created_at: Date; readonly confirmed_at: Date | null; readonly last_used_at: Date | null }

/** The caller's factors, how many recovery codes are left, and from when on a reset that was asked for takes effect. */
export async function listFactors(factors: SecondFactors, caller: Person): Promise<{ readonly factors: readonly OwnFactor[]; readonly recoveryCodes: number; readonly resetAt: Date | undefined }> {
  return transaction(factors.gate, caller, { action: 'auth.factors_viewed', resource: { type: 'user', id: caller.actor } }, async (tx) => {
    const [rows, [codes], [reset]] = await Promise.all([
      tx.query<OwnFactor>({ name: 'redoubt_own_factors', text: 'select id, kind, label, created_at, confirmed_at, last_used_at from redoubt.mfa_factors where user_id = $1 order by id', values: [caller.actor] }),
      tx.query<{ readonly left: number }>({ name: 'redoubt_own_recovery', text: 'select count(*)::int as left from redoubt.recovery_codes where user_id = $1 and last_used_at is null', values: [caller.actor] }),
      tx.query<{ readonly effective_at: Date }>({ name: 'redoubt_own_reset', text: 'select effective_at from redoubt.factor_resets where user_id = $1 and cancelled_at is null and applied_at is null and expires_at > now()', values: [caller.actor] }),
    ])
    return { factors: rows, recoveryCodes: codes?.left ?? 0, resetAt: reset?.effective_at }
  })
}
