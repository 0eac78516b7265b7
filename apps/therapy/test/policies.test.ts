import assert from 'node:assert/strict'
import { test } from 'node:test'
import pg from 'pg'
import type { Person } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { transaction } from 'redoubt/transaction'
import { openClinic, type Someone } from './support/clinic.ts'

/** What row security must hold back when a route forgot to: SQL written by an attacker, in somebody else's transaction. */
const clinic = await openClinic()
const therapist = await clinic.therapist()
const ada = await clinic.patient()
const care = await clinic.care(ada, therapist)
const appointment = await clinic.slot(therapist, { patient: ada })
const free = await clinic.slot(therapist, { hours: 60 })
const idOf = async (who: Someone, path: string, body?: unknown): Promise<string> => String((await who.send('POST', path, body)).body['id'])
// Without a note on it, whose foreign key would hold the pair together by itself.
const bare = await clinic.slot(therapist, { hours: 80, patient: ada })
const record = await idOf(therapist, `/api/patients/${ada.id}/records`, { kind: 'plan', text: 'x' })
const note = await idOf(therapist, `/api/appointments/${appointment}/notes`, { text: 'x' })
const toAda = await idOf(therapist, `/api/conversations/${care}/messages`, { text: 'x' })
const fromAda = await idOf(ada, `/api/conversations/${care}/messages`, { text: 'x' })
const consent = await idOf(ada, '/api/consents', { kind: 'video', text_version: '2026-01' })
const strangers = { 'a stranger': await clinic.patient(), 'another therapist': await clinic.therapist(), 'a former therapist': await clinic.therapist() }
const ended = await clinic.care(ada, strangers['a former therapist'])
await ada.send('POST', `/api/relationships/${ended}/end`, { version: 2 })
const newId = '0190a8f0-0000-7000-8000-0000000000aa'

function person(who: Someone): Person {
  const { actor, role, tenant, session } = clinic.service.app.identity.tokens.verify(who.token)
  return { kind: 'user', actor, role, tenant, session, requestId: 'attack', address: null }
}

/** Rows that an SQL text gave or changed (with RETURNING) as this person; a refusal is none. */
async function gained(who: Someone, text: string): Promise<number> {
  try {
    const rows = await transaction(clinic.service.app.db, person(who), 'patient.viewed', (tx) => tx.query({ text, values: [] }))
    return rows.length
  } catch (error) {
    assert.ok(error instanceof Refusal, String(error))
    return 0
  }
}

const fingerprint = async (): Promise<unknown> => clinic.database.admin(`
  select (select md5(string_agg(t::text, '' order by t.id)) from therapy.patients t) as patients, (select md5(string_agg(t::text, '' order by t.id)) from therapy.appointments t) as appointments,
    (select md5(string_agg(t::text, '' order by t.id)) from therapy.messages t) as messages, (select md5(string_agg(t::text, '' order by t.id)) from therapy.medical_records t) as records,
    (select md5(string_agg(t::text, '' order by t.id)) from therapy.appointment_notes t) as notes, (select md5(string_agg(t::text, '' order by t.id)) from therapy.consents t) as consents,
    (select md5(string_agg(t::text, '' order by t.id)) from therapy.care_relationships t) as care, (select md5(string_agg(t::text, '' order by t.user_id)) from therapy.therapist_profiles t) as profiles`)

