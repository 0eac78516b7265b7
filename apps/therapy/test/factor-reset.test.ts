import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { systemCaller } from 'redoubt/context'
import type { Mail } from 'redoubt/mail'
import { openPool } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { openSigner } from 'redoubt/transaction/signer'
import { recoverAdministrator } from '../src/administrators.ts'
import { startMail } from '../src/letters.ts'
import { openClinic, type Answer, type Send, type Someone } from './support/clinic.ts'
import { protect, stepUp } from './support/factors.ts'

const clinic = await openClinic()
const { database, service, events } = clinic
const emit = (event: (typeof events)[number]): void => void events.push(event)
const pool = openPool({ url: database.url('worker'), max: 2, emit })
const keysPool = openPool({ url: database.url('keys'), max: 1, emit })
const signer = await openSigner(keysPool, database.service)
const mails: Mail[] = []
const worker = startMail({ pool, signer, keyring: service.keyring, emit, pace: { intervalMs: 20 }, mailer: { send: (mail) => Promise.resolve(void mails.push(mail)) } })
after(async () => {
  await worker.stop()
  await signer.close()
  await keysPool.close()
  await pool.close()
})

const root = await clinic.administrator()
let used = 0
const asRoot = (user: string): Promise<Record<string, string>> => stepUp(root, 'factor.reset', user, { kind: 'recovery', code: root.recovery[used++] })
const code = (answer: Answer): unknown => [answer.status, answer.body['code']]
const login = ({ email, password }: Someone): Promise<Answer> => clinic.send()('POST', '/api/auth/login', { email, password })

/** A mail of this subject to this person. */
async function told({ email }: Someone, subject: string): Promise<Mail> {
  for (const end = performance.now() + 10_000; performance.now() < end; await new Promise((resolve) => setTimeout(resolve, 10))) {
    const mail = mails.find((each) => each.to === email && each.subject === subject)
    if (mail !== undefined) return mail
  }
  throw new assert.AssertionError({ message: `no mail "${subject}" within 10 s; ${mails.map((mail) => mail.subject).join()}` })
}

test('a lost factor: asked for by an administrator, told by mail, in effect after the delay, told again', async () => {
  const ada = await clinic.patient()
  await protect(ada)
  await told(ada, 'Your sign-in was changed')
  const asked = await root.send('POST', `/api/admin/users/${ada.id}/factor-reset`, {}, await asRoot(ada.id))
  assert.equal(asked.status, 202, asked.text)
  const at = String(asked.body['effective_at'])
  assert.ok(Math.abs(Date.parse(at) - Date.now() - 24 * 3_600_000) < 60_000)
  assert.ok((await told(ada, 'Your second step is to be removed')).text.includes(at.slice(0, 10)))
  assert.equal((await ada.send('GET', '/api/auth/factors')).body['reset_at'], at)
  assert.equal((await login(ada)).body['status'], 'factor_required')
  await database.admin(`update redoubt.factor_resets set effective_at = now() - interval '1 minute' where user_id = $1`, [ada.id])
  const done = await login(ada)
  assert.equal(typeof done.body['access_token'], 'string', done.text)
  await told(ada, 'Your second step was removed')
  assert.equal((await ada.send('GET', '/api/auth/me')).status, 401)
})

test('the person cancels it, and so does the administration', async () => {
  const ada = await clinic.patient()
  await protect(ada)
  for (const cancel of [() => ada.send('DELETE', '/api/auth/factor-reset'), () => root.send('DELETE', `/api/admin/users/${ada.id}/factor-reset`)]) {
    assert.equal((await root.send('POST', `/api/admin/users/${ada.id}/factor-reset`, {}, await asRoot(ada.id))).status, 202)
    assert.equal((await cancel()).status, 204)
    assert.deepEqual(code(await cancel()), [404, 'not_found'])
    assert.equal((await ada.send('GET', '/api/auth/factors')).body['reset_at'], null)
  }
})

test('attack: without a step-up for this very account, for oneself, or by an auditor there is no reset', async () => {
  const [ada, ben] = [await clinic.patient(), await clinic.patient()]
  await protect(ada)
  const path = `/api/admin/users/${ada.id}/factor-reset`
  assert.deepEqual(code(await root.send('POST', path, {})), [403, 'step_up_required'])
  assert.deepEqual(code(await root.send('POST', path, {}, await asRoot(ben.id))), [403, 'step_up_required'])
  assert.deepEqual(code(await root.send('POST', `/api/admin/users/${root.id}/factor-reset`, {}, await asRoot(root.id))), [403, 'forbidden'])
  assert.deepEqual(code(await root.send('POST', `/api/admin/users/${ben.id}/factor-reset`, {}, await asRoot(ben.id))), [404, 'not_found'])
  const auditor = await clinic.administrator('auditor')
  assert.deepEqual(code(await auditor.send('POST', path, {})), [403, 'forbidden'])
  assert.equal((await ada.send('GET', '/api/auth/factors')).body['reset_at'], null)
})

test('a recovery code that is used is told by mail', async () => {
  const ada = await clinic.patient()
  const { recovery } = await protect(ada)
  const { pending } = (await login(ada)).body
  assert.equal((await clinic.send()('POST', '/api/auth/second-factor', { pending, proof: { kind: 'recovery', code: recovery[0] } })).status, 200)
  await told(ada, 'A recovery code was used')
})

