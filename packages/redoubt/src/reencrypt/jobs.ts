import { newId } from '../bytes.ts'
import type { Pool, Statement } from '../pg.ts'
import { columnsFor, identifier, relation, type Kind, type Shape } from './shape.ts'
import type { Hold } from './statements.ts'

/** A job over one table, as its row says. */
export type Job = { readonly id: string; readonly kind: Kind; readonly table: string; readonly round: number; readonly rowsExpected: number; readonly state: 'running' | 'done' }

type JobRow = { readonly id: string; readonly kind: Kind; readonly table_name: string; readonly round: number; readonly rows_expected: bigint; readonly state: 'running' | 'done' }

type Asker = Pick<Pool, 'query'>

export const firstId = '00000000-0000-0000-0000-000000000000'
export const lastId = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
/** Rows of a range: what a worker that died holds back until its lease ends. Of 20,000 each, a tenth of a job was beginnings of ranges (28.6 µs a row, 24.1 to 26.8 now). */
const rangeRows = 60_000
const mostRanges = 1024

function jobOf(row: JobRow): Job {
  return { id: row.id, kind: row.kind, table: row.table_name, round: row.round, rowsExpected: Number(row.rows_expected), state: row.state }
}

const jobColumns = 'j.id, j.kind, j.table_name, j.round, j.rows_expected, j.state'

/** Splits the ids of a table into ranges of about equal size: ids made by time are anything but evenly spread. */
function splitText(shape: Shape): string {
  const id = identifier(shape.table.rowId)
  return `select n.total, coalesce((select array_agg(s.id::text order by s.id) from (select t.${id} as id, row_number() over (order by t.${id}) as n from ${relation(shape.name)} t) s
      where s.n % greatest($1::int8, (n.total + $2::int8 - 1) / $2::int8) = 0 and s.n < n.total), '{}') as bounds
    from (select count(*)::int8 as total from ${relation(shape.name)}) n`
}

/** The ranges of a pass: first and last ids, in order. @param rows how many a range has, about */
export async function planRanges(pool: Asker, shape: Shape, rows = rangeRows): Promise<{ readonly total: bigint; readonly next: readonly string[]; readonly last: readonly string[] }> {
  const [row] = await pool.query<{ readonly total: bigint; readonly bounds: readonly string[] }>({ text: splitText(shape), values: [rows, mostRanges] })
  const bounds = row?.bounds ?? []
  // Adjoining ranges share no id: the next begins behind the last of the one before (parsePage skips nothing).
  return { total: row?.total ?? 0n, next: [firstId, ...bounds.map(after)], last: [...bounds, lastId] }
}

