import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, test } from 'node:test'
import { commands, dispatch } from '../src/cli.ts'
import { counted } from '../src/cli/io.ts'
import { progressLine } from '../src/cli/progress.ts'

const root = resolve(import.meta.dirname, '../../..')
const password = 'bQ3vN8xZr1Lk7TwY'
const login = (user: string): string => `postgresql://${user}:${password}@db.internal/therapy?sslmode=verify-full`
const good = {
  NODE_ENV: 'production', PUBLIC_ORIGIN: 'https://therapy.test', TRUSTED_PROXIES: '10.0.0.4', KMS: 'aws:alias/therapy', ANCHOR_DIR: '/anchors', MAIL: 'smtps://therapy:gH7uJ2wQe5Rk8SdF@mail.internal', MAIL_FROM: 'no-reply@therapy.test',
  DATABASE_URL: login('a'), KEYS_DATABASE_URL: login('k'), WORKER_DATABASE_URL: login('w'),
}

async function redoubt(line: string, env: Readonly<Record<string, string>> = {}, cwd = root): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  let out = ''
  let err = ''
  const io = { env, cwd, out: (text: string) => void (out += text), err: (text: string) => void (err += text) }
  const code = await dispatch(line === '' ? [] : line.split(' '), io)
  return { code, out, err }
}

test('--help lists every command and the exit codes; every command answers --help with 0', async () => {
  const { code, out } = await redoubt('--help')
  assert.equal(code, 0)
  assert.match(out, /exit codes: 0 ok, 1 .*, 2 wrong usage/)
  for (const { name, summary } of commands) assert.ok(out.includes(name) && out.includes(summary), name)
  for (const name of ['config check', 'config sample', 'tables']) {
    const help = await redoubt(`${name} --help`)
    assert.equal(help.code, 0)
    assert.match(help.out, new RegExp(`^redoubt ${name}`))
  }
})

test('help is found by whatever word it is asked for, of a group of commands too', async () => {
  const { out: whole } = await redoubt('--help')
  for (const line of ['help', '-h', 'help --help', 'help help']) assert.deepEqual(await redoubt(line), { code: 0, out: whole, err: '' }, line)
  const groups = new Set(commands.map(({ name }) => name).filter((name) => name.includes(' ')).map((name) => name.split(' ')[0] ?? ''))
  for (const group of groups) {
    for (const line of [`${group} --help`, `${group} -h`, `help ${group}`]) {
      const { code, out, err } = await redoubt(line)
      assert.deepEqual([code, err], [0, ''], line)
      for (const { name, summary } of commands) if (name.startsWith(`${group} `) && group !== 'keys') assert.ok(out.includes(name) && out.includes(summary), `${line}: ${name}`)
    }
  }
  assert.equal((await redoubt('help config check')).out, (await redoubt('config check --help')).out)
  assert.equal((await redoubt('help nothing')).code, 2)
})

for (const line of ['', 'nothing', 'db nothing --help', 'config', 'tables', 'tables --app apps/nothing', 'tables --app', 'tables --app apps/therapy --fast', 'tables stray --app apps/therapy', 'config check --app apps/therapy --mode staging']) {
  test(`wrong usage exits with 2 and says so on stderr only: redoubt ${line}`, async () => {
    const { code, out, err } = await redoubt(line)
    assert.equal(code, 2)
    assert.equal(out, '')
    assert.ok(err.length > 10)
  })
}

test('all settings that are missing are named at once, and where npm start has put them', async () => {
  const cwd = await mkdtemp(join(tmpdir(), 'redoubt-cli-'))
  after(() => rm(cwd, { recursive: true, force: true }))
  for (const hint of ['', '; with npm start: set -a; . .redoubt/therapy.env; set +a']) {
    const said = async (line: string, env: Readonly<Record<string, string>> = {}): Promise<string> => {
      const { code, out, err } = await redoubt(line, env, cwd)
      assert.deepEqual([code, out], [2, ''], line)
      return err
    }
    assert.equal(await said('audit verify'), `redoubt audit: ANCHOR_DIR, AUDITOR_DATABASE_URL, KEYS_DATABASE_URL and KMS must be set${hint}\n`)
    assert.equal(await said('audit verify --public-key a.pem --anchors b', { KMS: '' }), `redoubt audit: AUDITOR_DATABASE_URL must be set${hint}\n`)
    assert.equal(await said('audit resume --reason restored', { ANCHOR_DIR: 'b' }), `redoubt audit: WORKER_DATABASE_URL, KEYS_DATABASE_URL and KMS must be set${hint}\n`)
    assert.equal(await said('keys status'), `redoubt keys: KEYS_DATABASE_URL must be set${hint}\n`)
    assert.equal(await said('keys move', { KMS: 'local:a' }), `redoubt keys: KEYS_DATABASE_URL and KMS_PREVIOUS must be set${hint}\n`)
    await mkdir(join(cwd, '.redoubt'), { recursive: true })
    await writeFile(join(cwd, '.redoubt/therapy.env'), `KMS='${password}'\n`)
  }
})

