import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, test } from 'node:test'
import { openMailer } from 'redoubt/mail'
import { openPool } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { openSigner } from 'redoubt/transaction/signer'
import { startSmtp } from '../../../packages/redoubt/test/support/smtp.ts'
import { startMail } from '../src/letters.ts'
import { openClinic, type Answer, type Someone } from './support/clinic.ts'

const clinic = await openClinic()
const { database, service, events } = clinic
const emit = (event: (typeof events)[number]): void => void events.push(event)
const smtp = await startSmtp()
const mailer = await openMailer({ url: `smtp://localhost:${smtp.port}`, from: 'no-reply@therapy.test', production: true, ca: smtp.ca })
const pool = openPool({ url: database.url('worker'), max: 2, emit })
const keysPool = openPool({ url: database.url('keys'), max: 1, emit })
const signer = await openSigner(keysPool, database.service)
/** The worker's half, as often as a test wants one. Keys are those of the service: a worker has the same key service. */
const work = (): { stop(): Promise<void> } => startMail({ pool, signer, keyring: service.keyring, mailer, emit, pace: { intervalMs: 20, leaseMs: 300, pauseMs: 100 } })
let worker = work()
after(async () => {
  await worker.stop()
  mailer.close()
  await smtp.close()
  await signer.close()
  await keysPool.close()
  await pool.close()
})

const post = (path: string, body: unknown): Promise<Answer> => clinic.send()('POST', `/api/auth/${path}`, body)
const login = async (email: string, password: string): Promise<number> => (await post('login', { email, password })).status
const codeIn = (text: string): string => /^ +(\d{4} \d{4})$/m.exec(text.replaceAll('\r', ''))?.[1] ?? ''
/** Quoted-printable is undone where it breaks a line or stands for an equals sign. */
const plain = (data: string): string => data.replaceAll('=\r\n', '').replaceAll('=3D', '=')

/** The newest mail to an address, once there are so many. */
async function mailTo(email: string, count = 1): Promise<string> {
  for (const end = performance.now() + 10_000; performance.now() < end; await new Promise((resolve) => setTimeout(resolve, 10))) {
    const found = smtp.received.filter(({ to }) => to[0] === email)
    if (found.length >= count) return plain(found.at(-1)?.data ?? '')
  }
  throw new assert.AssertionError({ message: `no ${count} mails to ${email} within 10 s; ${smtp.received.map(({ to }) => to[0]).join()}` })
}
async function outboxEmpty(): Promise<void> {
  for (const end = performance.now() + 10_000; performance.now() < end; await new Promise((resolve) => setTimeout(resolve, 10))) {
    if ((await database.admin("select 1 from redoubt.outbox where state = 'waiting'")).length === 0) return
  }
  throw new assert.AssertionError({ message: 'mail waits for 10 s' })
}

let people = 0
const fresh = (): string => `mailed${++people}@example.org`
const registration = (email: string, password = 'correct horse battery'): unknown => ({ role: 'patient', email, password, first_name: 'New', last_name: 'Person', dob: '1990-01-01' })
async function member(): Promise<Someone> {
  const someone = await clinic.patient()
  await outboxEmpty()
  // Whether the code of the registration still went out depends on who was faster; it is of no interest from here on.
  for (let i = smtp.received.length - 1; i >= 0; i--) if (smtp.received[i]?.to[0] === someone.email) smtp.received.splice(i, 1)
  return someone
}

test('registration: the mail has the code, the code opens the account, and a second use of it is refused', async () => {
  const email = fresh()
  const { status, body } = await post('register', registration(email))
  assert.equal(status, 202)
  const code = codeIn(await mailTo(email))
  assert.equal(await login(email, 'correct horse battery'), 401)
  assert.equal((await post('email/verify', { request: body['request'], code })).status, 200)
  assert.equal(await login(email, 'correct horse battery'), 200)
  assert.equal((await post('email/verify', { request: body['request'], code })).body['code'], 'code_refused')
})

