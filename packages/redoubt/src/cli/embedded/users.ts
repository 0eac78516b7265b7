import { randomBytes } from 'node:crypto'
import { readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Refusal } from '../../errors.ts'
import { makeFolder } from '../../folder.ts'
import { commandOf } from './process.ts'

const patience = 120_000

const stamp = async (): Promise<string> => `${process.pid}\n${await commandOf(process.pid)}`

/** Does the process that wrote this stamp still live? By id and command: the id may belong to another one by now. */
async function lives(text: string): Promise<boolean> {
  const [pid = '', ...command] = text.split('\n')
  const now = await commandOf(Number(pid))
  return now !== '' && now === command.join('\n')
}

/** Takes away a lock whose holder died. Renaming lets one of several contenders win; a lock that changed meanwhile is put back. */
async function clear(lock: string, seen: string): Promise<void> {
  const aside = `${lock}.${randomBytes(6).toString('hex')}`
  try {
    await rename(lock, aside)
  } catch {
    return
  }
  const taken = await readFile(aside, 'utf8')
  if (taken === seen) await rm(aside)
  else await rename(aside, lock)
}

/**
 * Runs `work` while no other process does so on this folder.
 * @throws Refusal busy when another live process holds the folder for two minutes
 */
export async function alone<T>(folder: string, work: () => Promise<T>): Promise<T> {
  const lock = join(folder, 'lock')
  const mine = await stamp()
  const until = Date.now() + patience
  for (;;) {
    try {
      await writeFile(lock, mine, { flag: 'wx', mode: 0o600 })
      break
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const held = await readFile(lock, 'utf8').catch(() => undefined)
    // An empty lock is one being written, unless it stays empty.
    const young = held === '' && Date.now() - (await stat(lock).then((s) => s.mtimeMs, () => 0)) < 5000
    if (held !== undefined && !young && !(await lives(held))) await clear(lock, held)
    else if (Date.now() > until) throw new Refusal('busy', { detail: `another process holds ${lock}` })
    else await delay(50)
  }
  try {
    return await work()
  } finally {
    await rm(lock, { force: true })
  }
}

/** Enters this process as a user of the server. @returns the name to leave by */
export async function enter(folder: string): Promise<string> {
  const users = join(folder, 'users')
  await makeFolder(users, 0o700)
  const name = `${process.pid}-${randomBytes(6).toString('hex')}`
  await writeFile(join(users, name), await stamp(), { mode: 0o600 })
  return name
}

export async function leave(folder: string, name: string): Promise<void> {
  await rm(join(folder, 'users', name), { force: true })
}

/** How many live users there are; those that died without leaving are struck off. Call while `alone`. */
export async function countUsers(folder: string): Promise<number> {
  const users = join(folder, 'users')
  let count = 0
  for (const name of await readdir(users).catch(() => [])) {
    if (await lives(await readFile(join(users, name), 'utf8'))) count++
    else await rm(join(users, name), { force: true })
  }
  return count
}
