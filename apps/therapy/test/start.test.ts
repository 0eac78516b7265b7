import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { accountsOf, openStarts, ready, until } from './support/starts.ts'

const { home, port, start, login } = await openStarts()

/** The operator's command, beside the running service: a therapist who registered is listed once it was given. */
async function verifyAnother(token: string): Promise<void> {
  const email = 'nina.berg@example.org'
  const body = { role: 'therapist', email, password: 'long enough for this', licence_number: 'BY 1234', display_name: 'Nina Berg', specialisation: 'Sleep', price_minor: 9000, currency: 'EUR', time_zone: 'Europe/Berlin' }
  const post = (path: string, given: unknown): Promise<Response> =>
    fetch(`http://127.0.0.1:${port}/api/auth/${path}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(given) })
  const { request } = (await (await post('register', body)).json()) as { readonly request: string }
  let code: string | undefined
  await until('the mail to confirm the address is in its folder', async () => {
    const folder = join(home, 'mail')
    const texts = await Promise.all((await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.eml')).map((name) => readFile(join(folder, name), 'utf8')))
    code = texts.map((text) => (text.includes(`To: <${email}>`) ? /^ +(\d{4} \d{4})\r$/m.exec(text)?.[1] : undefined)).find((found) => found !== undefined)
    return code !== undefined
  })
  assert.equal((await post('email/verify', { request, code })).status, 200)
  const listed = async (): Promise<boolean> => (await (await fetch(`http://127.0.0.1:${port}/api/therapists`, { headers: { authorization: `Bearer ${token}` } })).text()).includes('Nina Berg')
  assert.equal(await listed(), false)
  const { DATABASE_URL: _, ...env } = process.env
  const cli = (...args: readonly string[]) => promisify(execFile)(process.execPath, [join(import.meta.dirname, '../src/cli.ts'), ...args], { env: { ...env, REDOUBT_HOME: home } })
  assert.match((await cli('verify-therapist', email)).stdout, /^verified [0-9a-f-]{36}\n$/)
  assert.equal(await listed(), true)
  for (const [code, ...args] of [[1, 'verify-therapist', email], [1, 'verify-therapist', 'nobody@example.org'], [2, 'verify-therapist']] as const) {
    await assert.rejects(cli(...args), (error: { readonly code?: unknown }) => error.code === code)
  }
}

test('npm start: first start, second start, kill -9 and start again, reset', async (t) => {
  let first: readonly (readonly string[])[] = []
  let patients = ''

  await t.test('the first start loads the demonstration and tells how to sign in', async () => {
    const running = start()
    await ready(running)
    first = accountsOf(running)
    assert.equal(first.length, 8)
    const token = await login(first[0]?.[0] ?? '', first[0]?.[1] ?? '')
    assert.ok(token)
    patients = await (await fetch(`http://127.0.0.1:${port}/api/patients`, { headers: { authorization: `Bearer ${token}` } })).text()
    assert.match(patients, /Aylin/)
    const sessions = (await (await fetch(`http://localhost:${port}/api/auth/sessions`, { headers: { authorization: `Bearer ${token}` } })).json()) as { readonly items: readonly { readonly current: boolean }[] }
    assert.deepEqual(sessions.items.map(({ current }) => current), [true], 'nobody has a device that they never used')
    assert.match(running.output(), new RegExp(`^Therapy +http://localhost:${port}/ [^]*^Administration +http://localhost:\\d+/ `, 'm'))
    assert.doesNotMatch(running.output(), /http:\/\/127/, 'one name everywhere: browsers have no passkeys for an address in numbers')
    assert.equal(((await stat(join(home, 'demo.json'))).mode & 0o077), 0, 'passwords are for the owner alone')

    const second = start()
    assert.equal(await second.ended, 3)
    assert.match(second.output(), /port is used by another process/)

    await verifyAnother(token)

    running.child.kill('SIGINT')
    assert.equal(await running.ended, 0)
    assert.equal(await login(first[0]?.[0] ?? '', first[0]?.[1] ?? ''), undefined)
  })

  await t.test('kill -9: the children end with their parent, and the next start goes on with the same data', async () => {
    const running = start()
    await ready(running)
    assert.deepEqual(accountsOf(running), first)
    running.child.kill('SIGKILL')
    await running.ended
    await until('the port is free', () => fetch(`http://127.0.0.1:${port}/openapi.json`).then(() => false, () => true))

    const again = start()
    await ready(again)
    const token = await login(first[0]?.[0] ?? '', first[0]?.[1] ?? '')
    const answer = await fetch(`http://127.0.0.1:${port}/api/patients`, { headers: { authorization: `Bearer ${token}` } })
    assert.equal(await answer.text(), patients)
    again.child.kill('SIGTERM')
    assert.equal(await again.ended, 0)
  })

  await t.test('kill -9 while the demonstration is loaded: the next start loads it anew, whole', async () => {
    const running = start(['--reset'])
    await until('it loads', () => running.output().includes('loading the demonstration'), running)
    await until('it has begun', () => readFile(join(home, 'demo.json'), 'utf8').then((text) => text.includes('begun'), () => false), running)
    running.child.kill('SIGKILL')
    await running.ended
    const again = start()
    await ready(again)
    const [email = '', password = ''] = accountsOf(again)[0] ?? []
    const token = await login(email, password)
    const answer = await fetch(`http://127.0.0.1:${port}/api/patients`, { headers: { authorization: `Bearer ${token}` } })
    assert.equal(((await answer.json()) as { items: unknown[] }).items.length, 3)
    first = accountsOf(again)
    again.child.kill('SIGTERM')
    assert.equal(await again.ended, 0)
  })

  await t.test('--reset begins anew', async () => {
    const running = start(['--reset'])
    await ready(running)
    assert.notDeepEqual(accountsOf(running), first)
    assert.equal(await login(first[0]?.[0] ?? '', first[0]?.[1] ?? ''), undefined, 'the old passwords are gone')
    const [email = '', password = ''] = accountsOf(running)[0] ?? []
    assert.ok(await login(email, password))
    running.child.kill('SIGTERM')
    assert.equal(await running.ended, 0)
    const log = await readFile(join(home, 'therapy.log'), 'utf8')
    for (const secret of [password, 'Aylin', 'Sonnenallee']) assert.ok(!log.includes(secret), 'the log holds nobody’s data')
  })
})
