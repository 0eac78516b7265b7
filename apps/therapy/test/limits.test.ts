import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { standardNumbers } from 'redoubt/limits/standard'
import { redisAbsent, startRedis } from '../../../packages/redoubt/test/support/redis.ts'
import { openClinic, roomy, type Answer, type Send } from './support/clinic.ts'

/** The standard numbers of guessing, behind a proxy on the loopback, so that a test says from where it asks. */
const guarded = { trustedProxies: ['127.0.0.1'], limits: { ...roomy, signIn: standardNumbers.signIn, signInAddress: standardNumbers.signInAddress } }
const clinic = await openClinic({ settings: guarded })

const from = (address: string, more: Record<string, string> = {}): Record<string, string> => ({ 'x-forwarded-for': address, ...more })
const login = (send: Send, who: { readonly email: string; readonly password: string }, headers: Record<string, string>): Promise<Answer> =>
  send('POST', '/api/auth/login', { email: who.email, password: who.password }, headers)
const wrong = 'not the password at all'
const deviceOf = (answer: Answer): string => (answer.headers.getSetCookie().find((line) => line.startsWith('__Host-therapy-device=')) ?? '').split(';', 1)[0] ?? ''

test('a right password does not count; the device it came from is known from then on, by a cookie that is nobody’s credential', async () => {
  const ada = await clinic.patient()
  for (let nr = 0; nr < 12; nr++) assert.equal((await login(clinic.send(), ada, from('192.0.2.10'))).status, 200)
  const answer = await login(clinic.send(), ada, from('192.0.2.10'))
  assert.match(answer.headers.getSetCookie().join('\n'), /^__Host-therapy-device=[\w.-]{80,250}; Max-Age=15552000; Path=\/; HttpOnly; Secure; SameSite=Strict$/)
  assert.equal((await clinic.send()('GET', '/api/auth/me', undefined, { cookie: deviceOf(answer) })).status, 401)
})

test('attack: locking somebody else out: five wrong tries stop the guesser, and not the owner', async () => {
  const ada = await clinic.patient()
  const known = deviceOf(await login(clinic.send(), ada, from('192.0.2.20')))
  const guess = (): Promise<Answer> => login(clinic.send(), { email: ada.email, password: wrong }, from('192.0.2.20'))
  const statuses: number[] = []
  for (let nr = 0; nr < 7; nr++) statuses.push((await guess()).status)
  assert.deepEqual(statuses, [401, 401, 401, 401, 401, 429, 429])
  const refused = await guess()
  assert.equal(refused.body['code'], 'too_many_requests')
  assert.match(refused.headers.get('retry-after') ?? '', /^\d{3}$/)
  assert.equal((await login(clinic.send(), ada, from('192.0.2.20'))).status, 429, 'the right password from there is not looked at either')
  assert.equal((await login(clinic.send(), ada, from('192.0.2.21'))).status, 200, 'the owner elsewhere')
  assert.equal((await login(clinic.send(), ada, from('192.0.2.20', { cookie: known }))).status, 200, 'the owner beside the guesser, on a known device')
})

test('attack: an account that does not exist is limited like one that does', async () => {
  const statuses: number[] = []
  for (let nr = 0; nr < 7; nr++) statuses.push((await login(clinic.send(), { email: 'nobody@example.org', password: wrong }, from('192.0.2.30'))).status)
  assert.deepEqual(statuses, [401, 401, 401, 401, 401, 429, 429])
})

test('attack: a known device of one’s own account is none for somebody else’s', async () => {
  const [mallory, ada] = [await clinic.patient(), await clinic.patient()]
  const device = deviceOf(await login(clinic.send(), mallory, from('192.0.2.40')))
  const statuses: number[] = []
  for (let nr = 0; nr < 7; nr++) statuses.push((await login(clinic.send(), { email: ada.email, password: wrong }, from('192.0.2.40', { cookie: device }))).status)
  assert.deepEqual(statuses, [401, 401, 401, 401, 401, 429, 429])
})

test('attack: opening accounts without end from one network', async () => {
  const statuses: number[] = []
  for (let nr = 0; nr < 22; nr++) {
    const body = { role: 'patient', email: `made${nr}@example.org`, password: `a fresh password ${nr} of many`, first_name: 'A', last_name: 'B', dob: '1990-01-01' }
    statuses.push((await clinic.send()('POST', '/api/auth/register', body, from(`2001:db8:7:7::${nr}`))).status)
  }
  assert.deepEqual([...new Set(statuses.slice(0, 20))], [202])
  assert.deepEqual(statuses.slice(20), [429, 429])
})

test('attack: trying passkeys without end: five for one credential, twenty from one network', async () => {
  const answer = (id: string): unknown => ({ response: { id, rawId: id, type: 'public-key', clientExtensionResults: {}, response: { clientDataJSON: 'e30', authenticatorData: 'AAAA', signature: 'AAAA' } } })
  const status = async (id: string, address: string): Promise<number> => (await clinic.send()('POST', '/api/auth/passkey', answer(id), from(address))).status
  const one: number[] = []
  for (let nr = 0; nr < 7; nr++) one.push(await status('AAAA', '192.0.2.60'))
  assert.deepEqual(one, [401, 401, 401, 401, 401, 429, 429])
  const many: number[] = []
  for (let nr = 0; nr < 22; nr++) many.push(await status(Buffer.from(`credential ${nr}`).toString('base64url'), '2001:db8:9:9::1'))
  assert.deepEqual([[...new Set(many.slice(0, 20))], many.slice(20)], [[401], [429, 429]])
})

