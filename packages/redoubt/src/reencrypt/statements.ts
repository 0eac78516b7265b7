import type { Statement } from '../pg.ts'
import { byteaArray, joinedArrays, textArray, uuidArray } from './arrays.ts'
import type { Outcome, Work } from './outcome.ts'
import { identifier, relation, type Kind, type Shape } from './shape.ts'

/** A range of row ids that a worker holds. */
export type Hold = { readonly job: string; readonly round: number; readonly range: number; readonly holder: string }

function stored(shape: Shape, name: string): string {
  const column = shape.table.columns[name]
  return column?.kind === 'legacy' && column.type === 'text' ? `convert_to(t.${identifier(name)}, 'UTF8')` : `t.${identifier(name)}`
}

/**
 * Text of the one statement that writes a batch: rows where nothing that was read has changed since, failures, counts
 * and the place to go on from. One statement is one transaction: after kill -9 either all of it stands or none.
 * Answers with the ids of rows that somebody else changed meanwhile; they stand among the failures until they are settled.
 * $1 job $2 round $3 range $4 next id $5 whether the range is done $6 lease in seconds
 * $7 to $10 already, absent, erased, failed $11 to $13 failures $14 settled before
 * @param unique written columns whose values may stand in one row only: a second one is a failure, not the end of a batch
 * $15 ids, then for each column of the page what was read, and for each written one what comes in its place.
 */
function writeText(shape: Shape, kind: Kind, work: Pick<Work, 'read' | 'write'>, unique: readonly string[]): string {
  const id = identifier(shape.table.rowId)
  const olds = work.read.map((_, n) => `o${n}`)
  const news = work.write.map((_, n) => `v${n}`)
  const parameters = [...olds, ...news].map((_, n) => `$${16 + n}::bytea[]`)
  const unchanged = work.read.map((name, n) => {
    const v = work.write.indexOf(name)
    // What is written where nothing was: still nothing. What was read: still the same.
    return kind === 'wipe' || v < 0 ? `(n.o${n} is null or ${stored(shape, name)} = n.o${n})` : `((n.o${n} is null and n.v${v} is null) or ${stored(shape, name)} is not distinct from n.o${n})`
  })
  const assignments = work.write.map((name, n) => {
    const o = work.read.indexOf(name)
    return `${identifier(name)} = ${kind === 'wipe' ? `case when n.o${o} is null then t.${identifier(name)} end` : `coalesce(n.v${n}, t.${identifier(name)})`}`
  })
  const change = work.write.length === 0
    ? ['select', 'n.id from n where false'] as const
    : ['update', `${relation(shape.name)} t set ${assignments.join(', ')} from n where t.${id} = n.id and ${unchanged.join(' and ')} returning t.${id} as id`] as const
  // Two halves joined by UNION: an OR of two EXISTS would be asked row by row, each time over the whole batch.
  const twice = unique.flatMap((name) => {
    const v = `v${work.write.indexOf(name)}`
    return [
      `(select g.id, '${identifier(name)}' as col from given g where exists (select from ${relation(shape.name)} t where t.${identifier(name)} = g.${v} and t.${id} <> g.id))`,
      `(select g.id, '${identifier(name)}' as col from (select o.id, row_number() over (partition by o.${v} order by o.id) as place from given o where o.${v} is not null) g where g.place > 1)`,
    ]
  })
  return `with given as (select * from unnest(${['$15::uuid[]', ...parameters].join(', ')}) as n (${['id', ...olds, ...news].join(', ')})),
    twice (id, col) as (${twice.length === 0 ? 'select null::uuid, null where false' : twice.join(' union ')}),
    n as (select g.* from given g${twice.length === 0 ? '' : ' where not exists (select from twice w where w.id = g.id)'}),
    changed as (${change.join(' ')}),
    missed as (select n.id from n where not exists (select from changed c where c.id = n.id)),
    noted as (insert into redoubt.crypto_job_failures (job_id, row_id, column_name, reason)
      select $1::uuid, m.id, '', 'changed_meanwhile' from missed m
      union all select $1::uuid, w.id, w.col, 'duplicate' from twice w
      union all select $1::uuid, f.id, f.col, f.reason from unnest($11::uuid[], $12::text[], $13::text[]) as f (id, col, reason)
      on conflict (job_id, row_id, column_name) do update set reason = excluded.reason, at = excluded.at)
    update redoubt.crypto_job_cursors c set next_id = coalesce($4::uuid, c.next_id), done_at = case when $5::bool then now() end,
        held_until = now() + make_interval(secs => $6::float8),
        changed = c.changed + (select count(*) from changed), already = c.already + $7::int8, absent = c.absent + $8::int8,
        erased = c.erased + $9::int8, failed = c.failed + $10::int8 + (select count(*) from missed) + (select count(distinct w.id) from twice w) - $14::int8
      where c.job_id = $1::uuid and c.round = $2::int4 and c.range_no = $3::int4
      returning array(select m.id::text from missed m) as missed, (select count(*) from changed) as changed`
}

