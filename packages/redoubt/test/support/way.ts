import type { Login } from '../../src/cli/roles.ts'
import type { TestDatabase } from './database.ts'
import { poolerAbsent, startPooler } from './pgbouncer.ts'

/** How the runtime roles of a test reach their database. */
export type Way = {
  url(login: Login): string
  /** For openPool. */
  readonly namedStatements: boolean
  close(): Promise<void>
}

/** Whether the suites run behind a pooler: a connection of the app's then is none of the server's. */
export const pooled = process.env['REDOUBT_TEST_POOLER'] === '1'

/**
 * Straight to the server; with REDOUBT_TEST_POOLER=1 through a PgBouncer in transaction mode and without named
 * statements, so that the same suites run behind a pooler.
 * @param through the logins that go through the pooler; the others go straight
 */
export async function wayTo(database: TestDatabase, through: readonly Login[] = ['app', 'keys']): Promise<Way> {
  if (!pooled) return { url: database.url, namedStatements: true, close: () => Promise.resolve() }
  const pooler = await startPooler({ urls: through.map((login) => database.url(login)) })
  if (pooler === null) throw new Error(`REDOUBT_TEST_POOLER is set but ${String(poolerAbsent)}`)
  return {
    url: (login) => (through.includes(login) ? pooler.url(database.url(login)) : database.url(login)),
    namedStatements: false,
    close: pooler.stop,
  }
}
