import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openClinic, type Answer, type Someone } from './support/clinic.ts'
import { protect } from './support/factors.ts'

type Operation = { readonly security?: readonly unknown[]; readonly requestBody?: unknown; readonly parameters?: readonly { readonly in: string; readonly name: string; readonly required?: boolean }[] }
type Walked = { readonly method: string; readonly path: string; readonly operation: Operation; readonly name: string }

const clinic = await openClinic()
const therapist = await clinic.therapist()
const ada = await clinic.patient()
const care = await clinic.care(ada, therapist)
const appointment = await clinic.slot(therapist, { patient: ada })
const free = await clinic.slot(therapist, { hours: 60 })
const record = String((await therapist.send('POST', `/api/patients/${ada.id}/records`, { kind: 'plan', text: 'a plan' })).body['id'])
const note = String((await therapist.send('POST', `/api/appointments/${appointment}/notes`, { text: 'a note' })).body['id'])
const message = String((await therapist.send('POST', `/api/conversations/${care}/messages`, { text: 'a message' })).body['id'])
const consent = String((await ada.send('POST', '/api/consents', { kind: 'video', text_version: '2026-01' })).body['id'])
// Another patient in the care of another therapist: signed in, and a stranger to all of the above.
const otherTherapist = await clinic.therapist()
const otherPatient = await clinic.patient()
const session = clinic.service.app.identity.tokens.verify(ada.token).session
await clinic.care(otherPatient, otherTherapist)
const { factor } = await protect(ada)

const absent = '0190a8f0-0000-7000-8000-0000000000ff'
/** What stands for {id} on each path: something real that belongs to somebody else. */
const belongings: Readonly<Record<string, string>> = {
  '/api/patients/{id}': ada.id, '/api/patients/{id}/audit': ada.id, '/api/patients/{id}/records': ada.id,
  '/api/relationships/{id}/accept': care, '/api/relationships/{id}/end': care, '/api/consents/{id}/withdraw': consent,
  '/api/appointments/{id}': appointment, '/api/appointments/{id}/complete': appointment, '/api/appointments/{id}/notes': appointment,
  '/api/notes/{id}/release': note, '/api/conversations/{id}/messages': care, '/api/messages/{id}/read': message,
  '/api/auth/sessions/{id}': session, '/api/auth/factors/{id}': factor, '/api/records/{id}': record, '/api/records/{id}/release': record, '/api/records/{id}/correct': record,
}
const credential = { id: 'AAAA', rawId: 'AAAA', type: 'public-key', clientExtensionResults: {} } as const
const requestResponse = { ...credential, response: { clientDataJSON: 'e30', authenticatorData: 'AAAA', signature: 'AAAA' } }
/** A body that would be right, for each route that takes one. */
const bodies: Readonly<Record<string, unknown>> = {
  'POST /api/auth/register': { role: 'patient', email: 'walk@example.org', password: 'long enough for it', first_name: 'W', last_name: 'K', dob: '1990-01-01' },
  'POST /api/auth/email/verify': { request: 'A'.repeat(43), code: '12345678' },
  'POST /api/auth/email/resend': { request: 'A'.repeat(43) },
  'POST /api/auth/password/forgot': { email: 'walk@example.org' },
  'POST /api/auth/password/reset': { request: 'A'.repeat(43), code: '12345678', password: 'long enough for it' },
  'POST /api/auth/email/undo': { token: 'A'.repeat(43) },
  'POST /api/auth/password': { old_password: 'not the password', password: 'long enough for it' },
  'POST /api/auth/email': { email: 'walk@example.org', password: 'not the password' },
  'POST /api/auth/email/confirm': { request: 'A'.repeat(43), code: '12345678', email: 'walk@example.org' },
  'POST /api/auth/login': { email: ada.email, password: ada.password },
  'POST /api/auth/refresh': { refresh_token: 'A'.repeat(64), attempt: 'AAAAAAAAAAAAAAAAAAAAAA' },
  'POST /api/auth/token': { grant_type: 'client_credentials' },
  'POST /csp-report': { 'csp-report': {} },
  'POST /api/auth/second-factor': { pending: 'A'.repeat(43), proof: { kind: 'totp', code: '123456' } },
  'POST /api/auth/passkey/options': {},
  'POST /api/auth/passkey': { response: requestResponse },
  'POST /api/auth/step-up/options': { action: 'factor.enrol', resource: absent },
  'POST /api/auth/step-up': { action: 'factor.enrol', resource: absent, proof: { kind: 'webauthn', response: requestResponse } },
  'POST /api/auth/factors/totp': { label: 'phone' },
  'POST /api/auth/factors/totp/confirm': { id: absent, code: '123456' },
  'POST /api/auth/factors/passkey/options': {},
  'POST /api/auth/factors/passkey': { label: 'laptop', response: { ...credential, response: { clientDataJSON: 'e30', attestationObject: 'oA', transports: ['usb'] } } },
  'POST /api/auth/factors/recovery': {},
  'PUT /api/patients/{id}': { first_name: 'X', last_name: 'Y', dob: '1990-01-01', phone: null, address: null, emergency_contact: null, insurance_no: null, version: 1 },
  'PATCH /api/therapists/me': { version: 99, bio: 'x' },
  'POST /api/relationships': { therapist_id: absent, basis: 'referral' },
  'POST /api/relationships/{id}/accept': { version: 1 },
  'POST /api/relationships/{id}/end': { version: 2 },
  'POST /api/consents': { kind: 'research', text_version: '1999-01' },
  'POST /api/appointments': { slot_id: absent, version: 1 },
  'PATCH /api/appointments/{id}': { version: 2, kind: 'video' },
  'POST /api/appointments/{id}/complete': { version: 2 },
  'POST /api/appointments/{id}/notes': { text: 'x' },
  'POST /api/conversations/{id}/messages': { text: 'x' },
  'POST /api/patients/{id}/records': { kind: 'plan', text: 'x' },
  'POST /api/records/{id}/release': { version: 1 },
  'POST /api/records/{id}/correct': { version: 1, kind: 'plan', text: 'x' },
}

