import { readFileSync } from 'node:fs'
import { ConfigProblem, modeOf, readConfig, type Environment } from 'redoubt/config'
import { Refusal } from 'redoubt/errors'
import type { Emit } from 'redoubt/events'
import { logEvents, openLog, type Log } from 'redoubt/log'
import type { Sink } from 'redoubt/log/sink'
import { MigrationDrift } from 'redoubt/migrate'
import { DatabaseRefused } from 'redoubt/migrate/check'
import { settings, type Settings } from './config.ts'
import { tables } from './tables.ts'

const version = '0.1.0'

/** How a process of Therapy ends. */
export const exitCodes = {
  /** Asked to stop, and stopped. */
  stopped: 0,
  /** Something nobody planned for. */
  failed: 1,
  /** Configuration, database, keys or arguments are refused: starting again changes nothing. */
  refused: 2,
  /** The port belongs to another process. */
  portTaken: 3,
} as const

/** The same for the end of a help text, as docs/runbooks/start.md has it. */
export const exitCodesInWords = `Exit codes: ${exitCodes.stopped} stopped as asked, ${exitCodes.failed} failed, ${exitCodes.refused} refused (starting again changes nothing), ${exitCodes.portTaken} port taken`

/** Whether the command line asks for the help. */
export function helpAsked(words: readonly string[]): boolean {
  return words[0] === 'help' || words.includes('--help') || words.includes('-h')
}

/** Login shells name the mailbox of this machine's account in MAIL, a path: none of ours, and no way to send. */
export function forgetMailbox(): void {
  if (process.env['MAIL']?.startsWith('/') === true) delete process.env['MAIL']
}

/** @throws ConfigProblem with every problem at once */
export function settingsFrom(env: Environment): Settings {
  return readConfig(settings, { env, mode: modeOf(env), readFile: (path) => readFileSync(path, 'utf8') })
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`)
}

export function complain(line: string): void {
  process.stderr.write(`${line}\n`)
}

/** The log of a process and the way the library reports to it. @param sink where the lines go, default stdout */
export function openReports(service: string, level: Settings['LOG_LEVEL'], sink?: Sink): { readonly log: Log; readonly emit: Emit } {
  const log = openLog({ service, version, tables, level, ...(sink === undefined ? {} : { sink }) })
  return { log, emit: logEvents(log) }
}

/** A start that cannot be, in words for whoever starts: a setting, or what a process of the service said of itself. */
export class StartRefused extends Error {
  override readonly name = 'StartRefused'
}

/** Why a start was refused, in words for whoever starts it; undefined for what nobody planned for. */
function refusalText(error: unknown): string | undefined {
  if (error instanceof ConfigProblem || error instanceof DatabaseRefused || error instanceof MigrationDrift || error instanceof StartRefused) return error.message
  if (error instanceof Refusal) return error.detail === undefined ? error.message : `${error.message}: ${error.detail}`
  return undefined
}

/**
 * Runs `main` and turns its end into an exit code: a refusal is said in words, anything else with its stack.
 * @param name of the process, in front of what it says
 */
export function run(name: string, main: () => Promise<void>): void {
  main().catch((error: unknown) => {
    const text = refusalText(error)
    if (text !== undefined) {
      complain(`${name}: ${text}`)
      process.exitCode = exitCodes.refused
      // Started by npm start, our words go to its log; whoever sits at the terminal needs them too.
      if (process.connected === true) return void process.send?.({ refused: `${name}: ${text}` }, () => process.connected === true && process.disconnect())
    } else if ((error as NodeJS.ErrnoException | undefined)?.code === 'EADDRINUSE') {
      const { port } = error as { readonly port?: number }
      complain(`${name}: port ${port ?? ''} is used by another process; stop that one, or set ${String(port) === process.env['ADMIN_PORT'] ? 'ADMIN_PORT' : 'PORT'}`)
      process.exitCode = exitCodes.portTaken
    } else {
      complain(`${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
      process.exitCode = exitCodes.failed
    }
    if (process.connected === true) process.disconnect()
  })
}

/**
 * Calls `stop` once, for the first of SIGTERM, SIGINT, SIGHUP (the terminal was closed), or the end of the process that
 * started this one.
 * @param also another way of being asked to stop; it gets what to call then
 */
export function onStop(stop: () => Promise<void>, also?: (asked: () => void) => void): void {
  let stopping = false
  const once = (): void => {
    if (stopping) return
    stopping = true
    stop().catch((error: unknown) => {
      complain(error instanceof Error ? (error.stack ?? error.message) : String(error))
      process.exit(exitCodes.failed)
    })
  }
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, once)
  if (process.send !== undefined) process.on('disconnect', once)
  also?.(once)
  // Whoever read our words may be gone before us; that must not end us half-way.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
}
