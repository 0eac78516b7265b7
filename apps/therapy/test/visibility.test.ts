import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { openClinic, type Send } from './support/clinic.ts'

const clinic = await openClinic()
const therapist = await clinic.therapist()
const ada = await clinic.patient()
const care = await clinic.care(ada, therapist)
const appointment = await clinic.slot(therapist, { patient: ada })
const post = async (send: Send, path: string, body?: unknown): Promise<string> => {
  const answer = await send('POST', path, body)
  assert.equal(answer.status, 201, answer.text)
  return String(answer.body['id'])
}
const record = await post(therapist.send, `/api/patients/${ada.id}/records`, { kind: 'diagnosis', text: 'hidden' })
const released = await post(therapist.send, `/api/patients/${ada.id}/records`, { kind: 'diagnosis', text: 'shown' })
await therapist.send('POST', `/api/records/${released}/release`, { version: 1 })
await post(therapist.send, `/api/appointments/${appointment}/notes`, { text: 'hidden note' })
await post(ada.send, `/api/conversations/${care}/messages`, { text: 'hello' })
await post(ada.send, '/api/consents', { kind: 'processing', text_version: '2026-01' })

/** Admins and auditors cannot register: planted, as the admin realm will make them. */
async function staff(role: 'admin' | 'auditor'): Promise<Send> {
  const [actor, session] = [randomUUID(), randomUUID()]
  await clinic.database.admin(`insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role, realm) values ($1, 'therapy', '\\x00', $2, 'x', $3, 'platform')`, [actor, Buffer.from(actor), role])
  await clinic.database.admin(`insert into redoubt.sessions (id, user_id, tenant, absolute_expires_at) values ($1, $2, 'therapy', now() + interval '1 day')`, [session, actor])
  return clinic.send(clinic.service.app.identity.tokens.issue({ actor, session, role, tenant: 'therapy' }).token)
}

const former = await clinic.therapist()
const formerCare = await clinic.care(ada, former)
await former.send('POST', `/api/relationships/${formerCare}/end`, { version: 2 })
const asked = await clinic.therapist()
await post(ada.send, '/api/relationships', { therapist_id: asked.id, basis: 'referral' })

const roles = {
  self: ada.send,
  therapist: therapist.send,
  'other patient': (await clinic.patient()).send,
  'other therapist': (await clinic.therapist()).send,
  'former therapist': former.send,
  'therapist who was asked': asked.send,
  'unverified therapist': (await clinic.therapist({ verified: false })).send,
  admin: await staff('admin'),
  auditor: await staff('auditor'),
} as const
type Role = keyof typeof roles

/**
 * domain.md, "Who may see what", for the routes that give or change a patient's data: the status for the patient, for
 * the therapist in active care, and for everybody else. Admin and auditor have a realm of their own and nothing here.
 */
const matrix: readonly (readonly [request: string, self: number, therapist: number, others: number, body?: unknown])[] = [
  [`GET /api/patients/${ada.id}`, 200, 200, 404],
  [`GET /api/patients/${ada.id}/audit`, 200, 200, 404],
  [`GET /api/patients/${ada.id}/records`, 200, 200, 404],
  [`GET /api/records/${record}`, 404, 200, 404],
  [`GET /api/records/${released}`, 200, 200, 404],
  [`GET /api/appointments/${appointment}`, 200, 200, 404],
  [`GET /api/appointments/${appointment}/notes`, 200, 200, 404],
  [`GET /api/conversations/${care}/messages`, 200, 200, 404],
  [`PUT /api/patients/${ada.id}`, 409, 403, 404, { first_name: 'X', last_name: 'Y', dob: '1990-01-01', phone: null, address: null, emergency_contact: null, insurance_no: null, version: 9 }],
  [`POST /api/patients/${ada.id}/records`, 403, 201, 404, { kind: 'plan', text: 'hidden plan' }],
  [`POST /api/records/${record}/release`, 403, 409, 404, { version: 9 }],
  [`POST /api/records/${record}/correct`, 403, 409, 404, { version: 9, kind: 'plan', text: 'x' }],
  [`POST /api/appointments/${appointment}/complete`, 403, 409, 404, { version: 2 }],
  [`PATCH /api/appointments/${appointment}`, 403, 409, 404, { version: 2, kind: 'video' }],
  [`DELETE /api/appointments/${appointment}?version=9`, 409, 409, 404],
  [`POST /api/relationships/${care}/end`, 409, 409, 404, { version: 9 }],
]

for (const [request, self, active, others, body] of matrix) {
  const [method = '', path = ''] = request.split(' ')
  test(`${method} ${path.replaceAll(/[0-9a-f-]{36}/g, '{id}')}: only those the matrix names`, async () => {
    for (const [role, send] of Object.entries(roles) as [Role, Send][]) {
      const { status, text } = await send(method, path, body)
      const wanted = role === 'self' ? self : role === 'therapist' ? active : others
      // A role that no row of the route names is stopped before the thing is looked for: 403, whatever the id.
      const refused = wanted === others && [403, 404].includes(status)
      assert.ok(status === wanted || refused, `${role}: ${status} instead of ${wanted} ${text}`)
      if (role !== 'self' && role !== 'therapist') for (const secret of ['hidden', 'shown', 'hello', 'Sommer']) assert.ok(!text.includes(secret), `${role} learns ${secret}`)
    }
  })
}

test('lists hold the caller’s own and nothing else', async () => {
  const lists = ['/api/patients', '/api/appointments', '/api/conversations', '/api/relationships', '/api/consents']
  const counts = async (role: Role): Promise<readonly (number | undefined)[]> =>
    Promise.all(lists.map(async (path) => ((await roles[role]('GET', path)).body['items'] as readonly unknown[] | undefined)?.length))
  assert.deepEqual(await counts('self'), [1, 1, 2, 3, 1])
  assert.deepEqual(await counts('therapist'), [1, 1, 1, 1, undefined])
  assert.deepEqual(await counts('other patient'), [1, 0, 0, 0, 0])
  assert.deepEqual(await counts('other therapist'), [0, 0, 0, 0, undefined])
  assert.deepEqual(await counts('former therapist'), [0, 0, 0, 1, undefined])
  assert.deepEqual(await counts('therapist who was asked'), [0, 0, 0, 1, undefined])
  assert.deepEqual(await counts('admin'), [undefined, undefined, undefined, undefined, undefined])
})

test('a patient does not see hidden records and notes in lists either', async () => {
  for (const path of [`/api/patients/${ada.id}/records`, `/api/appointments/${appointment}/notes`]) assert.ok(!(await ada.send('GET', path)).text.includes('hidden'))
})

test('everybody signed in sees verified profiles, and no one a licence number', async () => {
  for (const send of Object.values(roles)) {
    const { status, text } = await send('GET', `/api/therapists/${therapist.id}`)
    assert.equal(status, 200)
    assert.ok(!text.includes('LANR') && !text.includes('licence'))
  }
})
