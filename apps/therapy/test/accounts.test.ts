import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const ada = await clinic.patient()
const registration = { role: 'patient', email: 'New.Person@EXAMPLE.org', password: 'correct horse battery', first_name: 'New', last_name: 'Person', dob: '1990-01-01' }

test('an account opens with the code of its own registration, is found whatever the case, and is kept as written', async () => {
  const asked = await clinic.send()('POST', '/api/auth/register', registration)
  assert.equal(asked.status, 202)
  const login = () => clinic.send()('POST', '/api/auth/login', { email: 'new.person@example.org', password: registration.password })
  assert.equal((await login()).status, 401, 'not before its address is shown')
  const request = asked.body['request']
  assert.equal((await clinic.send()('POST', '/api/auth/email/verify', { request, code: await clinic.mailed(request) })).status, 200)
  const mine = await login()
  assert.equal(mine.status, 200)
  const me = await clinic.send(String(mine.body['access_token']))('GET', '/api/auth/me')
  assert.equal(me.body['email'], 'New.Person@example.org', 'kept as written, domain in small letters')
})

test('an unknown account and a wrong password get one answer', async () => {
  const wrong = await clinic.send()('POST', '/api/auth/login', { email: ada.email, password: 'not the password' })
  const unknown = await clinic.send()('POST', '/api/auth/login', { email: 'nobody@example.org', password: 'not the password' })
  assert.equal(wrong.status, 401)
  assert.deepEqual({ ...wrong.body, request_id: '' }, { ...unknown.body, request_id: '' })
})

test('nobody registers as admin or auditor, or with a role of their choice', async () => {
  for (const role of ['admin', 'auditor', 'worker', 'system.register']) {
    assert.equal((await clinic.send()('POST', '/api/auth/register', { ...registration, email: 'x@example.org', role })).status, 422)
  }
  assert.equal((await clinic.send()('POST', '/api/auth/register', { ...registration, email: 'x@example.org', verification: 'verified' })).status, 422)
})

test('logout ends the session at once: the token opens nothing more', async () => {
  const ben = await clinic.patient()
  assert.equal((await ben.send('GET', '/api/auth/me')).status, 200)
  assert.equal((await ben.send('POST', '/api/auth/logout')).status, 204)
  for (const path of ['/api/auth/me', `/api/patients/${ben.id}`, '/api/therapists']) assert.equal((await ben.send('GET', path)).status, 401)
  assert.equal((await ben.send('POST', '/api/auth/logout')).status, 401)
})

test('telephone numbers: what is none is refused, what is one becomes E.164', async () => {
  for (const phone of ['12345', '+49 30', 'call me', '+999123456789']) {
    assert.equal((await clinic.send()('POST', '/api/auth/register', { ...registration, email: 'y@example.org', phone })).status, 422, phone)
  }
  const patient = await clinic.patient({ phone: '+33 (0)1 42 68 53 00' })
  assert.equal((await patient.send('GET', `/api/patients/${patient.id}`)).body['phone'], '+33142685300')
})

test('the public keys of the tokens are published', async () => {
  const { body } = await clinic.send()('GET', '/.well-known/jwks.json')
  const [key] = body['keys'] as unknown as readonly Record<string, string>[]
  assert.deepEqual([key?.['kty'], key?.['crv'], key?.['alg']], ['OKP', 'Ed25519', 'EdDSA'])
  assert.ok(!('d' in (key ?? {})))
})

test('a therapist changes their public profile, nobody else’s, and not their verification', async () => {
  const therapist = await clinic.therapist()
  const changed = await therapist.send('PATCH', '/api/therapists/me', { version: 2, bio: 'Two lines\nof it', time_zone: 'Europe/Lisbon' })
  assert.deepEqual([changed.status, changed.body['bio'], changed.body['version']], [200, 'Two lines\nof it', 3])
  assert.equal((await therapist.send('PATCH', '/api/therapists/me', { version: 2, bio: 'late' })).body['code'], 'version_conflict')
  assert.equal((await therapist.send('PATCH', '/api/therapists/me', { version: 3, verification: 'verified' })).status, 422)
  assert.equal((await therapist.send('PATCH', '/api/therapists/me', { version: 3, time_zone: 'Mars/Olympus' })).status, 422)
  assert.equal((await ada.send('PATCH', '/api/therapists/me', { version: 3, bio: 'x' })).status, 403)
  assert.equal((await ada.send('GET', `/api/therapists/${therapist.id}`)).body['licence_number'], undefined)
})

test('health: alive and ready by name, nothing else', async () => {
  assert.deepEqual((await clinic.send()('GET', '/health/live')).body, { status: 'ok', checks: {} })
  assert.deepEqual((await clinic.send()('GET', '/health/ready')).body, { status: 'ok', checks: { database: 'ok', migrations: 'ok', keys: 'ok', 'key-service': 'ok' } })
})
