import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openClinic, type Answer, type Someone } from './support/clinic.ts'

const clinic = await openClinic()
const therapist = await clinic.therapist()
const ada = await clinic.patient()
const ben = await clinic.patient()
const conversation = await clinic.care(ada, therapist)
const other = await clinic.care(ben, therapist)
const path = `/api/conversations/${conversation}/messages`
let hours = 30
const count = async (): Promise<number> =>
  Number((await clinic.database.admin<{ n: string }>('select count(*) as n from therapy.messages where care_relationship_id = $1', [conversation]))[0]?.n)

/** What the audit knows of this person's latest call of that name. */
async function entry(actor: string, action: string): Promise<{ readonly outcome: string; readonly resource: string; readonly subjects: readonly string[] } | undefined> {
  const [latest] = await clinic.database.admin<{ outcome: string; resource: string; subjects: string[] }>(
    `select e.outcome, e.resource_type || ' ' || e.resource_id as resource, array(select s.subject_id::text from redoubt.audit_subjects s where s.entry_id = e.id) as subjects
     from redoubt.audit_logs e where e.actor_id = $1 and e.action = $2 order by e.occurred_at desc limit 1`, [actor, action])
  return latest
}

test('a repeated request gets the first answer and does nothing', async () => {
  const before = await count()
  const headers = { 'idempotency-key': 'first-key-1' }
  const first = await ada.send('POST', path, { text: 'Guten Tag' }, headers)
  const second = await ada.send('POST', path, { text: 'Guten Tag' }, headers)
  assert.equal(first.status, 201)
  assert.equal(second.status, 201)
  assert.deepEqual(second.body, first.body)
  assert.equal(await count(), before + 1)
})

test('the same key with another body is refused', async () => {
  const headers = { 'idempotency-key': 'second-key-2' }
  assert.equal((await ada.send('POST', path, { text: 'One' }, headers)).status, 201)
  const before = await count()
  const reused = await ada.send('POST', path, { text: 'Two' }, headers)
  assert.deepEqual([reused.status, reused.body['code']], [422, 'idempotency_key_reused'])
  assert.equal(await count(), before)
})

test('the same key with another path parameter is another request, and refused', async () => {
  const headers = { 'idempotency-key': 'third-key-33' }
  assert.equal((await therapist.send('POST', path, { text: 'Hello' }, headers)).status, 201)
  assert.equal((await therapist.send('POST', `/api/conversations/${other}/messages`, { text: 'Hello' }, headers)).status, 422)
})

test('the same key of another person is another key: no answer crosses', async () => {
  const headers = { 'idempotency-key': 'shared-key-4' }
  const mine = await ada.send('POST', path, { text: 'From Ada' }, headers)
  const theirs = await ben.send('POST', `/api/conversations/${other}/messages`, { text: 'From Ben' }, headers)
  assert.equal(theirs.status, 201)
  assert.notEqual(theirs.body['id'], mine.body['id'])
})

test('parallel requests with one key have one effect; each gets the answer or “in progress”', async () => {
  const before = await count()
  const headers = { 'idempotency-key': 'parallel-key-5' }
  const all = await Promise.all(Array.from({ length: 12 }, () => ada.send('POST', path, { text: 'Once, please' }, headers)))
  assert.equal(await count(), before + 1)
  const ids = new Set(all.filter(({ status }) => status === 201).map(({ body }) => body['id']))
  assert.equal(ids.size, 1)
  assert.ok(all.every(({ status, body }) => status === 201 || (status === 409 && body['code'] === 'request_in_progress')))
})

test('while the first request runs, its repetition is told so', async () => {
  const before = await count()
  const headers = { 'idempotency-key': 'running-key-0' }
  const lock = `hashtextextended($1::uuid::text || ' POST /api/conversations/{id}/messages running-key-0', 7302)`
  await clinic.database.admin(`select pg_advisory_lock(${lock})`, [ada.id])
  const during = await ada.send('POST', path, { text: 'Once, please' }, headers)
  await clinic.database.admin(`select pg_advisory_unlock(${lock})`, [ada.id])
  assert.deepEqual([during.status, during.body['code'], await count()], [409, 'request_in_progress', before])
  assert.equal((await ada.send('POST', path, { text: 'Once, please' }, headers)).status, 201)
})

/** One request of each kind whose answer holds the patient's text, as the therapist sends it. */
async function writings(key: string): Promise<{ readonly patient: Someone; readonly care: string; readonly send: () => Promise<readonly (readonly [action: string, keep: string, answer: Answer])[]> }> {
  const patient = await clinic.patient()
  const care = await clinic.care(patient, therapist)
  const appointment = await clinic.slot(therapist, { patient, hours: hours += 2 })
  const record = await therapist.send('POST', `/api/patients/${patient.id}/records`, { kind: 'plan', text: 'Ziele der ersten Woche' })
  const headers = { 'idempotency-key': key }
  const send = async () => [
    ['record.created', 'care', await therapist.send('POST', `/api/patients/${patient.id}/records`, { kind: 'soap_note', text: 'Schlaflos seit März' }, headers)],
    ['record.corrected', 'care', await therapist.send('POST', `/api/records/${String(record.body['id'])}/correct`, { kind: 'plan', text: 'Ziele, berichtigt', version: 1 }, headers)],
    ['note.created', 'care', await therapist.send('POST', `/api/appointments/${appointment}/notes`, { text: 'Weinte' }, headers)],
    ['message.sent', 'chat', await therapist.send('POST', `/api/conversations/${care}/messages`, { text: 'Bis Donnerstag' }, headers)],
  ] as const
  return { patient, care, send }
}

