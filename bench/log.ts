import { createWriteStream, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { once } from 'node:events'
import { pino } from 'pino'
import winston from 'winston'
import { openLog, openSink, withRequestId } from 'redoubt/log'
import { rounds } from './rounds.ts'

/**
 * A typical request line with credentials at three depths, written to a file and flushed. All three loggers hide the
 * same ten values; ours also looks through every text for card numbers, tokens and addresses, which the others do not.
 * Speed is lines per second of processor time (all threads), because what else the machine does moves the clock's.
 */
const lines = 20_000
const canaries = Array.from({ length: 10 }, (_, i) => `canary-${i}-value`)
const requestId = '0192f5b4-7d3c-7a51-9c1e-3f6a2b8d4e10'

function recordOf(i: number): Record<string, unknown> {
  return {
    method: 'POST',
    route: '/v1/patients/:id/messages',
    status: 201,
    milliseconds: 12.25,
    n: i,
    actor: `0192f5b4-7d3c-7a51-9c1e-${(i * 7919).toString(16).padStart(12, '0')}`,
    password: canaries[0],
    token: canaries[1],
    user: { id: 4711, role: 'therapist', email: canaries[2], profile: { firstName: canaries[3], language: 'de', timeZone: 'Europe/Berlin' } },
    headers: { authorization: canaries[4], cookie: canaries[5], 'content-type': 'application/json', 'user-agent': `Mozilla/5.0 (X11; Linux x86_64) rv:${i % 40}` },
    body: { otp: canaries[6], card: { cvv: canaries[7], pan: canaries[8] }, secret: canaries[9], note: `plain words of message ${i}`, tags: ['a', 'b'] },
  }
}

const paths = [
  'password', 'token', 'user.email', 'user.profile.firstName', 'headers.authorization', 'headers.cookie', 'body.otp', 'body.card.cvv', 'body.card.pan', 'body.secret',
]
const names = new Set(paths.map((path) => path.slice(path.lastIndexOf('.') + 1).toLowerCase()))
const tables = {
  service: 'bench',
  retention: { record: { days: 1, basis: 'bench' } },
  tables: {
    'bench.people': {
      id: 1, about: 'people', rowId: 'id', subject: 'id', tenant: null, keep: 'record',
      columns: { id: { kind: 'plain', type: 'uuid', dataClass: 'INT' }, first_name_enc: { kind: 'sealed', id: 1, dataClass: 'PII-E' } },
    },
  },
} as const

/** What projects on winston do: a format that walks the record and hides by key name. */
const hide = winston.format((info) => {
  const walk = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(walk)
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, names.has(key.toLowerCase()) ? '[redacted]' : walk(inner)]))
  }
  const hidden = walk(info)
  return typeof hidden === 'object' && hidden !== null ? Object.assign(info, hidden) : info
})

type Writer = {
  readonly write: (record: Record<string, unknown>) => void
  /** Resolves when everything written so far has left the process. */
  readonly flushed: () => Promise<void>
  readonly close: () => Promise<void>
}

function ourWriter(path: string): Writer {
  const log = openLog({ service: 'bench', version: '1.0.0', tables, sink: openSink(path), atEnd: false })
  return {
    write: (record) => withRequestId(requestId, () => log.info('http', 'answered', record)),
    flushed: async () => log.flush(),
    close: async () => log.close(),
  }
}

async function pinoWriter(path: string): Promise<Writer> {
  const target = pino.destination({ dest: path, sync: false, minLength: 16_000 })
  await once(target, 'ready')
  const options = { redact: { paths, censor: '[redacted]' }, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (level: string) => ({ level }) } }
  const log = pino({ ...options, base: { service: 'bench', version: '1.0.0' } }, target)
  return {
    write: (record) => log.info({ category: 'http', requestId, ...record }, 'answered'),
    flushed: () => new Promise((resolve, reject) => target.flush((error) => (error ? reject(error) : resolve()))),
    close: async () => {
      target.end()
      await once(target, 'close')
    },
  }
}

function winstonWriter(path: string): Writer {
  // Not transports.File: ended while it waits for a drain, it throws "write after end".
  const file = createWriteStream(path)
  const format = winston.format.combine(winston.format.timestamp(), hide(), winston.format.json())
  const transports = [new winston.transports.Stream({ stream: file })]
  const log = winston.createLogger({ level: 'info', format, defaultMeta: { service: 'bench', version: '1.0.0' }, transports })
  return {
    write: (record) => void log.info('answered', { category: 'http', requestId, ...record }),
    flushed: () => new Promise((resolve) => void file.write('', () => resolve())),
    close: async () => {
      log.end()
      await once(log, 'finish')
      file.end()
      await once(file, 'finish')
    },
  }
}

/** One round: a service writes between turns of its event loop, not in one go, so loggers may write in the background. */
async function speedOf(writer: Writer): Promise<number> {
  const before = process.cpuUsage()
  for (let i = 0; i < lines; i++) {
    writer.write(recordOf(i))
    if (i % 100 === 99) await new Promise((resolve) => setImmediate(resolve))
  }
  await writer.flushed()
  const { user, system } = process.cpuUsage(before)
  return (lines / (user + system)) * 1e6
}

function problemsIn(name: string, path: string, expected: number): readonly string[] {
  const text = readFileSync(path, 'utf8')
  const found = text.split('\n').length - 1
  const leaked = canaries.filter((canary) => text.includes(canary)).map((canary) => `${name}: ${canary} leaked`)
  return found === expected ? leaked : [...leaked, `${name}: ${found} of ${expected} lines in the file`]
}

/** `npm run bench -- log` */
export async function run(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'redoubt-bench-log-'))
  const at = (name: string): string => join(folder, name)
  const writers = { redoubt: ourWriter(at('redoubt')), pino: await pinoWriter(at('pino')), winston: winstonWriter(at('winston')) }
  const counted = 9
  const outcome = await rounds({
    title: `request lines with ten secrets, ${lines.toLocaleString('en')} a round, to a file, flush included, per second of processor time`,
    rounds: counted,
    variants: { redoubt: () => speedOf(writers.redoubt), 'pino, 10 paths': () => speedOf(writers.pino), 'winston, format': () => speedOf(writers.winston) },
  })
  const problems: string[] = []
  for (const [name, writer] of Object.entries(writers)) {
    await writer.close()
    problems.push(...problemsIn(name, at(name), lines * (counted + 1)))
  }
  rmSync(folder, { recursive: true })
  const toPino = outcome.redoubt.median / outcome['pino, 10 paths'].median
  const toWinston = outcome.redoubt.median / outcome['winston, format'].median
  if (toPino < 2.5) problems.push(`goal missed: ${toPino.toFixed(2)}x pino, wanted 2.5x`)
  if (toWinston < 3.5) problems.push(`goal missed: ${toWinston.toFixed(2)}x winston, wanted 3.5x`)
  process.stdout.write(problems.length === 0 ? 'every line present, nothing leaked, goals met\n' : `${problems.join('\n')}\n`)
  process.exitCode = problems.length === 0 ? 0 : 1
}
