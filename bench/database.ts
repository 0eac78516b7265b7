import { join } from 'node:path'
import pg from 'pg'
import { startEmbedded } from 'redoubt/cli/embedded'
import { logins, passwordsSql, roleName, rolesSql, type Login } from 'redoubt/cli/roles'
import { migrate } from 'redoubt/migrate'

export const benchService = 'redoubt_bench'

export type BenchDatabase = {
  readonly name: string
  readonly adminUrl: string
  url(login: Login): string
  /** A statement as superuser, past every policy. */
  admin(sql: string, values?: readonly unknown[]): Promise<readonly Record<string, unknown>[]>
  close(): Promise<void>
}

const repository = join(import.meta.dirname, '..')

/** A fresh database with all migrations on a server with fsync as shipped, so that a COMMIT costs what it costs. */
export async function benchDatabase(): Promise<BenchDatabase> {
  const server = await startEmbedded({ folder: join(repository, '.redoubt/bench') })
  const name = `bench_${process.pid}`
  const root = new pg.Client({ connectionString: server.adminUrl })
  await root.connect()
  await root.query(`create database ${name}`)
  const adminUrl = server.url('postgres', name)
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  await admin.query(rolesSql(benchService))
  await admin.query(passwordsSql(benchService, Object.fromEntries(logins.map((login) => [login, server.passwordFor(roleName(benchService, login))]))))
  const url = (login: Login): string => server.url(roleName(benchService, login), name)
  await migrate({
    url: url('migrator'),
    service: benchService,
    sources: [
      { origin: 'redoubt', folder: join(repository, 'packages/redoubt/sql') },
      { origin: 'therapy', folder: join(repository, 'apps/therapy/sql') },
    ],
  })
  return {
    name,
    adminUrl,
    url,
    async admin(sql, values = []) {
      const result = await admin.query<Record<string, unknown>>(sql, values.length === 0 ? undefined : [...values])
      return result.rows
    },
    async close() {
      await admin.end()
      await root.query(`drop database ${name} with (force)`)
      await root.end()
      await server.stop()
    },
  }
}