const document = JSON.parse((await clinic.send()('GET', '/openapi.json')).text) as { readonly openapi: string; readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>> }
const walked: readonly Walked[] = Object.entries(document.paths).flatMap(([path, operations]) =>
  Object.entries(operations).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation, name: `${method.toUpperCase()} ${path}` })))
const isPublic = (walk: Walked): boolean => !Array.isArray(walk.operation.security) || walk.operation.security.length === 0
const publicRoutes = [
  'POST /api/auth/register', 'POST /api/auth/email/verify', 'POST /api/auth/email/resend', 'POST /api/auth/password/forgot', 'POST /api/auth/password/reset', 'POST /api/auth/email/undo',
  'POST /api/auth/login', 'POST /api/auth/refresh', 'POST /api/auth/second-factor', 'POST /api/auth/passkey/options', 'POST /api/auth/passkey',
  'GET /.well-known/jwks.json', 'POST /api/auth/token', 'POST /csp-report',
]

function target({ path, operation }: Walked, id: string): string {
  return path.replace('{id}', id) + (operation.parameters?.some(({ name, required }) => name === 'version' && required === true) === true ? '?version=1' : '')
}
const bare = ({ status, body }: Answer): unknown => ({ status, ...body, request_id: '', instance: '' })

test('the document is OpenAPI 3.1 and has exactly the routes that are served', () => {
  assert.match(document.openapi, /^3\.1\./)
  const served = clinic.service.routes.map((route) => `${route.method} ${route.path}`).toSorted()
  assert.deepEqual(walked.map(({ name }) => name).toSorted(), served)
  assert.deepEqual(walked.filter(isPublic).map(({ name }) => name).toSorted(), publicRoutes.toSorted())
  for (const walk of walked) {
    if (walk.path.includes('{id}') && walk.path !== '/api/therapists/{id}') assert.ok(belongings[walk.path], `${walk.path} needs an example`)
    if (walk.operation.requestBody !== undefined) assert.ok(bodies[walk.name], `${walk.name} needs an example`)
  }
})

test('every route without a token: 401, before anything is looked at', async () => {
  for (const walk of walked.filter((each) => !isPublic(each))) {
    for (const headers of [{}, { authorization: 'Bearer x.y.z' }, { authorization: `Bearer ${ada.token}x` }]) {
      const answer = await clinic.send()(walk.method, target(walk, absent), bodies[walk.name], headers)
      assert.deepEqual([answer.status, answer.body['code']], [401, 'unauthenticated'], walk.name)
    }
  }
})

test('every route with another person’s token: 404 or 403, and no difference between forbidden and absent', async () => {
  const strangers: readonly Someone[] = [otherPatient, otherTherapist]
  for (const walk of walked.filter((each) => belongings[each.path] !== undefined)) {
    for (const someone of strangers) {
      const forbidden = await someone.send(walk.method, target(walk, belongings[walk.path] ?? ''), bodies[walk.name])
      const nothing = await someone.send(walk.method, target(walk, absent), bodies[walk.name])
      assert.ok(forbidden.status === 404 || forbidden.status === 403, `${walk.name} ${forbidden.status} ${forbidden.text}`)
      assert.deepEqual(bare(forbidden), bare(nothing), walk.name)
    }
  }
})

