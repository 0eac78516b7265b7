import type { RefusalCode } from './errors.ts'

/** The controls of the edge that can be rolled out in steps. */
export type ControlName = 'csrf' | 'fetch-metadata' | 'origin' | 'csp' | 'https' | 'limits'

/**
 * Everything noteworthy, in one union. Log, metrics and incidents are fed from it after the answer.
 * No member may carry a value that came from outside: ids, names of things, counts and durations only.
 */
export type Event =
  | { readonly type: 'http.answered'; readonly requestId: string; readonly method: string; readonly route: string; readonly status: number; readonly milliseconds: number; readonly code?: RefusalCode; readonly actor?: string }
  | { readonly type: 'http.unreadable'; readonly requestId: string; readonly code: RefusalCode }
  | { readonly type: 'http.failed'; readonly requestId: string; readonly error: unknown }
  | { readonly type: 'auth.registered' | 'auth.login_succeeded' | 'auth.logout'; readonly requestId: string; readonly actor: string }
  | { readonly type: 'auth.refreshed' | 'auth.refresh_replayed' | 'auth.refresh_reused'; readonly requestId: string; readonly actor: string; readonly session: string }
  | { readonly type: 'auth.account_suspended' | 'auth.account_restored' | 'auth.role_changed'; readonly requestId: string; readonly actor: string; readonly account: string }
  | { readonly type: 'auth.session_revoked'; readonly requestId: string; readonly actor: string; readonly sessions: number }
  | { readonly type: 'auth.refresh_refused'; readonly requestId: string; readonly reason: 'unknown' | 'ended' }
  | { readonly type: 'auth.login_failed'; readonly requestId: string; readonly reason: 'unknown_account' | 'wrong_password' | 'not_active' }
  | { readonly type: 'auth.reset_asked'; readonly requestId: string }
  | { readonly type: 'auth.password_changed'; readonly requestId: string; readonly actor: string; readonly by: 'owner' | 'reset' }
  | { readonly type: 'auth.email_verified' | 'auth.email_changed' | 'auth.email_restored' | 'auth.new_device'; readonly requestId: string; readonly actor: string }
  | { readonly type: 'auth.password_rehashed'; readonly requestId: string; readonly actor: string }
  | { readonly type: 'auth.code_issued'; readonly requestId: string; readonly actor: string; readonly purpose: string }
  | { readonly type: 'auth.otp_failed'; readonly requestId: string; readonly purpose: string; readonly reason: 'unknown' | 'wrong' | 'tampered' }
  | { readonly type: 'auth.second_factor_asked' | 'auth.step_up_succeeded'; readonly requestId: string; readonly actor: string }
  | { readonly type: 'auth.factor_failed' | 'auth.step_up_failed'; readonly requestId: string; readonly actor: string; readonly kind: string }
  | { readonly type: 'auth.factor_delayed'; readonly requestId: string; readonly actor: string; readonly seconds: number }
  | { readonly type: 'auth.mfa_changed'; readonly requestId: string; readonly actor: string; readonly change: 'enrolled' | 'removed' | 'recovery_codes_replaced' | 'recovery_code_used' }
  | { readonly type: 'auth.factor_reset'; readonly requestId: string; readonly actor: string; readonly step: 'requested' | 'cancelled' | 'applied' }
  | { readonly type: 'security.credential_cloned'; readonly requestId: string; readonly actor: string; readonly factor: string }
  | { readonly type: 'security.session_refused'; readonly requestId: string; readonly actor: string; readonly session: string }
  | { readonly type: 'security.client_refused'; readonly requestId: string; readonly client: string }
  | { readonly type: 'auth.client_signed_in'; readonly requestId: string; readonly actor: string }
  | { readonly type: 'auth.client_refused'; readonly requestId: string }
  | { readonly type: 'security.unauthorized_access'; readonly requestId: string; readonly action: string; readonly code: RefusalCode; readonly actor?: string }
  | { readonly type: 'security.control_triggered'; readonly requestId: string; readonly control: ControlName; readonly mode: 'report' | 'enforce'; readonly rule: string }
  | { readonly type: 'security.csp_violation'; readonly requestId: string; readonly directive: string; readonly blocked: string; readonly disposition: string }
  | { readonly type: 'security.rate_limited'; readonly requestId: string; readonly limit: string; readonly mode: 'report' | 'enforce' }
  | { readonly type: 'security.suspicious_activity'; readonly rule: 'guessing'; readonly requestId: string; readonly tried: string; readonly account: string; readonly tries: number }
  | { readonly type: 'security.suspicious_activity'; readonly rule: 'spraying'; readonly requestId: string; readonly tried: string; readonly tries: number }
  | { readonly type: 'security.statement_refused'; readonly requestId: string; readonly action: string; readonly command: string }
  | { readonly type: 'security.injection_suspected'; readonly requestId: string; readonly action: string; readonly sqlState: string }
  | { readonly type: 'security.audit_chain_broken'; readonly problem: string; readonly seq?: string }
  | { readonly type: 'database.connection_destroyed'; readonly reason: string }
  | { readonly type: 'audit.sealed'; readonly entries: number; readonly seq: string; readonly milliseconds: number }
  | { readonly type: 'audit.anchored'; readonly seq: string; readonly milliseconds: number }
  | { readonly type: 'audit.lagging'; readonly seconds: number }
  | { readonly type: 'audit.failed'; readonly error: unknown }
  | { readonly type: 'key.created' | 'key.rotated' | 'key.destroyed'; readonly key: string; readonly purpose: string }
  | { readonly type: 'key.usage_failed'; readonly error: unknown }
  | { readonly type: 'security.key_use_unusual'; readonly hour: string; readonly actor: string; readonly purpose: string | null; readonly dataClass: string; readonly uses: number; readonly baseline: number }
  | { readonly type: 'key.retired'; readonly purpose: string; readonly keys: number }
  | { readonly type: 'key.service_failed'; readonly provider: string; readonly code: RefusalCode }
  | { readonly type: 'key.service_cut_off' | 'key.service_restored'; readonly provider: string }
  | { readonly type: 'reencrypt.started'; readonly job: string; readonly kind: string; readonly table: string }
  | { readonly type: 'reencrypt.ended'; readonly job: string; readonly kind: string; readonly table: string; readonly state: string; readonly proven: boolean; readonly changed: number; readonly failed: number }
  | { readonly type: 'mail.sent'; readonly requestId: string; readonly topic: string; readonly attempts: number }
  | { readonly type: 'mail.failed'; readonly requestId: string; readonly topic: string; readonly attempts: number; readonly reason: RefusalCode; readonly final: boolean; readonly error?: unknown }
  | { readonly type: 'mail.outbox_failed'; readonly error: unknown }
  | { readonly type: 'idempotency.sweep_failed'; readonly error: unknown }
  | { readonly type: 'redis.down'; readonly reason: string }
  | { readonly type: 'redis.up'; readonly milliseconds: number }
  | { readonly type: 'migration.applied'; readonly version: string; readonly milliseconds: number }
  | { readonly type: 'health.failed'; readonly check: string; readonly error: unknown }
  | { readonly type: 'health.recovered'; readonly check: string }
  | { readonly type: 'service.started' | 'service.stopping' | 'service.stopped'; readonly service: string; readonly detail?: string }

/** Where the lines above the edge report to. Must not throw and must not block. */
export type Emit = (event: Event) => void