const forgot = (send: Send, email: string): Promise<Answer> => send('POST', '/api/auth/password/forgot', { email })
/** How many codes for a new password were mailed to them; a later mail to somebody else shows that the worker is past it. */
async function codesMailed(who: Someone): Promise<number> {
  const witness = await clinic.patient()
  await forgot(clinic.send(), witness.email)
  await told(witness, 'Your code for a new password')
  return mails.filter(({ to, subject }) => to === who.email && subject === 'Your code for a new password').length
}

test('an administrator who lost password and factor: another one asks, a day later a mailed code sets a password, and a factor is set up anew', async () => {
  const lost = await clinic.administrator()
  assert.equal((await root.send('POST', `/api/admin/users/${lost.id}/factor-reset`, {}, await asRoot(lost.id))).status, 202)
  await told(lost, 'Your second step is to be removed')
  await forgot(clinic.admin(), lost.email)
  assert.equal(await codesMailed(lost), 0, 'not before the delay is over')
  await database.admin(`update redoubt.factor_resets set effective_at = now() - interval '1 minute' where user_id = $1`, [lost.id])
  const asked = await forgot(clinic.admin(), lost.email)
  const digits = /^ {4}([\d ]{8,})$/m.exec((await told(lost, 'Your code for a new password')).text)?.[1]?.replaceAll(' ', '') ?? assert.fail()
  const password = 'seven quiet herons walk'
  const set = await clinic.admin()('POST', '/api/auth/password/reset', { request: asked.body['request'], code: digits, password })
  assert.equal(set.status, 200, set.text)
  const begun = await clinic.admin()('POST', '/api/auth/login', { email: lost.email, password })
  assert.deepEqual([begun.status, begun.body['role']], [200, 'enrolment'], begun.text)
  assert.equal((await lost.send('GET', '/api/auth/me')).status, 401)
})

test('attack: a mailbox alone opens no account of the administration: no code without another administrator, and none once the factor was used', async () => {
  const admin = await clinic.administrator()
  for (const send of [clinic.admin(), clinic.send()]) assert.equal((await forgot(send, admin.email)).status, 202)
  assert.equal(await codesMailed(admin), 0)
  assert.equal((await root.send('POST', `/api/admin/users/${admin.id}/factor-reset`, {}, await asRoot(admin.id))).status, 202)
  await database.admin(`update redoubt.factor_resets set effective_at = now() - interval '1 minute' where user_id = $1`, [admin.id])
  const asked = await forgot(clinic.admin(), admin.email)
  const digits = /^ {4}([\d ]{8,})$/m.exec((await told(admin, 'Your code for a new password')).text)?.[1]?.replaceAll(' ', '') ?? assert.fail()
  assert.equal((await admin.send('DELETE', '/api/auth/factor-reset')).status, 204)
  const late = await clinic.admin()('POST', '/api/auth/password/reset', { request: asked.body['request'], code: digits, password: 'seven quiet herons walk' })
  assert.notEqual(late.status, 200, 'the code was mailed before the owner ended it')
  assert.equal((await admin.send('GET', '/api/auth/me')).status, 200)
})

test('attack: neither a stranger nor a therapist begins the recovery of an administrator', async () => {
  const admin = await clinic.administrator()
  const path = `/api/admin/users/${admin.id}/factor-reset`
  const berg = await clinic.therapist()
  for (const send of [clinic.admin(), clinic.admin(berg.token)]) assert.deepEqual(code(await send('POST', path, {})), [401, 'unauthenticated'])
  for (const send of [clinic.send(), berg.send]) assert.deepEqual(code(await send('POST', path, {})), [404, 'not_found'])
  assert.equal((await admin.send('GET', '/api/auth/factors')).body['reset_at'], null)
})

test('the operator has the only administrator begin anew: factors and sessions are gone at once, the owner is told, it stands in the record', async () => {
  const lost = await clinic.administrator()
  const visitor = { requestId: 'recover', address: null }
  const { id, password } = await recoverAdministrator(service.app, visitor, lost.email)
  assert.equal(id, lost.id)
  assert.equal((await lost.send('GET', '/api/auth/me')).status, 401)
  const login = (by: string): Promise<Answer> => clinic.admin()('POST', '/api/auth/login', { email: lost.email, password: by })
  assert.equal((await login(lost.password)).status, 401)
  const begun = await login(password)
  assert.deepEqual([begun.status, begun.body['role']], [200, 'enrolment'], begun.text)
  await told(lost, 'Your account begins anew')
  const entries = await database.admin("select actor_role, outcome from redoubt.audit_logs where resource_id = $1 and action = 'auth.administrator_recovered'", [id])
  assert.deepEqual(entries, [{ actor_role: 'system.create-admin', outcome: 'done' }])
  for (const address of [(await clinic.patient()).email, 'nobody.admin@example.org']) await assert.rejects(recoverAdministrator(service.app, visitor, address), { code: 'not_found' })
})

test('attack: SQL injected into a sign-in or another command recovers no administrator', async () => {
  const admin = await clinic.administrator()
  const visitor = { requestId: 'injected', address: null }
  for (const role of ['sign-in', 'reset', 'create-admin'] as const) {
    const run = transaction(service.app.db, systemCaller(role, 'therapy', visitor), 'auth.administrator_sought', (tx) => tx.query({ text: 'select guard.recover_administrator($1, $2)', values: [admin.id, 'x'] }))
    await assert.rejects(run, { code: 'forbidden' })
  }
  assert.equal((await admin.send('GET', '/api/auth/me')).status, 200)
})
