import assert from 'node:assert/strict'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { makeFolder } from '../src/folder.ts'

const home = await mkdtemp(join(tmpdir(), 'redoubt-folder-'))
after(() => rm(home, { recursive: true, force: true }))

const modeOf = async (path: string): Promise<number> => (await stat(path)).mode & 0o777
const code = (path: string): Promise<string | undefined> => makeFolder(path, 0o700).then(() => undefined, (error: NodeJS.ErrnoException) => error.code)

test('a folder is made with those above it, and one that is there is left as it is', async () => {
  await makeFolder(join(home, 'a/b/c'), 0o700)
  for (const path of ['a', 'a/b', 'a/b/c']) assert.equal(await modeOf(join(home, path)), 0o700)
  await makeFolder(join(home, 'a/b'), 0o711)
  assert.equal(await modeOf(join(home, 'a/b')), 0o700)
  // A file system that is read alone may say that before it says that the folder is there.
  for (const there of ['/', '.', home, `${home}/`, `${home}/a//b/../b`]) assert.equal(await code(there), undefined, there)
  await Promise.all(Array.from({ length: 8 }, () => makeFolder(join(home, 'at/one/moment'), 0o700)))
})

test('where none can be made it comes back with why', async () => {
  await writeFile(join(home, 'file'), '')
  assert.deepEqual([await code(join(home, 'file')), await code(join(home, 'file/below')), await code(join(home, 'file/below/deeper'))], ['EEXIST', 'ENOTDIR', 'ENOTDIR'])
  assert.equal(await code(join(home, 'n'.repeat(300), 'below')), 'ENAMETOOLONG')
  assert.equal(await code(''), 'ENOENT')
})

test('a folder that says ENOENT to what is made in it is asked twice, not for ever', { skip: process.platform !== 'linux' && 'there is no /proc' }, async () => {
  assert.deepEqual([await code('/proc/redoubt'), await code('/proc/redoubt/a/b')], ['ENOENT', 'ENOENT'])
})
