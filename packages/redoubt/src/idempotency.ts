import { createHash, randomBytes } from 'node:crypto'
import { newId } from './bytes.ts'
import type { Columns } from './columns.ts'
import { Refusal } from './errors.ts'
import type { Emit } from './events.ts'
import type { Pool, Statement, Tx } from './pg.ts'
import { startRounds } from './rounds.ts'
import type { Tables } from './tables.ts'
import type { kernelTables } from './tables/kernel.ts'

/** A request that its sender may repeat; a route's handler is given its own. */
export type Repeatable = {
  /** The Idempotency-Key; without one the work is simply done. */
  readonly key: string | undefined
  /** Method and path template: the same key on another route is another key. */
  readonly route: string
  /** All that decides what the request does, as parsed: path parameters, query and body. */
  readonly request: unknown
}

/** What the work makes, and how it is read when the request comes again. */
export type Making<T extends { readonly id: string }> = {
  /** Type of the resource, as the audit names it. */
  readonly makes: string
  readonly work: () => Promise<T>
  /** Reads it as anybody's read does: policies, keys and the audit entry decide anew, and refuse as they would there. */
  readonly reread: (id: string) => Promise<T>
}

/** Any declaration that spreads the kernel's tables in. */
export type KernelDeclaration = Tables & { readonly tables: Pick<typeof kernelTables, 'redoubt.idempotency_keys'> }

/** Hours in which a repeated request finds what the first one made; then the key may be used anew. */
const rememberedHours = 24

// Two requests with one key at the same moment: the second gets neither the lock nor a row to read.
const claim = `insert into redoubt.idempotency_keys (id, principal, route, key, request_hash, expires_at)
  select $1::uuid, $2::uuid, $3::text, $4::text, $5::bytea, now() + make_interval(hours => ${rememberedHours})
  where pg_try_advisory_xact_lock(hashtextextended($2::uuid::text || ' ' || $3::text || ' ' || $4::text, 7302))
  on conflict (principal, route, key) do nothing`
const find = `select id, principal, request_hash, salt_enc, state, resource_type, resource_id, expires_at < now() as expired
  from redoubt.idempotency_keys where principal = $1 and route = $2 and key = $3`
const takeOver = `update redoubt.idempotency_keys
  set request_hash = $2, salt_enc = null, state = 'in_progress', resource_type = null, resource_id = null,
    expires_at = now() + make_interval(hours => ${rememberedHours})
  where id = $1 and expires_at < now() returning id`
const settle = `update redoubt.idempotency_keys
  set state = 'done', request_hash = $2, salt_enc = $3, resource_type = $4, resource_id = $5 where id = $1`

type Found = {
  readonly id: string
  readonly principal: string
  readonly request_hash: Buffer
  readonly salt_enc: Buffer | null
  readonly state: string
  readonly resource_type: string | null
  readonly resource_id: string | null
  readonly expired: boolean
}

/** Salted, with the salt sealed beside it: a bare hash of a short message could be guessed from a dump. */
function requestHash(salt: string, request: unknown): Buffer {
  return createHash('sha256').update(salt).update(JSON.stringify(request) ?? '').digest()
}

/**
 * Does the work of a request once, however often it is sent: claim, effect and what was made commit together. No answer
 * is kept, since it may hold another person's data: a repetition reads what was made, as it is now and as far as the
 * caller may read it now. A refused request leaves nothing behind.
 * Made after draft-ietf-httpapi-idempotency-key-header-07, §2.6 and §2.7.
 * @param columns of the app, which declares the kernel's tables
 * @param tx of the caller; a system caller has no keys
 * @param asked the key and what makes two requests the same
 * @param of what the work makes, the work, and how its outcome is read again
 * @throws Refusal idempotency_key_reused for another request under the same key, request_in_progress while the first
 *   runs, key_destroyed when the caller's own key is gone; otherwise as `work` and `reread` do
 */
