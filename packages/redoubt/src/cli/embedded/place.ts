import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, chown, lstat, mkdir, readFile, realpath, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Refusal } from '../../errors.ts'
import { makeFolder } from '../../folder.ts'
import { run } from './process.ts'
import type { Identity } from './process.ts'

/** Where the server lives, and as whom. `folder` is ours (password, port, who uses it), `home` holds data and copies. */
export type Place = { readonly folder: string; readonly home: string; readonly identity: Identity | undefined }

/**
 * PostgreSQL refuses to run as root. No account is made for it: it runs as nobody, who must be in the account list
 * because initdb looks itself up there.
 */
async function unprivileged(): Promise<Identity | undefined> {
  if (process.getuid?.() !== 0) return undefined
  const ask = async (flag: string): Promise<number> => {
    const { code, output } = await run('id', [flag, 'nobody'], { identity: undefined, cwd: '/', output: 'kept' })
    const id = Number(output.trim())
    if (code !== 0 || !Number.isInteger(id) || id === 0) {
      throw new Refusal('database_unavailable', {
        detail: 'PostgreSQL does not run as root, and this system has no account "nobody" to run it under: start as an ordinary user',
      })
    }
    return id
  }
  return { uid: await ask('-u'), gid: await ask('-g') }
}

/** Can this identity enter the folder? Asked of the system itself, since modes alone do not tell (ACLs, mounts). */
async function reaches(identity: Identity, folder: string): Promise<boolean> {
  const { code } = await run('/bin/sh', ['-c', 'cd -- "$1"', 'sh', folder], { identity, cwd: '/', output: 'kept' })
  return code === 0
}

/**
 * A folder outside the clone for the case that the server's account cannot enter it. /var/lib rather than /var/tmp: only
 * root can make names there, so nobody can wait with a folder of the expected name, and no cleaner removes files by age.
 */
async function outside(folder: string, identity: Identity): Promise<string> {
  const hash = createHash('sha256').update(folder).digest('hex').slice(0, 16)
  const home = join(existsSync('/var/lib') ? '/var/lib' : '/var/tmp', `redoubt-${hash}`)
  await mkdir(home, { mode: 0o710 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error
  })
  const found = await lstat(home)
  if (!found.isDirectory() || found.uid !== 0) {
    throw new Refusal('database_unavailable', { detail: `${home} was made by somebody else: remove it` })
  }
  await chown(home, 0, identity.gid)
  await chmod(home, 0o710)
  await writeFile(join(home, 'belongs-to'), `${folder}\n`, { mode: 0o600 })
  return home
}

/**
 * Settles where the server lives. The first answer is remembered in `folder`: were it asked anew each time, a changed
 * mode on the way to the clone would silently give an empty database.
 * @throws Refusal database_unavailable when the remembered place cannot be used any more
 */
export async function settlePlace(wanted: string): Promise<Place> {
  await makeFolder(wanted, 0o777)
  const folder = await realpath(wanted)
  // pg_ctl hands the path to a shell between double quotes
  if (/["$`\\\n]/.test(process.platform === 'win32' ? folder.replaceAll('\\', '') : folder)) {
    throw new Refusal('database_unavailable', { detail: 'the path of the database folder contains a quote, a dollar or a backslash' })
  }
  const identity = await unprivileged()
  if (identity === undefined) {
    await chmod(folder, 0o700)
    return { folder, home: folder, identity }
  }
  await chown(folder, 0, identity.gid)
  await chmod(folder, 0o710)
  const memory = join(folder, 'home')
  const remembered = await readFile(memory, 'utf8').catch(() => undefined)
  const home = remembered ?? ((await reaches(identity, folder)) ? folder : await outside(folder, identity))
  if (remembered === undefined) await writeFile(memory, home, { mode: 0o600 })
  else if (home !== folder) await outside(folder, identity)
  if (!(await reaches(identity, home))) {
    throw new Refusal('database_unavailable', { detail: `the account "nobody" can no longer enter ${home}, where the database lives` })
  }
  return { folder, home, identity }
}
