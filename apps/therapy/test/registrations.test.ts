import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { openPool } from 'redoubt/pg'
import { forgetRegistrations } from 'redoubt/tokens/registrations'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const worker = openPool({ url: clinic.database.url('worker'), max: 1, emit: () => undefined })
after(() => worker.close())

const patient = { role: 'patient', password: 'correct horse battery', first_name: 'New', last_name: 'Person', dob: '1990-01-01', phone: '+49 30 901820' }
const therapist = {
  role: 'therapist', password: 'correct horse battery', display_name: 'Dr New', specialisation: 'x', licence_number: 'B-1', price_minor: 9000, currency: 'EUR', time_zone: 'Europe/Berlin',
}
let people = 0

/** A registration that nobody confirmed, so many days old; its confirmation may be open still. */
async function registered(body: object, days: number, open = false): Promise<{ readonly id: string; readonly request: string; readonly code: string }> {
  const { status, text, body: asked } = await clinic.send()('POST', '/api/auth/register', { ...body, email: `new${++people}@example.org` })
  assert.equal(status, 202, text)
  const [row] = await clinic.database.admin<{ id: string }>('select id from redoubt.users order by id desc limit 1')
  const id = row?.id ?? assert.fail()
  const code = await clinic.mailed(asked['request'])
  await clinic.database.admin('update redoubt.users set created_at = now() - make_interval(days => $2) where id = $1', [id, days])
  if (!open) await clinic.database.admin(`update redoubt.one_time_codes set expires_at = now() - interval '2 hours' where user_id = $1`, [id])
  return { id, request: String(asked['request']), code }
}

const places = ['redoubt.users where id', 'therapy.patients where id', 'therapy.therapist_profiles where user_id', 'redoubt.one_time_codes where user_id', 'redoubt.outbox where user_id', 'keys.data_keys where subject']
async function left(id: string): Promise<readonly string[]> {
  const found = await Promise.all(places.map(async (place) => ((await clinic.database.admin(`select from ${place} = $1`, [id])).length > 0 ? place.split(' ')[0] : undefined)))
  return found.filter((place) => place !== undefined)
}
const sweep = () => worker.query({ ...forgetRegistrations, values: [100] })

test('a registration that nobody confirmed goes after seven days, with what hangs on it and its keys; others stay', async () => {
  const going = [await registered(patient, 8), await registered(therapist, 30)]
  const [young, open] = [await registered(patient, 6), await registered(patient, 8, true)]
  const active = await clinic.patient()
  await clinic.database.admin(`update redoubt.users set created_at = now() - interval '400 days' where id = $1`, [active.id])
  const before = await Promise.all([young.id, open.id, active.id].map(left))
  for (const { id } of going) assert.ok((await left(id)).includes('keys.data_keys'), 'there were keys to destroy')

  assert.deepEqual(await sweep(), [{ gone: 2 }])
  assert.deepEqual(await sweep(), [{ gone: 0 }])
  for (const { id } of going) {
    assert.deepEqual(await left(id), [])
    assert.ok((await clinic.database.admin('select from keys.erased where subject = $1', [id])).length > 0, 'and no key is ever made for them again')
  }
  assert.deepEqual(await Promise.all([young.id, open.id, active.id].map(left)), before)
  const [entry] = await clinic.database.admin(`select actor_role, outcome, metadata from redoubt.audit_logs where action = 'auth.registrations_ended'`)
  assert.deepEqual(entry, { actor_role: 'system.retention', outcome: 'done', metadata: { accounts: 2 } })

  const confirmed = await clinic.send()('POST', '/api/auth/email/verify', { request: open.request, code: open.code })
  assert.equal(confirmed.status, 200, 'whose confirmation was open still uses it')
  assert.equal((await active.send('GET', `/api/patients/${active.id}`)).status, 200)
})

test('the worker deletes no account but by that function, and a registration that ends is not verified as a therapist', async () => {
  for (const [text, values] of [['delete from redoubt.users', []], ['delete from keys.data_keys', []]] as const) await assert.rejects(worker.query({ text, values }), text)
  const { id } = await registered(therapist, 1)
  const admin = await clinic.administrator()
  assert.equal((await admin.send('POST', `/api/admin/therapists/${id}/verify`)).status, 404)
})