test('every route is limited: the public ones by address, the others by caller', async () => {
  const patient = await clinic.patient()
  const strict = await clinic.another({ trustedProxies: ['127.0.0.1'], limits: { ...roomy, anonymous: 1, caller: 1 } })
  let network = 0
  for (const route of strict.service.routes) {
    const path = route.path.replace('{id}', '0190a8f0-0000-7000-8000-0000000000ff')
    const address = `198.51.100.${++network}`
    // A body that is refused comes after the limits, so the first try never gets far.
    const body = route.method === 'GET' || route.method === 'DELETE' ? undefined : {}
    const send = route.access === 'public' ? strict.send() : strict.send('not.a.token')
    await send(route.method, path, body, from(address))
    assert.equal((await send(route.method, path, body, from(address))).status, 429, `${route.method} ${route.path} of nobody`)
  }
  const mine = strict.send(patient.token)
  assert.equal((await mine('GET', '/api/auth/me', undefined, from('198.51.100.250'))).headers.get('ratelimit-policy'), '"caller";q=1;w=60')
  for (const route of strict.service.routes) {
    if (route.access === 'public' || !route.access.includes('patient')) continue
    const path = route.path.replace('{id}', '0190a8f0-0000-7000-8000-0000000000ff')
    const body = route.method === 'GET' || route.method === 'DELETE' ? undefined : {}
    assert.equal((await mine(route.method, path, body, from(`198.51.100.${++network % 250}`))).status, 429, `${route.method} ${route.path} of a caller`)
  }
})

test('attack: a token of a session that has ended uses up nothing of its owner’s requests', async () => {
  const patient = await clinic.patient()
  const strict = await clinic.another({ trustedProxies: ['127.0.0.1'], limits: { ...roomy, caller: 5 } })
  assert.equal((await strict.send(patient.token)('POST', '/api/auth/logout-all', undefined, from('198.51.100.251'))).status, 204)
  const statuses: number[] = []
  for (let nr = 0; nr < 8; nr++) statuses.push((await strict.send(patient.token)('GET', '/api/auth/me', undefined, from('203.0.113.66'))).status)
  assert.deepEqual([...new Set(statuses)], [401, 429])
  const { body } = await login(strict.send(), patient, from('198.51.100.251'))
  const anew = strict.send(String(body['access_token']))
  assert.equal((await anew('GET', '/api/auth/me', undefined, from('198.51.100.251'))).status, 200)
  assert.equal((await anew('POST', '/api/auth/logout-all', undefined, from('198.51.100.251'))).status, 204)
})

test('two instances with Redis are one; readiness says how it is, and an outage makes guessing harder, not impossible to sign in', { skip: redisAbsent }, async () => {
  const redis = await startRedis()
  after(() => redis.remove())
  const [one, two] = [await clinic.another({ redisUrl: redis.url, redisTimeout: 2_000 }), await clinic.another({ redisUrl: redis.url, redisTimeout: 2_000 })]
  // A busy machine can fail a check of one second that has nothing to do with Redis; then it is asked again.
  const readyWith = async (redisIs: string): Promise<void> => {
    for (const until = Date.now() + 60_000; ; await pause(100)) {
      const { status, body } = await one.send()('GET', '/health/ready')
      const { redis: is, ...others } = (body['checks'] ?? {}) as Readonly<Record<string, string>>
      if (is === redisIs && Object.values(others).every((state) => state === 'ok')) return assert.equal(status, 200)
      assert.ok(Date.now() < until, `${redisIs} is never told: ${JSON.stringify(body)}`)
    }
  }
  await readyWith('ok')
  const ada = await clinic.patient()
  const guess = (send: Send, address: string): Promise<Answer> => login(send, { email: ada.email, password: wrong }, from(address))
  const statuses: number[] = []
  for (let nr = 0; nr < 7; nr++) statuses.push((await guess((nr % 2 === 0 ? one : two).send(), '192.0.2.50')).status)
  assert.deepEqual(statuses, [401, 401, 401, 401, 401, 429, 429])

  await redis.kill()
  // Closed by the kill; the event may take a turn of the loop.
  for (const until = Date.now() + 20_000; clinic.events.filter(({ type }) => type === 'redis.down').length < 2; await pause(20)) assert.ok(Date.now() < until)
  const alone: number[] = []
  for (let nr = 0; nr < 4; nr++) alone.push((await guess(one.send(), '192.0.2.51')).status)
  assert.deepEqual(alone, [401, 401, 429, 429], 'each instance by itself, and stricter')
  assert.equal((await login(one.send(), ada, from('192.0.2.52'))).status, 200)
  await readyWith('degraded')
})
