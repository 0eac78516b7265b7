import { chmod, chown, mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Refusal } from '../../errors.ts'
import type { Binaries } from './binaries.ts'
import type { Place } from './place.ts'
import { commandOf, run } from './process.ts'

export type Running = { readonly pid: number; readonly port: number; readonly command: string }

const superuser = 'postgres'

/**
 * Given on the command line, so that neither ALTER SYSTEM nor an old configuration file changes them. The log must hold
 * no values: no parameters, no statement text (a failed ALTER ROLE … PASSWORD carries the password), no DETAIL line
 * (it quotes the row that broke a constraint).
 * @param insecureNoFsync leaves out what survives a crash of the machine; a commit still survives one of the server
 */
export function settings(insecureNoFsync: boolean): string {
  const values = [
    'listen_addresses=127.0.0.1',
    'unix_socket_directories=',
    'max_connections=200',
    'timezone=UTC',
    'log_timezone=UTC',
    'log_parameter_max_length=0',
    'log_parameter_max_length_on_error=0',
    'log_min_error_statement=panic',
    'log_error_verbosity=terse',
    ...(insecureNoFsync ? ['fsync=off', 'full_page_writes=off'] : ['fsync=on']),
  ]
  return values.map((value) => `-c ${value}`).join(' ')
}

const dataOf = (place: Place): string => join(place.home, 'data')

const cwdOf = (place: Place): string => (process.platform === 'win32' ? place.home : '/')

/**
 * Makes the data folder when there is none. It appears under its name only when complete: an interrupted initdb leaves
 * nothing that looks like a database.
 * @throws Refusal database_unavailable when the present one is of another major version or owner, or initdb fails
 */
export async function createCluster(place: Place, binaries: Binaries, password: string, sync: boolean): Promise<void> {
  const data = dataOf(place)
  const owner = place.identity?.uid ?? process.getuid?.()
  const found = await stat(data).catch(() => undefined)
  if (found !== undefined) {
    if (owner !== undefined && found.uid !== owner) {
      throw new Refusal('database_unavailable', { detail: `${data} belongs to another account (uid ${found.uid}): start as the user who made it` })
    }
    const major = (await readFile(join(data, 'PG_VERSION'), 'utf8')).trim()
    if (major === binaries.major) return
    throw new Refusal('database_unavailable', {
      detail: `${data} was written by PostgreSQL ${major}, installed is ${binaries.major}: dump it with the old version, or remove the folder`,
    })
  }
  const fresh = `${data}.new`
  const passwordFile = join(place.home, 'initial-password')
  await rm(fresh, { recursive: true, force: true })
  await mkdir(fresh, { mode: 0o700 })
  try {
    await writeFile(passwordFile, password, { mode: 0o600 })
    if (place.identity !== undefined) {
      await chown(fresh, place.identity.uid, place.identity.gid)
      await chown(passwordFile, place.identity.uid, place.identity.gid)
    }
    const { code, output } = await run(
      binaries.initdb,
      ['-D', fresh, '-U', superuser, `--pwfile=${passwordFile}`, '--auth=scram-sha-256', '--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--data-checksums', '--no-instructions', ...(sync ? [] : ['--no-sync'])],
      { identity: place.identity, cwd: cwdOf(place), output: 'kept' },
    )
    if (code !== 0) throw new Refusal('database_unavailable', { detail: `no database can be made in ${data}: ${reasonIn(output)}` })
  } finally {
    await rm(passwordFile, { force: true })
  }
  await rename(fresh, data)
}

/** What went wrong in the words of PostgreSQL's programs, which tell every step: the first error and the hint that goes with it. */
function reasonIn(output: string): string {
  const said = [...output.matchAll(/\b(?:FATAL|PANIC|ERROR|initdb: error): +([^\n]+)(?:\n[^\n]*HINT: +([^\n]+))?/g)][0]
  if (said === undefined) return output.trim().split('\n').at(-1) ?? 'initdb says nothing'
  return said[2] === undefined ? `${said[1]}` : `${said[1]}. ${said[2]}`
}

type PidFile = { readonly lines: readonly string[]; readonly pid: number; readonly port: number; readonly ready: boolean }

async function readPidFile(place: Place): Promise<PidFile | undefined> {
  const text = await readFile(join(dataOf(place), 'postmaster.pid'), 'utf8').catch(() => undefined)
  if (text === undefined) return undefined
  const lines = text.split('\n')
  return { lines, pid: Number(lines[0]), port: Number(lines[3]), ready: lines[7]?.trim() === 'ready' }
}

