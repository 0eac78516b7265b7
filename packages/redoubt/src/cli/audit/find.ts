import type { AuditRow } from '../../audit/query.ts'
import { isUuid } from '../../bytes.ts'
import type { Pool } from '../../pg.ts'
import { UsageProblem } from '../io.ts'

/** What `redoubt audit find` looks for, as typed; what is left out does not matter. */
export type Sought = {
  readonly actor?: string | undefined
  readonly action?: string | undefined
  readonly outcome?: string | undefined
  readonly resource?: string | undefined
  readonly from?: string | undefined
  readonly to?: string | undefined
  readonly before?: string | undefined
  readonly limit?: string | undefined
}

// By time and id: entries that a function of the database wrote have random ids.
const find = {
  name: 'redoubt_audit_find',
  text: `select e.id, e.occurred_at, e.actor_type, e.actor_id, e.actor_role, e.action, e.resource_type, e.resource_id, e.purpose, e.outcome, e.request_id
    from redoubt.audit_logs e
    where ($1::uuid is null or e.actor_id = $1) and ($2::text is null or e.action = $2) and ($3::text is null or e.outcome = $3 or split_part(e.outcome, ':', 1) = $3)
      and ($4::text is null or e.resource_type = $4) and ($5::text is null or e.resource_id = $5)
      and ($6::timestamptz is null or e.occurred_at >= $6) and ($7::timestamptz is null or e.occurred_at < $7)
      and ($8::uuid is null or (e.occurred_at, e.id) < (select b.occurred_at, b.id from redoubt.audit_logs b where b.id = $8))
    order by e.occurred_at desc, e.id desc limit $9`,
}

function matching(name: string, value: string | undefined, form: RegExp, expected: string): string | null {
  if (value !== undefined && !form.test(value)) throw new UsageProblem(`--${name} must be ${expected}`)
  return value ?? null
}

function idOf(name: string, value: string | undefined): string | null {
  if (value !== undefined && !isUuid(value)) throw new UsageProblem(`--${name} must be an id (UUID)`)
  return value ?? null
}

function timeOf(name: string, value: string | undefined): Date | null {
  if (value === undefined) return null
  const time = new Date(value)
  // A time without a zone would be another moment on another machine.
  if (!/^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,3})?)?Z)?$/.test(value) || Number.isNaN(time.getTime())) throw new UsageProblem(`--${name} must be a time in UTC, as 2026-01-31 or 2026-01-31T14:00:00Z`)
  return time
}

/**
 * Entries of the record, newest first, one JSON object a line: ids, roles and actions, without the sealed personal part.
 * @returns the lines, and the id to continue before where there are more
 * @throws UsageProblem for an option that cannot be meant
 */
export function searchOf(sought: Sought): (pool: Pool) => Promise<{ readonly lines: readonly string[]; readonly next: string | undefined }> {
  const [type, resource] = matching('resource', sought.resource, /^[a-z][a-z0-9_.-]{0,63}(\/[A-Za-z0-9._:/-]{1,128})?$/, '<type> or <type>/<id>')?.split(/\/(.*)/s) ?? []
  const size = Number(matching('limit', sought.limit, /^([1-9]\d{0,2}|1000)$/, 'a whole number from 1 to 1000') ?? 100)
  const values = [
    idOf('actor', sought.actor), matching('action', sought.action, /^[a-z][a-z0-9_.-]{0,63}$/, 'the name of an action'),
    matching('outcome', sought.outcome, /^(done|(refused|failed)(:[a-z_]{3,40})?)$/, 'done, refused, failed or refused:<code>'),
    type ?? null, resource ?? null, timeOf('from', sought.from), timeOf('to', sought.to), idOf('before', sought.before), size + 1,
  ]
  return async (pool) => {
    const rows = await pool.query<AuditRow>({ ...find, values })
    const shown = rows.slice(0, size)
    return { lines: shown.map((row) => JSON.stringify(row)), next: rows.length > size ? shown.at(-1)?.id : undefined }
  }
}
