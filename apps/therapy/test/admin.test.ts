import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Refusal } from 'redoubt/errors'
import { createAdministrator, renewAdministrator } from '../src/administrators.ts'
import { openClinic, type Answer, type Send } from './support/clinic.ts'
import { protect, stepUp } from './support/factors.ts'

const clinic = await openClinic()
const root = await clinic.administrator()
const auditor = await clinic.administrator('auditor')
const visitor = { requestId: 'create', address: null }
const absent = '0190a8f0-0000-7000-8000-0000000000ff'
const items = ({ body }: Answer): readonly Record<string, unknown>[] => body['items'] as unknown as readonly Record<string, unknown>[]
const login = (send: Send, { email, password }: { readonly email: string; readonly password: string }) => send('POST', '/api/auth/login', { email, password })
const adminRoutes = clinic.service.admin?.routes ?? []
/** A body that would be right, for each route that takes one. */
const bodies: Readonly<Record<string, unknown>> = {
  'POST /api/auth/login': { email: 'x@example.org', password: 'x' }, 'POST /api/auth/refresh': { refresh_token: 'A'.repeat(64) },
  'POST /api/auth/password': { old_password: 'x', password: 'correct horse battery' },
  'POST /api/admin/users/find': { email: 'x@example.org' }, 'POST /api/admin/users/{id}/role': { role: 'auditor' },
}

test('whoever has no second factor yet gets into enrolment and nowhere else', async () => {
  const email = 'new.admin@example.org'
  const { password } = await createAdministrator(clinic.service.app, visitor, email, 'admin')
  const { status, body } = await login(clinic.admin(), { email, password })
  assert.deepEqual([status, body['role']], [200, 'enrolment'])
  const send = clinic.admin(String(body['access_token']))
  const me = await send('GET', '/api/auth/me')
  assert.deepEqual([me.status, me.body['role']], [200, 'enrolment'], 'the role that counts now')
  for (const route of adminRoutes) {
    if (route.access === 'public' || route.access.includes('enrolment')) continue
    const name = `${route.method} ${route.path}`
    assert.equal((await send(route.method, route.path.replace('{id}', absent), bodies[name])).status, 403, name)
  }
  const { body: refreshed } = await clinic.admin()('POST', '/api/auth/refresh', { refresh_token: body['refresh_token'] })
  assert.equal(refreshed['role'], 'enrolment', 'a refresh is no way out')
})

test('a second factor alone is not enough: the password that the operator saw has to be replaced first', async () => {
  const email = 'careful.admin@example.org'
  const { id, password } = await createAdministrator(clinic.service.app, visitor, email, 'admin')
  const token = String((await login(clinic.admin(), { email, password })).body['access_token'])
  const { recovery } = await protect({ id, email, password, token, send: clinic.admin(token) })
  const enter = async (by: string, code: string | undefined): Promise<Answer> => clinic.admin()('POST', '/api/auth/second-factor', { pending: (await login(clinic.admin(), { email, password: by })).body['pending'], proof: { kind: 'recovery', code } })
  const still = await enter(password, recovery[0])
  assert.deepEqual([still.status, still.body['role']], [200, 'enrolment'])
  assert.equal((await clinic.admin(String(still.body['access_token']))('GET', '/api/admin/users')).status, 403)
  const enrolling = String(still.body['access_token'])
  const allowed = await stepUp({ id, email, password, token: enrolling, send: clinic.admin(enrolling) }, 'account.password', id, { kind: 'recovery', code: recovery[1] })
  assert.equal((await clinic.admin(enrolling)('POST', '/api/auth/password', { old_password: password, password: 'a password of my own' }, allowed)).status, 200)
  const now = await enter('a password of my own', recovery[2])
  assert.deepEqual([now.status, now.body['role']], [200, 'admin'])
  assert.equal((await login(clinic.admin(), { email, password })).status, 401, 'what was printed opens nothing any more')
})

