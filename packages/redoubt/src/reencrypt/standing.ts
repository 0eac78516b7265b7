import type { Pool } from '../pg.ts'
import type { Counts } from './jobs.ts'
import type { Kind } from './shape.ts'

/** A job as it stands, for an operator. */
export type JobStanding = Counts & {
  readonly id: string
  readonly kind: Kind
  readonly table: string
  readonly state: 'running' | 'done'
  readonly round: number
  readonly expected: number
  readonly startedAt: Date
  /** When every row was found to need the job no more; null where some did, or nobody has looked yet. */
  readonly provenAt: Date | null
}

/** All jobs, the newest first. @param pool of any role that may read them: migrator, auditor, worker, keys */
export function listJobs(pool: Pick<Pool, 'query'>, onlyRunning = false): Promise<readonly JobStanding[]> {
  return pool.query<JobStanding>({
    name: 'redoubt_reencrypt_list',
    text: `select j.id, j.kind, j.table_name as table, j.state, j.round, j.rows_expected::float8 as expected, j.started_at as "startedAt", j.proven_at as "provenAt",
        coalesce(sum(c.changed), 0)::float8 as changed, greatest(0, coalesce(sum(c.already) filter (where c.round = j.round), 0) - coalesce(sum(c.changed) filter (where c.round < j.round), 0))::float8 as already,
        coalesce(sum(c.absent) filter (where c.round = j.round), 0)::float8 as absent, coalesce(sum(c.erased) filter (where c.round = j.round), 0)::float8 as erased,
        coalesce(sum(c.failed) filter (where c.round = j.round), 0)::float8 as failed,
        coalesce(sum(c.changed + c.already + c.absent + c.erased + c.failed) filter (where c.round = j.round), 0)::float8 as seen
      from redoubt.crypto_jobs j left join redoubt.crypto_job_cursors c on c.job_id = j.id
      where not $1::bool or j.state = 'running' group by j.id order by j.started_at desc`,
    values: [onlyRunning],
  })
}

export type FailedRow = { readonly row: string; readonly column: string; readonly reason: string; readonly at: Date }

/** Rows that a job could not settle, by row id. @param most rows listed */
export function listFailures(pool: Pick<Pool, 'query'>, job: string, most: number): Promise<readonly FailedRow[]> {
  return pool.query<FailedRow>({
    text: 'select f.row_id::text as row, f.column_name as column, f.reason, f.at from redoubt.crypto_job_failures f where f.job_id = $1 order by f.row_id, f.column_name limit $2', values: [job, most],
  })
}
