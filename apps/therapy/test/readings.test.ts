import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const therapist = await clinic.therapist()
const ada = await clinic.patient()
const ben = await clinic.patient()
const care = await clinic.care(ada, therapist)
await clinic.care(ben, therapist)
const stranger = await clinic.therapist()
const outsider = await clinic.patient()
const booked = await clinic.slot(therapist, { patient: ada, hours: 25 })
const bens = await clinic.slot(therapist, { patient: ben, hours: 27 })
const free = await clinic.slot(therapist, { hours: 29 })

type Entry = { readonly action: string; readonly outcome: string; readonly resource: string | null; readonly subjects: readonly string[] }

/** What the audit knows of this person's latest call. */
async function latest(actor: string): Promise<Entry | undefined> {
  const [entry] = await clinic.database.admin<Entry>(
    `select e.action, e.outcome, e.resource_type || ' ' || e.resource_id as resource,
       array(select s.subject_id::text from redoubt.audit_subjects s where s.entry_id = e.id order by 1) as subjects
     from redoubt.audit_logs e where e.actor_id = $1 order by e.occurred_at desc, e.id desc limit 1`, [actor])
  return entry
}

/** Whom the entry of this reading names. */
async function named(who: typeof therapist, path: string): Promise<readonly string[]> {
  const { status, text } = await who.send('GET', path)
  assert.equal(status, 200, text)
  return (await latest(who.id))?.subjects ?? []
}

test('a reading of rows without sealed columns names the patients whose rows were answered, and nobody else', async () => {
  const both = [ada.id, ben.id].toSorted()
  assert.deepEqual(await named(therapist, '/api/appointments'), both)
  assert.deepEqual(await named(therapist, '/api/appointments?limit=1'), [ada.id], 'the row behind the page was not answered')
  assert.deepEqual(await named(therapist, '/api/appointments?status=available'), [], 'a free slot is about nobody')
  assert.deepEqual(await named(therapist, `/api/appointments/${free}`), [])
  assert.deepEqual(await named(therapist, `/api/appointments/${booked}`), [ada.id])
  assert.deepEqual(await named(therapist, '/api/relationships'), both)
  assert.deepEqual(await named(therapist, '/api/conversations'), both)
  assert.deepEqual(await named(therapist, `/api/conversations/${care}/messages`), [ada.id], 'that there is none is an answer about her, too')
  assert.deepEqual(await named(therapist, `/api/patients/${ada.id}/records`), [ada.id])
  assert.deepEqual(await named(ada, '/api/consents'), [])
  assert.equal((await ada.send('POST', '/api/consents', { kind: 'video', text_version: '2026-01' })).status, 201)
  assert.deepEqual(await named(ada, '/api/consents'), [ada.id])
})

test('a patient sees in “who read my data” that appointments and relationships were listed', async () => {
  await therapist.send('GET', '/api/relationships')
  const { body } = await ben.send('GET', `/api/patients/${ben.id}/audit?limit=100`)
  const seen = (body['items'] as unknown as readonly { readonly action: string; readonly actor: { readonly id: string } }[]).filter(({ actor }) => actor.id === therapist.id).map(({ action }) => action)
  for (const action of ['appointment.viewed', 'relationship.viewed', 'conversation.viewed']) assert.ok(seen.includes(action), `${action} of ${seen.join(', ')}`)
})

const nobody = randomUUID()
const tried: readonly (readonly [who: typeof therapist, method: string, path: string, body: unknown, resource: string])[] = [
  [stranger, 'GET', `/api/patients/${ada.id}`, undefined, `patient ${ada.id}`],
  [stranger, 'POST', `/api/patients/${ada.id}/records`, { kind: 'plan', text: 'x' }, `patient ${ada.id}`],
  [stranger, 'POST', `/api/records/${nobody}/correct`, { kind: 'plan', text: 'x', version: 1 }, `record ${nobody}`],
  [stranger, 'POST', `/api/appointments/${booked}/notes`, { text: 'x' }, `appointment ${booked}`],
  [stranger, 'POST', `/api/conversations/${care}/messages`, { text: 'x' }, `conversation ${care}`],
  [outsider, 'POST', '/api/appointments', { slot_id: free, version: 1 }, `appointment ${free}`],
  [outsider, 'POST', '/api/relationships', { therapist_id: nobody, basis: 'referral' }, `therapist ${nobody}`],
]
for (const [who, method, path, body, resource] of tried) {
  test(`attack: probing ${method} ${path.replaceAll(/[0-9a-f-]{36}/g, '{id}')} leaves what was tried, and names nobody as read`, async () => {
    const { status } = await who.send(method, path, body)
    assert.ok(status === 403 || status === 404 || status === 409, `${status}`)
    const entry = await latest(who.id)
    assert.match(entry?.outcome ?? '', /^refused:/)
    assert.equal(entry?.resource, resource)
    assert.deepEqual(entry?.subjects, [])
  })
}

test('a refusal about a row that the caller may see names whose it was', async () => {
  assert.equal((await therapist.send('DELETE', `/api/appointments/${bens}?version=99`)).status, 409)
  assert.deepEqual(await latest(therapist.id), { action: 'appointment.cancelled', outcome: 'refused:version_conflict', resource: `appointment ${bens}`, subjects: [ben.id] })
})
