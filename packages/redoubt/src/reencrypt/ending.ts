import type { Pool } from '../pg.ts'
import { countsOf, planRanges, readJob, together, type Job } from './jobs.ts'
import type { Leftover } from './proof.ts'
import type { Shape } from './shape.ts'

/** Passes over all rows before a job ends without proof: writers that never come to know the new key would keep it forever. */
const mostRounds = 5

/**
 * Ends a pass whose ranges are all done: proves, and where something was written the old way meanwhile, begins another
 * pass. Several workers may come here; one proves, the others get null and ask again.
 * @param prove looks at every row
 * @returns the job as it stands afterwards
 */
export async function endRound(settings: { readonly pool: Pool; readonly shape: Shape; readonly job: Job; readonly holder: string; readonly leaseSeconds: number; readonly prove: () => Promise<Leftover> }): Promise<Job | null> {
  const { pool, shape, job, holder, leaseSeconds, prove } = settings
  const [claimed] = await pool.query<{ readonly proven_from: Date }>({
    name: 'redoubt_reencrypt_prove',
    text: `update redoubt.crypto_jobs j set holder = $3, held_until = now() + make_interval(secs => $4::float8)
      where j.id = $1 and j.round = $2 and j.state = 'running' and (j.held_until is null or j.held_until < now() or j.holder = $3)
        and not exists (select from redoubt.crypto_job_cursors c where c.job_id = j.id and c.round = j.round and c.done_at is null)
      returning now() as proven_from`,
    values: [job.id, job.round, holder, leaseSeconds],
  })
  if (claimed === undefined) {
    const now = await readJob(pool, job.id)
    return now.state === 'done' || now.round !== job.round ? now : null
  }
  const keeping = setInterval(() => {
    pool.query({
      name: 'redoubt_reencrypt_proving', text: 'update redoubt.crypto_jobs j set held_until = now() + make_interval(secs => $3::float8) where j.id = $1 and j.holder = $2', values: [job.id, holder, leaseSeconds],
    }).catch(() => undefined)
  }, (leaseSeconds * 1000) / 3)
  try {
    const left = await prove()
    const counts = await countsOf(pool, job)
    // Rows that failed or whose subject is erased do not get better by another pass. Those that somebody else changed
    // under us, and that nobody came to look at again (the worker was killed), do.
    const [unsettled] = await pool.query({ text: `select 1 as one from redoubt.crypto_job_failures f where f.job_id = $1 and f.reason = 'changed_meanwhile' limit 1`, values: [job.id] })
    if (((job.kind !== 'verify' && left.rows > counts.failed + counts.erased) || unsettled !== undefined) && job.round < mostRounds) {
      const { next, last } = await planRanges(pool, shape)
      await pool.query({
        text: `with j as (update redoubt.crypto_jobs j set round = j.round + 1, holder = null, held_until = null where j.id = $1 and j.round = $2 and j.holder = $3 returning j.id, j.round),
          gone as (delete from redoubt.crypto_job_failures f using j where f.job_id = j.id)
          insert into redoubt.crypto_job_cursors (job_id, round, range_no, next_id, last_id) select j.id, j.round, r.n, r.next, r.last from j, unnest($4::uuid[], $5::uuid[]) with ordinality as r (next, last, n)`,
        values: [job.id, job.round, holder, next, last],
      })
    } else {
      const proven = left.rows === 0 && (job.kind !== 'verify' || counts.failed === 0)
      await together(pool, [{
        text: `update redoubt.crypto_jobs j set state = 'done', finished_at = now(), holder = null, held_until = null, proof = $4::jsonb,
            proven_from = case when $5::bool then $6::timestamptz end, proven_at = case when $5::bool then now() end
          where j.id = $1 and j.round = $2 and j.holder = $3 and j.state = 'running'`,
        values: [job.id, job.round, holder, JSON.stringify({ rows_left: left.rows, columns: left.columns }), proven, claimed.proven_from.toISOString()],
      }, { text: `select guard.note_job(j.id, 'job.ended') from redoubt.crypto_jobs j where j.id = $1 and j.state = 'done' and j.finished_at = now()`, values: [job.id] }])
    }
  } finally {
    clearInterval(keeping)
  }
  return readJob(pool, job.id)
}
