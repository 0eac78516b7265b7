import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const [therapist, later, stranger] = [await clinic.therapist(), await clinic.therapist(), await clinic.therapist()]
const [ada, ben] = [await clinic.patient(), await clinic.patient({ first: 'Ben' })]
const care = await clinic.care(ada, therapist)

const items = (body: Record<string, unknown>): readonly Record<string, unknown>[] => body['items'] as readonly Record<string, unknown>[]
const texts = (body: Record<string, unknown>): readonly unknown[] => items(body).map((item) => item['text'])

async function record(text: string): Promise<string> {
  const { status, body, text: raw } = await therapist.send('POST', `/api/patients/${ada.id}/records`, { kind: 'soap_note', text, icd_code: 'F41.1', risk_level: 'low' })
  assert.equal(status, 201, raw)
  return String(body['id'])
}

test('records: the patient reads what was released and nothing else', async () => {
  const secret = await record('not for the patient yet')
  const open = await record('for the patient')
  assert.equal((await therapist.send('POST', `/api/records/${open}/release`, { version: 1 })).status, 200)
  assert.deepEqual(texts((await ada.send('GET', `/api/patients/${ada.id}/records`)).body), ['for the patient'])
  assert.equal((await ada.send('GET', `/api/records/${open}`)).body['icd_code'], 'F41.1')
  assert.equal((await ada.send('GET', `/api/records/${secret}`)).status, 404)
  assert.equal(items((await therapist.send('GET', `/api/patients/${ada.id}/records`)).body).length, 2)
})

test('records: a correction supersedes, the corrected entry stays, and only one correction of it can be', async () => {
  const id = await record('left knee')
  const both = await Promise.all(['right knee', 'both knees'].map((text) => therapist.send('POST', `/api/records/${id}/correct`, { version: 1, kind: 'soap_note', text })))
  assert.deepEqual(both.map(({ status }) => status).toSorted((a, b) => a - b), [201, 409])
  const correction = both.find(({ status }) => status === 201)?.body
  assert.equal(correction?.['supersedes_id'], id)
  const old = await therapist.send('GET', `/api/records/${id}`)
  assert.deepEqual([old.body['text'], old.body['superseded_by']], ['left knee', correction?.['id']])
  assert.equal((await therapist.send('POST', `/api/records/${id}/release`, { version: 1 })).body['code'], 'conflict', 'the correction is what is released')
})

test('records: released once, by its author, at the version that was read', async () => {
  const id = await record('release me')
  assert.equal((await stranger.send('POST', `/api/records/${id}/release`, { version: 1 })).status, 404)
  assert.equal((await therapist.send('POST', `/api/records/${id}/release`, { version: 2 })).body['code'], 'version_conflict')
  assert.equal((await therapist.send('POST', `/api/records/${id}/release`, { version: 1 })).body['version'], 2)
  assert.equal((await therapist.send('POST', `/api/records/${id}/release`, { version: 2 })).body['code'], 'conflict')
  assert.equal((await therapist.send('POST', `/api/records/${id}/correct`, { version: 1, kind: 'plan', text: 'x' })).body['code'], 'version_conflict')
})

test('notes: a therapist’s are hidden until released, a patient’s are seen by both', async () => {
  const appointment = await clinic.slot(therapist, { hours: 30, patient: ada })
  const notes = `/api/appointments/${appointment}/notes`
  const own = await therapist.send('POST', notes, { text: 'countertransference?' })
  assert.equal(own.status, 201)
  assert.equal((await ada.send('POST', notes, { text: 'please ask about sleep' })).status, 201)
  assert.deepEqual(texts((await ada.send('GET', notes)).body), ['please ask about sleep'])
  assert.deepEqual(texts((await therapist.send('GET', notes)).body), ['countertransference?', 'please ask about sleep'])
  assert.equal((await ada.send('POST', `/api/notes/${String(own.body['id'])}/release`)).status, 403)
  assert.equal((await therapist.send('POST', `/api/notes/${String(own.body['id'])}/release`)).status, 200)
  assert.deepEqual(texts((await ada.send('GET', notes)).body), ['countertransference?', 'please ask about sleep'])
  assert.equal((await stranger.send('GET', notes)).status, 404)
  assert.equal((await stranger.send('POST', notes, { text: 'x' })).status, 404)
})

test('messages: only the two sides, in order, and the recipient alone marks as read', async () => {
  const path = `/api/conversations/${care}/messages`
  const sent = await ada.send('POST', path, { text: 'Line one\nLine two' })
  await therapist.send('POST', path, { text: 'Answer' })
  assert.deepEqual(texts((await therapist.send('GET', path)).body), ['Answer', 'Line one\nLine two'])
  assert.equal(items((await therapist.send('GET', '/api/conversations')).body)[0]?.['unread'], 1)
  assert.equal((await ada.send('POST', `/api/messages/${String(sent.body['id'])}/read`)).status, 404, 'a sender cannot pretend it was read')
  assert.equal((await therapist.send('POST', `/api/messages/${String(sent.body['id'])}/read`)).status, 204)
  const read = items((await ada.send('GET', path)).body).find(({ id }) => id === sent.body['id'])?.['read_at']
  assert.ok(read)
  assert.equal((await therapist.send('POST', `/api/messages/${String(sent.body['id'])}/read`)).status, 204)
  assert.equal(items((await ada.send('GET', path)).body).find(({ id }) => id === sent.body['id'])?.['read_at'], read, 'the first time counts')
  for (const someone of [ben, stranger]) {
    assert.equal((await someone.send('GET', path)).status, 404)
    assert.equal((await someone.send('POST', path, { text: 'x' })).status, 404)
  }
})

