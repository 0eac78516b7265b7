import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { migrate, MigrationDrift, type Source } from '../migrate.ts'
import { appOptions, tablesOf } from './app.ts'
import { onDatabase } from './database.ts'
import { asksForHelp, exits, WorkRefused, type Io } from './io.ts'
import { missingRoles } from './roles.ts'

const usage = `redoubt migrate --app <folder>

Brings the database to the state of the numbered SQL files: first Redoubt's own, then <folder>/sql. Each file is one
transaction, one migrator works at a time, and no file waits longer than five seconds for a lock. Refuses a database
that has other files applied than these. Works on DATABASE_OWNER_URL, the migrator's login, without a pooler.
`

/** The folders of SQL files of an app, in the order in which they are applied. */
export function sourcesOf(io: Io, app: string, service: string): readonly Source[] {
  const kernel = { origin: 'redoubt', folder: join(import.meta.dirname, '../../sql') }
  const folder = resolve(io.cwd, app, 'sql')
  return existsSync(folder) ? [kernel, { origin: service, folder }] : [kernel]
}

/** `redoubt migrate`. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(usage)
    return exits.ok
  }
  const { app } = appOptions(args)
  const { service } = await tablesOf(io, app)
  return onDatabase(io, 'DATABASE_OWNER_URL', async (url) => {
    const missing = await missingRoles(url, service)
    if (missing.length > 0) {
      throw new WorkRefused(`the server has no role ${missing.join(', ')}. An administrator runs once:\n  redoubt db roles --app ${app} | psql <database of the service>`)
    }
    const applied = await migrate({ url, service, sources: sourcesOf(io, app, service) }).catch((error: unknown) => {
      throw error instanceof MigrationDrift ? new WorkRefused(error.message, { cause: error }) : error
    })
    for (const { origin, version, name } of applied) io.out(`applied ${origin}/${String(version).padStart(6, '0')} ${name}\n`)
    io.out(applied.length === 0 ? 'nothing to do\n' : `${applied.length} applied\n`)
    return exits.ok
  })
}
