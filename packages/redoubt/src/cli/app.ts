import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import type { Settings } from '../config.ts'
import type { Tables } from '../tables.ts'
import { UsageProblem, type Io } from './io.ts'

/**
 * Options of a command that works on an app.
 * @param names further options, each with a value
 * @throws UsageProblem for an unknown option, a stray word, or no --app
 */
export function appOptions(args: readonly string[], names: readonly string[] = []): { readonly app: string; readonly more: Readonly<Record<string, string | undefined>> } {
  const options = Object.fromEntries(['app', ...names].map((name) => [name, { type: 'string' as const }]))
  let values: Readonly<Record<string, string | boolean | undefined>>
  try {
    values = parseArgs({ args: [...args], options, strict: true }).values
  } catch (error) {
    throw new UsageProblem(error instanceof Error ? error.message : 'wrong options')
  }
  const { app, ...more } = values as Readonly<Record<string, string | undefined>>
  if (app === undefined) throw new UsageProblem('--app <folder of the app> is missing')
  return { app, more }
}

async function named(io: Io, app: string, file: string, name: string): Promise<unknown> {
  const path = resolve(io.cwd, join(app, 'src', file))
  if (!existsSync(path)) throw new UsageProblem(`${join(app, 'src', file)} does not exist; --app names the folder of an app`)
  const module = (await import(pathToFileURL(path).href)) as Readonly<Record<string, unknown>>
  const found = module[name]
  if (typeof found !== 'object' || found === null) throw new UsageProblem(`${join(app, 'src', file)} does not export ${name}`)
  return found
}

/** The declaration that `<app>/src/tables.ts` exports as `tables`. @throws UsageProblem where there is none */
export async function tablesOf(io: Io, app: string): Promise<Tables> {
  return (await named(io, app, 'tables.ts', 'tables')) as Tables
}

/** The spec that `<app>/src/config.ts` exports as `settings`. @throws UsageProblem where there is none */
export async function settingsOf(io: Io, app: string): Promise<Settings> {
  return (await named(io, app, 'config.ts', 'settings')) as Settings
}

/** The definer functions that `<app>/src/tables.ts` exports as `definers`. @throws UsageProblem where there are none */
export async function definersOf(io: Io, app: string): Promise<readonly string[]> {
  return (await named(io, app, 'tables.ts', 'definers')) as readonly string[]
}