/** What a batch does besides its rows. */
export type Progress = {
  /** Where the range goes on; null leaves the place as it is. */
  readonly next: string | null
  /** Nothing of the range is left. */
  readonly done: boolean
  /** Rows that stood among the failures because somebody changed them, and are settled by this batch. */
  readonly settled: readonly Buffer[]
}

/** Makes the statements of a batch: the lease first, then the keys, then everything else in one. */
export function writer(shape: Shape, kind: Kind, work: Pick<Work, 'read' | 'write'>, unique: readonly string[]): (hold: Hold, outcome: Outcome, progress: Progress, leaseSeconds: number) => readonly Statement<unknown>[] {
  const name = `redoubt_reencrypt_write_${kind}_${shape.table.id}`
  const text = writeText(shape, kind, work, unique)
  const written = work.write.map((column) => work.read.indexOf(column))
  return ({ job, round, range, holder }, outcome, { next, done, settled }, leaseSeconds) => {
    const { changes, renewed, failures, held } = outcome
    const array = (ready: Uint8Array | undefined, more: Buffer): Buffer => (renewed === null || ready === undefined ? more : joinedArrays(ready, renewed.rows, more))
    return [
      { name: 'redoubt_reencrypt_hold', text: 'select redoubt.hold_crypto_range($1, $2, $3, $4)', values: [job, round, range, holder] },
      ...(held.length === 0 ? [] : [{ name: 'redoubt_reencrypt_keys', text: 'select guard.hold_keys($1::bytea[])', values: [byteaArray(held)] }]),
      ...(settled.length === 0 ? [] : [{
        name: 'redoubt_reencrypt_settle', text: 'delete from redoubt.crypto_job_failures f where f.job_id = $1 and f.row_id = any ($2::uuid[])', values: [job, uuidArray(settled)],
      }]),
      {
        name,
        text,
        values: [
          job, round, range, next, done, leaseSeconds, outcome.already, outcome.absent, outcome.erased, outcome.failed,
          uuidArray(failures.map(({ idBytes }) => idBytes)), textArray(failures.map(({ column }) => column)), textArray(failures.map(({ reason }) => reason)), settled.length,
          array(renewed?.ids, uuidArray(changes.map(({ idBytes }) => idBytes))),
          ...work.read.map((_, column) => array(renewed?.olds[column], byteaArray(changes.map(({ olds }) => olds[column] ?? null)))),
          ...written.map((column) => array(renewed?.news[column], byteaArray(changes.map(({ news }) => news[column] ?? null)))),
        ],
      },
    ]
  }
}

/** Written columns of the table that a unique index has by themselves. */
export function uniqueText(): { readonly name: string; readonly text: string } {
  return {
    name: 'redoubt_reencrypt_unique',
    text: `select a.attname::text as name from pg_catalog.pg_index i join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
      where i.indrelid = pg_catalog.to_regclass($1) and i.indisunique and i.indnkeyatts = 1 and a.attname = any ($2::text[])`,
  }
}
