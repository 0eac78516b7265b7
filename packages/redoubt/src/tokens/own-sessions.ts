import type { ApiClient, Person } from '../context.ts'
import { Refusal } from '../errors.ts'
import { transaction } from '../transaction.ts'
import type { Tx } from '../pg.ts'
import type { Identity } from './sessions.ts'

type Service = Pick<Identity, 'gate' | 'emit'>

/** A session as its owner may see it. */
export type OwnSession = {
  readonly id: string
  /** Browser and system, from a fixed list of names. */
  readonly device: string
  /** The network of the last sign-in or refresh: IPv4 /24, IPv6 /64. */
  readonly address_prefix: string | null
  readonly created_at: Date
  readonly last_used_at: Date
  /** The session that asks. */
  readonly current: boolean
}

/** Why somebody's sessions are ended by another: which caller may give which is decided by guard.end_sessions_of. */
export type EndReasonOf = 'ended_by_admin' | 'suspended' | 'role_changed' | 'factor_changed' | 'password_changed'

const list = `select id, device, address_prefix, created_at, last_used_at, id = $1 as current from redoubt.sessions
  where revoked_at is null and idle_expires_at > now() and absolute_expires_at > now() order by id = $1 desc, last_used_at desc, id limit 200`

/**
 * Whether the caller's session still stands: for `mount`, where nothing of a request passed the gate.
 * @throws Refusal caller_refused when it has ended
 */
export async function checkSession(service: Service, caller: Person | ApiClient): Promise<void> {
  await transaction.one(service.gate, caller, 'auth.session_checked', { name: 'redoubt.check_session', text: 'select guard.actor()', values: [], brief: 'reads' })
}

/** The caller's sessions that stand, the present one first; row security shows no others. At most 200. */
export function listSessions(service: Service, caller: Person): Promise<readonly OwnSession[]> {
  return transaction.one<Identity['gate']['actions'], OwnSession>(service.gate, caller, 'auth.sessions_viewed', { name: 'redoubt.list_sessions', text: list, values: [caller.session] })
}

/**
 * Ends one of the caller's own sessions, at once and on every instance; the present one too.
 * @throws Refusal not_found for one that is not theirs, that never was or that has ended
 */
export async function endSession(service: Service, caller: Person, session: string): Promise<void> {
  await transaction(service.gate, caller, { action: 'auth.session_revoked', resource: { type: 'session', id: session } }, async (tx) => {
    const [row] = await tx.query<{ readonly ended: boolean }>({ name: 'redoubt.end_session', text: 'select guard.end_session($1) as ended', values: [session] })
    if (row?.ended !== true) throw new Refusal('not_found')
  })
  service.emit({ type: 'auth.session_revoked', requestId: caller.requestId, actor: caller.actor, sessions: 1 })
}

/** Ends every session of the caller, this one too. */
export async function signOutEverywhere(service: Service, caller: Person): Promise<void> {
  const sessions = await transaction(service.gate, caller, { action: 'auth.logout_all', resource: { type: 'user', id: caller.actor } }, async (tx) => {
    const [row] = await tx.query<{ readonly ended: number }>({ name: 'redoubt.end_other_sessions', text: 'select guard.end_other_sessions($1) as ended', values: ['logout_all'] })
    return row?.ended ?? 0
  })
  service.emit({ type: 'auth.session_revoked', requestId: caller.requestId, actor: caller.actor, sessions })
}

/**
 * Ends all sessions of somebody when this transaction commits.
 * @returns how many
 * @throws Refusal forbidden unless the caller is an administrator, or the work that has proved whom it is for
 */
export async function endSessionsOf(tx: Tx, user: string, reason: EndReasonOf): Promise<number> {
  const [row] = await tx.query<{ readonly ended: number }>({ name: 'redoubt.end_sessions_of', text: 'select guard.end_sessions_of($1, $2) as ended', values: [user, reason] })
  return row?.ended ?? 0
}

/** Deletes what has been over for a week, at most $1 rows; for the worker's sweep. */
export const forgetSessions = {
  name: 'redoubt_forget_sessions',
  text: `with gone as (
      delete from redoubt.sessions s where s.id in (
        select o.id from redoubt.sessions o
        where o.absolute_expires_at < now() - interval '7 days' and (select pg_try_advisory_xact_lock(7309)) order by o.absolute_expires_at limit $1)
      returning 1)
    select count(*)::int as gone from gone`,
} as const
