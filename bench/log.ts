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

const folder = mkdtempSync(join(tmpdir(), 'redoubt-bench-log-'))
let files = 0
const problems: string[] = []

async function measure(name: string, write: (path: string) => Promise<void>): Promise<number> {
  const path = join(folder, `${files++}.log`)
  const before = process.cpuUsage()
  await write(path)
  const { user, system } = process.cpuUsage(before)
  const text = readFileSync(path, 'utf8')
  const found = text.split('\n').length - 1
  if (found !== lines) problems.push(`${name}: ${found} of ${lines} lines in the file`)
  for (const canary of canaries) if (text.includes(canary)) problems.push(`${name}: ${canary} leaked`)
  JSON.parse(text.slice(0, text.indexOf('\n')))
  rmSync(path)
  return (lines / (user + system)) * 1e6
}

/** A service writes between turns of its event loop, not in one go: the loggers that write in the background may. */
async function eachLine(write: (record: Record<string, unknown>) => void): Promise<void> {
  for (let i = 0; i < lines; i++) {
    write(recordOf(i))
    if (i % 100 === 99) await new Promise((resolve) => setImmediate(resolve))
  }
}

export async function run(): Promise<void> {
  const outcome = await rounds({
    title: `request lines with ten secrets, ${lines.toLocaleString('en')} a round, to a file, flush included`,
    rounds: 7,
    variants: {
      redoubt: () =>
        measure('redoubt', async (path) => {
          const log = openLog({ service: 'bench', version: '1.0.0', tables, sink: openSink(path), atEnd: false })
          await withRequestId(requestId, () => eachLine((record) => log.info('http', 'answered', record)))
          log.close()
        }),
      'pino, 10 paths': () =>
        measure('pino', async (path) => {
          const target = pino.destination({ dest: path, sync: false, minLength: 16_000 })
          await once(target, 'ready')
          const options = { redact: { paths, censor: '[redacted]' }, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (level: string) => ({ level }) } }
          const log = pino({ ...options, base: { service: 'bench', version: '1.0.0' } }, target)
          await eachLine((record) => log.info({ category: 'http', requestId, ...record }, 'answered'))
          target.end()
          await once(target, 'close')
        }),
      'winston, format': () =>
        measure('winston', async (path) => {
          // Not transports.File: ended while it waits for a drain, it throws "write after end".
          const file = createWriteStream(path)
          const transports = [new winston.transports.Stream({ stream: file })]
          const format = winston.format.combine(winston.format.timestamp(), hide(), winston.format.json())
          const log = winston.createLogger({ level: 'info', format, defaultMeta: { service: 'bench', version: '1.0.0' }, transports })
          await eachLine((record) => log.info('answered', { category: 'http', requestId, ...record }))
          log.end()
          await once(log, 'finish')
          file.end()
          await once(file, 'finish')
        }),
    },
  })

  rmSync(folder, { recursive: true })
  const toPino = outcome.redoubt.median / outcome['pino, 10 paths'].median
  const toWinston = outcome.redoubt.median / outcome['winston, format'].median
  if (toPino < 2.5) problems.push(`goal missed: ${toPino.toFixed(2)}x pino, wanted 2.5x`)
  if (toWinston < 3.5) problems.push(`goal missed: ${toWinston.toFixed(2)}x winston, wanted 3.5x`)
  process.stdout.write(problems.length === 0 ? 'every line present, nothing leaked, goals met\n' : `${[...new Set(problems)].join('\n')}\n`)
  process.exitCode = problems.length === 0 ? 0 : 1
}
