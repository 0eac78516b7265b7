import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { openKeyring } from '../keyring.ts'
import { startKeyUsage } from '../keyring/usage.ts'
import { openKeyService } from '../kms.ts'
import { keyServiceOptions } from '../kms/environment.ts'
import { allowReencryption, tablesWithoutRights, withdrawReencryption } from '../migrate/rights.ts'
import { openPool, type Pool } from '../pg.ts'
import { rehearseJobs, runJobs, type Counts, type JobResult, type Kind, type Rehearsed, type ReencryptSettings } from '../reencrypt.ts'
import { listFailures, listJobs } from '../reencrypt/standing.ts'
import type { Tables } from '../tables.ts'
import { tablesOf } from './app.ts'
import { demand, onDatabase, required } from './database.ts'
import { aligned, asksForHelp, exits, UsageProblem, WorkRefused, type Io } from './io.ts'
import { showProgress } from './progress.ts'
import { renewerInThread } from './reencrypt/thread.ts'

const usage = `redoubt reencrypt <what> --app <folder> [options]

  allow      opens the sealed columns to the jobs, as the app's tables.ts names them
  run        brings every value under the active key of its subject, every blind index under its newest version
  import     seals what an older system left in the columns that tables.ts declares as legacy
  verify     opens every sealed value and compares: indexes with values, values with what they were imported from
  wipe       empties legacy columns: of what was imported and opens, and of what must not be kept at all
  status     all jobs, and what they proved
  failures   rows that a job could not settle: id, column, class of error
  withdraw   takes back what allow gave

  --table <schema.table>      only this one; may be repeated. wipe needs it
  --dry-run                   tells what would be done and writes nothing
  --rows-per-second <n>       ceiling of this worker
  --max-latency <ms>          a batch that takes longer is followed by smaller ones and a rest (500)
  --max-lag <seconds>         waits while a replica lags more than this
  --job <id>                  for failures; by default the newest job that has some
  --json                      the result as JSON

Everything runs while the service works. It may be killed and started again at any point, and started several times at
once to go faster. Works on DATABASE_OWNER_URL, KEYS_DATABASE_URL and KMS; old secrets come from the settings that
tables.ts names, or from the files that <setting>_FILE names.
Exit codes: 0 proven, 1 rows failed, or something is left, or it was stopped, 2 wrong usage
`

const quiet = (): void => undefined
const words = { run: 'reencrypt', import: 'import', verify: 'verify', wipe: 'wipe' } as const satisfies Record<string, Kind>
const others = ['allow', 'withdraw', 'status', 'failures'] as const

type Options = ReturnType<typeof optionsOf>['values']

function optionsOf(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        app: { type: 'string' }, table: { type: 'string', multiple: true, default: [] }, job: { type: 'string' }, json: { type: 'boolean', default: false },
        'dry-run': { type: 'boolean', default: false }, 'rows-per-second': { type: 'string' }, 'max-latency': { type: 'string' }, 'max-lag': { type: 'string' },
      },
    })
  } catch (error) {
    throw new UsageProblem(error instanceof Error ? error.message : 'wrong options', { cause: error })
  }
}

function amount(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const value = Number(text)
  if (!(Number.isFinite(value) && value > 0)) throw new UsageProblem(`--${name} must be a positive number`)
  return value
}

/** An old secret: the setting itself, or the file it points to. */
function secretOf(io: Io, name: string): string {
  const file = io.env[`${name}_FILE`]
  return file === undefined ? required(io, name) : readFileSync(resolve(io.cwd, file), 'utf8').replace(/\r?\n$/, '')
}

async function onPools<T>(io: Io, work: (pool: Pool, keysPool: Pool) => Promise<T>): Promise<T> {
  demand(io, 'DATABASE_OWNER_URL', 'KEYS_DATABASE_URL', 'KMS')
  return onDatabase(io, 'DATABASE_OWNER_URL', (url) => onDatabase(io, 'KEYS_DATABASE_URL', async (keysUrl) => {
    const pool = openPool({ url, max: 3, statementTimeout: 600_000, emit: quiet })
    const keysPool = openPool({ url: keysUrl, max: 3, emit: quiet })
    try {
      return await work(pool, keysPool)
    } finally {
      await pool.close()
      await keysPool.close()
    }
  }))
}

async function withSettings<T>(io: Io, tables: Tables, options: Options, signal: AbortSignal, work: (settings: ReencryptSettings) => Promise<T>): Promise<T> {
  return onPools(io, async (pool, keysPool) => {
    const missing = await tablesWithoutRights(pool, tables)
    if (missing.length > 0) throw new WorkRefused(`jobs are not allowed on ${missing.join(', ')}: run \`redoubt reencrypt allow --app ${options.app ?? '<folder>'}\` first`)
    const service = await openKeyService(required(io, 'KMS'), { ...keyServiceOptions(io.env), production: io.env['NODE_ENV'] === 'production' })
    const record = startKeyUsage({ pool: keysPool, emit: quiet })
    const keyring = openKeyring({ pool: keysPool, service, realm: tables.service, emit: quiet, usage: record, by: { actor: 'operator', purpose: 'reencrypt' } })
    const rowsPerSecond = amount('rows-per-second', options['rows-per-second'])
    const latencyMs = amount('max-latency', options['max-latency'])
    const lagSeconds = amount('max-lag', options['max-lag'])
    try {
      return await work({
        tables, pool, keysPool, keyring, signal, emit: quiet, renewer: renewerInThread, secrets: (name) => secretOf(io, name),
        throttle: { ...(rowsPerSecond === undefined ? {} : { rowsPerSecond }), ...(latencyMs === undefined ? {} : { latencyMs }), ...(lagSeconds === undefined ? {} : { lagSeconds }) },
        ...(options.table.length === 0 ? {} : { only: options.table }),
      })
    } finally {
      await record.stop()
      keyring.close()
      service.close()
    }
  })
}

