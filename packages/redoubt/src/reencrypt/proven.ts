import type { Pool } from '../pg.ts'
import type { Column, Tables } from '../tables.ts'

/**
 * From when on each of these tables was looked at by a job that found nothing under an old key (`runJobs` of kind
 * reencrypt): what the retirement of keys asks for.
 * @param pool of the keys role, the worker's or the auditor's
 * @param ids numbers of tables
 * @returns null where one of them never was
 */
export async function provenFrom(pool: Pick<Pool, 'query'>, ids: readonly number[]): Promise<Date | null> {
  const rows = await pool.query<{ readonly proven: Date | null }>({
    text: `select (select max(j.proven_from) from redoubt.crypto_jobs j where j.table_id = t.id and j.kind = 'reencrypt' and j.state = 'done' and j.proven_at is not null) as proven
      from unnest($1::int4[]) as t (id)`,
    values: [ids],
  })
  const moments = rows.flatMap(({ proven }) => (proven === null ? [] : [proven.getTime()]))
  return ids.length === 0 || moments.length < ids.length ? null : new Date(Math.min(...moments))
}

/** Numbers of the tables whose rows name data keys. */
export function sealedTables(tables: Tables): readonly number[] {
  return Object.values(tables.tables).filter(({ columns }) => Object.values<Column>(columns).some(({ kind }) => kind === 'sealed')).map(({ id }) => id)
}
