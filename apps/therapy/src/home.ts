import { existsSync } from 'node:fs'
import { realpath, statfs } from 'node:fs/promises'
import { dirname, join, resolve, sep } from 'node:path'
import type { Environment } from 'redoubt/config'
import { makeFolder } from 'redoubt/folder'
import { StartRefused } from './process.ts'
import { repository } from './sources.ts'

/** Where a development machine keeps everything: git-ignored. */
const defaultHome = join(repository, '.redoubt')

/**
 * Makes the folder. Started by root, the database runs under another account, who must be able to pass through to its
 * own folder; every file beside it is the owner's alone in either case.
 */
export async function makeHome(home: string): Promise<void> {
  await makeFolder(home, process.getuid?.() === 0 ? 0o711 : 0o700)
}

/** The folder that the environment names; an empty name is none. */
export function homeFrom(env: Environment): string {
  const { REDOUBT_HOME: named = '' } = env
  return named === '' ? defaultHome : named
}

/** Bytes that a first start takes, the first growth of its log of changes included (46 MB were measured). */
const firstStart = 64 * 2 ** 20
/** Bytes below which a disk is full for a database: it asks for files of 16 MB, and fails in many ways without. */
const full = 4 * 2 ** 20

/** Bytes that are free on the folder's disk; undefined where the file system does not tell. */
async function freeIn(home: string): Promise<number | undefined> {
  const disk = await statfs(home).catch(() => undefined)
  return disk === undefined || disk.blocks === 0 ? undefined : disk.bavail * disk.bsize
}

const megabytes = (bytes: number): number => Math.floor(bytes / 2 ** 20)

/** Where nothing was made yet: what fails half-way for want of room is said in words of PostgreSQL's. @throws StartRefused */
export async function checkRoom(home: string): Promise<void> {
  const free = await freeIn(home)
  if (free === undefined || free >= firstStart || existsSync(join(home, 'postgres/port'))) return
  throw new StartRefused(`the disk of ${resolve(home)} has ${megabytes(free)} MB left, a first start takes ${megabytes(firstStart)}: make room, or set REDOUBT_HOME to a folder elsewhere`)
}

/**
 * Runs `work` in the folder, made where there is none.
 * @throws StartRefused saying which path this account may not use, cannot be made, or is a file where a folder is needed, that the disk is full, and what to do
 */
export async function inHome<T>(home: string, work: () => Promise<T>): Promise<T> {
  try {
    await makeHome(home)
    return await work()
  } catch (error) {
    const why = (await refusalOf(home, error)) ?? (await fullness(home, error))
    throw why === undefined ? error : new StartRefused(why, { cause: error })
  }
}

/** Of the folder and what is in it alone: elsewhere the same codes mean something that nobody planned for. */
async function refusalOf(home: string, error: unknown): Promise<string | undefined> {
  const { code = '', path, syscall } = error instanceof Error ? (error as NodeJS.ErrnoException) : {}
  if (path === undefined) return undefined
  const at = resolve(path)
  const places = [resolve(home), await realpath(home).catch(() => resolve(home))]
  const way = (from: string, to: string): boolean => to === from || to.startsWith(from.endsWith(sep) ? from : from + sep)
  if (!places.some((place) => way(place, at) || way(at, place))) return undefined
  if (code === 'EEXIST') return `${at} is a file where a folder is needed: move it away, or set REDOUBT_HOME to another folder`
  if (code === 'ENOTDIR') return `a part of ${at} is a file where a folder is needed: move it away, or set REDOUBT_HOME to another folder`
  const mayNot = ['EACCES', 'EPERM', 'EROFS'].includes(code)
  if (syscall === 'mkdir') return `${at} cannot be made (${code}): ${mayNot ? `let this account write in ${dirname(at)}, or ` : ''}set REDOUBT_HOME to a folder of its own`
  return mayNot ? `this account may not use ${at} (${code}): start as the account that owns ${places[0]}, or set REDOUBT_HOME to a folder of your own` : undefined
}

/** Without room whatever is tried first fails, the server, a statement or a file. */
async function fullness(home: string, error: unknown): Promise<string | undefined> {
  if (error instanceof StartRefused || !(error instanceof Error)) return undefined
  const { code } = error as NodeJS.ErrnoException
  const free = await freeIn(home)
  if (code !== 'ENOSPC' && code !== 'EDQUOT' && (code === 'EADDRINUSE' || free === undefined || free >= full)) return undefined
  return `the disk of ${resolve(home)} is full${free === undefined ? '' : ` (${megabytes(free)} MB left)`}: make room, or set REDOUBT_HOME to a folder elsewhere. What failed: ${error.message.split('\n')[0]}`
}