function countsRow(table: string, counts: Counts, end: string): readonly string[] {
  return [table, ...[counts.seen, counts.changed, counts.already, counts.absent, counts.erased, counts.failed].map((n) => n.toLocaleString('en')), end]
}

const heading = ['table', 'rows', 'changed', 'already', 'absent', 'erased', 'failed'] as const

function reasonsText(reasons: JobResult['reasons']): string {
  return Object.entries(reasons).map(([reason, n]) => `${n} ${reason}`).join(', ')
}

function tell(io: Io, json: boolean, results: readonly (JobResult | Rehearsed)[], ends: (result: JobResult | Rehearsed) => string): void {
  if (json) return io.out(`${JSON.stringify(results, null, 2)}\n`)
  io.out(aligned([...heading, 'end'], results.map((result) => countsRow(result.table, result.counts, [ends(result), reasonsText(result.reasons)].filter((part) => part !== '').join('; ')))))
}

async function job(io: Io, tables: Tables, kind: Kind, options: Options): Promise<number> {
  if (kind === 'wipe' && options.table.length === 0) throw new UsageProblem('wipe needs --table: what is wiped does not come back')
  const stop = new AbortController()
  const onSignal = (): void => stop.abort()
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
  try {
    return await withSettings(io, tables, options, stop.signal, async (settings) => {
      if (options['dry-run']) {
        const planned = await rehearseJobs(settings, kind)
        tell(io, options.json, planned, () => 'dry run')
        return planned.every(({ counts }) => counts.failed === 0) && !stop.signal.aborted ? exits.ok : exits.failed
      }
      const done = options.json ? async () => undefined : showProgress(io, async () =>
        (await listJobs(settings.pool, true)).filter((one) => one.kind === kind).map(({ table, seen, expected }) => ({ what: `${kind} ${table}`, done: seen, expected })))
      let results: readonly JobResult[]
      try {
        results = await runJobs(settings, kind)
      } finally {
        await done()
      }
      tell(io, options.json, results, (result) => ('proven' in result && result.proven ? 'proven' : 'state' in result && result.state === 'running' ? 'stopped: start again to go on' : 'NOT PROVEN'))
      return results.every(({ proven }) => proven) && !stop.signal.aborted ? exits.ok : exits.failed
    })
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
  }
}

async function look(io: Io, what: 'status' | 'failures', options: Options): Promise<number> {
  return onDatabase(io, 'DATABASE_OWNER_URL', async (url) => {
    const pool = openPool({ url, max: 1, emit: quiet })
    try {
      const jobs = await listJobs(pool)
      if (what === 'status') {
        if (options.json) io.out(`${JSON.stringify(jobs, null, 2)}\n`)
        else io.out(aligned(['job', 'kind', 'state', 'started', ...heading, 'proven'], jobs.map((one) => [one.id, one.kind, one.state, one.startedAt.toISOString().slice(0, 19), ...countsRow(one.table, one, one.provenAt?.toISOString().slice(0, 19) ?? 'no')])))
        return exits.ok
      }
      const id = options.job ?? jobs.find(({ failed }) => failed > 0)?.id
      if (id === undefined) {
        io.out('no job has rows that failed\n')
        return exits.ok
      }
      if (!jobs.some((one) => one.id === id)) throw new UsageProblem('--job names no job')
      const rows = await listFailures(pool, id, 100_000)
      if (options.json) io.out(`${JSON.stringify(rows, null, 2)}\n`)
      else io.out(aligned(['row', 'column', 'reason'], rows.map(({ row, column, reason }) => [row, column, reason])))
      return rows.length === 0 ? exits.ok : exits.failed
    } finally {
      await pool.close()
    }
  })
}

/** `redoubt reencrypt …`. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(usage)
    return exits.ok
  }
  const { values, positionals } = optionsOf(args)
  const [what, ...more] = positionals
  if (more.length > 0 || what === undefined || !(what in words || others.some((other) => other === what))) throw new UsageProblem(`say which: ${[...Object.keys(words), ...others].join(', ')}`)
  if (what === 'status' || what === 'failures') return look(io, what, values)
  if (values.app === undefined) throw new UsageProblem('--app <folder of the app> is missing')
  const tables = await tablesOf(io, values.app)
  if (what === 'allow' || what === 'withdraw') {
    const names = await onDatabase(io, 'DATABASE_OWNER_URL', (url) => (what === 'allow' ? allowReencryption : withdrawReencryption)({ url, tables }))
    io.out(what === 'allow' ? `jobs are allowed on ${names.join(', ')}\nWhen all is proven: redoubt reencrypt withdraw --app ${values.app}\n` : `jobs are not allowed any more on ${names.join(', ')}\n`)
    return exits.ok
  }
  return job(io, tables, words[what as keyof typeof words], values)
}