test('attack: a stranger registers with an address that has an account, and learns nothing; its owner is told', async () => {
  const victim = await member()
  const [known, unknown] = [await post('register', registration(victim.email)), await post('register', registration(fresh()))]
  assert.deepEqual([known.status, Object.keys(known.body)], [unknown.status, Object.keys(unknown.body)])
  assert.match(await mailTo(victim.email, 1), /has one already/)
  assert.equal(codeIn(await mailTo(victim.email, 1)), '', 'no code goes out')
  // Even the digits would not help: the address is somebody's.
  const taken = await post('email/verify', { request: known.body['request'], code: await clinic.mailed(known.body['request']) })
  assert.equal(taken.body['code'], 'already_exists')
  assert.equal(await login(victim.email, 'correct horse battery'), 401)
  assert.equal(await login(victim.email, victim.password), 200)
})

test('attack: a stranger registers first with somebody’s address, who then registers too and gets the account', async () => {
  const email = fresh()
  const strange = await post('register', registration(email, 'the password of a thief'))
  await mailTo(email)
  const own = await post('register', registration(email))
  const code = codeIn(await mailTo(email, 2))
  assert.equal((await post('email/verify', { request: strange.body['request'], code })).body['code'], 'code_refused', 'the owner’s code does not open the stranger’s account')
  assert.equal((await post('email/verify', { request: own.body['request'], code })).status, 200)
  assert.equal(await login(email, 'the password of a thief'), 401)
  assert.equal(await login(email, 'correct horse battery'), 200)
})

test('a registration’s code is sent again three times, and for an unknown request the answer is the same', async () => {
  const email = fresh()
  const { body } = await post('register', registration(email))
  const first = codeIn(await mailTo(email))
  for (let i = 0; i < 5; i++) {
    assert.deepEqual((await post('email/resend', { request: body['request'] })).body, { status: 'accepted' })
    await outboxEmpty()
  }
  assert.equal(smtp.received.filter(({ to }) => to[0] === email).length, 4)
  assert.equal(codeIn(await mailTo(email, 4)), first)
  const other = await post('email/resend', { request: randomBytes(32).toString('base64url') })
  assert.deepEqual([other.status, other.body], [202, { status: 'accepted' }])
})

test('a forgotten password: the mail’s code sets a new one, every session ends, and a mail tells of it', async () => {
  const ada = await member()
  const { body } = await post('password/forgot', { email: ada.email.toUpperCase().replace('EXAMPLE.ORG', 'example.org') })
  const code = codeIn(await mailTo(ada.email, 1))
  const set = (password: string): Promise<Answer> => post('password/reset', { request: body['request'], code, password })
  assert.equal((await set('Password2026!')).body['code'], 'invalid_input', 'a refused password does not use the code up')
  assert.equal((await set('a new pass phrase')).status, 200)
  assert.equal((await ada.send('GET', '/api/auth/me')).status, 401)
  assert.equal(await login(ada.email, ada.password), 401)
  assert.equal(await login(ada.email, 'a new pass phrase'), 200)
  assert.match(await mailTo(ada.email, 2), /password was changed/)
  assert.equal((await set('another pass phrase')).body['code'], 'code_refused')
})

test('attack: a code for a new password is worth nothing with another request, and ends after five tries', async () => {
  const ada = await member()
  const [mine, strangers] = [await post('password/forgot', { email: ada.email }), await post('password/forgot', { email: 'nobody@example.org' })]
  const code = codeIn(await mailTo(ada.email))
  const reset = async (request: unknown, digits: string): Promise<unknown> => (await post('password/reset', { request, code: digits, password: 'a new pass phrase' })).body['code']
  assert.equal(await reset(strangers.body['request'], code), 'code_refused')
  const wrong = code.startsWith('1') ? `2${code.slice(1)}` : `1${code.slice(1)}`
  for (let i = 0; i < 5; i++) assert.equal(await reset(mine.body['request'], wrong), 'code_refused')
  assert.equal(await reset(mine.body['request'], code), 'code_refused')
  assert.equal(await login(ada.email, ada.password), 200)
})

