import type { Caller } from '../context.ts'
import type { Emit } from '../events.ts'
import type { Pool } from '../pg.ts'
import type { Retention } from '../tables.ts'
import type { Signer } from './signer.ts'
import type { Entry } from './statements.ts'

/** What the app may do. Audited actions leave an entry; the others read nothing sealed. */
export type Actions = Readonly<Record<string, { readonly audited: boolean; readonly keep?: string; readonly purpose?: string }>>

/** Personal data of an audit entry: sealed under the actor's key, in the chain only as a commitment. */
export type Personal = { readonly sealed: Buffer; readonly commitment: Buffer }

export type Gate<A extends Actions = Actions> = {
  readonly pool: Pool
  readonly signer: Signer
  readonly actions: A
  readonly retention: Readonly<Record<string, Retention>>
  readonly personal: ((caller: Caller, entryId: string) => Promise<Personal | null>) | undefined
  readonly emit: Emit
}

/** A call as the gate carries it through: its entry, and whether it leaves one. */
export type Plan = {
  readonly entry: Entry
  readonly audited: boolean
  /** When it began, in milliseconds of performance.now(). */
  readonly since: number
}