export async function once<D extends KernelDeclaration, T extends { readonly id: string }>(columns: Columns<D>, tx: Tx, asked: Repeatable, of: Making<T>): Promise<T> {
  if (asked.key === undefined) return of.work()
  const principal = tx.caller.actor
  if (principal === null) throw new TypeError('once: a system caller cannot repeat a request')
  const mine = newId()
  // One round trip: the second statement sees what the first one did.
  const [, rows] = await Promise.all([
    tx.query({ name: 'redoubt_once_claim', text: claim, values: [mine, principal, asked.route, asked.key, Buffer.alloc(0)] }),
    tx.query<Found>({ name: 'redoubt_once_find', text: find, values: [principal, asked.route, asked.key] }),
  ])
  const found = rows[0]
  if (found === undefined) throw new Refusal('request_in_progress', { retryAfter: 1 })
  if (found.id === mine) return finish(columns, tx, mine, principal, asked, of)
  if (found.expired) {
    const taken = await tx.query({ text: takeOver, values: [found.id, Buffer.alloc(0)] })
    if (taken.length === 0) throw new Refusal('request_in_progress', { retryAfter: 1 })
    return finish(columns, tx, found.id, principal, asked, of)
  }
  const { resource_type: type, resource_id: id } = found
  if (found.state !== 'done' || type === null || id === null) throw new Refusal('request_in_progress', { retryAfter: 1 })
  const [opened] = await columns.open(tx, 'redoubt.idempotency_keys', [found])
  const salt = (opened as { readonly salt?: string | null } | undefined)?.salt
  if (typeof salt !== 'string') throw new Refusal('key_destroyed')
  if (!requestHash(salt, asked.request).equals(found.request_hash)) throw new Refusal('idempotency_key_reused')
  tx.about(type, id)
  return of.reread(id)
}

async function finish<D extends KernelDeclaration, T extends { readonly id: string }>(columns: Columns<D>, tx: Tx, id: string, principal: string, asked: Repeatable, of: Making<T>): Promise<T> {
  const made = await of.work()
  const salt = randomBytes(16).toString('base64url')
  const row = await columns.seal(tx, 'redoubt.idempotency_keys', { id, principal, salt } as never)
  await tx.query({ text: settle, values: [id, requestHash(salt, asked.request), (row as { readonly salt_enc: Buffer }).salt_enc, of.makes, made.id] })
  return made
}

// Of two workers at once one deletes: both would wait for each other's rows.
const forget = `with gone as (
    delete from redoubt.idempotency_keys k where k.expires_at < now() and k.id in (
      select o.id from redoubt.idempotency_keys o
      where o.expires_at < now() and (select pg_try_advisory_xact_lock(7303)) order by o.expires_at limit $1)
    returning 1)
  select count(*)::int as gone from gone`

/**
 * Deletes keys past their time, the oldest first.
 * @param pool of the worker role
 * @param most rows deleted by this call
 * @returns how many were deleted; 0 also while another worker deletes
 */
export function forgetExpired(pool: Pick<Pool, 'query'>, most: number): Promise<number> {
  return deleted(pool, { name: 'redoubt_once_forget', text: forget, values: [most] })
}

async function deleted(pool: Pick<Pool, 'query'>, statement: Statement<Gone>): Promise<number> {
  const [row] = await pool.query(statement)
  return row?.gone ?? 0
}

export type SweepSettings = {
  /** Pool of the worker role. */
  readonly pool: Pick<Pool, 'query'>
  /** Milliseconds between two looks. Default one minute. */
  readonly intervalMs?: number
  /** Rows deleted by one statement; while there are more, the next one follows at once, up to 100 for each kind. Default 1000. */
  readonly batch?: number
  /** What else expires: statements that delete at most $1 rows and answer how many have `gone`. */
  readonly more?: readonly Omit<Statement<Gone>, 'values'>[]
  readonly emit: Emit
}

type Gone = { readonly gone: number }

/** Of one kind in one look: what has piled up of it does not keep the others waiting. */
const mostBatches = 100

function whole(name: string, value: number, least: number, most: number): number {
  if (!Number.isInteger(value) || value < least || value > most) throw new TypeError(`startSweep: ${name} must be a whole number from ${least} to ${most}`)
  return value
}

/**
 * Starts the loop that deletes expired keys, and what `more` names. Any number of workers may run one. An error is reported
 * (`idempotency.sweep_failed`) and the next look comes after the usual pause.
 * @throws TypeError when a setting is not usable
 */
export function startSweep(settings: SweepSettings): { stop(): Promise<void> } {
  const { pool, emit } = settings
  const interval = whole('intervalMs', settings.intervalMs ?? 60_000, 1, 3_600_000)
  const batch = whole('batch', settings.batch ?? 1000, 1, 100_000)
  const deletions = [(most: number) => forgetExpired(pool, most), ...(settings.more ?? []).map((each) => (most: number) => deleted(pool, { ...each, values: [most] }))]

  async function sweep(stopping: () => boolean): Promise<void> {
    try {
      for (const forgetSome of deletions) {
        let gone = batch
        for (let times = 0; !stopping() && gone === batch && times < mostBatches; times++) gone = await forgetSome(batch)
      }
    } catch (error) {
      emit({ type: 'idempotency.sweep_failed', error })
    }
  }

  return startRounds({ pauseMs: interval, round: sweep })
}