/** The server of this data folder, if one runs: the process in its pid file, provided that its command names the folder. */
export async function findRunning(place: Place): Promise<Running | undefined> {
  for (const until = Date.now() + 60_000; Date.now() < until; await delay(50)) {
    const file = await readPidFile(place)
    if (file === undefined) return undefined
    const command = await commandOf(file.pid)
    if (!/postgres/.test(command) || !command.includes(dataOf(place))) return undefined
    if (file.ready) return { pid: file.pid, port: file.port, command }
  }
  throw new Refusal('database_unavailable', { detail: 'a server of this folder is starting and does not become ready' })
}

/**
 * A pid file left by a killed server stops the start for as long as its id answers: because the id belongs to somebody
 * else by now, or because nobody reaped the dead server (containers without an init). Only its first line is replaced,
 * by an id that no system gives: with the rest PostgreSQL still finds out whether orphaned sessions of the old server
 * hold the shared memory, and refuses while they do.
 */
async function disownPidFile(place: Place): Promise<void> {
  const file = await readPidFile(place)
  if (file === undefined) return
  await writeFile(join(dataOf(place), 'postmaster.pid'), ['2147483646', ...file.lines.slice(1)].join('\n'))
}

function bindable(port: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(undefined))
    probe.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      const address = probe.address()
      probe.close(() => resolve(typeof address === 'object' && address !== null ? address.port : undefined))
    })
  })
}

/**
 * Starts the server and waits until it accepts connections (after a crash: until it has recovered). Call it only when
 * `findRunning` found none.
 * @param wanted a port that must be used; without it the last one, or a free one
 * @throws Refusal database_unavailable
 */
export async function startCluster(place: Place, binaries: Binaries, options: string, wanted: number | undefined): Promise<Running> {
  const log = join(dataOf(place), 'server.log')
  const memory = join(place.folder, 'port')
  await disownPidFile(place)
  let last = ''
  for (let attempt = 0; attempt < 40; attempt++) {
    const remembered = Number(await readFile(memory, 'utf8').catch(() => '0'))
    const port = wanted ?? (attempt === 0 && remembered > 0 ? await bindable(remembered) : undefined) ?? (await bindable(0))
    if (port === undefined || (wanted !== undefined && (await bindable(wanted)) === undefined)) {
      throw new Refusal('database_unavailable', { detail: `port ${wanted} of 127.0.0.1 is taken` })
    }
    await rename(log, `${log}.1`).catch(() => undefined)
    const { code } = await run(
      binaries.control,
      ['start', '-w', '-s', '-t', '120', '-D', dataOf(place), '-l', log, '-o', `${options} -p ${port}`],
      { identity: place.identity, cwd: cwdOf(place), output: 'dropped' },
    )
    if (code === 0) {
      const running = await findRunning(place)
      if (running !== undefined) {
        await writeFile(memory, String(port), { mode: 0o600 })
        return running
      }
    }
    last = await tail(log)
    // Sessions of a killed server end by themselves within moments; a port can be taken between the probe and the start.
    if (/pre-existing shared memory block|terminate any old server processes/.test(last)) await delay(250)
    else if (wanted !== undefined || !/Address already in use|could not bind/i.test(last)) break
  }
  throw new Refusal('database_unavailable', { detail: `the embedded PostgreSQL did not start; ${log} ends with: ${last}` })
}

async function tail(path: string): Promise<string> {
  const file = await open(path).catch(() => undefined)
  if (file === undefined) return 'nothing'
  try {
    const { size } = await file.stat()
    const from = Math.max(0, size - 1500)
    return (await file.read(Buffer.alloc(size - from), 0, size - from, from)).buffer.toString('utf8').trim()
  } finally {
    await file.close()
  }
}

/** Fast shutdown: sessions are cut, transactions rolled back, the next start needs no recovery. */
export async function stopCluster(place: Place, binaries: Binaries): Promise<void> {
  // pg_ctl signals whatever process the file names, so the check of the command comes first.
  if ((await findRunning(place)) === undefined) return
  const { code, output } = await run(binaries.control, ['stop', '-m', 'fast', '-w', '-s', '-t', '60', '-D', dataOf(place)], {
    identity: place.identity,
    cwd: cwdOf(place),
    output: 'kept',
  })
  if (code !== 0 && (await findRunning(place)) !== undefined) {
    throw new Refusal('database_unavailable', { detail: `the embedded PostgreSQL did not stop: ${output.trim()}` })
  }
}

/** Owner-only, made at the first start. @throws Refusal when it is gone while the data exists */
export async function superuserPassword(place: Place, make: () => string): Promise<string> {
  const path = join(place.folder, 'superuser-password')
  const found = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (found !== undefined && found !== '') return found
  if ((await stat(dataOf(place)).catch(() => undefined)) !== undefined) {
    throw new Refusal('database_unavailable', { detail: `${path} is gone, the data is not: restore the file, or remove ${dataOf(place)} too` })
  }
  const password = make()
  await writeFile(path, password, { mode: 0o600 })
  await chmod(path, 0o600)
  return password
}
