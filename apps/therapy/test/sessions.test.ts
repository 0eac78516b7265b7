import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openClinic, type Send, type Someone } from './support/clinic.ts'

const clinic = await openClinic()
const second = await clinic.another()
const firefox = { 'user-agent': 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0' }
const safari = { 'user-agent': 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605 Version/18.0 Mobile Safari/604.1' }

type Login = { readonly token: string; readonly refresh: string; readonly send: Send }

async function login({ email, password }: Pick<Someone, 'email' | 'password'>, headers: Record<string, string> = firefox): Promise<Login> {
  const { status, body } = await clinic.send()('POST', '/api/auth/login', { email, password }, headers)
  assert.equal(status, 200)
  const token = String(body['access_token'])
  return { token, refresh: String(body['refresh_token']), send: clinic.send(token) }
}
const refresh = (refresh_token: string, by = clinic.send(), headers: Record<string, string> = firefox) => by('POST', '/api/auth/refresh', { refresh_token }, headers)
const listed = async (send: Send): Promise<readonly Record<string, unknown>[]> => (await send('GET', '/api/auth/sessions')).body['items'] as unknown as readonly Record<string, unknown>[]

test('a person sees their sessions by device and network, the present one first, and nobody else’s', async () => {
  const ada = await clinic.patient()
  await clinic.patient()
  const here = await login(ada)
  await login(ada, safari)
  const items = await listed(here.send)
  assert.equal(items.length, 3)
  assert.deepEqual([items[0]?.['device'], items[0]?.['current'], items[0]?.['address_prefix']], ['Firefox on Linux', true, '127.0.0.0/24'])
  assert.deepEqual(items.slice(1).map((item) => item['current']), [false, false])
  assert.ok(items.some((item) => item['device'] === 'Safari on iPhone'))
  assert.deepEqual(Object.keys(items[0] ?? {}).toSorted(), ['address_prefix', 'created_at', 'current', 'device', 'id', 'last_used_at'])
})

test('ending one of one’s sessions ends it alone; another person’s is as absent as none', async () => {
  const ada = await clinic.patient()
  const [here, there] = [await login(ada), await login(ada, safari)]
  const target = (await listed(here.send)).find((item) => item['device'] === 'Safari on iPhone')?.['id']
  const stranger = await clinic.patient()
  assert.equal((await stranger.send('DELETE', `/api/auth/sessions/${String(target)}`)).status, 404)
  assert.equal((await there.send('GET', '/api/auth/me')).status, 200)
  assert.equal((await here.send('DELETE', `/api/auth/sessions/${String(target)}`)).status, 204)
  assert.equal((await there.send('GET', '/api/auth/me')).status, 401)
  assert.equal((await refresh(there.refresh, undefined, safari)).status, 401)
  assert.equal((await here.send('DELETE', `/api/auth/sessions/${String(target)}`)).status, 404)
  assert.equal((await here.send('GET', '/api/auth/me')).status, 200)
  assert.equal((await refresh(here.refresh)).status, 200)
})

test('ending all ends this one too', async () => {
  const ada = await clinic.patient()
  const [here, there] = [await login(ada), await login(ada, safari)]
  assert.equal((await here.send('POST', '/api/auth/logout-all')).status, 204)
  for (const each of [here, there, ada]) assert.equal((await each.send('GET', '/api/auth/me')).body['code'], 'caller_refused')
  for (const each of [here, there]) assert.equal((await refresh(each.refresh)).status, 401)
  await login(ada)
})

test('attack: after logout, neither token opens anything: on every route, on another instance, and after a restart', async () => {
  const ada = await clinic.patient()
  const { token, refresh: old } = await login(ada)
  const { body } = await refresh(old)
  const newest = [String(body['access_token']), String(body['refresh_token'])] as const
  assert.equal((await second.send(newest[0])('GET', '/api/auth/me')).status, 200)
  assert.equal((await clinic.send(newest[0])('POST', '/api/auth/logout')).status, 204)
  const third = await clinic.another()
  const absent = '0190a8f0-0000-7000-8000-0000000000ff'
  for (const instance of [clinic, second, third]) {
    for (const each of [token, newest[0]]) {
      for (const route of clinic.service.routes) {
        if (route.access === 'public' || route.body !== undefined || !route.access.includes('patient')) continue
        const answer = await instance.send(each)(route.method, route.path.replace('{id}', absent))
        assert.equal(answer.status, 401, `${route.method} ${route.path} ${answer.status} ${answer.text} ${JSON.stringify(clinic.events.slice(-3))}`)
      }
      assert.equal((await instance.send(each)('PUT', `/api/patients/${ada.id}`, { first_name: 'X', last_name: 'Y', dob: '1990-01-01', phone: null, address: null, emergency_contact: null, insurance_no: null, version: 1 })).status, 401)
    }
    for (const each of [old, newest[1]]) assert.equal((await refresh(each, instance.send())).body['code'], 'caller_refused')
  }
  await third.stop()
})

test('attack: refreshes under way while the session is ended: none that started later gets anything, and what an earlier one got is worth nothing', async () => {
  for (let round = 0; round < 5; round++) {
    const ada = await clinic.patient()
    const { refresh: first, send } = await login(ada)
    let token = first
    let over = false
    const chain = (async () => {
      for (let i = 0; i < 200; i++) {
        const before = over
        const { status, body } = await refresh(token, i % 2 === 0 ? clinic.send() : second.send())
        if (status !== 200) return
        assert.ok(!before, 'a refresh that started after the session was ended')
        token = String(body['refresh_token'])
      }
    })()
    assert.equal((await send('POST', '/api/auth/logout')).status, 204)
    over = true
    await chain
    assert.equal((await refresh(token)).status, 401)
  }
})

test('attack: session fixation: a sign-in never takes up what the client brought along', async () => {
  const [ada, mallory] = [await clinic.patient(), await clinic.patient()]
  const planted = await login(mallory)
  const { body } = await clinic.send(planted.token)('POST', '/api/auth/login', { email: ada.email, password: ada.password }, { ...firefox, cookie: `session=${planted.refresh}; refresh_token=${planted.refresh}` })
  const session = (token: unknown): string => clinic.service.app.identity.tokens.verify(String(token)).session
  assert.notEqual(session(body['access_token']), session(planted.token))
  assert.notEqual(body['refresh_token'], planted.refresh)
  assert.equal((await planted.send('GET', '/api/auth/me')).body['id'], mallory.id)
})

test('attack: every refusal of a refresh is one answer', async () => {
  const ada = await clinic.patient()
  const reused = await login(ada)
  await refresh(reused.refresh)
  const gone = await login(ada)
  await gone.send('POST', '/api/auth/logout')
  const answers = [await refresh(reused.refresh, undefined, safari), await refresh(gone.refresh), await refresh('A'.repeat(64)), await refresh('x')]
  const bare = answers.map(({ status, body }) => ({ ...body, status, request_id: '' }))
  for (const each of bare) assert.deepEqual(each, bare[0])
  assert.equal(answers[0]?.status, 401)
})
