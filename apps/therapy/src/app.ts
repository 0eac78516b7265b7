import type { Columns } from 'redoubt/columns'
import type { Person } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import type { Emit } from 'redoubt/events'
import type { Attempts } from 'redoubt/http/attempts'
import type { Browser } from 'redoubt/http/browser'
import { once, type Repeatable } from 'redoubt/idempotency'
import type { Tx } from 'redoubt/pg'
import { queryBuilder } from 'redoubt/pg/query-builder'
import type { Codes } from 'redoubt/tokens/codes'
import type { SecondFactors } from 'redoubt/tokens/factors'
import type { Passwords } from 'redoubt/tokens/password'
import type { Identity } from 'redoubt/tokens/sessions'
import { transaction, type Gate } from 'redoubt/transaction'
import type { actions } from './actions.ts'
import { tables, type Therapy } from './tables.ts'

/** What the routes work with; service.ts makes it once. */
export type App = {
  /** The first argument of every transaction. */
  readonly db: Gate<typeof actions>
  readonly columns: Columns<Therapy>
  readonly passwords: Passwords
  readonly codes: Codes
  /** Sign-in and sessions of one realm: of patients and therapists, or of those who administer and audit. */
  readonly identity: Identity
  /** The same sessions in browsers. */
  readonly browser: Browser
  /** Second factors, and what they stand on: one-time codes and step-up. */
  readonly factors: SecondFactors<Therapy>
  /** Limits of guessing, for whoever is not signed in yet. */
  readonly attempts: Attempts
  readonly emit: Emit
  /** The service's clock. Functions take the time as an argument, so that a rule about time can be tested. */
  readonly now: () => Date
}

/** The one tenant of this service; every account and every caller is of it, at both doors. */
export const tenant = 'therapy'

/** Builds queries over tables.ts; it can compile and cannot execute. */
export const sql = queryBuilder<Therapy>()

/**
 * The one row that was asked for. Absent and not visible are the same here: row security gave no row.
 * @throws Refusal not_found
 */
export function visible<R>(rows: readonly R[]): R {
  const row = rows[0]
  if (row === undefined) throw new Refusal('not_found')
  return row
}

type Tables = Therapy['tables']
/** Tables whose rows are about a person. */
type Personal = { [N in keyof Tables]: Tables[N]['subject'] extends string ? N : never }[keyof Tables]
type About<N extends Personal> = { readonly [C in Tables[N]['subject'] & string]: string | null }

/**
 * Notes whom rows without sealed columns are about, as columns.open does for the others: an appointment in an answer is
 * a reading of its patient's data too. A row that is about nobody yet, such as a free slot, names nobody.
 * @param rows with the subject column of their table; of a page, those that it shows
 */
export function noteSubjects<N extends Personal, R extends About<N>>(tx: Pick<Tx, 'opened'>, table: N, rows: readonly R[]): readonly R[] {
  const column: keyof About<N> = tables.tables[table].subject
  for (const row of rows) {
    const subject = row[column]
    if (subject !== null) tx.opened(subject)
  }
  return rows
}

/**
 * The row that a conditional UPDATE changed.
 * @throws Refusal version_conflict when the version, or the state it was read in, is no longer true
 */
export function changed<R>(rows: readonly R[]): R {
  const row = rows[0]
  if (row === undefined) throw new Refusal('version_conflict')
  return row
}

/**
 * Makes something in one transaction, and once however often its sender repeats the request; a repetition reads what was
 * made the first time.
 * @param by who asks; `on`: what the request names, for the entry of a request that is refused. Nobody has looked yet
 *   whether there is such a thing
 * @param action its first word is the type of what is made: `note.created` makes a note
 * @param work makes it
 * @param reread reads it by its id, as the caller may read it at that time
 */
export function make<T extends { readonly id: string }>(
  app: App,
  by: { readonly caller: Person; readonly repeatable: Repeatable; readonly on?: { readonly type: string; readonly id: string } },
  action: keyof typeof actions,
  work: (tx: Tx) => Promise<T>,
  reread: (tx: Tx, id: string) => Promise<T>,
): Promise<T> {
  const makes = action.slice(0, action.indexOf('.'))
  return transaction(app.db, by.caller, by.on === undefined ? action : { action, resource: by.on }, (tx) => once(app.columns, tx, by.repeatable, { makes, work: () => work(tx), reread: (id) => reread(tx, id) }))
}