test('attack: an account whose address is not confirmed is not brought to life by restoring it', async () => {
  const body = { role: 'patient', email: 'never.confirmed@example.org', password: 'correct horse battery', first_name: 'A', last_name: 'B', dob: '1990-01-01' }
  assert.equal((await clinic.send()('POST', '/api/auth/register', body)).status, 202)
  const [pending] = items(await root.send('GET', '/api/admin/users?status=pending'))
  for (const verb of ['restore', 'suspend']) assert.equal((await root.send('POST', `/api/admin/users/${String(pending?.['id'])}/${verb}`)).status, 404)
})

test('the password to begin with is good for a day without a second factor, and never once there is one; the operator can have it begin anew', async () => {
  const email = 'late.admin@example.org'
  const app = clinic.service.app
  const { id, password } = await createAdministrator(app, visitor, email, 'admin')
  const first = await login(clinic.admin(), { email, password })
  await clinic.database.admin('update redoubt.users set enrol_until = now() where id = $1', [id])
  assert.equal((await login(clinic.admin(), { email, password })).status, 403)
  const again = await renewAdministrator(app, visitor, email, 'admin')
  assert.equal(again.id, id)
  assert.deepEqual([(await login(clinic.admin(), { email, password })).status, (await login(clinic.admin(), { email, password: again.password })).status], [401, 200])
  assert.equal((await clinic.admin(String(first.body['access_token']))('GET', '/api/auth/me')).status, 401, 'what began before has ended')
  const enrolled = await login(clinic.admin(), root)
  assert.deepEqual([enrolled.status, enrolled.body['status'], enrolled.body['access_token']], [200, 'factor_required', undefined])
  const entries = await clinic.database.admin("select action from redoubt.audit_logs where resource_id = $1 and action like 'auth.administrator%' order by id", [id])
  assert.deepEqual(entries.map(({ action }) => String(action)), ['auth.administrator_created', 'auth.administrator_renewed'])
})

test('making an administrator twice changes nothing and says what can be done; nobody who has a factor, and no patient, begins anew', async () => {
  const email = 'twice.admin@example.org'
  const app = clinic.service.app
  const refused = (code: string, detail: RegExp) => (error: unknown): boolean => error instanceof Refusal && error.code === code && detail.test(error.detail ?? '')
  const begun = await createAdministrator(app, visitor, email, 'admin')
  await assert.rejects(createAdministrator(app, visitor, email, 'auditor'), refused('already_exists', /no second factor yet; with --new-password/))
  assert.deepEqual((await login(clinic.admin(), { email, password: begun.password })).status, 200, 'the password that was printed stands')
  const [row] = await clinic.database.admin('select role from redoubt.users where id = $1', [begun.id])
  assert.equal(row?.['role'], 'admin')
  const ada = await clinic.patient()
  for (const address of [root.email, ada.email]) {
    await assert.rejects(createAdministrator(app, visitor, address, 'admin'), refused('already_exists', /has an account: one with a second factor/))
    await assert.rejects(renewAdministrator(app, visitor, address, 'admin'), refused('not_found', /no second factor yet/))
  }
  await assert.rejects(renewAdministrator(app, visitor, 'nobody.admin@example.org', 'admin'), refused('not_found', /no second factor yet/))
  for (const work of [createAdministrator, renewAdministrator]) await assert.rejects(work(app, visitor, 'no address', 'admin'), refused('invalid_input', /no e-mail address/))
})

test('attack: a token of one realm opens nothing in the other, nor does a refresh token or a password', async () => {
  const ada = await clinic.patient()
  for (const { path, access, method } of clinic.service.routes) {
    if (access === 'public') continue
    assert.equal((await clinic.send(root.token)(method, path.replace('{id}', absent))).body['code'], 'unauthenticated', `${method} ${path}`)
  }
  for (const { path, access, method } of adminRoutes) {
    if (access === 'public') continue
    assert.equal((await clinic.admin(ada.token)(method, path.replace('{id}', absent))).body['code'], 'unauthenticated', `${method} ${path}`)
  }
  assert.deepEqual([(await login(clinic.send(), root)).status, (await login(clinic.admin(), ada)).status], [401, 401])
  const { body } = await login(clinic.send(), ada)
  assert.equal((await clinic.admin()('POST', '/api/auth/refresh', { refresh_token: body['refresh_token'] })).status, 401)
  assert.equal((await clinic.send()('POST', '/api/auth/refresh', { refresh_token: root.refresh })).status, 401)
  const [mine, theirs] = await Promise.all([clinic.send(), clinic.admin()].map((send) => send('GET', '/.well-known/jwks.json')))
  assert.notDeepEqual(mine?.body, theirs?.body)
})

