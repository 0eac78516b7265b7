import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { Mail } from 'redoubt/mail'
import { openPool } from 'redoubt/pg'
import { openSigner } from 'redoubt/transaction/signer'
import { startMail } from '../src/letters.ts'
import { openClinic, type Answer, type Someone } from './support/clinic.ts'
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