const reading = [
  `select from therapy.patients where id = '${ada.id}'`,
  `select from therapy.care_relationships where id = '${care}'`,
  `select from therapy.consents where patient_id = '${ada.id}'`,
  `select from therapy.appointments where patient_id = '${ada.id}'`,
  `select from therapy.appointment_notes where patient_id = '${ada.id}'`,
  `select from therapy.messages where patient_id = '${ada.id}'`,
  `select from therapy.medical_records where patient_id = '${ada.id}'`,
  `select from redoubt.users where id = '${ada.id}'`,
  `select from redoubt.sessions where user_id = '${ada.id}'`,
  `select from redoubt.audit_subjects where subject_id = '${ada.id}'`,
  `select from redoubt.audit_logs where actor_id = '${ada.id}'`,
  `select from redoubt.idempotency_keys where principal = '${ada.id}'`,
  `select licence_number_enc from therapy.therapist_profiles`,
  `select from guard.caller_keys`, `select from keys.data_keys`, `select from redoubt.audit_chain`,
  `select from therapy.my_patients() p where p = '${ada.id}'`,
]
const writing = [
  `update therapy.patients set version = version + 1 where id = '${ada.id}' returning id`,
  `update therapy.appointments set status = 'cancelled', version = version + 1 where id = '${appointment}' returning id`,
  `update therapy.appointment_notes set released_at = now() where id = '${note}' returning id`,
  `update therapy.messages set read_at = now() where id = '${toAda}' returning id`,
  `update therapy.medical_records set released_at = now(), version = 2 where id = '${record}' returning id`,
  `update therapy.consents set withdrawn_at = now() where id = '${consent}' returning id`,
  `update therapy.care_relationships set state = 'ended', ended_at = now() where id = '${care}' returning id`,
  `update therapy.care_relationships set state = 'active', ended_at = null where id = '${ended}' returning id`,
  `insert into therapy.messages (id, care_relationship_id, patient_id, therapist_id, sender_id, recipient_id, body_enc, created_at) values ('${newId}', '${care}', '${ada.id}', '${therapist.id}', '${therapist.id}', '${ada.id}', '\\x00', now()) returning id`,
  `insert into therapy.medical_records (id, patient_id, therapist_id, kind, body_enc, signed_at) values ('${newId}', '${ada.id}', '${therapist.id}', 'plan', '\\x00', now()) returning id`,
  `insert into therapy.care_relationships (id, therapist_id, patient_id, state, basis, created_at, started_at) values ('${newId}', '${strangers['another therapist'].id}', '${ada.id}', 'active', 'referral', now(), now()) returning id`,
  `insert into therapy.consents (id, patient_id, kind, text_version, given_at, proof_hash) values ('${newId}', '${ada.id}', 'sharing', '2026-01', now(), sha256('')) returning id`,
  `insert into therapy.appointments (id, therapist_id, slot, kind, status, price_minor, currency, created_at) values ('${newId}', '${therapist.id}', '[2030-01-01 10:00+00,2030-01-01 11:00+00)', 'video', 'available', 0, 'EUR', now()) returning id`,
  `insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role, realm) values ('${newId}', 'therapy', '\\x00', '\\x00', 'x', 'admin', 'platform') returning id`,
  `insert into redoubt.audit_subjects (subject_id, entry_id) values ('${ada.id}', '${newId}') returning entry_id`,
  ...['patients', 'appointments', 'appointment_notes', 'messages', 'medical_records', 'consents', 'care_relationships', 'therapist_profiles'].map((table) => `delete from therapy.${table} returning 1`),
  `truncate therapy.messages`,
  `select from therapy.settle_main_therapist('${care}')`,
  `select from therapy.verify_therapist(array['\\x00'::bytea])`,
  `select from guard.open_session('${newId}', array['\\x00'::bytea], 600)`,
  `set role redoubt_test_owner`,
]

test('attack: whoever is not verified meets no policy that raises: every table is empty, whatever is in it', async () => {
  const columns = await clinic.database.admin<{ readonly name: string; readonly column: string; readonly filled: boolean }>(`
    select distinct on (c.oid) n.nspname || '.' || c.relname as name, a.attname as column
    from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
    where n.nspname in ('redoubt', 'therapy') and c.relkind = 'r' and c.relname <> 'schema_migrations'
      and has_column_privilege('${clinic.database.service}_app', c.oid, a.attnum, 'SELECT') order by c.oid, a.attnum`)
  assert.ok(columns.length >= 12, String(columns.length))
  const client = new pg.Client({ connectionString: clinic.database.url('app') })
  await client.connect()
  try {
    for (const claim of ['', 'noise', '|||||||||||', `v1|k|a|x|patient|t|y|a|r||z|${'0'.repeat(64)}`]) {
      await client.query(`select set_config('redoubt.caller', $1, false)`, [claim])
      for (const { name, column } of columns) assert.deepEqual((await client.query(`select count(${column})::int as n from ${name}`)).rows, [{ n: 0 }], `${name} for '${claim}'`)
    }
  } finally {
    await client.end()
  }
  const empty = await Promise.all(columns.map(async ({ name }) => (await clinic.database.admin(`select from ${name} limit 1`)).length === 0 ? [name] : []))
  assert.ok(empty.flat().length <= 6, `would prove nothing: ${empty.flat().join(', ')}`)
})

test('each of these attacks would work without the policies', async () => {
  // Needs the caller, or has no row yet: what they would give is shown elsewhere.
  const exempt = /my_patients|settle_main|verify_therapist|open_session|idempotency_keys|audit_chain/
  for (const text of reading.filter((each) => !exempt.test(each))) assert.ok((await clinic.database.admin(text)).length > 0, text)
  for (const text of writing.filter((each) => !exempt.test(each))) {
    // As superuser, past policies, triggers and foreign keys; what remains is whether the statement is right.
    await clinic.database.admin('begin')
    await clinic.database.admin('set local session_replication_role = replica')
    await assert.doesNotReject(clinic.database.admin(text.replace('redoubt_test', clinic.database.service)), text)
    await clinic.database.admin('rollback')
  }
})

for (const [name, someone] of Object.entries(strangers)) {
  test(`injected SQL as ${name}: no row of the patient is read, none is changed`, async () => {
    const before = await fingerprint()
    for (const text of reading) assert.equal(await gained(someone, text), 0, text)
    for (const text of writing) assert.equal(await gained(someone, text), 0, text)
    assert.deepEqual(await fingerprint(), before)
  })
}

