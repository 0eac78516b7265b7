import { createHash, randomBytes } from 'node:crypto'
import { newId } from './bytes.ts'
import type { Columns } from './columns.ts'
import { Refusal } from './errors.ts'
import type { Tx } from './pg.ts'
import type { Tables } from './tables.ts'
import type { kernelTables } from './tables/kernel.ts'

/** A request that its sender may repeat. */
export type Repeatable = {
  /** The Idempotency-Key; without one the work is simply done. */
  readonly key: string | undefined
  /** Method and path template: the same key on another route is another key. */
  readonly route: string
  /** All that decides what the request does, as parsed: path parameters and body. */
  readonly request: unknown
}

/** Any declaration that spreads the kernel's tables in. */
export type KernelDeclaration = Tables & { readonly tables: Pick<typeof kernelTables, 'redoubt.idempotency_keys'> }

/** Hours in which a repeated request gets the first answer; then the key may be used anew. */
const rememberedHours = 24

// Two requests with one key at the same moment: the second gets neither the lock nor a row to read.
const claim = `insert into redoubt.idempotency_keys (id, principal, route, key, request_hash, expires_at)
  select $1::uuid, $2::uuid, $3::text, $4::text, $5::bytea, now() + make_interval(hours => ${rememberedHours})
  where pg_try_advisory_xact_lock(hashtextextended($2::uuid::text || ' ' || $3::text || ' ' || $4::text, 7302))
  on conflict (principal, route, key) do nothing`
const find = `select id, principal, request_hash, state, response_enc, expires_at < now() as expired
  from redoubt.idempotency_keys where principal = $1 and route = $2 and key = $3`
const takeOver = `update redoubt.idempotency_keys
  set request_hash = $2, state = 'in_progress', response_enc = null, expires_at = now() + make_interval(hours => ${rememberedHours})
  where id = $1 and expires_at < now() returning id`
const settle = `update redoubt.idempotency_keys set state = 'done', request_hash = $2, response_enc = $3 where id = $1`

type Found = { readonly id: string; readonly principal: string; readonly request_hash: Buffer; readonly state: string; readonly response_enc: Buffer | null; readonly expired: boolean }

/** Salted, with the salt sealed beside the answer: a bare hash of a short message could be guessed from a dump. */
function requestHash(salt: Buffer, request: unknown): Buffer {
  return createHash('sha256').update(salt).update(JSON.stringify(request) ?? '').digest()
}

/**
 * Does the work of a request once, however often it is sent: claim, effect and stored answer commit together, and a
 * repetition gets the stored answer, sealed under the caller's own key. A refused request leaves nothing behind.
 * Made after draft-ietf-httpapi-idempotency-key-header-07, §2.6 and §2.7.
 * @param columns of the app, which declares the kernel's tables
 * @param tx of the caller; a system caller has no keys
 * @param asked the key and what makes two requests the same
 * @param work gives the answer, as plain JSON: dates as text
 * @throws Refusal idempotency_key_reused for another request under the same key, request_in_progress while the first runs
 */
export async function once<D extends KernelDeclaration, T>(columns: Columns<D>, tx: Tx, asked: Repeatable, work: () => Promise<T>): Promise<T> {
  if (asked.key === undefined) return work()
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
  if (found.id === mine) return finish(columns, tx, mine, principal, asked, work)
  if (found.expired) {
    const taken = await tx.query({ text: takeOver, values: [found.id, Buffer.alloc(0)] })
    if (taken.length === 0) throw new Refusal('request_in_progress', { retryAfter: 1 })
    return finish(columns, tx, found.id, principal, asked, work)
  }
  const [opened] = await columns.open(tx, 'redoubt.idempotency_keys', [found])
  const response = (opened as { readonly response?: string | null } | undefined)?.response
  if (found.state !== 'done' || typeof response !== 'string') throw new Refusal('request_in_progress', { retryAfter: 1 })
  const stored = JSON.parse(response) as { readonly salt: string; readonly answer: T }
  if (!requestHash(Buffer.from(stored.salt, 'base64url'), asked.request).equals(found.request_hash)) throw new Refusal('idempotency_key_reused')
  return stored.answer
}

async function finish<D extends KernelDeclaration, T>(columns: Columns<D>, tx: Tx, id: string, principal: string, asked: Repeatable, work: () => Promise<T>): Promise<T> {
  const answer = await work()
  const salt = randomBytes(16)
  const response = JSON.stringify({ salt: salt.toString('base64url'), answer })
  const row = await columns.seal(tx, 'redoubt.idempotency_keys', { id, principal, response } as never)
  await tx.query({ text: settle, values: [id, requestHash(salt, asked.request), (row as { readonly response_enc: Buffer }).response_enc] })
  return answer
}