test('every route of the administration without a token: 401; only these are public', async () => {
  assert.deepEqual(adminRoutes.filter(({ access }) => access === 'public').map(({ method, path }) => `${method} ${path}`), [
    'POST /api/auth/login', 'POST /api/auth/refresh', 'POST /api/auth/second-factor', 'POST /api/auth/passkey/options', 'POST /api/auth/passkey',
    'POST /api/auth/password/forgot', 'POST /api/auth/password/reset', 'GET /.well-known/jwks.json', 'POST /csp-report',
  ])
  for (const { access, method, path } of adminRoutes) {
    if (access !== 'public') assert.equal((await clinic.admin()(method, path.replace('{id}', absent))).status, 401, `${method} ${path}`)
  }
})

test('attack: a suspended person with a live token: 401 at once and on another instance, no refresh, no sign-in, and the answer tells nobody why', async () => {
  const [ada, second] = [await clinic.patient(), await clinic.another()]
  const { body } = await login(clinic.send(), ada)
  assert.equal((await root.send('POST', `/api/admin/users/${ada.id}/suspend`)).status, 204)
  for (const instance of [clinic, second]) {
    for (const path of ['/api/auth/me', `/api/patients/${ada.id}`, '/api/appointments']) assert.equal((await instance.send(ada.token)('GET', path)).status, 401)
    assert.equal((await instance.send()('POST', '/api/auth/refresh', { refresh_token: body['refresh_token'] })).status, 401)
  }
  const refused = await login(clinic.send(), ada)
  const wrong = await login(clinic.send(), { email: ada.email, password: 'not the password' })
  const unknown = await login(clinic.send(), { email: 'nobody@example.org', password: ada.password })
  const bare = (answer: Answer): unknown => ({ ...answer.body, status: answer.status, request_id: '' })
  assert.deepEqual([bare(refused), bare(unknown)], [bare(wrong), bare(wrong)])
  assert.equal((await root.send('POST', `/api/admin/users/${ada.id}/suspend`)).body['code'], 'conflict')
  assert.equal((await root.send('POST', `/api/admin/users/${ada.id}/restore`)).status, 204)
  assert.equal((await clinic.send(ada.token)('GET', '/api/auth/me')).status, 401, 'ended sessions stay ended')
  assert.equal((await login(clinic.send(), ada)).status, 200)
  const [entry] = items(await auditor.send('GET', `/api/admin/audit?action=auth.account_suspended&resource_id=${ada.id}&outcome=done`))
  assert.deepEqual([entry?.['actor'], entry?.['resource']], [{ type: 'user', id: root.id, role: 'admin' }, { type: 'user', id: ada.id }])
})

test('attack: sign-ins under way while the account is suspended leave no session that stands', async () => {
  for (let round = 0; round < 5; round++) {
    const ada = await clinic.patient()
    const attempts = Array.from({ length: 8 }, () => login(clinic.send(), ada))
    const [, ...answers] = await Promise.all([root.send('POST', `/api/admin/users/${ada.id}/suspend`), ...attempts])
    for (const { status, body } of answers) {
      if (status === 200) assert.equal((await clinic.send(String(body['access_token']))('GET', '/api/auth/me')).status, 401)
    }
    const standing = await clinic.database.admin('select from redoubt.sessions where user_id = $1 and revoked_at is null', [ada.id])
    assert.equal(standing.length, 0)
  }
})