test('attack: who has an account is not told by any answer', async () => {
  const ada = await member()
  const same = async (path: string, body: (email: string) => unknown): Promise<void> => {
    const [known, unknown] = [await post(path, body(ada.email)), await post(path, body(fresh()))]
    const told = ({ status, body: { request, request_id, instance, ...rest }, headers }: Answer): unknown => [status, typeof request, typeof request_id, typeof instance, rest, [...headers.keys()].toSorted()]
    assert.deepEqual(told(known), told(unknown), path)
  }
  await same('register', (email) => registration(email))
  await same('login', (email) => ({ email, password: 'not the password' }))
  await same('password/forgot', (email) => ({ email }))
  for (const path of ['password/reset', 'email/verify'] as const) {
    const requests = await Promise.all([ada.email, fresh()].map(async (email) => (await post(path === 'email/verify' ? 'register' : 'password/forgot', path === 'email/verify' ? registration(email) : { email })).body['request']))
    await outboxEmpty()
    const answers = await Promise.all(requests.map((request) => post(path, { request, code: '00000000', ...(path === 'password/reset' ? { password: 'a new pass phrase' } : {}) })))
    assert.deepEqual(answers.map(({ status, body }) => [status, body['code']]), [[401, 'code_refused'], [401, 'code_refused']], path)
  }
  const eve = await member()
  const [taken, free] = [ada.email, fresh()]
  for (const email of [taken, free]) assert.equal((await eve.send('POST', '/api/auth/email', { email, password: eve.password })).status, 202)
})

test('a change of password asks for the present one, ends other sessions, keeps this one, and a mail tells of it', async () => {
  const ada = await member()
  const other = String((await post('login', { email: ada.email, password: ada.password })).body['access_token'])
  const change = (old_password: string, password: string): Promise<Answer> => ada.send('POST', '/api/auth/password', { old_password, password })
  assert.equal((await change('not the password', 'a new pass phrase')).body['code'], 'sign_in_failed')
  assert.equal((await change(ada.password, `${ada.email.slice(0, 8)}-1234`)).body['code'], 'invalid_input')
  assert.equal((await change(ada.password, 'a new pass phrase')).status, 200)
  assert.equal((await ada.send('GET', '/api/auth/me')).status, 200)
  assert.equal((await clinic.send(other)('GET', '/api/auth/me')).status, 401)
  assert.equal(await login(ada.email, 'a new pass phrase'), 200)
  assert.match(await mailTo(ada.email, 1), /password was changed/)
})

test('a change of address: the new one is confirmed, the former is told and takes it back', async () => {
  const ada = await member()
  const to = fresh()
  assert.equal((await ada.send('POST', '/api/auth/email', { email: to, password: 'not the password' })).body['code'], 'sign_in_failed')
  const { body } = await ada.send('POST', '/api/auth/email', { email: to, password: ada.password })
  const code = codeIn(await mailTo(to))
  const confirm = (email: string): Promise<Answer> => ada.send('POST', '/api/auth/email/confirm', { request: body['request'], code, email })
  assert.equal((await confirm(fresh())).body['code'], 'code_refused', 'the code is for the address it was mailed to')
  assert.equal((await confirm(to)).status, 200)
  assert.equal((await ada.send('GET', '/api/auth/me')).body['email'], to)
  assert.equal(await login(ada.email, ada.password), 401)
  assert.equal(await login(to, ada.password), 200)
  const token = /^ +([A-Za-z0-9_-]{43})$/m.exec((await mailTo(ada.email)).replaceAll('\r', ''))?.[1]
  assert.equal((await post('email/undo', { token })).status, 200)
  assert.equal((await ada.send('GET', '/api/auth/me')).status, 401, 'every session ended')
  for (const email of [to, ada.email]) assert.equal(await login(email, ada.password), 401, 'the password is void')
  assert.equal((await post('email/undo', { token })).body['code'], 'code_refused')
  const again = await post('password/forgot', { email: ada.email })
  const reset = codeIn(await mailTo(ada.email, 3))
  assert.equal((await post('password/reset', { request: again.body['request'], code: reset, password: 'a new pass phrase' })).status, 200)
  assert.equal(await login(ada.email, 'a new pass phrase'), 200)
})

test('an address that is another account’s cannot be taken over by a change, and nobody is told', async () => {
  const [ada, eve] = [await member(), await member()]
  const { status, body } = await eve.send('POST', '/api/auth/email', { email: ada.email, password: eve.password })
  assert.equal(status, 202)
  assert.match(await mailTo(ada.email, 1), /has one already/)
  const handleHash = await service.app.codes.hashOf('email_change', String(body['request']))
  const [row] = await database.admin<{ id: string }>('select id from redoubt.one_time_codes where handle_hash = $1', [handleHash])
  const code = await service.app.codes.digitsOf({ id: row?.id ?? '', handleHash }, 8)
  assert.equal((await eve.send('POST', '/api/auth/email/confirm', { request: body['request'], code, email: ada.email })).body['code'], 'already_exists')
  assert.equal(await login(ada.email, ada.password), 200)
})

