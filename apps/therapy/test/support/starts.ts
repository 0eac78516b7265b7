import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { removeEmbedded } from 'redoubt/cli/embedded'
import { freePort } from '../../../../packages/redoubt/test/support/port.ts'

export const startFile = join(import.meta.dirname, '../../src/start.ts')

export type Running = { readonly child: ChildProcess; readonly output: () => string; readonly ended: Promise<number | null> }
export type Starts = {
  readonly home: string
  readonly port: number
  /** Runs start.ts, or another command in its place, with this in its environment besides folder and port. */
  start(args?: readonly string[], more?: { readonly command?: readonly [program: string, ...args: string[]]; readonly env?: NodeJS.ProcessEnv }): Running
  /** A token, or undefined when signing in was refused or nobody answered. */
  login(email: string, password: string): Promise<string | undefined>
}

/** Asks until it is so, or the process has ended, or the time of a test is nearly over: a busy machine takes a minute for a first start. */
export async function until(what: string, so: () => boolean | Promise<boolean>, running?: Running): Promise<void> {
  for (const end = Date.now() + 150_000; Date.now() < end; await pause(50)) {
    if (await so()) return
    if (running?.child.exitCode !== null && running !== undefined) break
  }
  assert.fail(`${what}\n${running?.output() ?? ''}`)
}

export function ready(running: Running): Promise<void> {
  return until('it starts', () => running.output().includes('Ctrl-C stops'), running)
}

/** E-mail address and password of everybody whom the start has named. */
export function accountsOf(running: Running): readonly (readonly string[])[] {
  return [...running.output().matchAll(/^ {2}(?:therapist|patient) .* (\S+@\S+) +(\S+)$/gm)].map(([, email = '', password = '']) => [email, password])
}

/** A folder and a port for `npm start`; what it leaves is removed at the end of the file. */
export async function openStarts(): Promise<Starts> {
  const home = await mkdtemp(join(tmpdir(), 'therapy’s stärt\'s -'))
  await chmod(home, 0o711)
  const port = await freePort()
  const running = new Set<ChildProcess>()
  after(async () => {
    for (const child of running) child.kill('SIGKILL')
    await removeEmbedded(join(home, 'postgres'))
    await rm(home, { recursive: true, force: true })
  })
  const { DATABASE_URL: _, npm_lifecycle_event: __, ...rest } = process.env
  const env = { ...rest, REDOUBT_HOME: home, PORT: String(port) }
  return {
    home, port,
    start(args = [], more = {}) {
      const [program, ...first] = more.command ?? [process.execPath, startFile]
      const child = spawn(program, [...first, ...args], { env: { ...env, ...more.env }, stdio: ['ignore', 'pipe', 'pipe'] })
      running.add(child)
      let text = ''
      child.stdout.on('data', (bytes: Buffer) => (text += bytes.toString()))
      child.stderr.on('data', (bytes: Buffer) => (text += bytes.toString()))
      const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => {
        running.delete(child)
        resolve(code)
      }))
      return { child, output: () => text, ended }
    },
    async login(email, password) {
      const answer = await fetch(`http://127.0.0.1:${port}/api/auth/login`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ email, password }) }).catch(() => undefined)
      return answer?.status === 200 ? ((await answer.json()) as { access_token: string }).access_token : undefined
    },
  }
}
