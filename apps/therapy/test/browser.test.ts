import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openClinic, type Answer, type Send } from './support/clinic.ts'

const clinic = await openClinic()
const ada = await clinic.patient()
const berg = await clinic.therapist()
const page = { origin: 'http://therapy.test', 'sec-fetch-site': 'same-origin' } as const

/** A browser: keeps its cookies, and says of each request that it comes from a page of the service. */
type Browser = { readonly jar: Map<string, string>; readonly send: Send; readonly foreign: Send; token(): Promise<string> }

function browser(send: Send = clinic.send()): Browser {
  const jar = new Map<string, string>()
  const through = (said: Record<string, string>): Send => async (method, path, body, headers = {}) => {
    const answer = await send(method, path, body, { ...said, ...(jar.size === 0 ? {} : { cookie: [...jar].map(([name, value]) => `${name}=${value}`).join('; ') }), ...headers })
    for (const line of answer.headers.getSetCookie()) {
      const [name = '', value = ''] = (line.split(';')[0] ?? '').split('=')
      if (line.includes('Max-Age=0')) jar.delete(name)
      else jar.set(name, value)
    }
    return answer
  }
  const own = through(page)
  return { jar, send: own, foreign: through({}), token: async () => String((await own('GET', '/api/csrf-token')).body['csrf_token']) }
}

async function signedIn(someone: { readonly email: string; readonly password: string }, at: Browser = browser()): Promise<Browser> {
  const answer = await at.send('POST', '/api/auth/login', { email: someone.email, password: someone.password, session: 'cookie' })
  assert.equal(answer.status, 200, answer.text)
  assert.deepEqual(Object.keys(answer.body).sort(), ['role', 'status', 'user_id'])
  return at
}

const refusedAs = (answer: Answer, code: string): void => assert.deepEqual([answer.body['code'], answer.headers.getSetCookie()], [code, []], answer.text)

test('signing in by cookie puts the tokens into __Host- cookies and nowhere else', async () => {
  const answer = await browser().send('POST', '/api/auth/login', { email: ada.email, password: ada.password, session: 'cookie' })
  assert.deepEqual(answer.body, { status: 'signed_in', user_id: ada.id, role: 'patient' })
  const lines = answer.headers.getSetCookie().filter((line) => /-(?:access|refresh)=/.test(line))
  assert.deepEqual(lines.map((line) => line.replace(/=[^;]*/, '')), [
    '__Host-therapy-access; Max-Age=86400; Path=/; HttpOnly; Secure; SameSite=Lax', '__Host-therapy-refresh; Max-Age=86400; Path=/; HttpOnly; Secure; SameSite=Lax',
  ])
})

test('PUT patient, DELETE appointment and every other unsafe request by cookie need the token of the session', async () => {
  const at = await signedIn(ada)
  const care = await clinic.care(ada, berg)
  const token = await at.token()
  const patient = await at.send('GET', `/api/patients/${ada.id}`)
  assert.equal(patient.status, 200)
  const change = { first_name: 'Adele', version: patient.body['version'] }
  refusedAs(await at.send('PUT', `/api/patients/${ada.id}`, change), 'csrf_refused')
  refusedAs(await at.foreign('PUT', `/api/patients/${ada.id}`, change, { 'x-csrf-token': token }), 'csrf_refused')
  const changed = await at.send('PUT', `/api/patients/${ada.id}`, { ...change, last_name: patient.body['last_name'], dob: patient.body['dob'] }, { 'x-csrf-token': token })
  assert.notEqual(changed.status, 403, changed.text)
  const booked = await clinic.slot(berg, { patient: ada })
  refusedAs(await at.send('DELETE', `/api/appointments/${booked}`), 'csrf_refused')
  assert.notEqual((await at.send('DELETE', `/api/appointments/${booked}`, undefined, { 'x-csrf-token': token })).status, 403)
  refusedAs(await at.send('POST', `/api/relationships/${care}/end`, { version: 2 }), 'csrf_refused')
})

