import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { removeEmbedded, startEmbedded, type Embedded } from '../../src/cli/embedded.ts'
import { commandOf } from '../../src/cli/embedded/process.ts'
import { roleName } from '../../src/cli/roles.ts'
import type { TestDatabase } from './database.ts'
import { cloneTemplate, serverAt, testService, type Origin } from './template.ts'

export type OwnServer = {
  /** A database on it; its connection strings hold until the server is killed. */
  readonly database: TestDatabase
  /** The folder with the data as it lies on the disk. */
  readonly data: string
  /** kill -9 of every process of the server at once, then a start with recovery. Gives the database anew. */
  killAndRestart(): Promise<TestDatabase>
  /** Ends and removes it; to be called after whatever works on it was closed. */
  remove(): Promise<void>
}

const one = async (url: string, sql: string, values?: readonly unknown[]): Promise<readonly pg.QueryResultRow[]> => {
  const client = new pg.Client({ connectionString: url, application_name: 'redoubt-test' })
  client.on('error', () => undefined)
  await client.connect()
  try {
    return (await client.query<pg.QueryResultRow>(sql, values === undefined ? undefined : [...values])).rows
  } finally {
    await client.end()
  }
}

/** A PostgreSQL of one's own with fsync on, for what must not be done to the server that others use. */
export async function ownServer(origins: readonly Origin[] = ['redoubt']): Promise<OwnServer> {
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-own-'))
  let running: Embedded = await startEmbedded({ folder })
  const name = 'redoubt_own'
  await cloneTemplate(serverAt(running.adminUrl), origins, name)

  function handle(): TestDatabase {
    const server = serverAt(running.adminUrl)
    const adminUrl = server.url('postgres', name)
    return {
      name, service: testService, adminUrl,
      url: (login) => server.url(roleName(testService, login), name),
      admin: async <R extends pg.QueryResultRow>(sql: string, values?: readonly unknown[]) => (await one(adminUrl, sql, values)) as readonly R[],
      drop: () => Promise.resolve(),
    }
  }

  return {
    database: handle(),
    data: join(folder, 'data'),
    async killAndRestart() {
      const head = Number((await readFile(join(folder, 'data', 'postmaster.pid'), 'utf8')).split('\n')[0])
      const pids = (await one(handle().adminUrl, 'select pid from pg_stat_activity where pid <> pg_backend_pid()')).map((row) => Number(row['pid']))
      for (const pid of [head, ...pids]) {
        try {
          process.kill(pid, 'SIGKILL')
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
        }
      }
      while ((await commandOf(head)) !== '') await delay(10)
      await rm(join(folder, 'users'), { recursive: true, force: true })
      running = await startEmbedded({ folder })
      return handle()
    },
    async remove() {
      await rm(join(folder, 'users'), { recursive: true, force: true })
      await removeEmbedded(folder)
    },
  }
}
