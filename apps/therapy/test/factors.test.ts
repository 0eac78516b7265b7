import assert from 'node:assert/strict'
import { test } from 'node:test'
import { codeOf, softwareAuthenticator } from '../../../packages/redoubt/test/support/factors.ts'
import { openClinic, type Answer, type Someone } from './support/clinic.ts'
import { protect, stepUp } from './support/factors.ts'

// Browsers give passkeys to localhost, which is where this address is too.
const clinic = await openClinic({ settings: { publicOrigin: 'http://127.0.0.1:4310' } })
const send = clinic.send()
const origin = 'http://localhost:4310'
const firefox = { 'user-agent': 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0' }

const login = ({ email, password }: Pick<Someone, 'email' | 'password'>, headers = firefox): Promise<Answer> => send('POST', '/api/auth/login', { email, password }, headers)
const complete = (pending: unknown, proof: unknown, headers = firefox): Promise<Answer> => send('POST', '/api/auth/second-factor', { pending, proof }, headers)
const code = (answer: Answer): unknown => [answer.status, answer.body['code']]

test('a sign-in with a second factor goes in two steps, and the first gives no token', async () => {
  const ada = await clinic.patient()
  const { factor, recovery } = await protect(ada)
  assert.equal(recovery.length, 10)
  const first = await login(ada)
  assert.deepEqual(Object.keys(first.body).toSorted(), ['factors', 'passkey', 'pending', 'status'])
  assert.equal(first.body['status'], 'factor_required')
  const second = await complete(first.body['pending'], { kind: 'recovery', code: recovery[0]?.toLowerCase() })
  assert.equal(second.status, 200, second.text)
  assert.equal(second.body['user_id'], ada.id)
  const own = clinic.send(String(second.body['access_token']))
  const listed = await own('GET', '/api/auth/factors')
  assert.deepEqual([listed.body['recovery_codes'], (listed.body['items'] as unknown as { id: string }[]).map(({ id }) => id)], [9, [factor]])
  assert.deepEqual(code(await complete(first.body['pending'], { kind: 'recovery', code: recovery[1] })), [401, 'code_refused'])
})

test('attack: a stolen session enrols and removes nothing without a fresh proof', async () => {
  const ada = await clinic.patient()
  assert.deepEqual(code(await ada.send('POST', '/api/auth/factors/totp', { label: 'thief' })), [403, 'step_up_required'])
  assert.deepEqual(code(await ada.send('POST', '/api/auth/step-up', { action: 'factor.enrol', resource: ada.id, proof: { kind: 'password', password: 'not the password' } })), [401, 'sign_in_failed'])
  const { factor } = await protect(ada)
  assert.deepEqual(code(await ada.send('DELETE', `/api/auth/factors/${factor}`)), [403, 'step_up_required'])
  // With a factor the password is no proof any more: whoever phished it has it too.
  assert.deepEqual(code(await ada.send('POST', '/api/auth/step-up', { action: 'factor.remove', resource: factor, proof: { kind: 'password', password: ada.password } })), [401, 'factor_refused'])
  assert.deepEqual(code(await ada.send('POST', '/api/auth/factors/recovery', {}, { 'step-up': 'A'.repeat(43) })), [403, 'step_up_required'])
})

test('attack: a page elsewhere that makes the browser enrol a factor has no step-up to send', async () => {
  const ada = await clinic.patient()
  const forged = await ada.send('POST', '/api/auth/factors/passkey', {
    label: 'x', response: softwareAuthenticator().create(await optionsOf(ada), { origin }),
  })
  assert.deepEqual(code(forged), [403, 'step_up_required'])
})

test('attack: with a second factor a session and the password together change neither password nor address', async () => {
  const ada = await clinic.patient()
  const { recovery } = await protect(ada)
  const password = 'another correct horse'
  const [change, move] = [{ old_password: ada.password, password }, { email: 'thief@example.org', password: ada.password }]
  assert.deepEqual(code(await ada.send('POST', '/api/auth/password', change)), [403, 'step_up_required'])
  assert.deepEqual(code(await ada.send('POST', '/api/auth/email', move)), [403, 'step_up_required'])
  const proof = (at: number): unknown => ({ kind: 'recovery', code: recovery[at] })
  const forPassword = await stepUp(ada, 'account.password', ada.id, proof(0))
  assert.deepEqual(code(await ada.send('POST', '/api/auth/email', move, forPassword)), [403, 'step_up_required'])
  assert.equal((await ada.send('POST', '/api/auth/password', change, forPassword)).status, 200)
  assert.deepEqual(code(await ada.send('POST', '/api/auth/password', { old_password: password, password: ada.password }, forPassword)), [403, 'step_up_required'])
  assert.equal((await ada.send('POST', '/api/auth/email', { ...move, password }, await stepUp(ada, 'account.email', ada.id, proof(1)))).status, 202)
})

test('removing the factor needs the factor, ends other sessions, and then the password is enough again', async () => {
  const ada = await clinic.patient()
  const { factor, recovery } = await protect(ada)
  const other = await complete((await login(ada)).body['pending'], { kind: 'recovery', code: recovery[0] })
  const gone = await ada.send('DELETE', `/api/auth/factors/${factor}`, undefined, await stepUp(ada, 'factor.remove', factor, { kind: 'recovery', code: recovery[1] }))
  assert.equal(gone.status, 204, gone.text)
  assert.equal((await clinic.send(String(other.body['access_token']))('GET', '/api/auth/me')).status, 401)
  assert.equal((await ada.send('GET', '/api/auth/me')).status, 200)
  assert.equal(typeof (await login(ada)).body['access_token'], 'string')
})

test('a passkey made on localhost signs in as second factor and by itself', async () => {
  const ada = await clinic.patient()
  const device = softwareAuthenticator()
  const made = await ada.send('POST', '/api/auth/factors/passkey', { label: 'laptop', response: device.create(await optionsOf(ada), { origin }) }, await stepUp(ada, 'factor.enrol', ada.id))
  assert.equal(made.status, 201, made.text)
  const first = await login(ada)
  assert.deepEqual(first.body['factors'], ['webauthn', 'recovery'])
  const second = await complete(first.body['pending'], { kind: 'webauthn', response: device.get(first.body['passkey'] as never, { origin }) })
  assert.equal(second.status, 200, second.text)
  const options = await send('POST', '/api/auth/passkey/options', {}, firefox)
  const alone = await send('POST', '/api/auth/passkey', { response: device.get(options.body as never, { origin }) }, firefox)
  assert.equal(alone.status, 200, alone.text)
  assert.equal(alone.body['user_id'], ada.id)
})

test('attack: five tries a sign-in, and then each account waits ever longer; a stranger without the password slows nobody', async () => {
  const ada = await clinic.patient()
  const { recovery } = await protect(ada)
  const first = await login(ada)
  const seen: unknown[] = []
  for (let i = 0; i < 6; i++) seen.push(code(await complete(first.body['pending'], { kind: 'totp', code: '000000' })))
  assert.deepEqual(seen, [...Array.from({ length: 5 }, () => [401, 'factor_refused']), [401, 'code_refused']])
  const again = await login(ada)
  assert.deepEqual(code(await complete(again.body['pending'], { kind: 'totp', code: '000000' })), [429, 'too_many_requests'])
  for (let i = 0; i < 3; i++) await login({ email: ada.email, password: 'guessed by a stranger' })
  // What cannot be guessed does not wait: the owner is not locked out.
  assert.equal((await complete((await login(ada)).body['pending'], { kind: 'recovery', code: recovery[0] })).status, 200)
})

test('attack: a pending sign-in goes on only in the browser it began in', async () => {
  const ada = await clinic.patient()
  const { recovery } = await protect(ada)
  const { pending } = (await login(ada)).body
  assert.deepEqual(code(await complete(pending, { kind: 'recovery', code: recovery[0] }, { 'user-agent': 'curl/8.0' })), [401, 'code_refused'])
  assert.equal((await complete(pending, { kind: 'recovery', code: recovery[0] })).status, 200)
})

test('attack: nothing that a sign-in brings along decides over the session it gets', async () => {
  const ada = await clinic.patient()
  const { recovery, secret } = await protect(ada)
  const { pending } = (await login(ada)).body
  for (const more of [{ session: 'x' }, { session_id: ada.id }, { user_id: ada.id }]) {
    assert.equal((await send('POST', '/api/auth/second-factor', { pending, proof: { kind: 'totp', code: codeOf(secret) }, ...more }, firefox)).status, 422)
  }
  const done = await complete(pending, { kind: 'recovery', code: recovery[0] })
  const { session } = clinic.service.app.identity.tokens.verify(String(done.body['access_token']))
  assert.notEqual(session, clinic.service.app.identity.tokens.verify(ada.token).session)
  assert.ok(!String(pending).includes(session) && !done.text.includes(String(pending)))
})

async function optionsOf(someone: Someone): Promise<never> {
  const { body, status, text } = await someone.send('POST', '/api/auth/factors/passkey/options', {})
  assert.equal(status, 200, text)
  return body as never
}
