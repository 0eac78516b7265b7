import assert from 'node:assert/strict'
import { test } from 'node:test'
import { transaction } from 'redoubt/transaction'
import type { Person } from 'redoubt/context'
import { offerSlot } from '../src/appointments.ts'
import { instantOf, localTime } from '../src/zones.ts'
import { openClinic, type Someone } from './support/clinic.ts'

const clinic = await openClinic()
const therapist = await clinic.therapist()
const patients = await Promise.all(Array.from({ length: 8 }, () => clinic.patient()))
for (const patient of patients) await clinic.care(patient, therapist)
const [ada, ben] = patients as [Someone, Someone]

const person = (who: Someone): Person => {
  const { actor, role, tenant, session } = clinic.service.app.identity.tokens.verify(who.token)
  return { kind: 'user', actor, role, tenant, session, requestId: 'test', address: null }
}

test('double booking: of eight patients who book one slot at once, exactly one gets it', async () => {
  const slot = await clinic.slot(therapist, { hours: 100 })
  const all = await Promise.all(patients.map((patient) => patient.send('POST', '/api/appointments', { slot_id: slot, version: 1 })))
  const won = all.filter(({ status }) => status === 201)
  assert.equal(won.length, 1)
  assert.ok(all.every(({ status, body }) => status === 201 || (status === 409 && body['code'] === 'slot_taken')))
  const rows = await clinic.database.admin<{ patient_id: string; version: number }>('select patient_id, version from therapy.appointments where id = $1', [slot])
  assert.deepEqual(rows, [{ patient_id: won[0]?.body['patient_id'], version: 2 }])
})

test('double booking: of parallel overlapping offers of one therapist, one stands', async () => {
  const start = Date.now() + 200 * 3_600_000
  const all = await Promise.all(Array.from({ length: 6 }, (_, i) =>
    therapist.send('POST', '/api/appointments', { starts_at: new Date(start + i * 5 * 60_000).toISOString(), minutes: 50, kind: 'video' })))
  assert.deepEqual(all.map(({ status }) => status).toSorted((a, b) => a - b), [201, 409, 409, 409, 409, 409])
  assert.ok(all.every(({ status, body }) => status === 201 || body['code'] === 'slot_taken'))
})

test('an overlap written with another offset is the same overlap; slots that touch do not overlap', async () => {
  const offer = (starts_at: string) => therapist.send('POST', '/api/appointments', { starts_at, minutes: 60, kind: 'in_person' })
  const day = new Date(Date.now() + 300 * 3_600_000).toISOString().slice(0, 10)
  assert.equal((await offer(`${day}T10:00:00Z`)).status, 201)
  assert.equal((await offer(`${day}T12:30:00+02:00`)).status, 409)
  assert.equal((await offer(`${day}T11:00:00Z`)).status, 201)
})

test('a cancelled slot frees its time, and the row stays', async () => {
  const id = await clinic.slot(therapist, { hours: 400 })
  assert.equal((await therapist.send('DELETE', `/api/appointments/${id}?version=1`)).body['status'], 'cancelled')
  await clinic.slot(therapist, { hours: 400 })
  assert.equal((await therapist.send('GET', `/api/appointments/${id}`)).body['status'], 'cancelled')
})

test('version conflict: whoever acts on an older reading is refused', async () => {
  const id = await clinic.slot(therapist, { hours: 410 })
  assert.equal((await therapist.send('PATCH', `/api/appointments/${id}`, { version: 1, kind: 'in_person' })).body['version'], 2)
  for (const answer of [
    await therapist.send('PATCH', `/api/appointments/${id}`, { version: 1, kind: 'video' }),
    await therapist.send('DELETE', `/api/appointments/${id}?version=1`),
    await ada.send('POST', '/api/appointments', { slot_id: id, version: 1 }),
  ]) assert.deepEqual([answer.status, answer.body['code']], [409, 'version_conflict'])
})

test('a patient cancels until 24 hours before the start, the therapist until the start', async () => {
  const early = await clinic.slot(therapist, { hours: 25, patient: ada })
  const late = await clinic.slot(therapist, { hours: 20, patient: ada })
  assert.equal((await ada.send('DELETE', `/api/appointments/${early}?version=2`)).status, 200)
  const refused = await ada.send('DELETE', `/api/appointments/${late}?version=2`)
  assert.deepEqual([refused.status, refused.body['code']], [409, 'conflict'])
  assert.equal((await therapist.send('DELETE', `/api/appointments/${late}?version=2`)).status, 200)
})

test('only the therapist closes an appointment, only after it began, and only once', async () => {
  const id = await clinic.slot(therapist, { hours: 6, patient: ben })
  assert.equal((await ben.send('POST', `/api/appointments/${id}/complete`, { version: 2 })).status, 403)
  assert.equal((await therapist.send('POST', `/api/appointments/${id}/complete`, { version: 2 })).status, 409)
  const caller = person(therapist)
  const past = new Date(Date.now() - 48 * 3_600_000)
  const over = await transaction(clinic.service.app.db, caller, 'appointment.created', (tx) => offerSlot(tx, therapist.id, { starts_at: past, minutes: 50, kind: 'video' }, past))
  assert.equal((await ben.send('POST', '/api/appointments', { slot_id: over.id, version: 1 })).body['code'], 'slot_taken', 'what has begun cannot be booked')
  await clinic.database.admin(`alter table therapy.appointments disable trigger appointment_step`)
  await clinic.database.admin(`update therapy.appointments set status = 'booked', patient_id = $2, version = 2 where id = $1`, [over.id, ben.id])
  await clinic.database.admin(`alter table therapy.appointments enable trigger appointment_step`)
  assert.equal((await therapist.send('PATCH', `/api/appointments/${over.id}`, { version: 2, status: 'no_show' })).body['status'], 'no_show')
  assert.equal((await therapist.send('POST', `/api/appointments/${over.id}/complete`, { version: 3 })).status, 409)
})

