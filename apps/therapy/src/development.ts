import { rm, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { startEmbedded, type Embedded } from 'redoubt/cli/embedded'
import { alone, countUsers } from 'redoubt/cli/embedded/users'
import { logins, passwordsSql, roleName, rolesSql } from 'redoubt/cli/roles'
import { Refusal } from 'redoubt/errors'
import type { Emit } from 'redoubt/events'
import { migrate } from 'redoubt/migrate'
import { openScriptConnection } from 'redoubt/pg'
import { makeHome } from './home.ts'
import { repository, sources } from './sources.ts'

/** Keys, anchors and mail of a machine without a key service. Relative, so that a clone in a folder with spaces works: every process starts in the repository. */
export function placesIn(home: string): { readonly KMS: string; readonly ANCHOR_DIR: string; readonly MAIL: string } {
  return { KMS: `local:${relative(repository, join(home, 'keys/root.key'))}`, ANCHOR_DIR: relative(repository, join(home, 'anchors')), MAIL: `file:${relative(repository, join(home, 'mail'))}` }
}

export type Development = {
  /** What a process of the service needs in its environment. */
  readonly env: Readonly<Record<string, string>>
  /** True when somebody has an account already. */
  readonly populated: boolean
  /** Calls `tell` when the embedded server ends by itself. */
  onGone(tell: () => void): void
  stop(): Promise<void>
}

const database = 'therapy'

/**
 * The embedded server with the service's roles and its database, migrated. Passwords of the roles are derived from the
 * server's; the owner-only therapy.env holds them for the operator's commands.
 * @param options.home folder of data, keys and anchors
 * @param options.fresh removes database, keys and anchors first, together: none of them means anything without the others
 */
export async function openDevelopment(options: { readonly home: string; readonly fresh?: boolean; readonly emit: Emit }): Promise<Development> {
  const { home } = options
  await makeHome(home)
  const server = await startEmbedded({ folder: join(home, 'postgres'), emit: options.emit })
  try {
    if (options.fresh === true) await forget(server, home)
    await script(server.adminUrl, async ({ query }) => {
      if ((await query('select 1 from pg_catalog.pg_database where datname = $1', [database])).length === 0) await query(`create database ${database} encoding 'UTF8' template template0`)
    })
    await script(server.url('postgres', database), async ({ script: send }) => {
      await send(rolesSql('therapy'))
      await send(passwordsSql('therapy', Object.fromEntries(logins.map((login) => [login, server.passwordFor(roleName('therapy', login))]))))
    })
    const url = (login: (typeof logins)[number]): string => server.url(roleName('therapy', login), database)
    await migrate({ url: url('migrator'), service: 'therapy', sources, emit: options.emit })
    let populated = false
    await script(server.url('postgres', database), async ({ query }) => {
      populated = (await query('select 1 from redoubt.users limit 1')).length > 0
    })
    const env = {
      NODE_ENV: 'development',
      DATABASE_URL: url('app'),
      DATABASE_OWNER_URL: url('migrator'),
      KEYS_DATABASE_URL: url('keys'),
      WORKER_DATABASE_URL: url('worker'),
      AUDITOR_DATABASE_URL: url('auditor'),
      ...placesIn(home),
    }
    // For the operator's commands: set -a; . .redoubt/therapy.env; set +a
    await writeFile(join(home, 'therapy.env'), Object.entries(env).map(([name, value]) => `${name}='${value.replaceAll("'", `'\\''`)}'\n`).join(''), { mode: 0o600 })
    return { populated, env, onGone: (tell) => server.onGone(tell), stop: () => server.stop() }
  } catch (error) {
    await server.stop()
    throw error
  }
}

/** @throws Refusal conflict while another process works on this data */
async function forget(server: Embedded, home: string): Promise<void> {
  const folder = join(home, 'postgres')
  if ((await alone(folder, () => countUsers(folder))) > 1) throw new Refusal('conflict', { detail: `another npm start uses the data of ${home}: stop it first` })
  await script(server.adminUrl, async ({ query }) => void (await query(`drop database if exists ${database} with (force)`)))
  for (const name of ['keys', 'anchors', 'mail', 'demo.json']) await rm(join(home, name), { recursive: true, force: true })
}

async function script(url: string, work: (connection: Awaited<ReturnType<typeof openScriptConnection>>) => Promise<void>): Promise<void> {
  const connection = await openScriptConnection(url)
  try {
    await work(connection)
  } finally {
    await connection.close()
  }
}