test('booking: a slot that is taken, one that never was and one that is over are refused alike', async () => {
  const answers = await Promise.all([appointment, absent].map((slot_id) => otherPatient.send('POST', '/api/appointments', { slot_id, version: 1 })))
  assert.deepEqual(answers.map(({ status }) => status), [409, 409])
  assert.deepEqual(bare(answers[0] as Answer), bare(answers[1] as Answer))
  assert.equal((await otherPatient.send('POST', '/api/appointments', { slot_id: free, version: 1 })).status, 403, 'a free slot is public; booking it needs care')
})

test('malformed bodies: 400, 415 or 422, never 500, and never an echo', async () => {
  const marker = 'canary-7d1f'
  const mangled = (right: unknown): readonly unknown[] => {
    const object = right as Record<string, unknown>
    const [key = 'x'] = Object.keys(object)
    return [
      '', '{', '[]', 'null', '"text"', '1e999', `{"${key}":`, '\u0000', `{"__proto__":{"role":"admin"},"${key}":1}`,
      '['.repeat(200) + ']'.repeat(200), { ...object, [marker]: marker }, ...Object.keys(object).flatMap((each) => [
        { ...object, [each]: null, [`${each}x`]: 1 }, { ...object, [each]: { $gt: '' }, extra: 1 }, { ...object, [each]: [marker] , extra: 1 }, { ...object, [each]: '\u202e', extra: marker },
      ]),
    ]
  }
  const theirs = (name: string): boolean => clinic.service.routes.some(({ method, path, access }) => `${method} ${path}` === name && (access === 'public' || access.includes('patient') || access.includes('therapist')))
  for (const walk of walked.filter((each) => each.operation.requestBody !== undefined && theirs(each.name))) {
    const someone = [therapist, ada].find((each) => clinic.service.routes.find((route) => `${route.method} ${route.path}` === walk.name)?.access.includes(each === ada ? 'patient' : 'therapist')) ?? ada
    for (const body of mangled(bodies[walk.name])) {
      const answer = await someone.send(walk.method, target(walk, belongings[walk.path] ?? absent), body, body === '' ? { 'content-type': 'application/json' } : {})
      assert.ok([400, 415, 422].includes(answer.status), `${walk.name} ${answer.status} for ${JSON.stringify(body).slice(0, 80)}`)
      assert.ok(answer.headers.get('content-type')?.startsWith('application/problem+json'), walk.name)
      assert.ok(!answer.text.includes(marker) || Object.keys(body as object).includes(marker), walk.name)
    }
  }
  assert.deepEqual(clinic.events.filter((event) => event.type === 'http.failed'), [])
})

test('malformed paths and queries: 400, 404 or 422, never 500', async () => {
  for (const walk of walked.filter((each) => each.method === 'GET')) {
    for (const id of ['1', 'x%00y', '../../etc', '%2e%2e', "' or 1=1 --", '0190A8F0-0000-7000-8000-0000000000FF', '%ff', '0'.repeat(3000)]) {
      if (!walk.path.includes('{id}')) continue
      const answer = await ada.send('GET', walk.path.replace('{id}', encodeURIComponent(id).replaceAll('%25', '%')))
      assert.ok([400, 404, 414, 431].includes(answer.status), `${walk.name} ${id.slice(0, 20)} ${answer.status}`)
    }
    for (const query of ['limit=0', 'limit=101', 'limit=1e2', 'cursor=%00', 'cursor=WyJ4Il0', 'unknown=1', 'limit=5&limit=6', '__proto__=1']) {
      const answer = await ada.send('GET', `${walk.path.replace('{id}', ada.id)}?${query}`)
      assert.ok([400, 403, 404, 422].includes(answer.status) || (isPublic(walk) && answer.status === 200), `${walk.name}?${query} ${answer.status}`)
    }
  }
  assert.deepEqual(clinic.events.filter((event) => event.type === 'http.failed'), [])
})

test('an unknown path is 404 and a wrong method 405 with Allow', async () => {
  assert.equal((await ada.send('GET', '/api/nothing')).status, 404)
  const answer = await ada.send('DELETE', `/api/patients/${ada.id}`)
  assert.equal(answer.status, 405)
  assert.match(answer.headers.get('allow') ?? '', /GET/)
})