test('unverified therapists are neither listed nor bookable, and can offer nothing', async () => {
  const fresh = await clinic.therapist({ verified: false })
  const listed = (await ada.send('GET', '/api/therapists?limit=100')).body['items'] as unknown as readonly { id: string }[]
  assert.ok(listed.some(({ id }) => id === therapist.id) && !listed.some(({ id }) => id === fresh.id))
  assert.equal((await ada.send('GET', `/api/therapists/${fresh.id}`)).status, 404)
  assert.equal((await ada.send('POST', '/api/relationships', { therapist_id: fresh.id, basis: 'referral' })).status, 404)
  const offer = await fresh.send('POST', '/api/appointments', { starts_at: new Date(Date.now() + 3_600_000).toISOString(), minutes: 50, kind: 'video' })
  assert.deepEqual([offer.status, offer.body['code']], [403, 'forbidden'])
  assert.equal((await fresh.send('GET', `/api/therapists/${fresh.id}`)).body['verification'], 'pending')
})

test('booking needs an active care relationship', async () => {
  const newcomer = await clinic.patient()
  const slot = await clinic.slot(therapist, { hours: 500 })
  const free = (await newcomer.send('GET', `/api/appointments?therapist_id=${therapist.id}&status=available&limit=100`)).body['items'] as unknown as readonly { id: string }[]
  assert.ok(free.some(({ id }) => id === slot), 'free slots are there to be found')
  const refused = await newcomer.send('POST', '/api/appointments', { slot_id: slot, version: 1 })
  assert.deepEqual([refused.status, refused.body['code']], [403, 'forbidden'])
})

test('a list is complete and without repetition in pages of any size', async () => {
  const whole = (await therapist.send('GET', '/api/appointments?limit=100')).body['items'] as unknown as readonly { id: string }[]
  const paged: string[] = []
  for (let cursor = ''; ; ) {
    const { body } = await therapist.send('GET', `/api/appointments?limit=2${cursor}`)
    paged.push(...(body['items'] as unknown as readonly { id: string }[]).map(({ id }) => id))
    if (body['next'] === null) break
    cursor = `&cursor=${String(body['next'])}`
  }
  assert.ok(whole.length > 5)
  assert.deepEqual(paged, whole.map(({ id }) => id))
  for (const cursor of ['AAAA', 'W10', Buffer.from('["x","y"]').toString('base64url')]) {
    assert.equal((await therapist.send('GET', `/api/appointments?cursor=${cursor}`)).status, 422)
  }
})

test('summer time: a weekly slot at nine on the wall is two UTC times, and each shows as nine', () => {
  const before = instantOf('2027-03-25T09:00', 'Europe/Berlin')
  const after = instantOf('2027-04-01T09:00', 'Europe/Berlin')
  assert.equal(before.toISOString(), '2027-03-25T08:00:00.000Z')
  assert.equal(after.toISOString(), '2027-04-01T07:00:00.000Z')
  assert.equal(localTime(before, 'Europe/Berlin'), '2027-03-25T09:00:00+01:00')
  assert.equal(localTime(after, 'Europe/Berlin'), '2027-04-01T09:00:00+02:00')
})

test('summer time: a time that is skipped moves behind the gap, of one that happens twice the first is meant', () => {
  assert.equal(localTime(instantOf('2027-03-28T02:30', 'Europe/Berlin'), 'Europe/Berlin'), '2027-03-28T03:30:00+02:00')
  assert.equal(instantOf('2027-10-31T02:30', 'Europe/Berlin').toISOString(), '2027-10-31T00:30:00.000Z')
  assert.equal(localTime(new Date('2027-10-31T00:30:00Z'), 'Europe/Berlin'), '2027-10-31T02:30:00+02:00')
  assert.equal(localTime(new Date('2027-10-31T01:30:00Z'), 'Europe/Berlin'), '2027-10-31T02:30:00+01:00')
  assert.equal(localTime(instantOf('2027-01-01T00:00', 'America/St_Johns'), 'America/St_Johns'), '2027-01-01T00:00:00-03:30')
  assert.equal(localTime(new Date('2027-01-01T00:00:00Z'), 'UTC'), '2027-01-01T00:00:00+00:00')
})

test('summer time: slots that span the change do not overlap, and both show the therapist’s clock', async () => {
  const berlin = await clinic.therapist({ zone: 'Europe/Berlin' })
  const year = new Date().getUTCMonth() < 9 ? new Date().getUTCFullYear() : new Date().getUTCFullYear() + 1
  const last = new Date(Date.UTC(year, 9, 31))
  last.setUTCDate(31 - last.getUTCDay())
  const night = last.toISOString().slice(0, 10)
  // 02:10 happens twice that night: once at +02:00, once at +01:00.
  const first = await berlin.send('POST', '/api/appointments', { starts_at: `${night}T02:10:00+02:00`, minutes: 50, kind: 'video' })
  const second = await berlin.send('POST', '/api/appointments', { starts_at: `${night}T02:10:00+01:00`, minutes: 50, kind: 'video' })
  assert.deepEqual([first.status, second.status], [201, 201])
  assert.equal(first.body['local_start'], `${night}T02:10:00+02:00`)
  assert.equal(second.body['local_start'], `${night}T02:10:00+01:00`)
})
