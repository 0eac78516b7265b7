import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Route } from 'redoubt/http/route'
import { runClientCommand } from '../src/api-clients.ts'
import { openClinic, type Clinic } from './support/clinic.ts'

const clinic = await openClinic()
const { service } = clinic
const absent = '0190a8f0-0000-7000-8000-0000000000ff'

type Door = { readonly address: string; readonly routes: readonly Route[]; readonly pages: readonly Route[]; readonly origin: string; readonly access: string }
const admin = service.admin ?? assert.fail()
const doors: readonly Door[] = [
  { address: clinic.address, routes: service.routes, pages: service.pages, origin: 'http://therapy.test', access: service.app.browser.cookies.names.access },
  { address: clinic.adminAddress, routes: admin.routes, pages: admin.pages, origin: 'http://admin.therapy.test', access: admin.app.browser.cookies.names.access },
]

/** Status, and the code or the place it sends to. */
async function told(door: Door, route: Route, token: string, how: 'bearer' | 'cookie', wrong: { readonly id: string; readonly query: string; readonly type: string; readonly body: string }): Promise<string> {
  const shown = { origin: door.origin, 'sec-fetch-site': 'same-origin', ...(how === 'bearer' ? { authorization: `Bearer ${token}` } : { cookie: `${door.access}=${token}` }) }
  const response = await fetch(door.address + route.path.replaceAll(/\{\w+\}/g, wrong.id) + wrong.query, {
    method: route.method, redirect: 'manual', headers: { ...shown, ...(route.method === 'GET' ? {} : { 'content-type': wrong.type }) }, ...(route.method === 'GET' || wrong.body === '' ? {} : { body: wrong.body }),
  })
  const text = await response.text()
  if (response.status === 303) return `303 ${response.headers.get('location')}`
  return response.headers.get('content-type') === 'application/problem+json' ? `${response.status} ${(JSON.parse(text) as { readonly code: string }).code}` : `${response.status}`
}

const wrongs = [
  { id: absent, query: '', type: 'application/json', body: '{}' },
  { id: 'nobody', query: '?x=1', type: 'application/json', body: '{"x":' },
  { id: absent, query: '?limit=0', type: 'application/x-www-form-urlencoded', body: 'csrf_token=x&y=1' },
  { id: absent, query: '', type: 'text/plain', body: 'x' },
] as const

async function tokensOf({ send, patient, therapist, administrator, admin: atAdmin }: Clinic): Promise<readonly (readonly [who: string, door: number, token: string])[]> {
  const [ada, egon, root, auditor] = [await patient(), await therapist(), await administrator(), await administrator('auditor')]
  const { id, secret } = await runClientCommand(service.app, { requestId: 'client', address: null }, { do: 'create', name: 'Directory', scopes: ['therapists:read'], networks: [] })
  const issued = await send()('POST', '/api/auth/token', 'grant_type=client_credentials', { authorization: `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`, 'content-type': 'application/x-www-form-urlencoded' })
  assert.equal(issued.status, 200, issued.text)
  const program = String(issued.body['access_token'])
  assert.equal((await send(program)('GET', '/api/therapists')).status, 200)
  for (const each of [ada, egon]) assert.equal((await each.send('POST', '/api/auth/logout')).status, 204)
  assert.equal((await root.send('DELETE', `/api/api-clients/${id}`)).status, 204)
  for (const each of [auditor, root]) assert.equal((await atAdmin(each.token)('POST', '/api/auth/logout')).status, 204)
  return [['patient', 0, ada.token], ['therapist', 0, egon.token], ['admin', 1, root.token], ['auditor', 1, auditor.token], ['api client', 0, program]]
}

test('attack: the token of an ended session at every route and page of its door, with every kind of fault: it learns of no role and of no rule', async () => {
  for (const [who, at, token] of await tokensOf(clinic)) {
    const door = doors[at] ?? assert.fail()
    const odd: string[] = []
    let asked = 0
    for (const route of [...door.routes, ...door.pages]) {
      if (route.access === 'public') continue
      for (const how of who === 'api client' ? ['bearer'] as const : ['bearer', 'cookie'] as const) {
        for (const wrong of wrongs) {
          const answer = await told(door, route, token, how, wrong)
          const due = route.kind === 'page' ? '303 /sign-in' : '401 caller_refused'
          if (answer !== due) odd.push(`${who} by ${how}: ${route.method} ${route.path} ${JSON.stringify(wrong)}: ${answer}`)
          asked++
        }
      }
    }
    assert.deepEqual(odd, [])
    assert.ok(asked > 100, who)
  }
})
