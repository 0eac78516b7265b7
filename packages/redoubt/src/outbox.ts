import type { Columns } from './columns.ts'
import { Refusal } from './errors.ts'
import type { Emit } from './events.ts'
import { isFinal, type Mail, type Mailer } from './mail.ts'
import type { Pool, Tx } from './pg.ts'
import { startRounds } from './rounds.ts'
import type { BlindIndex, Tables } from './tables.ts'
import type { kernelTables } from './tables/kernel.ts'

/** Any declaration that spreads the kernel's tables in. */
export type OutboxDeclaration = Tables & { readonly tables: Pick<typeof kernelTables, 'redoubt.outbox' | 'redoubt.users'> }

export type Letter = {
  /** Id of the row, of the message, and of the code it carries, where it carries one. */
  readonly id: string
  readonly topic: string
  /** Left out where nobody knows yet whose the address is. */
  readonly user?: string
  /** What the worker needs to write it; sealed under the person's key. Never what it says. */
  readonly payload?: Readonly<Record<string, string>>
  /** Blind indexes of the address that was given. */
  readonly address?: readonly BlindIndex[]
  readonly handleHash?: Buffer
}

/**
 * Puts a message into the transaction: it goes out if and only if that commits. Which caller may send what to whom is
 * decided by guard.put_mail.
 */
export async function putMail<D extends OutboxDeclaration>(columns: Columns<D>, tx: Tx, letter: Letter): Promise<void> {
  const { id, topic, user, payload, address, handleHash } = letter
  if (payload !== undefined && user === undefined) throw new TypeError('putMail: a payload needs the user under whose key it is sealed')
  const sealed = payload === undefined ? null : await columns.seal(tx, 'redoubt.outbox', { id, user_id: user, tenant: tx.caller.tenant, payload: JSON.stringify(payload) } as never)
  await tx.query({
    name: 'redoubt_put_mail', text: 'select guard.put_mail($1, $2, $3, $4, $5, $6)',
    values: [id, topic, user ?? null, (sealed as { readonly payload_enc: Buffer } | null)?.payload_enc ?? null, address ?? null, handleHash ?? null],
  })
}

/** A message that is due, as the worker finds it. */
export type Due = {
  readonly id: string
  readonly topic: string
  readonly user_id: string | null
  readonly tenant: string
  readonly request_id: string
  readonly payload_enc: Buffer | null
  readonly handle_hash: Buffer | null
  readonly created_at: Date
  readonly attempts: number
}

export type OutboxSettings = {
  /** Pool of the worker role. */
  readonly pool: Pick<Pool, 'query'>
  readonly mailer: Pick<Mailer, 'send'>
  /**
   * Writes the message, with the account as it is now; undefined when there is nobody to write to. May be called again
   * for the same row. @throws Refusal key_destroyed when the person was erased
   */
  readonly write: (due: Due) => Promise<Mail | undefined>
  /** Milliseconds between two looks. Default 1000. */
  readonly intervalMs?: number
  /** Milliseconds after which a message whose sending nobody finished is tried again. Default two minutes. */
  readonly leaseMs?: number
  /** First pause after a failure, doubled each time up to an hour. Default 15 000. */
  readonly pauseMs?: number
  /** Tries before a message is given up. Default 12. */
  readonly tries?: number
  readonly emit: Emit
}

// Taken before it is sent, in a statement of its own: no transaction waits for a mail server, and of two workers one sends.
const take = `update redoubt.outbox o set attempts = o.attempts + 1, next_attempt_at = now() + make_interval(secs => $1::float8)
  where o.id in (select d.id from redoubt.outbox d where d.state = 'waiting' and d.next_attempt_at <= now() order by d.next_attempt_at limit 10 for update skip locked)
  returning o.id, o.topic, o.user_id, o.tenant, o.request_id, o.payload_enc, o.handle_hash, o.created_at, o.attempts`
const done = 'delete from redoubt.outbox where id = $1'
const later = 'update redoubt.outbox set next_attempt_at = now() + make_interval(secs => $2::float8) where id = $1'
// What it would have said is forgotten with the failure; the row stays for whoever asks why nothing came.
const failed = `update redoubt.outbox set state = 'failed', failed_at = now(), reason = $2, payload_enc = null where id = $1`

/** Deletes what could not be sent a month ago, at most $1 rows; for the worker's sweep. */
export const forgetMail = {
  name: 'redoubt_forget_mail',
  text: `with gone as (
      delete from redoubt.outbox m where m.id in (
        select o.id from redoubt.outbox o
        where o.state = 'failed' and o.failed_at < now() - interval '30 days' and (select pg_try_advisory_xact_lock(7314)) limit $1)
      returning 1)
    select count(*)::int as gone from gone`,
} as const

function whole(name: string, value: number, most: number): number {
  if (!Number.isInteger(value) || value < 1 || value > most) throw new TypeError(`startOutbox: ${name} must be a whole number from 1 to ${most}`)
  return value
}

/**
 * Sends what waits, until it is stopped. At least once: a worker that ends between the server's answer and its own note
 * sends again, under the same Message-ID. Any number of workers may run.
 * @throws TypeError when a setting is not usable
 */
export function startOutbox(settings: OutboxSettings): { stop(): Promise<void> } {
  const { pool, mailer, emit } = settings
  const interval = whole('intervalMs', settings.intervalMs ?? 1_000, 3_600_000)
  const lease = whole('leaseMs', settings.leaseMs ?? 120_000, 3_600_000) / 1000
  const pause = whole('pauseMs', settings.pauseMs ?? 15_000, 3_600_000) / 1000
  const tries = whole('tries', settings.tries ?? 12, 100)

  async function sendOne(due: Due): Promise<void> {
    const { id, topic, request_id: requestId, attempts } = due
    try {
      const mail = await settings.write(due)
      if (mail !== undefined) await mailer.send(mail)
      await pool.query({ name: 'redoubt_mail_done', text: done, values: [id] })
      if (mail !== undefined) emit({ type: 'mail.sent', requestId, topic, attempts })
    } catch (error) {
      const refusal = error instanceof Refusal ? error : undefined
      // A message that cannot be written, or a person who was erased: another try meets the same.
      const final = refusal === undefined || isFinal(refusal) || refusal.code === 'key_destroyed' || refusal.code === 'sealed_value_refused' || attempts >= tries
      const reason = refusal?.code ?? 'internal'
      if (final) await pool.query({ name: 'redoubt_mail_failed', text: failed, values: [id, reason] })
      else await pool.query({ name: 'redoubt_mail_later', text: later, values: [id, Math.min(pause * 2 ** (attempts - 1), 3600)] })
      emit({ type: 'mail.failed', requestId, topic, attempts, reason, final, ...(refusal === undefined ? { error } : {}) })
    }
  }

  async function look(stopping: () => boolean): Promise<void> {
    try {
      for (let taken = 1; taken > 0 && !stopping(); ) {
        const rows = await pool.query<Due>({ name: 'redoubt_mail_take', text: take, values: [lease] })
        taken = rows.length
        for (const due of rows) if (!stopping()) await sendOne(due)
      }
    } catch (error) {
      emit({ type: 'mail.outbox_failed', error })
    }
  }

  return startRounds({ pauseMs: interval, round: look })
}
