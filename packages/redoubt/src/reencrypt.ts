import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import type { KeyUser } from './context.ts'
import type { Emit } from './events.ts'
import type { Keyring, KeysPool } from './keyring.ts'
import type { Pool } from './pg.ts'
import { openDecoder, type Secrets } from './reencrypt/codecs.ts'
import { endRound } from './reencrypt/ending.ts'
import { importing, type Decoders } from './reencrypt/importing.ts'
import { claimRange, countsOf, openRanges, readJob, releaseRange, takeJob, type Counts, type Job } from './reencrypt/jobs.ts'
import { openKeyFacts, type KeyFacts } from './reencrypt/key-facts.ts'
import type { Reason, Work } from './reencrypt/outcome.ts'
import { provenColumns, provenHeads, type Leftover } from './reencrypt/proof.ts'
import { workRange } from './reencrypt/ranges.ts'
import { rehearsalKeyring, rehearse, type Rehearsed } from './reencrypt/rehearsal.ts'
import type { Renewer, RenewTable } from './reencrypt/renew.ts'
import { indexKeysOf, renewal, renewerHere, renewTable } from './reencrypt/renewal.ts'
import { shapesFor, type Kind, type Shape } from './reencrypt/shape.ts'
import { uniqueText, writer } from './reencrypt/statements.ts'
import { openThrottle, type ThrottleSettings } from './reencrypt/throttle.ts'
import { verification, wiping } from './reencrypt/verification.ts'
import type { Tables } from './tables.ts'

export type { Counts } from './reencrypt/jobs.ts'
export type { Rehearsed } from './reencrypt/rehearsal.ts'
export type { Renewer, RenewTable } from './reencrypt/renew.ts'
export type { Kind } from './reencrypt/shape.ts'
export type { ThrottleSettings } from './reencrypt/throttle.ts'

export type ReencryptSettings = {
  readonly tables: Tables
  /** A pool of the migrator's login, to which the tables were opened (migrate/rights.ts). Two connections suffice. */
  readonly pool: Pool
  /** A pool of the keys role. */
  readonly keysPool: KeysPool
  readonly keyring: Keyring
  /** Old secrets of legacy columns by the name of their setting; needed for `import` and `verify` of such columns. */
  readonly secrets?: Secrets
  /** Where values are opened and sealed (cli/reencrypt-thread.ts). By default in this thread. */
  readonly renewer?: (table: RenewTable) => Renewer
  /** Only these tables; by default all that the kind of job concerns. */
  readonly only?: readonly string[]
  readonly throttle?: ThrottleSettings
  /** Seconds after which the range of a worker that died is free. Default 30. */
  readonly leaseSeconds?: number
  /** Ends after the batch that is running; the job goes on where it was, with the next call. */
  readonly signal?: AbortSignal
  /** Told after each batch of this worker. */
  readonly moved?: (table: string, rows: number) => void
  readonly emit: Emit
}

/** How a job over one table ended, or stands where it was stopped. */
export type JobResult = {
  readonly id: string
  readonly kind: Kind
  readonly table: string
  readonly state: 'running' | 'done'
  /** Every row was looked at and needs the job no more. */
  readonly proven: boolean
  readonly counts: Counts
  readonly reasons: Readonly<Partial<Record<Reason, number>>>
}

function workOf(settings: ReencryptSettings, keyring: Keyring, shape: Shape, kind: Kind, facts: KeyFacts, renewer?: Renewer): Work {
  const decoders: Decoders = (name) => {
    const column = shape.table.columns[name]
    if (column?.kind !== 'legacy' || column.source === null) throw new TypeError(`reencrypt: ${name} has no source`)
    return openDecoder(column.source, settings.secrets ?? (() => { throw new TypeError('reencrypt: secrets of legacy columns are needed') }))
  }
  switch (kind) {
    case 'reencrypt':
      return renewal({ shape, keyring, facts, ...(renewer === undefined ? {} : { renewer }) })
    case 'import':
      return importing({ shape, keyring, decoders })
    case 'verify':
      return verification({ shape, keyring, facts, decoders })
    case 'wipe':
      return wiping({ shape, keyring, facts })
  }
}

/** Notes in the record of key usage that a job used the keys, and for what. */
function usedBy(keyring: Keyring, kind: Kind): Keyring {
  const by: KeyUser = { actor: 'operator', purpose: `job ${kind}` }
  return {
    ...keyring,
    keyFor: (scope) => keyring.keyFor(scope, by),
    keysFor: (scopes) => keyring.keysFor(scopes, by),
    byId: (ids) => keyring.byId(ids, by),
    indexKeys: (table, column) => keyring.indexKeys(table, column, by),
  }
}

function chosen(settings: ReencryptSettings, kind: Kind): readonly Shape[] {
  const shapes = shapesFor(settings.tables, kind)
  const { only } = settings
  const unknown = only?.filter((name) => !shapes.some((shape) => shape.name === name)) ?? []
  if (unknown.length > 0) throw new TypeError(`reencrypt: ${unknown.join(', ')}: no such table has anything to ${kind}`)
  return only === undefined ? shapes : shapes.filter(({ name }) => only.includes(name))
}

async function reasonsOf(pool: Pick<Pool, 'query'>, job: string): Promise<JobResult['reasons']> {
  const rows = await pool.query<{ readonly reason: Reason; readonly n: number }>({ text: 'select f.reason, count(*)::int4 as n from redoubt.crypto_job_failures f where f.job_id = $1 group by 1', values: [job] })
  return Object.fromEntries(rows.map(({ reason, n }) => [reason, n]))
}

