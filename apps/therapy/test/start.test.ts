import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { operatorOf, sender } from './support/operator.ts'
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
  await Promise.all(([[1, 'verify-therapist', email], [1, 'verify-therapist', 'nobody@example.org'], [2, 'verify-therapist']] as const).map(([code, ...args]) => assert.rejects(cli(...args), (error: { readonly code?: unknown }) => error.code === code)))
}

/** The operator's last resort, as the runbook has it, beside the running service. */
async function recoverTheOnlyAdministrator(origin: string, patient: string): Promise<void> {
  const operator = operatorOf(home)
  const email = 'only.admin@example.org'
  const printed = ({ out }: { readonly out: string }): string => /^password to begin with, shown this once: (\S+)$/m.exec(out)?.[1] ?? assert.fail(out)
  const before = await operator.administrator(origin, email, printed(await operator.therapy('create-admin', email)), 'seven quiet harbours')
  const refuses = async (address: string): Promise<void> => {
    const refused = await operator.asWritten('lost-factor.md', /recover-admin/, address)
    assert.deepEqual([refused.code, refused.out], [1, ''], refused.err)
    assert.match(refused.err, /^therapy recover-admin: nothing was changed: not_found: .*no account that administers or audits and is not suspended has this address$/m)
    assert.ok(!refused.err.includes(address))
  }
  await Promise.all([patient, 'nobody.admin@example.org'].map(refuses))
  assert.equal((await before.send('GET', '/api/auth/me')).status, 200, 'what is refused changes nothing')

  const done = await operator.asWritten('lost-factor.md', /recover-admin/, email)
  assert.equal(done.code, 0, done.err)
  assert.match(done.out, new RegExp(`^begins anew, without a second factor and signed out everywhere: ${before.id}\npassword to begin with, shown this once: \\S{20}\n$`))
  const [event] = done.err.trim().split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Record<string, unknown>)
  assert.deepEqual([event?.['msg'], event?.['actor'], event?.['step']], ['auth.factor_reset', before.id, 'applied'])
  assert.ok(!done.err.includes(printed(done)), 'the password is on stdout alone')
  assert.equal((await before.send('GET', '/api/auth/me')).body['code'], 'caller_refused')
  for (const [path, body] of [['refresh', { refresh_token: before.refresh }], ['login', { email, password: 'seven quiet harbours' }]] as const) assert.equal((await sender(origin)('POST', `/api/auth/${path}`, body)).status, 401, path)
  assert.doesNotMatch(await operator.mailTo(email, /^Subject: Your account begins anew\r$/m), new RegExp(printed(done)))

  const again = await operator.administrator(origin, email, printed(done), 'nine slow rivers bend')
  const { body } = await again.send('GET', '/api/admin/audit?action=auth.administrator_recovered')
  const entries = body['items'] as unknown as readonly { readonly actor: { readonly role: string }; readonly outcome: string; readonly resource: { readonly id: string } }[]
  assert.deepEqual(entries.map(({ actor, outcome, resource }) => [actor.role, outcome, resource.id]), [['system.create-admin', 'done', before.id]])
  // Whom another administrator has suspended is not let in again by the operator's way either.
  const suspended = 'suspended.auditor@example.org'
  const created = await operator.therapy('create-auditor', suspended)
  const id = /^created (\S+)$/m.exec(created.out)?.[1] ?? assert.fail(created.out)
  const begin = async (): Promise<number> => (await sender(origin)('POST', '/api/auth/login', { email: suspended, password: printed(created) })).status
  assert.equal((await again.send('POST', `/api/admin/users/${id}/suspend`)).status, 204)
  await refuses(suspended)
  assert.equal(await begin(), 401)
  assert.equal((await again.send('POST', `/api/admin/users/${id}/restore`)).status, 204)
  assert.equal(await begin(), 200, 'the password it had is still its own')
  await until('the event that the runbook says to alarm on', async () => (await readFile(join(home, 'therapy.log'), 'utf8')).split('\n').some((line) => line.includes('"topic":"administrator_recovered"') && line.includes('"msg":"mail.sent"')))
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
    assert.match(second.output(), new RegExp(`port ${port} is used by another process; stop that one, or set PORT$`, 'm'))

    await verifyAnother(token)
    await recoverTheOnlyAdministrator(/^Administration +(http:\/\/localhost:\d+)\//m.exec(running.output())?.[1] ?? '', first[2]?.[0] ?? '')

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
