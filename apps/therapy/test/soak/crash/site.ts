import { fork, type ChildProcess } from 'node:child_process'
import { chmod, mkdtemp, open, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { removeEmbedded, startEmbedded } from 'redoubt/cli/embedded'
import { roleName, type Login } from 'redoubt/cli/roles'
import { freePort } from '../../../../../packages/redoubt/test/support/port.ts'
import { openDevelopment, type Development } from '../../../src/development.ts'
import { repository } from '../../../src/sources.ts'

export const victims = ['server', 'worker', 'postgres'] as const
export type Victim = (typeof victims)[number]

/** Milliseconds within which whatever was killed must serve again. */
const patience = 60_000

/** A whole Therapy of its own: PostgreSQL with fsync on, service and worker as processes, everything in one folder. */
export type Site = {
  readonly address: string
  /** Settings of the processes. */
  readonly env: Readonly<Record<string, string>>
  readonly home: string
  url(login: Login | 'superuser'): string
  /** kill -9: for postgres the postmaster and every process it has started. */
  kill(victim: Victim): Promise<void>
  /** Starts what was killed. @returns milliseconds until /health/ready said yes */
  restart(victim: Victim): Promise<number>
  close(): Promise<void>
}

/** Sessions make themselves leaders of groups of their own, so the group of the postmaster does not reach them. */
async function childrenOf(parent: number): Promise<readonly number[]> {
  const ids = (await readdir('/proc').catch(() => [])).filter((name) => /^\d+$/.test(name))
  const parents = await Promise.all(ids.map((id) => readFile(`/proc/${id}/stat`, 'utf8').then((text) => Number(text.replace(/^.*\) /s, '').split(' ')[1]), () => 0)))
  return ids.filter((_, index) => parents[index] === parent).map(Number)
}

function killed(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

async function postmasterOf(home: string): Promise<number> {
  const folder = join(home, 'postgres')
  const place = await readFile(join(folder, 'home'), 'utf8').catch(() => folder)
  const pid = Number((await readFile(join(place, 'data/postmaster.pid'), 'utf8')).split('\n')[0])
  if (!(pid > 1)) throw new Error('the pid file of PostgreSQL names no process')
  return pid
}

export async function openSite(prepare: (site: Pick<Site, 'env' | 'home' | 'url'>) => Promise<void>): Promise<Site> {
  const home = await mkdtemp(join(tmpdir(), 'therapy-crash-'))
  // Started by root, PostgreSQL runs under another account, who must reach its folder.
  await chmod(home, 0o711)
  const log = await open(join(home, 'therapy.log'), 'a', 0o600)
  const port = await freePort()
  const address = `http://127.0.0.1:${port}`
  let development: Development
  let urls: (login: Login | 'superuser') => string = () => ''
  const children: { server: ChildProcess | undefined; worker: ChildProcess | undefined } = { server: undefined, worker: undefined }

  async function startDatabase(): Promise<void> {
    development = await openDevelopment({ home, emit: () => undefined })
    const server = await startEmbedded({ folder: join(home, 'postgres') })
    urls = (login) => server.url(login === 'superuser' ? 'postgres' : roleName('therapy', login), 'therapy')
    await server.stop()
  }

  async function startChild(name: 'server' | 'worker'): Promise<void> {
    // It asks more often than anybody may; the limits are on.
    const roomy = { LIMITS_ANONYMOUS: '1000000', LIMITS_CALLER: '1000000', LIMITS_ADDRESS: '1000000', LIMITS_FLOOD: '1000000' }
    const env = { PATH: process.env['PATH'], ...roomy, ...development.env, PORT: String(port), PUBLIC_ORIGIN: address }
    const child = fork(join(repository, `apps/therapy/src/${name}.ts`), { env, cwd: repository, execArgv: [], stdio: ['ignore', log.fd, log.fd, 'ipc'] })
    children[name] = child
    await new Promise<void>((resolve, reject) => {
      child.once('message', () => resolve())
      child.once('exit', (code, signal) => reject(new Error(`the ${name} did not start (${signal ?? code ?? 0})`)))
    })
  }

  async function ready(): Promise<void> {
    for (const until = performance.now() + patience; ; await pause(100)) {
      const status = await fetch(`${address}/health/ready`, { signal: AbortSignal.timeout(5_000) }).then((answer) => answer.status, () => 0)
      if (status === 200) return
      if (performance.now() > until) throw new Error(`the service was not ready within ${patience / 1000} s (last answer ${status})`)
    }
  }

  async function end(name: 'server' | 'worker', signal: NodeJS.Signals): Promise<void> {
    const child = children[name]
    children[name] = undefined
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill(signal)
    await gone
  }

  async function close(): Promise<void> {
    await Promise.all([end('server', 'SIGTERM'), end('worker', 'SIGTERM')])
    await development?.stop()
    await removeEmbedded(join(home, 'postgres'))
    await log.close()
    await rm(home, { recursive: true, force: true })
  }

  try {
    await startDatabase()
    const site: Site = {
      address, home, close,
      get env() {
        return development.env
      },
      url: (login) => urls(login),
      async kill(victim) {
        if (victim !== 'postgres') return end(victim, 'SIGKILL')
        const postmaster = await postmasterOf(home)
        const sessions = await childrenOf(postmaster)
        for (const pid of [postmaster, ...sessions]) killed(pid)
      },
      async restart(victim) {
        const started = performance.now()
        if (victim === 'postgres') {
          await development.stop()
          await startDatabase()
        } else {
          await startChild(victim)
        }
        await ready()
        return performance.now() - started
      },
    }
    await prepare(site)
    await startChild('server')
    await startChild('worker')
    await ready()
    return site
  } catch (error) {
    await close()
    throw error
  }
}