async function prove(settings: ReencryptSettings, shape: Shape, kind: Kind, facts: KeyFacts): Promise<Leftover> {
  if (kind === 'verify') return { rows: 0, columns: {} }
  if (kind !== 'reencrypt') return provenColumns(settings.pool, shape, kind)
  // Asked anew: what is written now is written under the keys that are active now.
  facts.forget()
  return provenHeads(settings.pool, shape, facts, await indexKeysOf(settings.keyring, shape))
}

/** Works on whatever range is free until none of this pass is left. False: stopped. */
async function pass(settings: ReencryptSettings, shape: Shape, job: Job, holder: string, facts: KeyFacts, leaseSeconds: number, renewer?: Renewer): Promise<boolean> {
  const { pool } = settings
  const stopped = (): boolean => settings.signal?.aborted === true
  const work = workOf(settings, usedBy(settings.keyring, job.kind), shape, job.kind, facts, renewer)
  // Values that were unique stay so under one key; an import brings others together.
  const unique = job.kind !== 'import' ? [] : (await pool.query<{ readonly name: string }>({ ...uniqueText(), values: [shape.name, work.write] })).map(({ name }) => name)
  const write = writer(shape, job.kind, work, unique)
  const throttle = openThrottle(pool, settings.throttle ?? {})
  const connection = await pool.connect()
  let failed = true
  try {
    for (;;) {
      if (stopped()) {
        failed = false
        return false
      }
      const range = await claimRange(pool, job, holder, leaseSeconds)
      if (range === null) {
        if ((await openRanges(pool, job)) === 0) {
          failed = false
          return true
        }
        // Somebody else has the rest; should they die, it is free when their lease is over.
        await pause(200)
        continue
      }
      const ended = await workRange({
        shape, kind: job.kind, work, facts, connection, write, throttle, leaseSeconds, stopped,
        moved: (rows) => settings.moved?.(shape.name, rows),
      }, range)
      if (ended === 'stopped') await releaseRange(pool, range)
    }
  } finally {
    connection.release(failed ? 'a job failed in the middle of a batch' : undefined)
  }
}

async function runOne(settings: ReencryptSettings, shape: Shape, kind: Kind): Promise<JobResult> {
  const { pool, emit } = settings
  const leaseSeconds = settings.leaseSeconds ?? 30
  const holder = randomUUID()
  const facts = openKeyFacts(settings.keysPool)
  let job = await takeJob(pool, shape, kind)
  emit({ type: 'reencrypt.started', job: job.id, kind, table: shape.name })
  const renewer = kind === 'reencrypt' ? (settings.renewer ?? renewerHere)(renewTable(shape)) : undefined
  try {
    while (job.state === 'running' && (await pass(settings, shape, job, holder, facts, leaseSeconds, renewer))) {
      const ended = await endRound({ pool, shape, job, holder, leaseSeconds, prove: () => prove(settings, shape, kind, facts) })
      if (ended === null) await pause(200)
      job = ended ?? (await readJob(pool, job.id))
    }
  } finally {
    await renewer?.close()
  }
  const [row] = await pool.query<{ readonly proven: boolean }>({ text: 'select j.proven_at is not null as proven from redoubt.crypto_jobs j where j.id = $1', values: [job.id] })
  const result = { id: job.id, kind, table: shape.name, state: job.state, proven: row?.proven === true, counts: await countsOf(pool, job), reasons: await reasonsOf(pool, job.id) }
  emit({ type: 'reencrypt.ended', job: job.id, kind, table: shape.name, state: job.state, proven: result.proven, changed: result.counts.changed, failed: result.counts.failed })
  return result
}

/**
 * Runs a job of this kind over every table it concerns, as tables.ts says, while the service works. May be started in
 * several processes at once, killed at any point and started again: every batch commits with its place and its counts.
 *
 * `reencrypt` brings values under the active key of their subject and blind indexes under the newest version;
 * `import` seals what an older system left; `wipe` empties the columns of the older system; `verify` opens everything.
 * A row counts in exactly one of changed, already, absent (there is nothing), erased (its subject is) and failed.
 * @throws TypeError for a setting that is not usable
 * @throws Refusal when database or key service refuse; what was done stays done
 */
export async function runJobs(settings: ReencryptSettings, kind: Kind): Promise<readonly JobResult[]> {
  const lease = settings.leaseSeconds ?? 30
  if (!(lease >= 2 && lease <= 600)) throw new TypeError('reencrypt: leaseSeconds must be 2 to 600')
  const results: JobResult[] = []
  for (const shape of chosen(settings, kind)) {
    if (settings.signal?.aborted === true) break
    results.push(await runOne(settings, shape, kind))
  }
  return results
}

/** What runJobs would do now; writes nothing, makes no key. */
export async function rehearseJobs(settings: ReencryptSettings, kind: Kind): Promise<readonly Rehearsed[]> {
  const facts = openKeyFacts(settings.keysPool)
  const keyring = rehearsalKeyring(usedBy(settings.keyring, kind), settings.keysPool, facts)
  const results: Rehearsed[] = []
  for (const shape of chosen(settings, kind)) {
    const work = workOf(settings, keyring, shape, kind, facts)
    results.push(await rehearse(settings.pool, shape, kind, work, () => settings.signal?.aborted === true, (rows) => settings.moved?.(shape.name, rows)))
  }
  return results
}
