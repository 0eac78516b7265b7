import { setTimeout as pause } from 'node:timers/promises'
import { Refusal } from '../errors.ts'
import type { Pool } from '../pg.ts'

export type ThrottleSettings = {
  /** Most rows a second by this worker; undefined for no ceiling. */
  readonly rowsPerSecond?: number
  /** Milliseconds a batch may take; a slower one is followed by smaller ones and pauses. Default 500. */
  readonly latencyMs?: number
  /** Seconds that replicas may lag behind; the job waits while one lags more. Undefined: replicas are not asked. */
  readonly lagSeconds?: number
}

export type Throttle = {
  /** Rows for the next batch. */
  rows(): number
  /** Tells what the last batch was, and waits as long as the others' sake demands. */
  settle(batch: { readonly rows: number; readonly bytes: number; readonly milliseconds: number }): Promise<void>
}

const least = 16
const first = 200
const most = 2000
/** Bytes of a page: what bounds the memory of a worker, whatever the size of its values. */
const pageBytes = 2 * 1024 * 1024
const askLagEvery = 1000

// The migrator's login does not inherit what it is a member of (it may become owner): it takes this role for one question.
const asMonitor = { name: 'redoubt_reencrypt_monitor', text: `select set_config('role', 'pg_monitor', true)`, values: [] }
const lag = {
  name: 'redoubt_reencrypt_lag',
  values: [],
  // The lag stands empty once a replica has caught up; for a role that may not look, the state does too.
  text: `select coalesce(max(extract(epoch from r.replay_lag)), 0)::float8 as seconds, count(*) filter (where r.state is null) > 0 as hidden from pg_catalog.pg_stat_replication r`,
}

/**
 * How fast a worker may go. Batches grow while they are quick and shrink when they are not, so that no row is locked
 * longer than the latency allows.
 * @throws TypeError when a setting is not usable
 */
export function openThrottle(pool: Pick<Pool, 'connect'>, settings: ThrottleSettings, wait: (ms: number) => Promise<unknown> = pause): Throttle {
  const { rowsPerSecond, lagSeconds, latencyMs = 500 } = settings
  for (const [name, value] of Object.entries({ rowsPerSecond, latencyMs, lagSeconds })) {
    if (value !== undefined && !(Number.isFinite(value) && value > 0)) throw new TypeError(`reencrypt: ${name} must be a positive number`)
  }
  let size = first
  let rowBytes = 0
  let askedAt = -Infinity

  /** Seconds that the slowest replica lags behind. */
  async function slowest(): Promise<number> {
    const connection = await pool.connect()
    const { answers, failure } = await connection.send([asMonitor, lag])
    connection.release(failure?.unexpected === true ? `SQLSTATE ${failure.sqlState}` : undefined)
    const row = answers[1]?.rows[0] as { readonly seconds: number; readonly hidden: boolean } | undefined
    if (failure?.sqlState === '42501' || row?.hidden === true) throw new Refusal('forbidden', { detail: 'the lag of replicas is hidden from this login: grant pg_monitor to it, or leave the limit out' })
    if (failure !== undefined) throw failure.refusal
    return row?.seconds ?? 0
  }

  async function waitForReplicas(): Promise<void> {
    if (lagSeconds === undefined || performance.now() - askedAt < askLagEvery) return
    for (;;) {
      askedAt = performance.now()
      if ((await slowest()) <= lagSeconds) return
      await wait(askLagEvery)
    }
  }

  return {
    rows: () => Math.max(least, Math.min(size, rowBytes === 0 ? size : Math.floor(pageBytes / rowBytes))),
    async settle({ rows, bytes, milliseconds }) {
      if (rows > 0) rowBytes = bytes / rows
      if (milliseconds > latencyMs) size = Math.max(least, Math.floor(size / 2))
      else if (milliseconds < latencyMs / 2 && rows >= size) size = Math.min(most, size * 2)
      const owed = rowsPerSecond === undefined ? 0 : (rows * 1000) / rowsPerSecond - milliseconds
      if (owed > 0) await wait(owed)
      // Slower than asked for: as long a rest as the batch was work.
      else if (milliseconds > latencyMs) await wait(milliseconds)
      await waitForReplicas()
    },
  }
}
