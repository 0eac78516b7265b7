import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmod, mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { operatorOf } from './support/operator.ts'
import { openStarts, startFile } from './support/starts.ts'

const { home, start } = await openStarts()

/** What a start says that was refused because of its folder: one line, and the documented exit code. */
async function refused(folder: string, why: RegExp, as: 'us' | 'nobody' = 'us'): Promise<void> {
  const other = 'data:text/javascript,process.setgid(65534);process.setuid(65534)'
  // Somebody else cannot write where the coverage of this run is gathered, and would say so.
  const running = start([], as === 'us' ? { env: { REDOUBT_HOME: folder } } : { env: { REDOUBT_HOME: folder, NODE_V8_COVERAGE: '' }, command: [process.execPath, '--import', other, startFile] })
  assert.equal(await running.ended, 2, running.output())
  assert.match(running.output(), why)
  assert.equal(running.output().trimEnd().split('\n').length, 1, running.output())
}

test('a folder that is a file is said in one sentence', async () => {
  const file = join(home, 'a-file')
  await writeFile(file, '')
  await refused(file, /^npm start: .*a-file is a file where a folder is needed: .*REDOUBT_HOME/)
  await refused(join(file, 'below'), /^npm start: .*a-file.* is a file where a folder is needed: .*REDOUBT_HOME/)
  const mail = await operatorOf(file).therapy('send-test-mail', 'a@example.org')
  assert.deepEqual([mail.code, mail.out], [2, ''])
  assert.match(mail.err, /^therapy: .*a-file is a file where a folder is needed: .*\n$/)
  const within = join(home, 'within')
  await mkdir(within)
  await writeFile(join(within, 'postgres'), '')
  await refused(within, /^npm start: .*within.postgres is a file where a folder is needed/)
})

test('a folder in which nothing can be made is said in one sentence', { skip: process.platform !== 'linux' && 'there is no /proc' }, async () => {
  // Node asks /proc for ever where it is told to make what lies above as well.
  for (const folder of ['/proc/redoubt', '/proc/redoubt/below']) {
    await refused(folder, /^npm start: \/proc\/redoubt cannot be made \(ENOENT\): set REDOUBT_HOME to a folder of its own$/m)
    const mail = await operatorOf(folder).therapy('send-test-mail', 'a@example.org')
    assert.deepEqual([mail.code, mail.out], [2, ''])
    assert.match(mail.err, /^therapy: \/proc\/redoubt cannot be made \(ENOENT\): .*\n$/)
  }
  await refused(join(home, 'a'.repeat(300)), /^npm start: .*a{300} cannot be made \(ENAMETOOLONG\): set REDOUBT_HOME to a folder of its own$/m)
})

const root = process.getuid?.() === 0
/** A disk of that many megabytes, seen by one process and gone with it. */
const disk = (megabytes: number, before: string): readonly [string, ...string[]] =>
  ['unshare', '--mount', 'sh', '-c', `mount -t tmpfs -o size=${megabytes}m none "$0" && { ${before}; } && exec "$@"`, home]
const mounts = process.platform === 'linux' && root && spawnSync('unshare', ['--mount', 'sh', '-c', 'mount -t tmpfs -o size=1m none "$0"', home], { stdio: 'ignore' }).status === 0

test('a disk that is full, or too small to begin with, is said in one sentence', { skip: !mounts && 'this account mounts nothing' }, async () => {
  async function on(megabytes: number, before: string, why: RegExp): Promise<void> {
    const running = start([], { command: [...disk(megabytes, before), process.execPath, startFile] })
    assert.equal(await running.ended, 2, running.output())
    assert.match(running.output(), why)
    assert.equal(running.output().trimEnd().split('\n').length, 1, running.output())
  }
  const started = 'mkdir "$0/postgres"; echo 1 > "$0/postgres/port"'
  await on(20, ':', /^npm start: the disk of .* has 1\d MB left, a first start takes 64: make room, or set REDOUBT_HOME to a folder elsewhere$/m)
  await on(2, started, /^npm start: the disk of .* is full \([01] MB left\): make room, or set REDOUBT_HOME to a folder elsewhere\. What failed: /)
  await on(1, `${started}; head -c 2000000 /dev/zero > "$0/fill" 2>&- || true`, /^npm start: the disk of .* is full \(0 MB left\): make room, or .*What failed: ENOSPC/)
  // What initdb tells of its steps stays with it.
  await on(20, started, /^npm start: database_unavailable: .*: no database can be made in .*data: could not (?:extend|write)[^\n]*$/m)
})

// To be refused by the system, root has to be somebody else, who must be able to read the clone then.
const blind = process.platform === 'win32' || (root && spawnSync('/bin/cat', [startFile], { uid: 65_534, gid: 65_534, stdio: 'ignore' }).status !== 0)

test('a folder that this account may not use is said in one sentence', { skip: blind && 'nobody can read the clone' }, async () => {
  const as = root ? 'nobody' : 'us'
  const foreign = join(home, 'foreign')
  await mkdir(foreign, { mode: 0o711 })
  if (!root) await chmod(foreign, 0o500)
  await refused(join(foreign, '.redoubt'), /^npm start: .*foreign.\.redoubt cannot be made \(EACCES\): let this account write in .*foreign, or set REDOUBT_HOME/, as)
  await refused(foreign, /^npm start: this account may not use .*foreign.lock \(EACCES\): start as the account that owns .*foreign, or set REDOUBT_HOME/, as)
})

test('demonstration accounts that are damaged are named by their file, and nothing of them is told', async () => {
  const folder = join(home, 'damaged')
  await mkdir(folder)
  for (const text of ['', '{"state":"done","accounts":[{"password":"abcd-efgh', '[]', '{"state":"done"}']) {
    await writeFile(join(folder, 'demo.json'), text)
    await refused(folder, /^npm start: .*damaged.demo\.json is damaged: put it back as it was, .*--reset$/m)
  }
  assert.deepEqual(await readdir(folder), ['demo.json'], 'nothing was made beside it')
})

test('a command for people before the first npm start says so and makes nothing', async () => {
  const folder = join(home, 'never')
  await mkdir(folder)
  for (const words of [['create-admin', 'a@example.org'], ['recover-admin', 'a@example.org'], ['verify-therapist', 'a@example.org']]) {
    const { code, out, err } = await operatorOf(folder).therapy(...words)
    assert.deepEqual([code, out], [2, ''], err)
    assert.match(err, /^therapy: no npm start was ever complete in .*never: run npm start first.*\n$/)
  }
  assert.deepEqual(await readdir(folder), [])

  // The next start begins anew what was interrupted: an account made now would be gone then.
  await mkdir(join(folder, 'postgres'))
  await writeFile(join(folder, 'demo.json'), JSON.stringify({ state: 'begun', accounts: [] }))
  assert.match((await operatorOf(folder).therapy('create-admin', 'a@example.org')).err, /run npm start first/)
  assert.deepEqual(await readdir(join(folder, 'postgres')), [])
  await rm(folder, { recursive: true })
})
