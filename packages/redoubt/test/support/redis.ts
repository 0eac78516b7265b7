import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createClient } from '@redis/client'
import { freePort } from './port.ts'

const program = ['/usr/bin/redis-server', '/usr/bin/valkey-server', '/opt/homebrew/bin/redis-server', '/usr/local/bin/redis-server'].find((path) => existsSync(path))

/** Why the tests that need Redis are skipped here, or false: `test(title, { skip: redisAbsent }, …)`. */
export const redisAbsent: string | false = program === undefined ? 'neither redis-server nor valkey-server is installed' : false

export type RedisServer = {
  readonly port: number
  readonly url: string
  /** One command past the library, on a connection of its own. */
  command(...words: readonly string[]): Promise<unknown>
  /** SIGSTOP and SIGCONT: it accepts connections and says nothing. */
  freeze(): void
  thaw(): void
  kill(): Promise<void>
  /** On the same port, empty. */
  start(): Promise<void>
  /** Kills it; the last call. */
  remove(): Promise<void>
}

/** A server of one's own on a free port, without persistence, ended with the test process. */
export async function startRedis(args: readonly string[] = [], password?: string): Promise<RedisServer> {
  if (program === undefined) throw new TypeError('startRedis: ask redisAbsent first')
  const port = await freePort()
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-redis-'))
  const url = `redis://${password === undefined ? '' : `:${password}@`}127.0.0.1:${port}`
  let child: ChildProcess | undefined
  let ended: Promise<void> = Promise.resolve()
  const last = (): void => void child?.kill('SIGKILL')
  process.once('exit', last)

  async function command(...words: readonly string[]): Promise<unknown> {
    const client = createClient({ url, RESP: 2, socket: { reconnectStrategy: false, connectTimeout: 2_000 } })
    client.on('error', () => undefined)
    await client.connect()
    try {
      return await client.sendCommand([...words])
    } finally {
      client.destroy()
    }
  }

  async function start(): Promise<void> {
    const own = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder, '--enable-debug-command', 'local', ...(password === undefined ? [] : ['--requirepass', password])]
    const started = spawn(program ?? '', [...own, ...args], { stdio: 'ignore' })
    child = started
    ended = new Promise((resolve) => started.once('exit', () => resolve()))
    for (const until = Date.now() + 20_000; ; await delay(20)) {
      if (await command('PING').then(() => true, (error: unknown) => String(error).includes('LOADING'))) return
      if (started.exitCode !== null || Date.now() > until) throw new Error('redis-server did not start')
    }
  }

  async function kill(): Promise<void> {
    child?.kill('SIGCONT')
    child?.kill('SIGKILL')
    await ended
  }

  await start()
  return {
    port, url, command, kill, start,
    freeze: () => void child?.kill('SIGSTOP'),
    thaw: () => void child?.kill('SIGCONT'),
    async remove() {
      process.off('exit', last)
      await kill()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
