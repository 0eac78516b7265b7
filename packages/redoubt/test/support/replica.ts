import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, cp, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { bareEnvironment, type Identity } from '../../src/cli/embedded/process.ts'
import { until } from './audit.ts'
import type { TestDatabase } from './database.ts'
import { freePort } from './port.ts'

export type Replica = {
  /** A statement on the replica, as superuser. */
  admin(sql: string): Promise<readonly Record<string, unknown>[]>
  remove(): Promise<void>
}

function unprivileged(): Identity | undefined {
  if (process.getuid?.() !== 0) return undefined
  const ask = (flag: string): number => Number(spawnSync('id', [flag, 'nobody']).stdout.toString().trim())
  return { uid: ask('-u'), gid: ask('-g') }
}

/** What of a data folder belongs to the running server, or is made anew by a start. */
const left = new Set(['postmaster.pid', 'postmaster.opts', 'pg_internal.init'])
const leftInside = /\/(?:pg_wal|pg_replslot|pg_dynshmem|pg_notify|pg_serial|pg_snapshots|pg_stat_tmp|pg_subtrans)\/./

/**
 * A streaming replica of a test server: a base backup by the low-level functions (there is no pg_basebackup among the
 * embedded programs), replayed by the same program, following over a replication connection.
 * @param primary on a server of one's own; ends with it
 */
export async function startReplica(primary: TestDatabase): Promise<Replica> {
  const identity = unprivileged()
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-replica-'))
  const data = join(folder, 'data')
  const port = await freePort()
  const url = new URL(primary.adminUrl)
  const source = new pg.Client({ connectionString: primary.adminUrl })
  await source.connect()
  const value = async (sql: string): Promise<string> => String(Object.values((await source.query<Record<string, unknown>>(sql)).rows[0] ?? {})[0])
  const bin = await value(`select setting from pg_config where name = 'BINDIR'`)
  const from = await value('show data_directory')
  await source.query(`select pg_backup_start('redoubt test', true)`)
  // A file may go while the folder is walked; what the log says about it comes with the replay.
  for (let attempt = 1; ; attempt++) {
    try {
      await cp(from, data, { recursive: true, filter: (path) => !left.has(path.slice(path.lastIndexOf('/') + 1)) && !leftInside.test(path.slice(from.length)) })
      break
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt === 5) throw error
    }
  }
  await writeFile(join(data, 'backup_label'), await value('select labelfile from pg_backup_stop(false)'))
  await writeFile(join(data, 'standby.signal'), '')
  const info = Object.entries({ host: url.hostname, port: url.port, user: decodeURIComponent(url.username), password: decodeURIComponent(url.password), application_name: 'redoubt_test_replica' })
  await writeFile(join(data, 'postgresql.auto.conf'), `primary_conninfo = '${info.map(([name, text]) => `${name}=${text}`).join(' ')}'\n`)
  await source.end()
  for (const path of [folder, data, ...(await readdir(data, { recursive: true })).map((name) => join(data, name))]) if (identity !== undefined) await chown(path, identity.uid, identity.gid)
  await chmod(data, 0o700)

  const settings = [`port=${port}`, 'listen_addresses=127.0.0.1', 'unix_socket_directories=', 'max_connections=200', 'hot_standby=on', 'wal_receiver_status_interval=1s']
  const server = spawn(join(bin, 'postgres'), ['-D', data, ...settings.flatMap((setting) => ['-c', setting])], { cwd: '/', env: bareEnvironment(), stdio: ['ignore', 'ignore', 'pipe'], ...identity })
  let said = ''
  server.stderr.on('data', (text: Buffer) => void (said = (said + text.toString('utf8')).slice(-4000)))
  const ended = once(server, 'exit')
  const own = new URL(url)
  own.port = String(port)
  async function admin(sql: string): Promise<readonly Record<string, unknown>[]> {
    const client = new pg.Client({ connectionString: own.href })
    client.on('error', () => undefined)
    await client.connect()
    try {
      return (await client.query<Record<string, unknown>>(sql)).rows
    } finally {
      await client.end()
    }
  }
  await until('the replica answers', async () => {
    if (server.exitCode !== null) throw new Error(`the replica did not start: ${said}`)
    return admin('select 1').then(() => true, () => false)
  })
  return {
    admin,
    async remove() {
      server.kill('SIGINT')
      await ended
      await rm(folder, { recursive: true, force: true })
    },
  }
}
