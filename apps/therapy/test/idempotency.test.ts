import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const therapist = await clinic.therapist()
const ada = await clinic.patient()
const ben = await clinic.patient()
const conversation = await clinic.care(ada, therapist)
const other = await clinic.care(ben, therapist)
const path = `/api/conversations/${conversation}/messages`
const count = async (): Promise<number> =>
  Number((await clinic.database.admin<{ n: string }>('select count(*) as n from therapy.messages where care_relationship_id = $1', [conversation]))[0]?.n)

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

test('the stored answer is sealed, and the stored hash is not one of the request alone', async () => {
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
