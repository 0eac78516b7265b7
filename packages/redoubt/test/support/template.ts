import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import { derivedPassword } from '../../src/cli/embedded.ts'
import { logins, passwordsSql, roleName, rolesSql } from '../../src/cli/roles.ts'
import { migrate, readMigrations } from '../../src/migrate.ts'
import type { Source } from '../../src/migrate.ts'

/** Not a name that a real service has: on a server that is not ours, real roles and their passwords stay untouched. */
export const testService = 'redoubt_test'

const repository = join(import.meta.dirname, '../../../..')

/** The folders of SQL files, in the order in which they are applied. */
export const sqlFolders = {
  redoubt: join(repository, 'packages/redoubt/sql'),
  therapy: join(repository, 'apps/therapy/sql'),
} as const
export type Origin = keyof typeof sqlFolders

// Held in the maintenance database; shared while cloning, alone while templates are made or removed.
const lock = 7_305_411

export type Server = { readonly adminUrl: string; url(user: string, database: string): string }

/** The server behind an administrator's connection string; logins get passwords derived from the administrator's. */
export function serverAt(adminUrl: string): Server {
  const admin = new URL(adminUrl)
  const secret = decodeURIComponent(admin.password)
  return {
    adminUrl,
    url: (user, database) => {
      const url = new URL(adminUrl)
      url.pathname = `/${database}`
      if (user === decodeURIComponent(admin.username)) return url.href
      url.username = user
      url.password = derivedPassword(secret, user)
      return url.href
    },
  }
}

const adminName = (server: Server): string => decodeURIComponent(new URL(server.adminUrl).username)

/** Runs `work` on a connection of its own. */
export async function connected<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, application_name: 'redoubt-test' })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

async function sourcesOf(origins: readonly Origin[]): Promise<readonly Source[]> {
  const present = await Promise.all(origins.map((origin) => readdir(sqlFolders[origin]).then(() => true, () => false)))
  return origins.filter((_, index) => present[index]).map((origin) => ({ origin, folder: sqlFolders[origin] }))
}

const identifier = (name: string): string => pg.escapeIdentifier(name)

/** Everything that a cloned database does not inherit from its template: rights on the database itself. */
async function grantHere(server: Server, database: string): Promise<void> {
  await connected(server.url(adminName(server), database), (client) => client.query(rolesSql(testService)))
}

/**
 * Makes sure that a template with the roles and the SQL files of these origins exists. Its name is the hash of what it
 * was made from, so it is made again only when a file changes.
 * @returns its name
 */
export async function ensureTemplate(server: Server, origins: readonly Origin[]): Promise<string> {
  const sources = await sourcesOf(origins)
  const hash = createHash('sha256').update(JSON.stringify([await readMigrations(sources), rolesSql(testService)]))
  const name = `redoubt_template_${origins.join('_') || 'empty'}_${hash.digest('hex').slice(0, 12)}`
  await connected(server.adminUrl, async (client) => {
    const exists = async (): Promise<boolean> =>
      (await client.query('select from pg_database where datname = $1 and datistemplate', [name])).rowCount === 1
    if (await exists()) return
    await client.query('select pg_advisory_lock($1)', [lock])
    if (await exists()) return
    await removeStale(client, name.slice(0, -12))
    const draft = `${name}_draft`
    await client.query(`create database ${identifier(draft)} template template0 encoding 'UTF8'`)
    await grantHere(server, draft)
    await client.query(passwordsSql(testService, Object.fromEntries(logins.map((login) => [login, passwordOf(server, login)]))))
    // With no origins nothing is migrated, not even the ledger of migrations made: a test of migrate needs it so.
    if (origins.length > 0) await migrate({ url: server.url(roleName(testService, 'migrator'), draft), service: testService, sources })
    await client.query(`alter database ${identifier(draft)} rename to ${identifier(name)}`)
    await client.query(`alter database ${identifier(name)} is_template true allow_connections false`)
  })
  return name
}

function passwordOf(server: Server, login: (typeof logins)[number]): string {
  return decodeURIComponent(new URL(server.url(roleName(testService, login), 'postgres')).password)
}

async function removeAll(client: pg.Client, names: readonly string[]): Promise<void> {
  for (const name of names) {
    await client.query(`alter database ${identifier(name)} is_template false`).catch(() => undefined)
    await client.query(`drop database if exists ${identifier(name)} with (force)`).catch(() => undefined)
  }
}

/** Earlier templates of the same origins, and drafts of interrupted runs. Only while holding the lock alone. */
async function removeStale(client: pg.Client, stem: string): Promise<void> {
  const { rows } = await client.query<{ datname: string }>('select datname from pg_database where datname ~ $1', [`^${stem}[0-9a-f]{12}(_draft)?$`])
  await removeAll(client, rows.map((row) => row.datname))
}

/** Removes the databases of test processes that were killed: their names end with the process id and a random part. */
export async function sweepDead(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ datname: string }>(`select datname from pg_database where datname ~ '^redoubt_test_.*_[0-9]+_[0-9a-f]{6}$'`)
  const dead = rows.filter(({ datname }) => {
    try {
      return !process.kill(Number(datname.split('_').at(-2)), 0)
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'ESRCH'
    }
  })
  await removeAll(client, dead.map((row) => row.datname))
}

/** A fresh database with the content of the template of these origins. */
export async function cloneTemplate(server: Server, origins: readonly Origin[], name: string): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    const template = await ensureTemplate(server, origins)
    const done = await connected(server.adminUrl, async (client) => {
      await client.query('select pg_advisory_lock_shared($1)', [lock])
      // Between the two steps a changed SQL file may have replaced the template.
      const { rowCount } = await client.query('select from pg_database where datname = $1', [template])
      if (rowCount === 0 && attempt < 5) return false
      await client.query(`create database ${identifier(name)} template ${identifier(template)}`)
      return true
    })
    if (done) break
  }
  await grantHere(server, name)
}

/** Cuts whoever is left in a database and removes it. */
export async function dropDatabase(server: Server, name: string, patience: number): Promise<void> {
  await connected(server.adminUrl, async (client) => {
    for (const until = Date.now() + patience; Date.now() < until; ) {
      const { rowCount } = await client.query('select from pg_stat_activity where datname = $1', [name])
      if (rowCount === 0) break
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    await client.query(`drop database if exists ${identifier(name)} with (force)`)
  })
}
