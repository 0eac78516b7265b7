import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { freePort } from './port.ts'

export type Pooler = {
  readonly port: number
  /** The same connection string, through the pooler. */
  url(direct: string): string
  stop(): Promise<void>
}

/** Debian's place first: /usr/sbin is not on everybody's PATH. */
const program = ['/usr/sbin/pgbouncer', '/usr/bin/pgbouncer', '/opt/homebrew/bin/pgbouncer', '/usr/local/bin/pgbouncer'].find((path) => existsSync(path))

/** Why the tests that need a pooler are skipped here, or false: `test(title, { skip: poolerAbsent }, …)`. */
export const poolerAbsent: string | false = program === undefined ? 'pgbouncer is not installed' : false

const quoted = (text: string): string => `"${text.replaceAll('"', '""')}"`

/** It refuses to run as root. */
function unprivileged(): { readonly uid?: number; readonly gid?: number } {
  if (process.getuid?.() !== 0) return {}
  const ask = (flag: string): number => Number(spawnSync('id', [flag, 'nobody']).stdout.toString().trim())
  return { uid: ask('-u'), gid: ask('-g') }
}

async function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

/**
 * Starts PgBouncer in transaction mode in front of the server of these connection strings.
 * @param options.urls direct connection strings: their users, passwords and databases are let through, no others
 * @param options.poolSize server connections per user and database; 1 makes two clients share one session for certain
 * @returns null where PgBouncer is not installed, so that the test says that it was skipped
 */
export async function startPooler(options: { readonly urls: readonly string[]; readonly poolSize?: number }): Promise<Pooler | null> {
  if (program === undefined) return null
  const targets = options.urls.map((url) => new URL(url))
  const first = targets[0]
  if (first === undefined || targets.some((url) => url.host !== first.host)) {
    throw new TypeError('startPooler: urls must name one server')
  }
  const identity = unprivileged()
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-pgbouncer-'))
  const port = await freePort()
  const users = new Map(targets.map((url) => [decodeURIComponent(url.username), decodeURIComponent(url.password)]))
  const databases = new Set(targets.map((url) => decodeURIComponent(url.pathname.slice(1))))
  const files = {
    'users.txt': [...users].map(([user, password]) => `${quoted(user)} ${quoted(password)}`).join('\n'),
    'pgbouncer.ini': [
      '[databases]',
      ...[...databases].map((database) => `${database} = host=${first.hostname} port=${first.port || '5432'} dbname=${database}`),
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${port}`,
      'unix_socket_dir =',
      'auth_type = scram-sha-256',
      `auth_file = ${join(folder, 'users.txt')}`,
      'pool_mode = transaction',
      `default_pool_size = ${options.poolSize ?? 10}`,
      'max_client_conn = 500',
      // What node-postgres sends at connect and the pooler would refuse to pass on.
      'ignore_startup_parameters = extra_float_digits,options,application_name',
      // As docs/runbooks/pgbouncer.md says.
      'server_login_retry = 1',
      'query_wait_timeout = 5',
      'log_connections = 0',
      'log_disconnections = 0',
    ].join('\n'),
  }
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), `${text}\n`, { mode: 0o600 })
  for (const path of [folder, ...Object.keys(files).map((name) => join(folder, name))]) {
    if (identity.uid !== undefined && identity.gid !== undefined) await chown(path, identity.uid, identity.gid)
  }
  await chmod(folder, 0o700)

  const child = spawn(program, ['-q', join(folder, 'pgbouncer.ini')], { ...identity, stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => (said = (said + chunk.toString('utf8')).slice(-2000)))
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()).once('error', () => resolve()))
  // A test that forgets to stop it must not leave it behind.
  const kill = (): boolean => child.kill('SIGKILL')
  process.once('exit', kill)
  const stop = async (): Promise<void> => {
    process.removeListener('exit', kill)
    child.kill('SIGTERM')
    await ended
    await rm(folder, { recursive: true, force: true })
  }
  for (const until = Date.now() + 10_000; !(await accepts(port)); await delay(20)) {
    if (child.exitCode === null && Date.now() < until) continue
    await stop()
    throw new Error(`pgbouncer did not start: ${said}`)
  }
  return {
    port,
    url: (direct) => {
      const url = new URL(direct)
      url.hostname = '127.0.0.1'
      url.port = String(port)
      return url.href
    },
    stop,
  }
}

/** The version of the installed pooler, for the title of a test. */
export function poolerVersion(): string {
  return program === undefined ? 'absent' : (/PgBouncer (\S+)/.exec(spawnSync(program, ['--version']).stdout.toString())?.[1] ?? 'unknown')
}
