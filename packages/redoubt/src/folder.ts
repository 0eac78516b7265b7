import { mkdir, stat } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Makes a folder and those above it; one that is there is left as it is. Not `mkdir` with `recursive`: where a folder
 * that is there answers ENOENT to what is made in it, as /proc does, Node 24 asks again for ever, in a thread that
 * nothing ends.
 * @param mode permissions of what is made
 * @throws the system's error, with code and path, where it cannot be made or is no folder
 */
export async function makeFolder(path: string, mode: number): Promise<void> {
  const first = await refusalOf(path, mode)
  if (first === undefined) return
  const above = dirname(path)
  if (first.code !== 'ENOENT' || above === path) throw first
  await makeFolder(above, mode)
  const second = await refusalOf(path, mode)
  if (second !== undefined) throw second
}

async function refusalOf(path: string, mode: number): Promise<NodeJS.ErrnoException | undefined> {
  try {
    await mkdir(path, { mode })
    return undefined
  } catch (error) {
    // What is there answers EEXIST, and on some file systems EROFS, EACCES or EISDIR.
    const isThere = await stat(path).then((found) => found.isDirectory(), () => false)
    return isThere ? undefined : (error as NodeJS.ErrnoException)
  }
}
