import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { dispatch } from '../src/cli.ts'
import { progressLine, showProgress } from '../src/cli/progress.ts'
import { withdrawReencryption } from '../src/migrate/rights.ts'
import { testDatabase } from './support/database.ts'
import { gcmKey, gcmV1, jwtSecret, passphrase } from './support/legacy.ts'
import { customers, openShop } from './support/reencrypt.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const shop = await openShop(database)
const app = await mkdtemp(join(tmpdir(), 'redoubt-app-'))
await mkdir(join(app, 'src'))
await writeFile(join(app, 'src/tables.ts'), `export { tables } from ${JSON.stringify(join(app, 'src/shop.ts'))}`)
await writeFile(join(app, 'src/shop.ts'), `import { shopTables } from ${JSON.stringify(join(import.meta.dirname, 'support/reencrypt.ts'))}\nexport const tables = shopTables(${JSON.stringify(database.service)})`)
await writeFile(join(app, 'passphrase'), `${passphrase}\n`)
after(async () => {
  await shop.close()
  await rm(app, { recursive: true, force: true })
})
const env = {
  DATABASE_OWNER_URL: database.url('migrator'), KEYS_DATABASE_URL: database.url('keys'), KMS: `local:${shop.keys.root}`, NODE_ENV: 'test',
  OLD_GCM: gcmKey.toString('base64'), OLD_JWT: jwtSecret, OLD_PASSPHRASE_FILE: join(app, 'passphrase'),
}

async function redoubt(words: readonly string[], more: Readonly<Record<string, string | undefined>> = {}): Promise<{ readonly code: number; readonly out: string }> {
  let out = ''
  const say = (text: string): void => void (out += text)
  const code = await dispatch(['reencrypt', ...words], { env: { ...env, ...more }, cwd: '/', out: say, err: say })
  return { code, out }
}

await shop.insert(customers(300, 30))
const [first] = customers(1)
await database.admin('insert into shop.customers (id, person, old_email, old_cvv) values ($1, $2, $3, $4)', [first?.id, first?.person, gcmV1('old@example.org'), '999'])

test('without the rights a job refuses: it would see no row, and no error', async () => {
  await withdrawReencryption({ url: database.url('migrator'), tables: shop.tables })
  const { code, out } = await redoubt(['run', '--app', app])
  assert.equal(code, 1)
  assert.match(out, /jobs are not allowed on shop\.customers: run `redoubt reencrypt allow --app .+` first/)
  const allowed = await redoubt(['allow', '--app', app])
  assert.deepEqual([allowed.code, allowed.out.split('\n')[0]], [0, 'jobs are allowed on shop.customers'])
  assert.equal((await redoubt(['allow', '--app', app])).code, 0)
})

test('run, dry and then in earnest: counts by table, the proof, and exit code 0', async () => {
  await shop.rotateDataKeys()
  const dry = await redoubt(['run', '--app', app, '--dry-run'])
  assert.equal(dry.code, 0, dry.out)
  assert.match(dry.out, /shop\.customers +301 +300 +0 +1 +0 +0 +dry run/)
  const real = await redoubt(['run', '--app', app, '--max-latency', '400', '--rows-per-second', '100000'])
  assert.equal(real.code, 0, real.out)
  assert.match(real.out, /shop\.customers +301 +300 +0 +1 +0 +0 +proven/)
  assert.match((await redoubt(['status', '--app', app])).out, /reencrypt +done .* shop\.customers +301 +300 .* \d{4}-\d\d-\d\dT/)
})

test('import reads the old secrets from settings and files; a bad row makes the exit code 1 and stands in the list', async () => {
  const [bad] = customers(1)
  await database.admin('insert into shop.customers (id, person, old_email) values ($1, $2, $3)', [bad?.id, bad?.person, 'gcm:v1:nothing'])
  const { code, out } = await redoubt(['import', '--app', app])
  assert.equal(code, 1)
  assert.match(out, /shop\.customers +302 +1 +300 +0 +0 +1 +NOT PROVEN; 1 malformed/)
  const list = await redoubt(['failures', '--app', app])
  assert.equal(list.code, 1)
  assert.match(list.out, new RegExp(`${bad?.id ?? ''} +old_email +malformed`))
  await database.admin('delete from shop.customers where id = $1', [bad?.id])
  assert.equal((await redoubt(['verify', '--app', app])).code, 0)
})

test('what is wiped has to be named, and is proven gone', async () => {
  assert.equal((await redoubt(['wipe', '--app', app])).code, 2)
  const { code, out } = await redoubt(['wipe', '--app', app, '--table', 'shop.customers', '--json'])
  assert.equal(code, 0, out)
  assert.equal((JSON.parse(out) as readonly { readonly proven: boolean }[])[0]?.proven, true)
})

test('wrong usage is 2: no kind, no app, an option out of range, a setting that is missing', async () => {
  for (const words of [[], ['everything'], ['run'], ['run', '--app', app, '--max-lag', '-1'], ['run', '--app', app, 'twice'], ['run', '--app', app, '--odd']]) assert.equal((await redoubt(words)).code, 2, words.join(' '))
  assert.equal((await redoubt(['run', '--app', app], { KEYS_DATABASE_URL: undefined })).code, 2)
  assert.equal((await redoubt(['--help'])).code, 0)
})

test('progress: a line says rate and remaining time; in a terminal a bar is drawn over itself and taken away', async () => {
  assert.equal(progressLine({ what: 'x', done: 50_000, expected: 300_000 }, 10_000), 'x: 50,000 of 300,000 rows, 10,000 rows/s, 25 s left')
  assert.match(progressLine({ what: 'x', done: 10, expected: 5 }, 0), /10 of 10 rows, 0 rows\/s, unknown time left/)
  let drawn = ''
  const asked = Promise.withResolvers<void>()
  const end = showProgress({ env: {}, cwd: '/', out: () => assert.fail('not there'), err: (text) => void (drawn += text), terminal: true }, async () => {
    asked.resolve()
    return [{ what: 'x', done: 1, expected: 4 }]
  })
  const keepAlive = setInterval(() => undefined, 1000)
  await asked.promise
  await end()
  clearInterval(keepAlive)
  assert.match(drawn, /\r\u001b\[K\[######\.+\] +25 % x: 1 of 4 rows/)
  assert.ok(drawn.endsWith('\r\u001b[K'))
})
