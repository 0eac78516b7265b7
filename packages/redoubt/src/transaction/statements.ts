import type { Caller } from '../context.ts'
import type { Pool, Statement } from '../pg.ts'
import type { Signer } from './signer.ts'

/** An audit entry as the gate hands it to guard.finish(); who, when and what action are stamped there. */
export type Entry = {
  readonly id: string
  readonly action: string
  readonly resource: { readonly type: string; readonly id: string } | null
  readonly purpose: string | null
  readonly outcome: string
  readonly metadata: Readonly<Record<string, unknown>>
  readonly personal: { readonly sealed: Buffer; readonly commitment: Buffer } | null
  readonly keep: string
  readonly days: number
  readonly subjects: readonly string[]
}

export const beginStatement: Statement = { name: 'redoubt_begin', text: 'begin', values: [] }
export const commitStatement: Statement = { name: 'redoubt_commit', text: 'commit', values: [] }
export const rollbackStatement: Statement = { name: 'redoubt_rollback', text: 'rollback', values: [] }

/**
 * Sent with every commit without an entry (guard.finish() does the same), except behind statements that can change no
 * setting (keepsSettings): what SQL injected into the transaction set for the whole session does not outlive it. Seen without
 * it, also behind a pooler, where destroying our connection keeps the server's: DateStyle made the next caller's
 * timestamps null, default_transaction_read_only refused all that followed.
 */
export const resetStatement: Statement = { name: 'redoubt_reset', text: 'reset all', values: [] }

/** What decides over safety besides the caller: for one transaction, or for a session. */
function settings(statementTimeout: '$1' | '$2', local: boolean): string {
  return `pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', ${local}), pg_catalog.set_config('synchronous_commit', 'on', ${local}), ` +
    `pg_catalog.set_config('row_security', 'on', ${local}), pg_catalog.set_config('statement_timeout', ${statementTimeout}, ${local}), ` +
    `pg_catalog.set_config('lock_timeout', '5s', ${local}), pg_catalog.set_config('idle_in_transaction_session_timeout', '30s', ${local}), ` +
    `pg_catalog.set_config('timezone', 'UTC', ${local})`
}

const caller = `select pg_catalog.set_config('redoubt.caller', $1, true)`
const enter = `${caller}, ${settings('$2', true)}`
const session = `select ${settings('$1', false)}`

/** Refuses a caller whom the database does not accept. */
export const verifyStatement: Statement = { name: 'redoubt_verify', text: 'select (guard.caller()).role', values: [] }

/** The beginning of a transaction. */
export type Enter = {
  /** The signed caller and the settings that decide over safety, all local, all in one call. */
  readonly alone: Statement
  /** The signed caller, on a session that others use too and where `session` has set the rest for all of them. */
  readonly shared: { readonly session: Statement; readonly enter: Statement }
}

/**
 * The first statement of every transaction; the caller is a bind parameter always. Every setting that is not set here is
 * given back by resetStatement.
 * @param verified true: this statement verifies the caller. Otherwise guard.finish() does, an answer that shows it, or a
 *   look at the end; without any of them a revoked session was told that nothing is there, instead of that it has ended
 */
export function enterStatement(
  gate: { readonly signer: Signer; readonly pool: Pool },
  who: Caller,
  entry: { readonly id: string; readonly action: string; readonly audited: boolean },
  verified: boolean,
): Enter {
  const signed = gate.signer.sign(who, entry.action, entry.audited ? entry.id : null)
  const timeout = String(gate.pool.statementTimeout)
  return {
    alone: { ...(!verified ? { name: 'redoubt_enter', text: enter } : { name: 'redoubt_enter_verified', text: `${enter}, (guard.caller()).role` }), values: [signed, timeout] },
    shared: {
      session: { name: 'redoubt_session', text: session, values: [timeout] },
      enter: { ...(!verified ? { name: 'redoubt_caller', text: caller } : { name: 'redoubt_caller_verified', text: `${caller}, (guard.caller()).role` }), values: [signed] },
    },
  }
}

/**
 * The last statement before a commit that leaves an entry: `durable` waits for the disk at the commit, `deferred` leaves
 * that to a later commit of the same session, for which the answer waits (pg/pipeline.ts).
 * @param settingsKept no statement before it can have changed a setting: then none is given back
 */
export function finishStatement(entry: Entry, settingsKept: boolean): { readonly durable: Statement; readonly deferred: Statement } {
  const values = [
    entry.resource?.type ?? null, entry.resource?.id ?? null, entry.purpose, entry.outcome, JSON.stringify(entry.metadata),
    entry.personal?.sealed ?? null, entry.personal?.commitment ?? null, entry.keep, entry.days, entry.subjects, !settingsKept,
  ]
  const finish = { name: 'redoubt_finish', text: 'select guard.finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)' }
  return { durable: { ...finish, values: [...values, true] }, deferred: { ...finish, values: [...values, false] } }
}

/** Locks the rows of the keys this transaction sealed under, so that no value commits under a destroyed key. */
export function holdKeysStatement(keyIds: readonly Buffer[]): Statement {
  return { name: 'redoubt_hold_keys', text: 'select guard.hold_keys($1)', values: [keyIds] }
}
