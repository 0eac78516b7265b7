import { Refusal, refusals, type RefusalCode } from '../errors.ts'

/** What became of a database error: the refusal to give, and whether the connection may serve somebody else. */
export type DatabaseRefusal = {
  readonly refusal: Refusal
  readonly sqlState: string
  /** True when nobody planned for this error: the connection is destroyed, it may be poisoned. */
  readonly unexpected: boolean
}

/** Errors that sound code meets: constraints, cancellation, and what our own functions raise. */
const expected: Readonly<Record<string, RefusalCode>> = {
  RD401: 'caller_refused',
  RD403: 'forbidden',
  RD404: 'not_found',
  RD409: 'conflict',
  RD410: 'key_destroyed',
  RD503: 'audit_unavailable',
  '23505': 'already_exists',
  '23P01': 'slot_taken',
  '23503': 'conflict',
  '23514': 'invalid_input',
  '40001': 'conflict',
  '40P01': 'conflict',
  '55P03': 'busy',
  '57014': 'busy',
}

/** Why there is no connection where the server itself answered; class 28 and 3D000 quote names, these do not. */
export const noConnection = { signIn: 'the sign-in was refused', database: 'there is no such database' } as const

function isCode(text: string): text is RefusalCode {
  return Object.hasOwn(refusals, text)
}

/**
 * Turns what the driver threw into a Refusal that carries nothing of it: database messages quote values
 * (a cast error carried e-mail addresses), so they end here. Our own RD409 names its code in the message.
 */
export function refusalOf(error: unknown): DatabaseRefusal {
  if (error instanceof Refusal) return { refusal: error, sqlState: '', unexpected: true }
  const { code, message } = (error ?? {}) as { readonly code?: unknown; readonly message?: unknown }
  const sqlState = typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : ''
  // No password to answer SCRAM with, or a server that does not know it: said by the driver, without a SQLSTATE.
  if (sqlState === '' && typeof message === 'string' && message.startsWith('SASL')) return { refusal: new Refusal('database_unavailable', { detail: noConnection.signIn }), sqlState, unexpected: true }
  if (sqlState === '' || /^(08|57P|53)/.test(sqlState) || sqlState === '26000') {
    return { refusal: new Refusal('database_unavailable', { retryAfter: 1 }), sqlState, unexpected: true }
  }
  if (sqlState.startsWith('28')) return { refusal: new Refusal('database_unavailable', { detail: noConnection.signIn }), sqlState, unexpected: true }
  if (sqlState === '3D000') return { refusal: new Refusal('database_unavailable', { detail: noConnection.database }), sqlState, unexpected: true }
  const named = expected[sqlState]
  if (named === undefined) return { refusal: new Refusal('database_error'), sqlState, unexpected: true }
  const own = sqlState === 'RD409' && typeof message === 'string' && isCode(message) ? message : named
  return { refusal: new Refusal(own), sqlState, unexpected: false }
}