test('administrators see accounts as roles and states, find one by an address they were told, and see no name', async () => {
  const ada = await clinic.patient({ first: 'Unmistakable' })
  const page = await root.send('GET', '/api/admin/users?role=patient&limit=2')
  assert.deepEqual(Object.keys(items(page)[0] ?? {}).toSorted(), ['created_at', 'id', 'realm', 'role', 'sessions', 'status'])
  assert.ok(!page.text.includes('Unmistakable') && !page.text.includes(ada.email))
  const next = await root.send('GET', `/api/admin/users?role=patient&limit=2&cursor=${String(page.body['next'])}`)
  assert.ok(items(page).every((one) => items(next).every((other) => one['id'] !== other['id'])))
  const found = await root.send('POST', '/api/admin/users/find', { email: ada.email.toUpperCase() })
  assert.deepEqual([found.body['id'], found.body['sessions']], [ada.id, 1])
  assert.equal((await root.send('POST', '/api/admin/users/find', { email: 'nobody@example.org' })).status, 404)
  for (const path of [`/api/patients/${ada.id}`, '/api/appointments', '/api/conversations']) assert.equal((await root.send('GET', path)).status, 404, 'care data has no route here')
  assert.equal((await root.send('POST', `/api/admin/users/${ada.id}/end-sessions`)).body['ended'], 1)
  assert.equal((await ada.send('GET', '/api/auth/me')).status, 401)
})

test('a role changes on the platform only, ends the sessions that say the old one, and is never one’s own', async () => {
  const other = await clinic.administrator()
  const ada = await clinic.patient()
  const role = (id: string, to: string, by = root) => by.send('POST', `/api/admin/users/${id}/role`, { role: to })
  assert.equal((await role(other.id, 'auditor')).status, 204)
  assert.equal((await other.send('GET', '/api/auth/me')).status, 401)
  assert.equal((await clinic.admin()('POST', '/api/auth/refresh', { refresh_token: other.refresh })).status, 401)
  assert.equal((await role(other.id, 'auditor')).body['code'], 'conflict')
  assert.deepEqual([(await role(ada.id, 'admin')).status, (await role(absent, 'admin')).status, (await role(root.id, 'auditor')).status, (await role(ada.id, 'patient')).status], [404, 404, 403, 422])
  for (const verb of ['suspend', 'restore']) assert.equal((await root.send('POST', `/api/admin/users/${root.id}/${verb}`)).status, 403, 'nobody suspends the last administrator')
})

test('an auditor reads the record and does nothing else; reading it is an entry', async () => {
  const ada = await clinic.patient()
  for (const { access, method, path } of adminRoutes) {
    const name = `${method} ${path}`
    if (access !== 'public' && !access.includes('auditor')) assert.equal((await auditor.send(method, path.replace('{id}', ada.id), bodies[name])).status, 403, name)
  }
  await ada.send('GET', `/api/patients/${root.id}`)
  const refused = items(await auditor.send('GET', `/api/admin/audit?actor=${ada.id}&outcome=refused`))
  assert.deepEqual(refused.map((entry) => [entry['action'], entry['outcome']]), [['patient.viewed', 'refused:not_found']])
  const at = String(refused[0]?.['at'])
  const after = new Date(Date.parse(at) + 1).toISOString()
  const between = items(await auditor.send('GET', `/api/admin/audit?actor=${ada.id}&outcome=refused&since=${at}&until=${after}`))
  assert.ok(between.some((row) => row['id'] === refused[0]?.['id']) && between.every((row) => row['at'] === at), 'a time is asked for from its millisecond on, to before the next')
  assert.ok(items(await auditor.send('GET', `/api/admin/audit?actor=${ada.id}&outcome=refused&since=${after}`)).every((row) => String(row['at']) >= after))
  assert.ok(items(await auditor.send('GET', `/api/admin/audit?until=${at}`)).every((row) => String(row['at']) < at))
  const first = await auditor.send('GET', '/api/admin/audit?limit=3')
  const second = await auditor.send('GET', `/api/admin/audit?limit=3&cursor=${String(first.body['next'])}`)
  assert.equal(new Set([...items(first), ...items(second)].map((entry) => entry['id'])).size, 6)
  const [own] = items(await root.send('GET', `/api/admin/audit?action=audit.queried&actor=${auditor.id}&limit=1`))
  assert.deepEqual(own?.['actor'], { type: 'user', id: auditor.id, role: 'auditor' })
})

