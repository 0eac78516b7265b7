import { mkdir, rm } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { startEmbedded, type Embedded } from 'redoubt/cli/embedded'
import { logins, passwordsSql, roleName, rolesSql } from 'redoubt/cli/roles'
import type { Emit } from 'redoubt/events'
import { migrate } from 'redoubt/migrate'
import { openScriptConnection } from 'redoubt/pg'
import { repository, sources } from './sources.ts'

/** Where a development machine keeps everything: git-ignored. */
export const defaultHome = join(repository, '.redoubt')

export type Development = {
  /** What a process of the service needs in its environment. */
  readonly env: Readonly<Record<string, string>>
  /** True when somebody has an account already. */
  readonly populated: boolean
  stop(): Promise<void>
}

const database = 'therapy'

/**
 * The embedded server with the service's roles and its database, migrated. Passwords of the roles are derived from the
 * server's, so that none stands in a file of its own.
 * @param options.home folder of data, keys and anchors
 * @param options.fresh removes database, keys and anchors first, together: none of them means anything without the others
 */
export async function openDevelopment(options: { readonly home: string; readonly fresh?: boolean; readonly emit: Emit }): Promise<Development> {
  const { home } = options
  await mkdir(home, { recursive: true, mode: 0o700 })
  const server = await startEmbedded({ folder: join(home, 'postgres'), emit: options.emit })
  try {
    if (options.fresh === true) await forget(server, home)
    await script(server.adminUrl, async ({ query }) => {
      if ((await query('select 1 from pg_database where datname = $1', [database])).length === 0) await query(`create database ${database} encoding 'UTF8' template template0`)
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
    return {
      populated,
      env: {
        NODE_ENV: 'development',
        DATABASE_URL: url('app'),
        DATABASE_OWNER_URL: url('migrator'),
        KEYS_DATABASE_URL: url('keys'),
        WORKER_DATABASE_URL: url('worker'),
        // Relative, so that a clone in a folder with spaces works; every process starts in the repository.
        KMS: `local:${relative(repository, join(home, 'keys/root.key'))}`,
        ANCHOR_DIR: relative(repository, join(home, 'anchors')),
      },
      stop: () => server.stop(),
    }
  } catch (error) {
    await server.stop()
    throw error
  }
}

async function forget(server: Embedded, home: string): Promise<void> {
  await script(server.adminUrl, async ({ query }) => void (await query(`drop database if exists ${database} with (force)`)))
  for (const name of ['keys', 'anchors', 'demo.json']) await rm(join(home, name), { recursive: true, force: true })
}

async function script(url: string, work: (connection: Awaited<ReturnType<typeof openScriptConnection>>) => Promise<void>): Promise<void> {
  const connection = await openScriptConnection(url)
  try {
    await work(connection)
  } finally {
    await connection.close()
  }
}
