import { AsyncLocalStorage } from 'node:async_hooks'
import { jsonMembers } from './log/json.ts'
import { hiddenNames } from './log/names.ts'
import { openSink, type Sink } from './log/sink.ts'
import { jsonText } from './log/text.ts'
import type { Tables } from './tables.ts'

export { logEvents } from './log/events.ts'
export { openSink, type Sink } from './log/sink.ts'

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const
export type Level = (typeof levels)[number]
/** What a line is about. `audit` (security) may have a sink of its own; `service` is the life of the process. */
export type Category = 'http' | 'auth' | 'money' | 'provider' | 'webhook' | 'job' | 'audit' | 'service'
export type Fields = Readonly<Record<string, unknown>>
type Write = (category: Category, message: string, fields?: Fields) => void

export type Log = { readonly [L in Level]: Write } & {
  readonly level: Level
  /** Changes the least level at once, for this log and its children. @throws TypeError when it is not a level */
  setLevel(level: Level): void
  isOn(level: Level): boolean
  /** A log whose lines carry these fields too. */
  child(fields: Fields): Log
  /** For events.ts, whose members never carry a value from outside: only credential names hide, not names of columns. */
  event(level: Level, category: Category, message: string, fields: Fields): void
  /** Every line written so far is with the operating system when it returns. */
  flush(): void
  /** Flushes, forgets the process events and closes the sinks. Later lines are dropped. */
  close(): void
}

/** Carries the request id of the line being written, and nothing else: who calls is always an argument. */
const requestIds = new AsyncLocalStorage<string>()

/** Runs `work`; every line written from inside, also later and from callbacks, carries the request id. */
export function withRequestId<T>(requestId: string, work: () => T): T {
  return requestIds.run(requestId, work)
}

const reserved = new Set(['time', 'level', 'service', 'version', 'category', 'requestId', 'msg'])
const signals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const

/** Signals end a process without its exit event; after the flush the signal takes the course it would have taken. */
function flushAtEnd(flush: () => void): () => void {
  const handlers = signals.map((signal) => {
    const handler = (): void => {
      flush()
      if (process.listenerCount(signal) > 1) return
      process.removeListener(signal, handler)
      process.kill(process.pid, signal)
    }
    process.on(signal, handler)
    return { signal, handler }
  })
  process.on('exit', flush)
  return () => {
    process.removeListener('exit', flush)
    for (const { signal, handler } of handlers) process.removeListener(signal, handler)
  }
}

/** ISO 8601 in UTC with milliseconds; the part up to the second is made once a second. */
function clockText(): () => string {
  let second = -1
  let text = ''
  return () => {
    const now = Date.now()
    const thisSecond = Math.floor(now / 1000)
    if (thisSecond !== second) {
      second = thisSecond
      text = new Date(second * 1000).toISOString().slice(0, 20)
    }
    const ms = now - second * 1000
    return `${text}${ms < 10 ? '00' : ms < 100 ? '0' : ''}${ms}Z`
  }
}

/**
 * Opens the log: one JSON object a line (pino's names: level, time, msg), to stdout unless a sink is given.
 *
 * The serialiser is ours because redaction by the name of a key at any depth, decided while writing, costs less than
 * pino's list of paths, which also misses every path nobody thought of; `npm run bench -- log` prints the ratios.
 * @param options.tables the app's declaration, from which the hidden keys come; null for a service without tables
 * @param options.sink takes the lines; options.auditSink takes those of category `audit` instead of it
 * @param options.atEnd flush at exit and on SIGTERM, SIGINT, SIGHUP (default true)
 * @throws TypeError when level is not a level
 */
export function openLog(options: {
  readonly service: string
  readonly version: string
  readonly tables: Tables | null
  readonly level?: Level
  readonly sink?: Sink
  readonly auditSink?: Sink
  readonly atEnd?: boolean
}): Log {
  const sink = options.sink ?? openSink(1)
  const auditSink = options.auditSink ?? sink
  const json = jsonMembers({ hides: hiddenNames(options.tables), hidesInEvent: hiddenNames(null), reserved })
  const now = clockText()
  const origin = `","service":${jsonText(options.service)},"version":${jsonText(options.version)},"category":"`
  let threshold = rankOf(options.level ?? 'info')
  let closed = false

  function flush(): void {
    sink.flush()
    if (auditSink !== sink) auditSink.flush()
  }

  function write(start: string, bound: string, category: Category, message: string, members: string): void {
    const requestId = requestIds.getStore()
    const line =
      `${start}${now()}${origin}${category}"` +
      (requestId === undefined ? '' : `,"requestId":${jsonText(requestId)}`) +
      `${bound}${members},"msg":${jsonText(message)}}\n`
    if (category === 'audit') auditSink.write(line)
    else sink.write(line)
  }

  function make(bound: string): Log {
    const writer = (level: Level): Write => {
      const rank = rankOf(level)
      const start = startOf(level)
      return (category, message, fields) => {
        if (rank < threshold || closed) return
        write(start, bound, category, message, fields === undefined ? '' : json.fields(fields))
      }
    }
    return {
      trace: writer('trace'),
      debug: writer('debug'),
      info: writer('info'),
      warn: writer('warn'),
      error: writer('error'),
      fatal: writer('fatal'),
      event(level, category, message, fields) {
        if (rankOf(level) >= threshold && !closed) write(startOf(level), bound, category, message, json.event(fields))
      },
      get level() {
        return levels[threshold] ?? 'info'
      },
      setLevel(level) {
        threshold = rankOf(level)
      },
      isOn: (level) => rankOf(level) >= threshold,
      child: (fields) => make(bound + json.fields(fields)),
      flush,
      close() {
        if (closed) return
        closed = true
        forget()
        sink.close()
        if (auditSink !== sink) auditSink.close()
      },
    }
  }

  const forget = options.atEnd === false ? () => {} : flushAtEnd(flush)
  return make('')
}

function startOf(level: Level): string {
  return `{"level":"${level}","time":"`
}

function rankOf(level: Level): number {
  const rank = levels.indexOf(level)
  if (rank < 0) throw new TypeError(`log: level must be one of ${levels.join(', ')}`)
  return rank
}