test('every unsafe route of the service refuses a caller by cookie without token, before anything else is looked at', async () => {
  const patient = await signedIn(ada)
  const therapist = await signedIn(berg)
  let asked = 0
  for (const route of clinic.service.routes) {
    if (route.access === 'public' || route.method === 'GET') continue
    const at = route.access.includes('patient') ? patient : route.access.includes('therapist') ? therapist : undefined
    if (at === undefined) continue
    refusedAs(await at.send(route.method, route.path.replaceAll(/\{\w+\}/g, ada.id)), 'csrf_refused')
    asked++
  }
  assert.ok(asked >= 20, String(asked))
})

test('the token holds on every instance, ends with its session, and is new after signing in anew', async () => {
  const other = await clinic.another()
  const at = await signedIn(ada)
  const token = await at.token()
  const elsewhere = browser(other.send())
  for (const [name, value] of at.jar) elsewhere.jar.set(name, value)
  assert.equal((await elsewhere.send('POST', '/api/auth/logout', undefined, { 'x-csrf-token': token })).status, 204)
  assert.deepEqual([...elsewhere.jar.keys()].filter((name) => /-(?:access|refresh)$/.test(name)), [], 'the cookies are taken back')
  refusedAs(await at.send('GET', `/api/patients/${ada.id}`), 'caller_refused')
  const again = await signedIn(ada)
  refusedAs(await again.send('POST', '/api/auth/logout', undefined, { 'x-csrf-token': token }), 'csrf_refused')
  await other.stop()
})

test('a browser refreshes by its cookie, with the token of its session, also when the access token is over', async () => {
  const at = await signedIn(ada)
  const token = await at.token()
  const before = new Map(at.jar)
  refusedAs(await at.send('POST', '/api/auth/refresh', {}), 'csrf_refused')
  refusedAs(await at.foreign('POST', '/api/auth/refresh', {}, { 'x-csrf-token': token }), 'csrf_refused')
  const answer = await at.send('POST', '/api/auth/refresh', {}, { 'x-csrf-token': token })
  assert.deepEqual(answer.body, { status: 'signed_in', user_id: ada.id, role: 'patient' })
  for (const name of ['__Host-therapy-access', '__Host-therapy-refresh']) assert.notEqual(at.jar.get(name), before.get(name))
  assert.equal((await at.send('GET', '/api/auth/me')).status, 200)
  at.jar.set('__Host-therapy-access', 'not.a.token')
  refusedAs(await at.send('POST', '/api/auth/refresh', {}, { 'x-csrf-token': token }), 'csrf_refused')
  refusedAs(await browser().send('POST', '/api/auth/refresh', {}, { 'x-csrf-token': token }), 'caller_refused')
})

test('attack: login CSRF: a foreign page cannot open a session by cookie', async () => {
  const body = { email: ada.email, password: ada.password, session: 'cookie' }
  for (const said of [{ 'sec-fetch-site': 'cross-site' }, { 'sec-fetch-site': 'same-site' }, {}]) {
    refusedAs(await clinic.send()('POST', '/api/auth/login', body, said), 'csrf_refused')
  }
  refusedAs(await clinic.send()('POST', '/api/auth/login', body, { origin: 'https://evil.test' }), 'origin_refused')
})

test('attack: session fixation: a cookie planted before signing in names no session afterwards', async () => {
  const evil = await signedIn(berg)
  const at = browser()
  for (const [name, value] of evil.jar) at.jar.set(name, value)
  await signedIn(ada, at)
  for (const [name, value] of evil.jar) assert.notEqual(at.jar.get(name), value)
  assert.equal((await at.send('GET', '/api/auth/me')).body['id'], ada.id)
})

test('bearer callers are asked nothing of this', async () => {
  assert.equal((await ada.send('POST', '/api/auth/logout')).status, 204)
})
