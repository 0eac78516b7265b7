import { randomBytes } from 'node:crypto'
import { basename, join } from 'node:path'
import { after } from 'node:test'
import pg from 'pg'
import { startEmbedded } from '../../src/cli/embedded.ts'
import type { Embedded } from '../../src/cli/embedded.ts'
import { roleName } from '../../src/cli/roles.ts'
import type { Login } from '../../src/cli/roles.ts'
import { cloneTemplate, dropDatabase, serverAt, testService } from './template.ts'
import type { Origin, Server } from './template.ts'

export type TestDatabase = {
  readonly name: string
  /** Prefix of the role names, and the service name that signatures carry. */
  readonly service: string
  /** Connection string of one of the service's logins. */
  url(login: Login): string
  /** Connection string of the superuser to this database. */
  readonly adminUrl: string
  /** One statement (or several, without values) as superuser, past every policy. */
  admin<R extends pg.QueryResultRow = pg.QueryResultRow>(sql: string, values?: readonly unknown[]): Promise<readonly R[]>
  /** Called by itself at the end of the file. */
  drop(): Promise<void>
}

/** Git-ignored; shared with the runner, so that a single file can be run beside it. */
export const testFolder = join(import.meta.dirname, '../../../../.redoubt/test')

let embedded: { readonly server: Promise<Embedded>; users: number } | undefined

/** The server of the runner, or for a file run by hand the embedded one, started or adopted. */
async function findServer(): Promise<{ readonly server: Server; release(): Promise<void> }> {
  const adminUrl = process.env['REDOUBT_TEST_ADMIN_URL']
  if (adminUrl !== undefined && adminUrl !== '') return { server: serverAt(adminUrl), release: () => Promise.resolve() }
  const mine = (embedded ??= { server: startEmbedded({ folder: testFolder, insecureNoFsync: true }), users: 0 })
  mine.users++
  const started = await mine.server
  return {
    server: serverAt(started.adminUrl),
    release: async () => {
      if (--mine.users > 0) return
      embedded = undefined
      await started.stop()
    },
  }
}

/**
 * A database of its own for a test file, cloned from a template with the roles and migrations, dropped at the end of
 * the file (or of the suite or test it is called in).
 * @param options.origins which migrations it has, in this order; an empty list gives the roles alone. Default: all
 */
export async function testDatabase(options: { readonly origins?: readonly Origin[] } = {}): Promise<TestDatabase> {
  const { server, release } = await findServer()
  const file = basename(process.argv[1] ?? 'test').replace(/\.test\.ts$/, '').replace(/[^a-z0-9]+/g, '_')
  const name = `redoubt_test_${file.slice(0, 24)}_${process.pid}_${randomBytes(3).toString('hex')}`
  await cloneTemplate(server, options.origins ?? ['redoubt', 'therapy'], name)

  const adminUrl = server.url(decodeURIComponent(new URL(server.adminUrl).username), name)
  const client = new pg.Client({ connectionString: adminUrl, application_name: 'redoubt-test' })
  await client.connect()
  let dropped: Promise<void> | undefined
  // One connection does one thing at a time, whatever a test asks for at once.
  let before: Promise<unknown> = Promise.resolve()
  const database: TestDatabase = {
    name,
    service: testService,
    url: (login) => server.url(roleName(testService, login), name),
    adminUrl,
    admin: async <R extends pg.QueryResultRow>(sql: string, values?: readonly unknown[]) => {
      const ask = (): Promise<pg.QueryResult<R>> => client.query<R>(sql, values === undefined ? undefined : [...values])
      const asked = before.then(ask)
      before = asked.catch(() => undefined)
      return (await asked).rows
    },
    drop: () =>
      (dropped ??= (async () => {
        await client.end()
        await dropDatabase(server, name, 3000)
        await release()
      })()),
  }
  // Not awaited: hooks run one after the other, and the file's own, that close its pools, may come after this one.
  after(() => void database.drop())
  return database
}