test('a repeat notes the patient and the resource', async () => {
  const { patient, send } = await writings('noting-key-8')
  const first = await send()
  for (const [i, [action, , answer]] of (await send()).entries()) {
    assert.equal(answer.status, 201, answer.text)
    assert.deepEqual(answer.body, first[i]?.[2].body)
    const told = await entry(therapist.id, action)
    assert.equal(told?.outcome, 'done')
    assert.equal(told?.resource, `${action.slice(0, action.indexOf('.'))} ${String(answer.body['id'])}`)
    assert.ok(told?.subjects.includes(patient.id), action)
  }
})

test('a repeat after care ended is refused', async () => {
  const { care, send } = await writings('ending-key-9')
  for (const [, , { status, text }] of await send()) assert.equal(status, 201, text)
  assert.equal((await therapist.send('POST', `/api/relationships/${care}/end`, { version: 2 })).status, 200)
  for (const [action, , { status, body }] of await send()) {
    assert.deepEqual([status, body['code']], [404, 'not_found'], action)
    assert.equal((await entry(therapist.id, action))?.outcome, 'refused:not_found')
  }
})

test('a repeat after the patient’s key was destroyed reads nothing', async () => {
  const { patient, send } = await writings('burning-key-10')
  for (const [, , { status, text }] of await send()) assert.equal(status, 201, text)
  for (const keep of ['care', 'chat']) await clinic.service.keyring.destroy({ tenant: 'therapy', subject: patient.id, keep })
  for (const [action, , { status, body }] of await send()) assert.deepEqual([status, body['code'], body['text']], [410, 'key_destroyed', undefined], action)
})

test('a repeat without sealed data is read again too: it shows what became of it', async () => {
  const slot = await clinic.slot(therapist, { hours: hours += 2 })
  const headers = { 'idempotency-key': 'booking-key-11' }
  const book = () => ada.send('POST', '/api/appointments', { slot_id: slot, version: 1 }, headers)
  const agree = () => ada.send('POST', '/api/consents', { kind: 'video', text_version: '2026-01' }, headers)
  const stranger = await clinic.therapist()
  const ask = () => ada.send('POST', '/api/relationships', { therapist_id: stranger.id, basis: 'referral' }, headers)
  for (const each of [book, agree, ask]) {
    const first = await each()
    assert.equal(first.status, 201, first.text)
    assert.deepEqual((await each()).body, first.body)
  }
  assert.equal((await therapist.send('DELETE', `/api/appointments/${slot}?version=2`)).status, 200)
  const again = await book()
  assert.deepEqual([again.status, again.body['status']], [201, 'cancelled'])
})

test('a refused request leaves no key behind: its repetition is judged anew', async () => {
  const headers = { 'idempotency-key': 'refused-key-6' }
  const slot = await clinic.slot(therapist)
  assert.equal((await ada.send('POST', '/api/appointments', { slot_id: slot, version: 9 }, headers)).status, 409)
  assert.equal((await ada.send('POST', '/api/appointments', { slot_id: slot, version: 1 }, headers)).status, 201)
})

test('after its time a key may be used anew', async () => {
  const headers = { 'idempotency-key': 'expired-key-7' }
  const first = await ada.send('POST', path, { text: 'Yesterday' }, headers)
  await clinic.database.admin(`update redoubt.idempotency_keys set expires_at = now() - interval '1 second' where key = 'expired-key-7'`)
  const second = await ada.send('POST', path, { text: 'Today' }, headers)
  assert.equal(second.status, 201)
  assert.notEqual(second.body['id'], first.body['id'])
})

test('no answer is stored, and the stored hash is not one of the request alone', async () => {
  const rows = await clinic.database.admin<{ text: string }>('select k::text as text from redoubt.idempotency_keys k')
  const { createHash } = await import('node:crypto')
  const guess = createHash('sha256').update(JSON.stringify({ params: { id: conversation }, body: { text: 'Guten Tag' } })).digest('hex')
  for (const { text } of rows) assert.ok(!text.includes(Buffer.from('Guten Tag').toString('hex')) && !text.includes(guess))
})

test('a key of an unusable form is refused', async () => {
  for (const key of ['short', 'with space in it', 'x'.repeat(129)]) {
    assert.equal((await ada.send('POST', path, { text: 'x' }, { 'idempotency-key': key })).status, 400)
  }
})
