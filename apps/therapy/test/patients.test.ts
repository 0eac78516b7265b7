import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const therapist = await clinic.therapist()
const stranger = await clinic.therapist()
const ada = await clinic.patient({ first: 'Ada', last: 'Özdemir', phone: '+49 (0)30 901820' })
const ben = await clinic.patient({ first: 'Ben', last: 'Öztürk' })
const cleo = await clinic.patient({ first: 'Cleo', last: 'Adler' })
for (const patient of [ada, ben, cleo]) await clinic.care(patient, therapist)

const names = (items: unknown): readonly string[] => (items as readonly { last_name: string }[]).map((item) => item.last_name)

test('a patient reads and replaces their own data; the telephone number is kept as E.164', async () => {
  const read = await ada.send('GET', `/api/patients/${ada.id}`)
  assert.equal(read.status, 200)
  assert.deepEqual(read.body, {
    id: ada.id, therapist_id: therapist.id, first_name: 'Ada', last_name: 'Özdemir', dob: '1988-04-12', phone: '+4930901820',
    address: null, emergency_contact: null, insurance_no: null, version: 1,
  })
  const { id: _, therapist_id: __, ...data } = read.body
  const changed = await ada.send('PUT', `/api/patients/${ada.id}`, { ...data, address: 'Am Tor 1, 10115 Berlin', insurance_no: 'A123456789' })
  assert.equal(changed.status, 200)
  assert.equal(changed.body['address'], 'Am Tor 1, 10115 Berlin')
  assert.equal(changed.body['version'], 2)
})

test('version conflict: an update made from an older reading is refused and changes nothing', async () => {
  const { id: _, therapist_id: __, ...data } = (await ben.send('GET', `/api/patients/${ben.id}`)).body
  assert.equal((await ben.send('PUT', `/api/patients/${ben.id}`, { ...data, first_name: 'Benno' })).status, 200)
  const late = await ben.send('PUT', `/api/patients/${ben.id}`, { ...data, first_name: 'Benedikt' })
  assert.equal(late.status, 409)
  assert.equal(late.body['code'], 'version_conflict')
  assert.equal((await ben.send('GET', `/api/patients/${ben.id}`)).body['first_name'], 'Benno')
})

test('of two parallel updates of one version, one wins', async () => {
  const { id: _, therapist_id: __, ...data } = (await cleo.send('GET', `/api/patients/${cleo.id}`)).body
  const all = await Promise.all(['Clea', 'Clio', 'Cloe'].map((first_name) => cleo.send('PUT', `/api/patients/${cleo.id}`, { ...data, first_name })))
  assert.deepEqual(all.map(({ status }) => status).toSorted((a, b) => a - b), [200, 409, 409])
})

test('a name with a control or direction mark is refused, and the refusal does not repeat it', async () => {
  const { id: _, therapist_id: __, ...data } = (await ada.send('GET', `/api/patients/${ada.id}`)).body
  for (const first_name of ['A\u202eda', 'A\u200bda', '   ']) {
    const refused = await ada.send('PUT', `/api/patients/${ada.id}`, { ...data, first_name })
    assert.equal(refused.status, 422)
    assert.ok(!refused.text.includes(first_name))
  }
  const composed = await ada.send('PUT', `/api/patients/${ada.id}`, { ...data, first_name: 'Zoe\u0308 <b>' })
  assert.equal(composed.body['first_name'], 'Zo\u00eb <b>', 'NFC, and stored as typed: encoding is the output’s work')
})

test('a therapist finds patients by name without accents, sorted and in pages', async () => {
  assert.deepEqual(names((await therapist.send('GET', '/api/patients')).body['items']), ['Adler', 'Özdemir', 'Öztürk'])
  assert.deepEqual(names((await therapist.send('GET', '/api/patients?search=oz')).body['items']), ['Özdemir', 'Öztürk'])
  const first = await therapist.send('GET', '/api/patients?limit=2')
  const second = await therapist.send('GET', `/api/patients?limit=2&cursor=${String(first.body['next'])}`)
  assert.deepEqual([...names(first.body['items']), ...names(second.body['items'])], ['Adler', 'Özdemir', 'Öztürk'])
  assert.equal(second.body['next'], null)
})

test('a therapist without care sees nobody, and cannot tell a patient from nothing', async () => {
  assert.deepEqual((await stranger.send('GET', '/api/patients')).body['items'], [])
  const forbidden = await stranger.send('GET', `/api/patients/${ada.id}`)
  const absent = await stranger.send('GET', '/api/patients/0190a8f0-0000-7000-8000-000000000001')
  assert.equal(forbidden.status, 404)
  assert.deepEqual({ ...forbidden.body, request_id: '' }, { ...absent.body, request_id: '' })
})

test('who read my data: the patient sees each reading of a sealed value, with the reader’s name', async () => {
  await therapist.send('GET', `/api/patients/${cleo.id}`)
  const trail = await cleo.send('GET', `/api/patients/${cleo.id}/audit`)
  assert.equal(trail.status, 200)
  const entries = trail.body['items'] as unknown as readonly { action: string; actor: { id: string; type: string; name: string | null; you: boolean }; outcome: string }[]
  assert.ok(entries.some(({ action, actor }) => action === 'patient.viewed' && actor.id === therapist.id && actor.name?.startsWith('Dr. Nr') === true))
  assert.deepEqual(new Set(entries.filter(({ actor }) => actor.id === cleo.id).map(({ actor }) => actor.you)), new Set([true]))
  assert.ok(entries.every(({ actor }) => actor.you === (actor.id === cleo.id)))
  assert.ok(entries.filter(({ actor }) => actor.type === 'system').every(({ actor }) => /^Therapy \([a-z ]+\)$/.test(actor.name ?? '')))
  assert.ok(!JSON.stringify(entries).includes('127.0.0.1'), 'the reader’s address is the reader’s data')
  const own = await therapist.send('GET', `/api/patients/${cleo.id}/audit`)
  const seen = own.body['items'] as unknown as readonly { actor: { id: string } }[]
  assert.ok(seen.length > 0 && seen.every(({ actor }) => actor.id === therapist.id))
  assert.equal((await stranger.send('GET', `/api/patients/${cleo.id}/audit`)).status, 404)
})

test('raw rows hold nothing readable', async () => {
  const [row] = await clinic.database.admin<{ row: string }>('select p::text as row from therapy.patients p where id = $1', [ada.id])
  for (const word of ['Özdemir', '4930901820', 'Am Tor', 'A123456789', '1988']) assert.ok(!row?.row.includes(Buffer.from(word).toString('hex')) && !row?.row.includes(word))
})