test('an administrator verifies a therapist, who is then listed; once', async () => {
  const therapist = await clinic.therapist({ verified: false })
  const ada = await clinic.patient()
  assert.equal((await ada.send('GET', `/api/therapists/${therapist.id}`)).status, 404)
  const verify = () => root.send('POST', `/api/admin/therapists/${therapist.id}/verify`)
  assert.equal((await verify()).status, 204)
  assert.equal((await ada.send('GET', `/api/therapists/${therapist.id}`)).status, 200)
  assert.equal((await verify()).status, 404)
  for (const staff of [root, auditor]) assert.equal((await staff.send('GET', `/api/therapists/${therapist.id}`)).body['verification'], 'verified')
  const [row] = await clinic.database.admin('select verified_by from therapy.therapist_profiles where user_id = $1', [therapist.id])
  assert.equal(row?.['verified_by'], root.id)
})

test('an administrator sees who waits for a verification, with the licence number that leaves an entry; nobody else does', async () => {
  const first = await clinic.therapist({ verified: false })
  const second = await clinic.therapist({ verified: false })
  const shown = await root.send('GET', '/api/admin/therapists?limit=1')
  assert.equal(shown.status, 200)
  const rest = await root.send('GET', `/api/admin/therapists?cursor=${String(shown.body['next'])}`)
  const seen = [...items(shown), ...items(rest)]
  assert.deepEqual(seen.map((row) => row['id']), [first.id, second.id])
  for (const row of seen) assert.match(String(row['licence_number']), /./)
  const named = await clinic.database.admin(`select s.subject_id from redoubt.audit_logs e join redoubt.audit_subjects s on s.entry_id = e.id where e.action = 'therapist.examined' and e.outcome = 'done'`)
  assert.deepEqual(new Set(named.map((row) => String(row['subject_id']))), new Set([first.id, second.id]))
  assert.equal((await root.send('POST', `/api/admin/therapists/${first.id}/verify`)).status, 204)
  assert.deepEqual(items(await root.send('GET', '/api/admin/therapists')).map((row) => row['id']), [second.id])
  assert.equal((await auditor.send('GET', '/api/admin/therapists')).status, 403)
})

test('attack: registration makes nobody an administrator, whatever address is taken, and an address has one account', async () => {
  const taken = { role: 'patient', email: root.email, password: 'correct horse battery', first_name: 'A', last_name: 'B', dob: '1990-01-01' }
  const free = { ...taken, email: 'free@example.org' }
  const [first, second] = [await clinic.send()('POST', '/api/auth/register', taken), await clinic.send()('POST', '/api/auth/register', free)]
  assert.deepEqual([first.status, Object.keys(first.body), first.text.length], [second.status, Object.keys(second.body), second.text.length])
  assert.equal((await login(clinic.admin(), root)).status, 200)
})

test('the administration has a document of its own, and its sessions are short', async () => {
  const document = JSON.parse((await clinic.admin()('GET', '/openapi.json')).text) as { readonly info: { readonly title: string }; readonly paths: object }
  assert.equal(document.info.title, 'Therapy administration')
  assert.equal(Object.keys(document.paths).length, new Set(adminRoutes.map(({ path }) => path)).size)
  const [row] = await clinic.database.admin(
    `select extract(epoch from idle_expires_at - last_used_at)::int as idle, extract(epoch from absolute_expires_at - created_at)::int as absolute from redoubt.sessions where user_id = $1 and not enrolling order by created_at limit 1`, [root.id])
  assert.deepEqual(row, { idle: 1800, absolute: 43_200 })
  const seconds = { idle: 900, absolute: 3600 }
  const other = await clinic.another({ lifetimes: { tenant: seconds, platform: seconds } })
  const ada = await clinic.patient()
  await login(other.send(), ada)
  const [latest] = await clinic.database.admin(
    `select extract(epoch from idle_expires_at - last_used_at)::int as idle, extract(epoch from absolute_expires_at - created_at)::int as absolute from redoubt.sessions where user_id = $1 order by created_at desc limit 1`, [ada.id])
  assert.deepEqual(latest, seconds)
})