test('one is told as one', async () => {
  assert.deepEqual([counted(0, 'line'), counted(1, 'line'), counted(1n, 'entry', 'entries'), counted(2n, 'entry', 'entries'), counted(21, 'key is', 'keys are')], ['0 lines', '1 line', '1 entry', '2 entries', '21 keys are'])
  assert.equal(progressLine({ what: 'x', done: 0, expected: 1 }, 0), 'x: 0 of 1 row, 0 rows/s, unknown time left')
})

test('tables prints class, sealing, search, subject and retention of each column', async () => {
  const { code, out } = await redoubt('tables --app apps/therapy')
  assert.equal(code, 0)
  const row = out.split('\n').find((text) => /^redoubt\.users\s+email_enc/.test(text)) ?? ''
  assert.match(row, /PII-E\s+sealed\s+by equality\s+id\s+account, \d+ days/)
})

test('config check exits with 0 for a good environment and 1 for a bad one, and never prints a value', async () => {
  const fine = await redoubt('config check --app apps/therapy', good)
  assert.equal(fine.code, 0, fine.out)
  assert.match(fine.out, /DATABASE_URL\s+environment\s+secret\s+platform operations\s+90 days\s+ok/)
  const bad = await redoubt('config check --app apps/therapy', { ...good, KMS: 'local:root.key', PORT: 'many-ports', DATABSE_URL: 'x' })
  assert.equal(bad.code, 1)
  assert.match((await redoubt('db')).err, /^redoubt db: say which\n\n {2}db check .*\n {2}db roles /)
  assert.match(bad.out, /KMS .*local key provider/)
  assert.match(bad.out, /DATABSE_URL\s+is not a setting; is DATABASE_URL meant\?/)
  assert.match(bad.out, /refused: 3 problems/)
  for (const { out } of [fine, bad]) assert.ok(!out.includes(password) && !out.includes('many-ports') && !out.includes('db.internal'))
  assert.match(fine.out, /^mode: production \(NODE_ENV\)\n/)
  const { NODE_ENV: _, TRUSTED_PROXIES: __, ...bare } = good
  const assumed = await redoubt('config check --app apps/therapy', { ...bare, TRUSTED_PROXIES: '', KEYS_DATABASE_URL: login('a') })
  assert.match(assumed.out, /^mode: production \(NODE_ENV is not set\)\n/)
  assert.match(assumed.out, /^KEYS_DATABASE_URL .* must not use the same login as DATABASE_URL$/m, 'what a rule over several settings finds stands in the row')
  assert.equal((await redoubt('config check --app apps/therapy', { ...good, NODE_ENV: 'prod' })).code, 1)
})

test("the app's .env.example is what config sample prints, and holds no value", async () => {
  const { out } = await redoubt('config sample --app apps/therapy')
  assert.equal(readFileSync(join(root, 'apps/therapy/.env.example'), 'utf8'), out, 'npm run -s redoubt -- config sample --app apps/therapy > apps/therapy/.env.example')
  for (const line of out.split('\n').filter((text) => text !== '' && !text.startsWith('# '))) assert.match(line, /^[A-Z_]+=$/)
})

test('no file with settings is tracked by git', () => {
  const { stdout, status } = spawnSync('git', ['ls-files', '--', '*.env', '*.env.*', '.env*'], { cwd: root, encoding: 'utf8' })
  assert.equal(status, 0)
  assert.deepEqual(stdout.split('\n').filter((file) => file !== '' && !file.endsWith('.env.example')), [])
})

test('the command runs as a process of its own', () => {
  const { status, stderr } = spawnSync(process.execPath, [join(root, 'packages/redoubt/src/cli.ts'), 'nothing'], { encoding: 'utf8' })
  assert.equal(status, 2)
  assert.match(stderr, /there is no command nothing\n/)
})
