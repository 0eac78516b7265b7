import { mkdir, realpath } from 'node:fs/promises'
import { dirname, join, resolve, sep } from 'node:path'
import { StartRefused } from './hands.ts'
import { repository } from './sources.ts'

/** Where a development machine keeps everything: git-ignored. */
export const defaultHome = join(repository, '.redoubt')

/**
 * Makes the folder. Started by root, the database runs under another account, who must be able to pass through to its
 * own folder; every file beside it is the owner's alone in either case.
 */
export async function makeHome(home: string): Promise<void> {
  await mkdir(home, { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 })
}

/**
 * Runs `work` in the folder, made where there is none.
 * @throws StartRefused saying which path this account may not use, or is a file where a folder is needed, and what to do
 */
export async function inHome<T>(home: string, work: () => Promise<T>): Promise<T> {
  try {
    await makeHome(home)
    return await work()
  } catch (error) {
    const why = await refusalOf(home, error)
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
  if (!['EACCES', 'EPERM', 'EROFS'].includes(code)) return undefined
  return syscall === 'mkdir'
    ? `${at} cannot be made (${code}): let this account write in ${dirname(at)}, or set REDOUBT_HOME to a folder of its own`
    : `this account may not use ${at} (${code}): start as the account that owns ${places[0]}, or set REDOUBT_HOME to a folder of your own`
}
