import { checkDatabase } from '../migrate/check.ts'
import { openPool } from '../pg.ts'
import { appOptions, definersOf, tablesOf } from './app.ts'
import { onDatabase } from './database.ts'
import { asksForHelp, exits, type Io } from './io.ts'
import { rolesSql } from './roles.ts'

const checkUsage = `redoubt db check --app <folder>

Holds the database behind DATABASE_URL against <folder>/src/tables.ts and the rules of SECURITY.md, as the service does
at its start: roles, grants, row security, policies, definer functions, columns. Exit code 1 when anything is found.
`
const rolesUsage = `redoubt db roles --app <folder>

Prints the SQL that an administrator runs once per cluster and database, connected to the service's database. It sets no
password: give each login one with \\password.
`

/** `redoubt db check`. */
export async function check(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(checkUsage)
    return exits.ok
  }
  const { app } = appOptions(args)
  const [tables, definers] = [await tablesOf(io, app), await definersOf(io, app)]
  return onDatabase(io, 'DATABASE_URL', async (url) => {
    const pool = openPool({ url, max: 1, emit: () => undefined })
    try {
      const findings = await checkDatabase(pool, tables, definers)
      for (const { what, todo } of findings) io.out(`${what}\n  ${todo}\n`)
      io.out(findings.length === 0 ? 'the database keeps every rule\n' : `${findings.length} found\n`)
      return findings.length === 0 ? exits.ok : exits.failed
    } finally {
      await pool.close()
    }
  })
}

/** `redoubt db roles`. */
export async function roles(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(rolesUsage)
    return exits.ok
  }
  const { app } = appOptions(args)
  io.out(rolesSql((await tablesOf(io, app)).service))
  return exits.ok
}