test('a sign-in with a device not seen before is told by mail; the first one, and one seen before, are not', async () => {
  const ada = await member()
  const from = (agent: string): Promise<Answer> => clinic.send()('POST', '/api/auth/login', { email: ada.email, password: ada.password }, { 'user-agent': agent })
  await from('Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0')
  assert.match(await mailTo(ada.email, 1), /Firefox on Linux/)
  await from('Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0')
  await outboxEmpty()
  assert.equal(smtp.received.filter(({ to }) => to[0] === ada.email).length, 1)
})

test('attack: a database administrator moves a victim’s account under their own address and asks for a new password', async () => {
  const [mallory, victim] = [await member(), await member()]
  const [row] = await database.admin<{ bidx: Buffer }>('select email_bidx as bidx from redoubt.users where id = $1', [mallory.id])
  await database.admin("update redoubt.users set email_bidx = sha256('x') where id = $1", [mallory.id])
  await database.admin('update redoubt.users set email_bidx = $2 where id = $1', [victim.id, row?.bidx])
  const before = smtp.received.length
  await post('password/forgot', { email: mallory.email })
  await outboxEmpty()
  assert.equal(smtp.received.length, before, 'no mail, to nobody')
  assert.ok(events.some((event) => event.type === 'mail.failed' && event.reason === 'sealed_value_refused' && event.final))
})

test('mail survives a server that fails and an answer that is lost: it arrives, and a copy has the same Message-ID', async () => {
  const email = fresh()
  smtp.refuse('451 4.3.0 later', 2)
  await post('register', registration(email))
  await mailTo(email)
  const lost = fresh()
  smtp.loseAnswer(1)
  await post('register', registration(lost))
  await mailTo(lost, 2)
  const ids = smtp.received.filter(({ to }) => to[0] === lost).map(({ data }) => /^Message-ID: (.*)$/im.exec(data)?.[1])
  assert.equal(new Set(ids).size, 1)
  const gone = fresh()
  smtp.refuse('550 5.1.1 no such mailbox')
  await post('register', registration(gone))
  await outboxEmpty()
  const [row] = await database.admin<{ reason: string }>("select reason from redoubt.outbox where state = 'failed' and topic = 'email_verify'")
  assert.equal(row?.reason, 'mail_refused')
})

test('two workers send each message once; one that was killed is finished by another', async () => {
  await worker.stop()
  const emails = Array.from({ length: 8 }, fresh)
  await Promise.all(emails.map((email) => post('register', registration(email))))
  // Taken by a worker that is no more: its lease runs out.
  await database.admin("update redoubt.outbox set attempts = 1, next_attempt_at = now() + interval '500 milliseconds' where state = 'waiting' and id in (select id from redoubt.outbox where state = 'waiting' limit 2)")
  const second = work()
  worker = work()
  await Promise.all(emails.map((email) => mailTo(email)))
  await outboxEmpty()
  await second.stop()
  for (const email of emails) assert.equal(smtp.received.filter(({ to }) => to[0] === email).length, 1, email)
})

test('attack: the app’s role, and SQL injected into a person’s transaction, can neither read mail nor send it to others', async () => {
  const [ada, ben] = [await member(), await member()]
  const { actor, role, tenant, session } = service.app.identity.tokens.verify(ada.token)
  const caller = { kind: 'user', actor, role, tenant, session, requestId: 'injected', address: null } as const
  const put = 'select guard.put_mail(gen_random_uuid(), $1, $2, null, null, null)'
  for (const [text, values] of [
    ['select payload_enc from redoubt.outbox', []], ['delete from redoubt.outbox', []], ["insert into redoubt.outbox (id, topic, tenant, caller_role, request_id) values (gen_random_uuid(), 'reset', 'x', 'x', 'x')", []],
    [put, ['password_changed', ben.id]], [put, ['reset', null]], ['select guard.mail_recipient($1::uuid)', [ben.id]], ['select guard.verify_email($1::uuid, null)', [ben.id]],
    ["select guard.reset_password($1::uuid, 'x')", [ben.id]], ['select guard.undo_email($1::uuid, null, null)', [ben.id]],
  ] as const) {
    const rows = await transaction(service.app.db, caller, 'account.viewed', (tx) => tx.query({ text, values })).catch(() => [])
    assert.deepEqual(rows, [], text)
  }
})
