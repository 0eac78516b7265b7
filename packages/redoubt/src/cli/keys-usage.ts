import { parseArgs } from 'node:util'
import { openPool, type Pool } from '../pg.ts'
import { onDatabase } from './database.ts'
import { aligned, asksForHelp, exits, UsageProblem, type Io } from './io.ts'

const usage = `redoubt keys usage [--days <n>] [--key <id>] [--json]

Who used which key, from the record that every process writes: keys opened per actor class, purpose and data class;
calls of the key service per hour, to be held against the service's own log (docs/runbooks/key-compromise.md says how);
and what was unusual.

  --days <n>   how far back, 1 to 400; by default 7
  --key <id>   one key alone, by its id or the beginning of it (8 characters or more): hour by hour
  --json       the result as JSON

Works on AUDITOR_DATABASE_URL. Exit codes: 0 ok, 1 refused, 2 wrong usage
`

type UsedRow = { readonly hour?: string; readonly actor: string; readonly purpose: string; readonly data_class: string; readonly operation: string; readonly keys: string; readonly uses: string; readonly last: string }
type CallRow = { readonly hour: string; readonly provider: string; readonly operation: string; readonly data_class: string; readonly actor: string; readonly outcome: string; readonly calls: string; readonly mean_ms: string }
type UnusualRow = { readonly hour: string; readonly actor: string; readonly purpose: string; readonly data_class: string; readonly uses: string; readonly baseline: string }
type Report = { readonly days: number; readonly used: readonly UsedRow[]; readonly calls: readonly CallRow[]; readonly unusual: readonly UnusualRow[] }

const time = `'YYYY-MM-DD"T"HH24:MI"Z"'`
const used = `select actor, purpose, data_class, operation, count(distinct key)::text as keys, sum(uses)::text as uses,
    to_char(max(hour) at time zone 'UTC', ${time}) as last
  from redoubt.key_usage where hour > now() - make_interval(days => $1)
  group by actor, purpose, data_class, operation order by sum(uses) desc, actor, purpose, data_class, operation`
const usedOfKey = `select to_char(hour at time zone 'UTC', ${time}) as hour, actor, purpose, data_class, operation, count(distinct key)::text as keys, sum(uses)::text as uses,
    to_char(max(hour) at time zone 'UTC', ${time}) as last
  from redoubt.key_usage where hour > now() - make_interval(days => $1) and starts_with(key, $2)
  group by hour, actor, purpose, data_class, operation order by hour desc, actor, purpose, data_class, operation`
const calls = `select to_char(date_trunc('hour', at, 'UTC') at time zone 'UTC', ${time}) as hour, provider, operation, data_class, actor, outcome, sum(times)::text as calls,
    round(sum(milliseconds)::numeric / sum(times))::text as mean_ms
  from redoubt.key_calls where at > now() - make_interval(days => $1)
  group by 1, 2, 3, 4, 5, 6 order by 1 desc, 2, 3, 4, 5, 6`
const unusual = `select to_char(hour at time zone 'UTC', ${time}) as hour, actor, purpose, data_class, uses::text, baseline::text
  from redoubt.key_use_unusual where hour > now() - make_interval(days => $1) order by hour desc, actor, purpose, data_class`

const quiet = (): void => undefined

async function report(pool: Pool, days: number, key: string | undefined): Promise<Report> {
  if (key !== undefined) return { days, used: await pool.query<UsedRow>({ text: usedOfKey, values: [days, key] }), calls: [], unusual: [] }
  return {
    days,
    used: await pool.query<UsedRow>({ text: used, values: [days] }),
    calls: await pool.query<CallRow>({ text: calls, values: [days] }),
    unusual: await pool.query<UnusualRow>({ text: unusual, values: [days] }),
  }
}

/** An actor that named no purpose: the action has none. */
function purposeOf({ purpose }: { readonly purpose: string }): string {
  return purpose === '' ? '-' : purpose
}

function lastDays(days: number): string {
  return days === 1 ? 'day' : `${days} days`
}

function inWords({ days, used: rows, calls: made, unusual: odd }: Report, key: string | undefined): string {
  if (rows.length === 0 && made.length === 0) return `Nothing is on record for the last ${lastDays(days)}.\n`
  const hour = key !== undefined
  const table = aligned(
    [...(hour ? ['HOUR (UTC)'] : []), 'ACTOR', 'PURPOSE', 'DATA CLASS', 'OPERATION', 'KEYS', 'USES', ...(hour ? [] : ['LAST HOUR (UTC)'])],
    rows.map((row) => [...(hour ? [row.hour ?? ''] : []), row.actor, purposeOf(row), row.data_class, row.operation, row.keys, row.uses, ...(hour ? [] : [row.last])]),
  )
  const service = made.length === 0 ? '' : `\nCalls of the key service\n${aligned(['HOUR (UTC)', 'PROVIDER', 'OPERATION', 'DATA CLASS', 'ACTOR', 'OUTCOME', 'CALLS', 'MEAN MS'], made.map((row) => [row.hour, row.provider, row.operation, row.data_class, row.actor, row.outcome, row.calls, row.mean_ms]))}`
  const unusualText = odd.length === 0 ? '' : `\nUnusual: more than three times the baseline\n${aligned(['HOUR (UTC)', 'ACTOR', 'PURPOSE', 'DATA CLASS', 'USES', 'BASELINE'], odd.map((row) => [row.hour, row.actor, purposeOf(row), row.data_class, row.uses, row.baseline]))}`
  return `Keys in memory, last ${lastDays(days)}\n${table}${service}${unusualText}`
}

/** @throws UsageProblem */
function optionsOf(args: readonly string[]): { readonly days: number; readonly key: string | undefined; readonly json: boolean } {
  let values
  try {
    values = parseArgs({ args: [...args], options: { days: { type: 'string', default: '7' }, key: { type: 'string' }, json: { type: 'boolean', default: false } } }).values
  } catch (error) {
    throw new UsageProblem(error instanceof Error ? error.message : 'wrong options', { cause: error })
  }
  const days = Number(values.days)
  if (!/^\d{1,3}$/.test(values.days) || days < 1 || days > 400) throw new UsageProblem('--days must be a whole number from 1 to 400')
  if (values.key !== undefined && !/^[A-Za-z0-9_. -]{8,200}$/.test(values.key)) throw new UsageProblem('--key must be the id of a key, or 8 characters or more of its beginning')
  return { days, key: values.key, json: values.json }
}

/**
 * `redoubt keys usage`.
 * @param args what follows `keys usage` on the command line
 * @throws UsageProblem; WorkRefused when the database cannot be reached
 */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(usage)
    return exits.ok
  }
  const { days, key, json } = optionsOf(args)
  return onDatabase(io, 'AUDITOR_DATABASE_URL', async (url) => {
    const pool = openPool({ url, max: 1, statementTimeout: 60_000, emit: quiet })
    try {
      const found = await report(pool, days, key)
      io.out(json ? `${JSON.stringify(found, null, 2)}\n` : inWords(found, key))
      return exits.ok
    } finally {
      await pool.close()
    }
  })
}