test('relationships: one open per pair; accepted by the therapist alone; the main therapist follows', async () => {
  const asked = await ben.send('POST', '/api/relationships', { therapist_id: later.id, basis: 'referral' })
  assert.equal((await ben.send('POST', '/api/relationships', { therapist_id: later.id, basis: 'referral' })).body['code'], 'already_exists')
  const id = String(asked.body['id'])
  assert.equal((await ben.send('POST', `/api/relationships/${id}/accept`, { version: 1 })).status, 403)
  assert.equal((await stranger.send('POST', `/api/relationships/${id}/accept`, { version: 1 })).status, 404)
  assert.equal((await later.send('GET', `/api/patients/${ben.id}`)).status, 404, 'a request shows nothing of the patient')
  assert.equal((await later.send('POST', `/api/relationships/${id}/accept`, { version: 1 })).body['state'], 'active')
  assert.equal((await later.send('POST', `/api/relationships/${id}/accept`, { version: 2 })).body['code'], 'conflict')
  assert.equal((await ben.send('GET', `/api/patients/${ben.id}`)).body['therapist_id'], later.id)
  assert.equal((await ben.send('POST', `/api/relationships/${id}/end`, { version: 2 })).body['state'], 'ended')
  assert.equal((await ben.send('GET', `/api/patients/${ben.id}`)).body['therapist_id'], null)
  assert.equal((await later.send('GET', `/api/patients/${ben.id}`)).status, 404)
})

test('a later therapist reads what an earlier one recorded only while the patient agrees to sharing', async () => {
  const mine = await record('seen by the earlier therapist')
  await clinic.care(ada, later)
  assert.deepEqual(items((await later.send('GET', `/api/patients/${ada.id}/records`)).body), [])
  const consent = await ada.send('POST', '/api/consents', { kind: 'sharing', text_version: '2026-01' })
  assert.equal(consent.status, 201)
  assert.equal((await ada.send('POST', '/api/consents', { kind: 'sharing', text_version: '2026-01' })).body['code'], 'already_exists')
  assert.equal((await later.send('GET', `/api/records/${mine}`)).body['text'], 'seen by the earlier therapist')
  assert.equal((await later.send('POST', `/api/records/${mine}/correct`, { version: 1, kind: 'plan', text: 'x' })).status, 403, 'reading is not writing')
  assert.equal((await later.send('POST', `/api/records/${mine}/release`, { version: 1 })).status, 404)
  assert.equal((await stranger.send('GET', `/api/records/${mine}`)).status, 404, 'sharing is with those who treat')
  const id = String(consent.body['id'])
  assert.equal((await ben.send('POST', `/api/consents/${id}/withdraw`)).status, 404)
  assert.ok((await ada.send('POST', `/api/consents/${id}/withdraw`)).body['withdrawn_at'])
  assert.equal((await ada.send('POST', `/api/consents/${id}/withdraw`)).body['code'], 'conflict')
  assert.deepEqual(items((await later.send('GET', `/api/patients/${ada.id}/records`)).body), [])
  assert.equal((await ada.send('POST', '/api/consents', { kind: 'video', text_version: '1999-01' })).status, 422)
})

test('when care ends the therapist sees nothing more, and the patient keeps their own', async () => {
  const path = `/api/conversations/${care}/messages`
  assert.equal((await therapist.send('POST', `/api/relationships/${care}/end`, { version: 2 })).status, 200)
  for (const gone of [`/api/patients/${ada.id}`, `/api/patients/${ada.id}/records`, `/api/patients/${ada.id}/audit`, path]) {
    assert.equal((await therapist.send('GET', gone)).status, 404, gone)
  }
  assert.deepEqual(items((await therapist.send('GET', '/api/conversations')).body), [])
  assert.equal((await therapist.send('POST', path, { text: 'one more thing' })).status, 404)
  assert.ok(items((await ada.send('GET', path)).body).length > 0)
  assert.equal((await ada.send('POST', path, { text: 'hello?' })).body['code'], 'conflict')
  assert.ok(items((await ada.send('GET', `/api/patients/${ada.id}/records`)).body).length > 0)
})

test('every reading of a record left an entry with the patient as its subject', async () => {
  const before = items((await ada.send('GET', `/api/patients/${ada.id}/audit?limit=100`)).body).length
  const newcomer = await clinic.therapist()
  await clinic.care(ada, newcomer)
  await newcomer.send('GET', `/api/patients/${ada.id}`)
  const trail = items((await ada.send('GET', `/api/patients/${ada.id}/audit?limit=100`)).body)
  assert.ok(trail.length > before)
  assert.ok(trail.some((entry) => (entry['actor'] as { id: string }).id === newcomer.id && entry['action'] === 'patient.viewed'))
})
