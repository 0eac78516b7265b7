import assert from 'node:assert/strict'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { openHealth } from 'redoubt/health'
import { openControls } from 'redoubt/http/controls'
import { edgeLimits } from 'redoubt/http/limit'
import type { Route } from 'redoubt/http/route'
import { openLimits } from 'redoubt/limits'
import { standardNumbers } from 'redoubt/limits/standard'
import { createAdministrator } from '../src/administrators.ts'
import { runClientCommand } from '../src/api-clients.ts'
import type { App } from '../src/app.ts'
import { openDoor } from '../src/door.ts'
import { pagesOptions } from '../src/pages/site.ts'
import { openClinic, roomy, type Clinic, type Instance } from './support/clinic.ts'
import { sampleRequest } from './support/sample.ts'

const clinic = await openClinic()
const { service } = clinic
const absent = '0190a8f0-0000-7000-8000-0000000000ff'

const roles = ['patient', 'therapist', 'admin', 'auditor', 'enrolment'] as const
type Door = { readonly app: App; readonly address: string; readonly routes: readonly Route[]; readonly pages: readonly Route[]; readonly origin: string; readonly access: string }
/** Of one process of the service. */
function doorsOf({ service: { app, routes, pages, admin }, address, adminAddress }: Pick<Instance, 'service' | 'address' | 'adminAddress'>): readonly Door[] {
  assert.ok(admin !== undefined)
  return [
    { app, address, routes, pages, origin: 'http://therapy.test', access: app.browser.cookies.names.access },
    { app: admin.app, address: adminAddress, routes: admin.routes, pages: admin.pages, origin: 'http://admin.therapy.test', access: admin.app.browser.cookies.names.access },
  ]
}
const doors = doorsOf(clinic)

/** Status, and the code or the place it sends to. */
async function told(door: Pick<Door, 'address' | 'origin' | 'access'>, { method }: Route, token: string, how: 'bearer' | 'cookie', sent: { readonly path: string; readonly headers: Record<string, string>; readonly body?: string }): Promise<string> {
  const shown = { origin: door.origin, 'sec-fetch-site': 'same-origin', ...(how === 'bearer' ? { authorization: `Bearer ${token}` } : { cookie: `${door.access}=${token}` }) }
  const response = await fetch(door.address + sent.path, { method, redirect: 'manual', headers: { ...shown, ...sent.headers }, ...(sent.body === undefined ? {} : { body: sent.body }) })
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
  const email = 'begins@example.org'
  const { password } = await createAdministrator(service.app, { requestId: 'create', address: null }, email, 'admin')
  const beginner = String((await atAdmin()('POST', '/api/auth/login', { email, password })).body['access_token'])
  const { id, secret } = await runClientCommand(service.app, { requestId: 'client', address: null }, { do: 'create', name: 'Directory', scopes: ['therapists:read'], networks: [] })
  const issued = await send()('POST', '/api/auth/token', 'grant_type=client_credentials', { authorization: `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`, 'content-type': 'application/x-www-form-urlencoded' })
  assert.equal(issued.status, 200, issued.text)
  const program = String(issued.body['access_token'])
  assert.equal((await send(program)('GET', '/api/therapists')).status, 200)
  for (const each of [ada, egon]) assert.equal((await each.send('POST', '/api/auth/logout')).status, 204)
  assert.equal((await root.send('DELETE', `/api/api-clients/${id}`)).status, 204)
  for (const each of [auditor.token, root.token, beginner]) assert.equal((await atAdmin(each)('POST', '/api/auth/logout')).status, 204)
  return [['patient', 0, ada.token], ['therapist', 0, egon.token], ['admin', 1, root.token], ['auditor', 1, auditor.token], ['enrolment', 1, beginner], ['api client', 0, program]]
}

const ended = await tokensOf(clinic)
/** Started after the sessions had ended. */
const doorsLater = doorsOf(await clinic.another())
const dueOf = (route: Route): string => (route.kind === 'page' ? '303 /sign-in' : '401 caller_refused')

test('attack: the token of an ended session at every route and page of its door, with every kind of fault: it learns of no role and of no rule', async () => {
  for (const [who, at, token] of ended) {
    const door = doors[at] ?? assert.fail()
    const odd: string[] = []
    let asked = 0
    for (const route of [...door.routes, ...door.pages]) {
      if (route.access === 'public') continue
      for (const how of who === 'api client' ? ['bearer'] as const : ['bearer', 'cookie'] as const) {
        for (const wrong of wrongs) {
          const path = route.path.replaceAll(/\{\w+\}/g, wrong.id) + wrong.query
          const answer = await told(door, route, token, how, route.method === 'GET' ? { path, headers: {} } : { path, headers: { 'content-type': wrong.type }, body: wrong.body })
          if (answer !== dueOf(route)) odd.push(`${who} by ${how}: ${route.method} ${route.path} ${JSON.stringify(wrong)}: ${answer}`)
          asked++
        }
      }
    }
    assert.deepEqual(odd, [])
    assert.ok(asked > 100, who)
  }
})

/** The same door, whose routes behind a sign-in are the given ones. */
async function standIn({ app, origin, access, routes, pages }: Door, change: (route: Route) => Route): Promise<Pick<Door, 'address' | 'origin' | 'access'>> {
  const { emit } = app
  const controls = openControls({ https: 'report' }, { emit })
  const limits = edgeLimits({ limits: openLimits(), numbers: { ...standardNumbers, ...roomy }, mode: () => 'enforce', emit })
  const server = openDoor(
    { production: false, trustedProxies: [], hsts: undefined, health: openHealth({ checks: [], emit }), controls, limits, emit },
    { title: 'Stand-in', origins: [origin], app, roles, routes: [...routes, ...pages].map((route) => (route.access === 'public' ? route : change(route))), pages: pagesOptions(app.identity.realm, controls.modes) },
  )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => (server.closeAllConnections(), server.close()))
  return { address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, origin, access }
}

for (const [what, handle] of [
  ['runs and asks for no data', () => undefined],
  ['is the real one', (route: Route, input: Parameters<Route['handle']>[0]) => route.handle(input)],
] as const) {
  test(`attack: the token of an ended session with a sound request, at every route and page of an instance that started later: a handler that ${what} answers nothing`, async () => {
    for (const [at, door] of doorsLater.entries()) {
      const reached = new Set<string>()
      const stand = await standIn(door, (route) => ({ ...route, handle: (input) => (reached.add(`${route.method} ${route.path}`), handle(route, input)) }))
      const due: string[] = []
      const odd: string[] = []
      for (const route of [...door.routes, ...door.pages]) {
        const { access } = route
        if (access === 'public') continue
        const [, , token = ''] = ended.find(([role, where]) => where === at && access.includes(role)) ?? []
        const answer = await told(stand, route, token, 'bearer', sampleRequest(route))
        due.push(`${route.method} ${route.path}`)
        if (answer !== dueOf(route)) odd.push(`${route.method} ${route.path}: ${answer}`)
      }
      assert.deepEqual(odd, [])
      assert.deepEqual([...reached], due, 'each handler ran')
    }
  })
}
