import { globSync } from 'node:fs'
import { databaseUrl } from '../config.ts'
import { Refusal } from '../errors.ts'
import { noConnection } from '../pg/refusal.ts'
import { UsageProblem, WorkRefused, type Io } from './io.ts'

/**
 * Asks for everything that a command needs before it begins, so that nobody sets one after the other.
 * @throws UsageProblem naming every missing setting, and where npm start has put them
 */
export function demand(io: Io, ...names: readonly string[]): void {
  const missing = names.filter((name) => (io.env[name] ?? '') === '')
  if (missing.length > 0) throw new UsageProblem(`${listed(missing)} must be set${whereSettingsStand(io.cwd)}`)
}

/** @throws UsageProblem when the setting is missing */
export function required(io: Io, name: string): string {
  demand(io, name)
  return io.env[name] ?? ''
}

function listed(names: readonly string[]): string {
  return names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1) ?? ''}`
}

/** A development start leaves the settings of its server in the folder beside its data. */
function whereSettingsStand(cwd: string): string {
  const [file] = globSync('.redoubt/*.env', { cwd })
  return file === undefined ? '' : `; with npm start: set -a; . ${file.replaceAll('\\', '/')}; set +a`
}

/** @throws UsageProblem when the setting is missing or is no connection string */
export function connectionString(io: Io, name: string): URL {
  const text = required(io, name)
  if (!databaseUrl().schema.safeParse(text).success) throw new UsageProblem(`${name} is not a connection string: postgresql://user:password@host/database, each parameter at most once`)
  return new URL(text)
}

/**
 * Runs work on the database that a setting names, and says in words why there is no connection.
 * @param name of the setting
 * @throws UsageProblem when the setting is missing or no connection string; WorkRefused when the database cannot be
 * reached or refuses the sign-in, with host, port and login but never the password
 */
export async function onDatabase<T>(io: Io, name: string, work: (url: string) => Promise<T>): Promise<T> {
  const url = connectionString(io, name)
  try {
    return await work(required(io, name))
  } catch (refusal) {
    if (!(refusal instanceof Refusal) || refusal.code !== 'database_unavailable') throw refusal
    throw new WorkRefused(`${reason(url, refusal.detail)} (${name})`, { cause: refusal })
  }
}

function reason(url: URL, detail: string | undefined): string {
  const place = `${url.hostname}:${url.port === '' ? '5432' : url.port}`
  if (detail === noConnection.signIn) return `sign-in as ${decodeURIComponent(url.username)} was refused at ${place}`
  return detail === noConnection.database ? `there is no database ${decodeURIComponent(url.pathname.slice(1))} at ${place}` : `the database cannot be reached at ${place}`
}