function after(id: string): string {
  const hex = (BigInt(`0x${id.replaceAll('-', '')}`) + 1n).toString(16).padStart(32, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** Several statements in one transaction: they travel with one Sync. @throws Refusal when one of them fails */
export async function together(pool: Pick<Pool, 'connect'>, statements: readonly Statement<unknown>[]): Promise<void> {
  const connection = await pool.connect()
  const { failure } = await connection.send(statements)
  connection.release(failure?.unexpected === true ? `SQLSTATE ${failure.sqlState}` : undefined)
  if (failure !== undefined) throw failure.refusal
}

/** The running job of this kind over this table, made when there is none. Two who come at once get the same one. */
export async function takeJob(pool: Pick<Pool, 'query' | 'connect'>, shape: Shape, kind: Kind): Promise<Job> {
  const { table } = shape
  const find = async (): Promise<Job | undefined> => {
    const [row] = await pool.query<JobRow>({ text: `select ${jobColumns} from redoubt.crypto_jobs j where j.kind = $1 and j.table_id = $2 and j.state = 'running'`, values: [kind, table.id] })
    return row === undefined ? undefined : jobOf(row)
  }
  const running = await find()
  if (running !== undefined) return running
  const { total, next, last } = await planRanges(pool, shape)
  const { read, write } = columnsFor(shape, kind)
  const id = newId()
  await together(pool, [{
    text: `with job as (
        insert into redoubt.crypto_jobs (id, kind, table_id, table_name, columns, rows_expected) values ($1, $2, $3, $4, $5, $6)
        on conflict (kind, table_id) where state = 'running' do nothing returning id)
      insert into redoubt.crypto_job_cursors (job_id, round, range_no, next_id, last_id)
        select job.id, 1, r.n, r.next, r.last from job, unnest($7::uuid[], $8::uuid[]) with ordinality as r (next, last, n)`,
    values: [id, kind, table.id, shape.name, write.length === 0 ? read : write, total, next, last],
  }, { text: `select guard.note_job(j.id, 'job.started') from redoubt.crypto_jobs j where j.id = $1`, values: [id] }])
  const made = await find()
  if (made === undefined) throw new TypeError(`reencrypt: the job over ${shape.name} ended while it was being made`)
  return made
}

/** The job with this id as it stands now. */
export async function readJob(pool: Asker, id: string): Promise<Job> {
  const [row] = await pool.query<JobRow>({ name: 'redoubt_reencrypt_job', text: `select ${jobColumns} from redoubt.crypto_jobs j where j.id = $1`, values: [id] })
  if (row === undefined) throw new TypeError('reencrypt: there is no such job')
  return jobOf(row)
}

export type Range = Hold & { readonly next: string; readonly last: string }

/** Takes a range that nobody works on; null when there is none. One whose worker died is free when its lease is over. */
export async function claimRange(pool: Asker, job: Job, holder: string, leaseSeconds: number): Promise<Range | null> {
  const [row] = await pool.query<{ readonly range_no: number; readonly next_id: string; readonly last_id: string }>({
    name: 'redoubt_reencrypt_claim',
    text: `update redoubt.crypto_job_cursors c set holder = $3, held_until = now() + make_interval(secs => $4::float8)
      where c.job_id = $1 and c.round = $2 and c.range_no = (
        select f.range_no from redoubt.crypto_job_cursors f where f.job_id = $1 and f.round = $2 and f.done_at is null
          and (f.held_until is null or f.held_until < now()) order by f.range_no for update skip locked limit 1)
      returning c.range_no, c.next_id::text, c.last_id::text`,
    values: [job.id, job.round, holder, leaseSeconds],
  })
  return row === undefined ? null : { job: job.id, round: job.round, range: row.range_no, holder, next: row.next_id, last: row.last_id }
}

/** Gives a range back before its lease is over, so that nobody has to wait for it. */
export async function releaseRange(pool: Asker, { job, round, range, holder }: Hold): Promise<void> {
  await pool.query({
    name: 'redoubt_reencrypt_release',
    text: 'update redoubt.crypto_job_cursors c set holder = null, held_until = null where c.job_id = $1 and c.round = $2 and c.range_no = $3 and c.holder = $4 and c.done_at is null',
    values: [job, round, range, holder],
  })
}

/** How many ranges of this round are not done. */
export async function openRanges(pool: Asker, job: Job): Promise<number> {
  const [row] = await pool.query<{ readonly left: number }>({
    name: 'redoubt_reencrypt_left', text: 'select count(*)::int4 as left from redoubt.crypto_job_cursors c where c.job_id = $1 and c.round = $2 and c.done_at is null', values: [job.id, job.round],
  })
  return row?.left ?? 0
}

/** Rows by what became of them: `changed` in all rounds, the others in the last one, where what an earlier one changed is not `already` again. */
export type Counts = { readonly changed: number; readonly already: number; readonly absent: number; readonly erased: number; readonly failed: number; readonly seen: number }

export async function countsOf(pool: Asker, job: Pick<Job, 'id' | 'round'>): Promise<Counts> {
  const [row] = await pool.query<Readonly<Record<keyof Counts, number>>>({
    name: 'redoubt_reencrypt_counts',
    text: `select coalesce(sum(c.changed), 0)::float8 as changed, greatest(0, coalesce(sum(c.already) filter (where c.round = $2), 0) - coalesce(sum(c.changed) filter (where c.round < $2), 0))::float8 as already,
        coalesce(sum(c.absent) filter (where c.round = $2), 0)::float8 as absent, coalesce(sum(c.erased) filter (where c.round = $2), 0)::float8 as erased,
        coalesce(sum(c.failed) filter (where c.round = $2), 0)::float8 as failed,
        coalesce(sum(c.changed + c.already + c.absent + c.erased + c.failed) filter (where c.round = $2), 0)::float8 as seen
      from redoubt.crypto_job_cursors c where c.job_id = $1`,
    values: [job.id, job.round],
  })
  return row ?? { changed: 0, already: 0, absent: 0, erased: 0, failed: 0, seen: 0 }
}
