import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Person } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { mostPatients } from '../src/patients.ts'
import { correctRecord, releaseRecord } from '../src/records.ts'
import { acceptCare, endCare } from '../src/relationships.ts'
import { openClinic, type Someone } from './support/clinic.ts'

const clinic = await openClinic()
const { app } = clinic.service
const therapist = await clinic.therapist()
const ada = await clinic.patient()
await clinic.care(ada, therapist)

type Deed = { readonly who: Someone; readonly action: 'record.released' | 'record.corrected' | 'relationship.accepted' | 'relationship.ended'; readonly work: (tx: Tx) => Promise<unknown> }

function begin({ who, action, work }: Deed): Promise<unknown> {
  const { actor, role, tenant, session } = app.identity.tokens.verify(who.token)
  const person: Person = { kind: 'user', actor, role, tenant, session, requestId: 'race', address: null }
  return transaction(app.db, person, action, work)
}

/** Whether some session of this database waits for a lock of another. */
async function waiting(): Promise<boolean> {
  const [row] = await clinic.database.admin<{ n: string }>(`select count(*) as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
  return Number(row?.n) > 0
}

/**
 * The second deed falls between the work of the first and its COMMIT: it waits for the first, or is done before it.
 * @returns for each 'done' or the code of its refusal
 */
async function overlap(first: Deed, second: Deed): Promise<readonly string[]> {
  const worked = Promise.withResolvers<void>()
  const go = Promise.withResolvers<void>()
  const one = begin({ ...first, work: async (tx) => {
    await first.work(tx)
    worked.resolve()
    await go.promise
  } })
  await Promise.race([worked.promise, one])
  let settled = false
  const two = begin(second)
  two.then(() => { settled = true }, () => { settled = true })
  while (!settled && !(await waiting())) await delay(5)
  go.resolve()
  return (await Promise.allSettled([one, two])).map((result) => {
    if (result.status === 'fulfilled') return 'done'
    assert.ok(result.reason instanceof Refusal, String(result.reason))
    return result.reason.code
  })
}

async function record(): Promise<string> {
  const { body, text } = await therapist.send('POST', `/api/patients/${ada.id}/records`, { kind: 'soap_note', text: 'left knee' })
  return String(body['id'] ?? assert.fail(text))
}
const correction = { kind: 'soap_note', text: 'right knee', version: 1 } as const
const released = (work: Deed['work']): Deed => ({ who: therapist, action: 'record.released', work })
const corrected = (work: Deed['work']): Deed => ({ who: therapist, action: 'record.corrected', work })
const release = (id: string): Deed => released((tx) => releaseRecord(app, tx, therapist.id, id, 1, new Date()))
const correct = (id: string): Deed => corrected((tx) => correctRecord(app, tx, therapist.id, id, correction, new Date()))
const sqlRelease = (id: string): Deed => released((tx) => tx.query({ text: 'update therapy.medical_records set released_at = now(), version = version + 1 where id = $1 returning id', values: [id] }))
const sqlCorrect = (id: string): Deed => corrected((tx) => tx.query({
  text: `insert into therapy.medical_records (id, patient_id, therapist_id, kind, body_enc, signed_at, supersedes_id)
    select gen_random_uuid(), patient_id, therapist_id, kind, body_enc, now(), id from therapy.medical_records where id = $1 returning id`, values: [id],
}))

test('release and correct at once: the entry is released or corrected, never both', async () => {
  for (const [first, second, expected] of [
    [correct, release, ['done', 'conflict']], [release, correct, ['done', 'version_conflict']],
    [correct, sqlRelease, ['done', 'conflict']], [sqlCorrect, release, ['done', 'conflict']],
  ] as const) {
    const id = await record()
    assert.deepEqual(await overlap(first(id), second(id)), expected, `${first.name} ${second.name}`)
  }
  for (let round = 0; round < 6; round++) {
    const id = await record()
    const both = await Promise.all([
      therapist.send('POST', `/api/records/${id}/release`, { version: 1 }), therapist.send('POST', `/api/records/${id}/correct`, correction),
    ])
    assert.equal(both.filter(({ status }) => status === 409).length, 1, both.map(({ status }) => status).join())
  }
})

test('SQL inside a transaction cannot release an entry that was corrected, nor one whose correction is on its way', async () => {
  const id = await record()
  await begin(sqlCorrect(id))
  await assert.rejects(begin(sqlRelease(id)), { code: 'conflict' })
  const other = await record()
  assert.deepEqual(await overlap(sqlCorrect(other), sqlRelease(other)), ['done', 'conflict'])
})

const accept = (who: Someone, id: string): Deed => ({ who, action: 'relationship.accepted', work: (tx) => acceptCare(tx, id, 1, new Date()) })
const end = (who: Someone, id: string): Deed => ({ who, action: 'relationship.ended', work: (tx) => endCare(tx, id, 2, new Date()) })
async function asked(patient: Someone, of: Someone): Promise<string> {
  const { body, text } = await patient.send('POST', '/api/relationships', { therapist_id: of.id, basis: 'referral' })
  return String(body['id'] ?? assert.fail(text))
}
async function mainTherapist(patient: Someone): Promise<string | null | undefined> {
  return (await clinic.database.admin<{ therapist_id: string | null }>('select therapist_id from therapy.patients where id = $1', [patient.id]))[0]?.therapist_id
}

test('end and accept at once: the main therapist is never one whose care has ended', async () => {
  const [before, after] = [await clinic.therapist(), await clinic.therapist()]
  for (const order of ['end first', 'accept first']) {
    const patient = await clinic.patient()
    const old = await clinic.care(patient, before)
    const request = await asked(patient, after)
    const deeds = [end(patient, old), accept(after, request)] as const
    assert.deepEqual(await (order === 'end first' ? overlap(...deeds) : overlap(deeds[1], deeds[0])), ['done', 'done'])
    assert.equal(await mainTherapist(patient), after.id, order)
  }
})

test('two ends at once leave a patient without a main therapist', async () => {
  const patient = await clinic.patient()
  const [one, two] = [await clinic.therapist(), await clinic.therapist()]
  const [first, second] = [await clinic.care(patient, one), await clinic.care(patient, two)]
  assert.deepEqual(await overlap(end(patient, first), end(two, second)), ['done', 'done'])
  assert.equal(await mainTherapist(patient), null)
})

test('two accepts at 499 patients: the five-hundredth is the last', async () => {
  const busy = await clinic.therapist()
  const requests = [await asked(await clinic.patient(), busy), await asked(await clinic.patient(), busy)] as const
  await clinic.database.admin(`
    with people as (
      insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role)
      select gen_random_uuid(), 'therapy', '\\x01', sha256(n::text::bytea), '', 'patient' from generate_series(1, ${mostPatients - 1}) n returning id
    ), patients as (
      insert into therapy.patients (id, first_name_enc, last_name_enc, dob_enc, created_at) select id, '\\x01', '\\x01', '\\x01', now() from people returning id
    )
    insert into therapy.care_relationships (id, therapist_id, patient_id, state, basis, created_at, started_at) select gen_random_uuid(), $1, id, 'active', 'referral', now(), now() from patients`, [busy.id])
  assert.deepEqual(await overlap(accept(busy, requests[0]), accept(busy, requests[1])), ['done', 'conflict'])
  const [row] = await clinic.database.admin<{ n: string }>(`select count(*) as n from therapy.care_relationships where therapist_id = $1 and state = 'active'`, [busy.id])
  assert.equal(Number(row?.n), mostPatients)
})
