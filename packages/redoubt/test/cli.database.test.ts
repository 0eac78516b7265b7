import assert from 'node:assert/strict'
import { createServer, type AddressInfo } from 'node:net'
import { resolve } from 'node:path'
import { after, test } from 'node:test'
import { dispatch } from '../src/cli.ts'
import { testDatabase } from './support/database.ts'
import { freePort } from './support/port.ts'

const database = await testDatabase({ origins: ['redoubt'] })

async function redoubt(line: string, env: Readonly<Record<string, string>>): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  let out = ''
  let err = ''
  const io = { env, cwd: resolve(import.meta.dirname, '../../..'), out: (text: string) => void (out += text), err: (text: string) => void (err += text) }
  return { code: await dispatch(line.split(' '), io), out, err }
}

/** Changes the app's connection string. */
function urlWith(change: (url: URL) => void): string {
  const url = new URL(database.url('app'))
  change(url)
  return url.href
}

const secret = 'hunter-2-hunter-2'
const commands = [['db check', 'DATABASE_URL'], ['migrate', 'DATABASE_OWNER_URL']] as const

for (const [command, setting] of commands) {
  const say = async (url: string): Promise<{ readonly code: number; readonly err: string }> => {
    const { code, err, out } = await redoubt(`${command} --app apps/therapy`, { [setting]: url })
    assert.equal(out, '')
    assert.ok(!err.includes(secret), 'the password is never said')
    assert.match(err, /^redoubt .*\n$/, 'one line, no stack')
    return { code, err }
  }

  test(`${command}: a server that is away is one line with host and port`, async () => {
    const port = String(await freePort())
    assert.deepEqual(await say(urlWith((url) => void Object.assign(url, { port, password: secret }))), { code: 1, err: `redoubt ${command}: the database cannot be reached at ${new URL(database.url('app')).hostname}:${port} (${setting})\n` })
  })

  test(`${command}: a server that hangs up is one line`, async () => {
    const server = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1')
    after(() => server.close())
    await new Promise((listening) => server.once('listening', listening))
    const { port } = server.address() as AddressInfo
    assert.deepEqual(await say(`postgresql://a:${secret}@127.0.0.1:${port}/x`), { code: 1, err: `redoubt ${command}: the database cannot be reached at 127.0.0.1:${port} (${setting})\n` })
  })

  test(`${command}: a wrong password, or none, is one line with the login`, async () => {
    for (const password of [secret, '']) {
      const { code, err } = await say(urlWith((url) => void (url.password = password)))
      assert.equal(code, 1)
      assert.match(err, new RegExp(`^redoubt ${command}: sign-in as ${database.service}_app was refused at `))
    }
  })

  test(`${command}: a database that is not there is one line`, async () => {
    const { code, err } = await say(urlWith((url) => void (url.pathname = '/nowhere')))
    assert.equal(code, 1)
    assert.match(err, new RegExp(`^redoubt ${command}: there is no database nowhere at `))
  })

  test(`${command}: what is no connection string is wrong usage`, async () => {
    for (const rubbish of [secret, `http://a:${secret}@host/x`, `postgresql://${secret}`]) {
      const { code, err } = await say(rubbish)
      assert.equal(code, 2)
      assert.match(err, new RegExp(`^redoubt ${command}: ${setting} is not a connection string: postgresql://`))
    }
  })
}
