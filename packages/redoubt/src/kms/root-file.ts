import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { link, open, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { KEY_BYTES } from '../aead.ts'
import { Refusal } from '../errors.ts'
import { makeFolder } from '../folder.ts'

/** First bytes of a root key file; the form is in docs/formats.md, "local root key file". */
const magic = Buffer.from('redoubt-root-v1\n', 'ascii')
const fileBytes = magic.length + KEY_BYTES
const others = 0o077

function refused(detail: string): Refusal {
  return new Refusal('key_refused', { detail })
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}

/** Windows has no mode bits: the profile folder's access list protects the file there. */
const hasModes = process.platform !== 'win32'

/**
 * Reads the root key. Owner-only or not at all: a root key that others could read or replace is no root key.
 * @returns the 32 bytes, which the caller zeroes, or null when there is no such file
 * @throws Refusal key_refused, saying what to do
 */
export async function readRootFile(path: string): Promise<Buffer | null> {
  // O_NOFOLLOW: a planted link must not lead elsewhere. O_NONBLOCK: a planted pipe must not hang the start.
  const flags = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0)
  const file = await open(path, flags).catch((error: unknown) => {
    const code = codeOf(error)
    if (code === 'ENOENT') return null
    if (code === 'ELOOP' || code === 'EMLINK') throw refused('the root key file is a symbolic link: name the file itself')
    throw refused('the root key file cannot be opened: give its owner, and nobody else, the right to read it')
  })
  if (file === null) return null
  try {
    const about = await file.stat()
    if (!about.isFile()) throw refused('the root key is not a regular file')
    if (hasModes) {
      if (about.uid !== process.geteuid?.()) throw refused('the root key file belongs to another user: chown it to the user of the service')
      if ((about.mode & others) !== 0) throw refused('the root key file is open to others: chmod 600 it, and consider the key known')
      if (((await stat(dirname(path))).mode & others) !== 0) throw refused("the root key's folder is open to others: chmod 700 it")
    }
    if (about.size !== fileBytes) throw refused('the root key file has the wrong size: put back a backup made with `redoubt keys backup`')
    const bytes = Buffer.alloc(fileBytes)
    const { bytesRead } = await file.read(bytes, 0, fileBytes, 0)
    const key = Buffer.from(bytes.subarray(magic.length))
    const whole = bytesRead === fileBytes && bytes.subarray(0, magic.length).equals(magic)
    bytes.fill(0)
    if (!whole) throw refused('this is not a root key file: put back a backup made with `redoubt keys backup`')
    return key
  } finally {
    await file.close()
  }
}

/**
 * Writes a root key file, 0600, that did not exist before: complete or not at all, and on the disk when it returns.
 * @throws Refusal key_refused when the file exists or cannot be written
 */
async function writeRootFile(path: string, key: Buffer): Promise<void> {
  const draft = `${path}.${randomBytes(6).toString('hex')}.new`
  const bytes = Buffer.concat([magic, key])
  try {
    const file = await open(draft, 'wx', 0o600)
    try {
      await file.writeFile(bytes)
      await file.sync()
    } finally {
      await file.close()
    }
    // link() and not rename(): of two first starts at once one wins, and nobody's root key is overwritten.
    await link(draft, path)
    if (hasModes) {
      const folder = await open(dirname(path), 'r')
      try {
        await folder.sync()
      } finally {
        await folder.close()
      }
    }
  } catch (error) {
    throw refused(
      codeOf(error) === 'EEXIST' ? 'a file of that name exists already: it is left as it is' : 'the root key file could not be written',
    )
  } finally {
    bytes.fill(0)
    await rm(draft, { force: true })
  }
}

/** Makes a root key, its folder 0700 and its file 0600. Keeps the one of another process that was faster. */
export async function createRootFile(path: string): Promise<Buffer> {
  await makeFolder(dirname(path), 0o700)
  const key = randomBytes(KEY_BYTES)
  await writeRootFile(path, key).catch(() => undefined)
  key.fill(0)
  const stored = await readRootFile(path)
  if (stored === null) throw refused('the root key file could not be written: check the folder it shall stand in')
  return stored
}

/**
 * Copies a root key to a new file with mode 0600.
 * @param to must not exist yet
 * @returns the key; the caller zeroes it
 * @throws Refusal key_refused
 */
export async function copyRootFile(from: string, to: string): Promise<Buffer> {
  const key = await readRootFile(from)
  if (key === null) throw refused('there is no root key file to back up')
  await writeRootFile(to, key)
  return key
}
