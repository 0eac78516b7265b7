import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { storedUrl } from '../src/stored-url.ts'

test('a connection string that is mounted as a file is read as it is now; one of the environment never changes', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-stored-'))
  const path = join(folder, 'database-url')
  try {
    await writeFile(path, 'postgres://therapy_app:one@127.0.0.1/therapy\n')
    const read = storedUrl({ DATABASE_URL_FILE: path }, 'DATABASE_URL')
    assert.equal(await read?.(), 'postgres://therapy_app:one@127.0.0.1/therapy')
    await writeFile(path, 'postgres://therapy_app:two@127.0.0.1/therapy\n')
    assert.equal(await read?.(), 'postgres://therapy_app:two@127.0.0.1/therapy')
    assert.equal(storedUrl({ DATABASE_URL: 'postgres://therapy_app:one@127.0.0.1/therapy' }, 'DATABASE_URL'), undefined)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