test('injected SQL as the patient: what belongs to the therapist or to the rules stays as it is', async () => {
  const before = await fingerprint()
  for (const text of [
    `select from therapy.medical_records`, `select from therapy.appointment_notes`,
    `update therapy.patients set therapist_id = '${strangers['another therapist'].id}' where id = '${ada.id}' returning id`,
    `update therapy.appointments set status = 'completed', version = version + 1 where id = '${appointment}' returning id`,
    `update therapy.appointments set price_minor = 0, version = version + 1 where id = '${appointment}' returning id`,
    `update therapy.appointments set slot = '[2030-01-01 10:00+00,2030-01-01 11:00+00)', version = version + 1 where id = '${appointment}' returning id`,
    `update therapy.appointments set patient_id = '${strangers['a stranger'].id}', status = 'booked', version = version + 1 where id = '${free}' returning id`,
    `update therapy.appointments set status = 'booked', patient_id = '${ada.id}', version = version + 7 where id = '${free}' returning id`,
    `update therapy.appointments set status = 'cancelled', patient_id = '${ada.id}', version = version + 1 where id = '${free}' returning id`,
    `update therapy.messages set read_at = now() where id = '${fromAda}' returning id`,
    `update therapy.messages set body_enc = '\\x00' where id = '${toAda}' returning id`,
    `update therapy.messages set sender_id = recipient_id where id = '${toAda}' returning id`,
    ...writing.filter((text) => /^insert|^delete|^truncate|verify_therapist|open_session/.test(text) && !text.includes('therapy.consents (id')),
  ]) assert.equal(await gained(ada, text), 0, text)
  assert.deepEqual(await fingerprint(), before)
})

test('injected SQL as the treating therapist: identity, consent, and what is signed stay as they are', async () => {
  const before = await fingerprint()
  for (const text of [
    `select from therapy.consents`,
    `update therapy.patients set first_name_enc = '\\x00' where id = '${ada.id}' returning id`,
    `update therapy.medical_records set body_enc = '\\x00' where id = '${record}' returning id`,
    `update therapy.medical_records set patient_id = therapist_id where id = '${record}' returning id`,
    `update therapy.appointments set patient_id = '${ada.id}', status = 'booked', version = version + 1 where id = '${free}' returning id`,
    `update therapy.appointments set patient_id = null, status = 'available', version = version + 1 where id = '${appointment}' returning id`,
    `update therapy.appointments set patient_id = '${strangers['a stranger'].id}', status = 'cancelled', version = version + 1 where id = '${bare}' returning id`,
    `update therapy.therapist_profiles set verification = 'verified' returning user_id`,
    `update therapy.care_relationships set patient_id = '${strangers['a stranger'].id}' where id = '${care}' returning id`,
    `insert into therapy.messages (id, care_relationship_id, patient_id, therapist_id, sender_id, recipient_id, body_enc, created_at) values ('${newId}', '${care}', '${ada.id}', '${therapist.id}', '${ada.id}', '${therapist.id}', '\\x00', now()) returning id`,
    `insert into therapy.medical_records (id, patient_id, therapist_id, kind, body_enc, signed_at) values ('${newId}', '${strangers['a stranger'].id}', '${therapist.id}', 'plan', '\\x00', now()) returning id`,
    `insert into therapy.appointment_notes (id, appointment_id, patient_id, therapist_id, author_id, kind, body_enc, created_at) values ('${newId}', '${appointment}', '${ada.id}', '${therapist.id}', '${ada.id}', 'patient', '\\x00', now()) returning id`,
    ...writing.filter((text) => /^delete|^truncate|verify_therapist|open_session|care_relationships \(|redoubt\.|therapy.consents \(/.test(text)),
  ]) assert.equal(await gained(therapist, text), 0, text)
  assert.deepEqual(await fingerprint(), before)
})

test('a foreign key is no oracle: a row that names another’s row is refused like one that names nothing', async () => {
  const stranger = strangers['another therapist']
  const code = async (patient: string, id: string): Promise<string> => {
    const text = `insert into therapy.medical_records (id, patient_id, therapist_id, kind, body_enc, signed_at, supersedes_id) values ('${newId}', '${patient}', '${stranger.id}', 'plan', '\\x00', now(), '${id}')`
    return transaction(clinic.service.app.db, person(stranger), 'record.created', (tx) => tx.query({ text, values: [] })).then(() => 'done', (error: unknown) => (error as Refusal).code)
  }
  assert.equal(await code(ada.id, record), await code(newId, newId))
  assert.notEqual(await code(ada.id, record), 'done')
})

test('these tests have teeth: with one policy dropped on purpose a stranger reads', async () => {
  const [, text = ''] = reading.filter((each) => each.includes('therapy.'))
  assert.equal(await gained(strangers['a stranger'], text), 0)
  await clinic.database.admin(`alter policy app_select on therapy.care_relationships using (true)`)
  assert.equal(await gained(strangers['a stranger'], text), 1)
})
