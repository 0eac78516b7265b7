import { createHash } from 'node:crypto'
import type { Caller } from 'redoubt/context'
import { systemCaller } from 'redoubt/context'
import { makeAccount, type Account } from '../../../../packages/redoubt/test/support/accounts.ts'
import type { TestDatabase } from '../../../../packages/redoubt/test/support/database.ts'

// Two households and their neighbours, and for each of them, written by hand from the visibility matrix and not from the
// policies, which rows they may see.
//
//   hanna  therapist: anton and berta are in her care (berta has taken back her consent to sharing), clara was
//   ines   therapist: clara is in her care and lets her read what hanna wrote; dora has asked for care
//   jonas  therapist: anton was in his care        kurt  therapist, not verified yet
//   dora   patient of nobody                       vera  administrator       udo  auditor
//   egon   a therapist's account, frida a patient's, both without a profile
//   ludwig a therapist, not verified, and greta a patient: nothing refers to them

export const therapists = ['hanna', 'ines', 'jonas', 'kurt', 'egon', 'ludwig'] as const
export const patients = ['anton', 'berta', 'clara', 'dora', 'frida', 'greta'] as const
export type Name = (typeof therapists)[number] | (typeof patients)[number] | 'vera' | 'udo'
export type Viewer = Name | 'registration' | 'sign-in'

/** The column by which a row of each table is known here; labels below are values of it. */
export const keyColumn = {
  'redoubt.users': 'id', 'redoubt.sessions': 'id', 'redoubt.idempotency_keys': 'id', 'redoubt.audit_logs': 'id', 'redoubt.audit_subjects': 'entry_id',
  'therapy.therapist_profiles': 'user_id', 'therapy.patients': 'id', 'therapy.care_relationships': 'id', 'therapy.consents': 'id', 'therapy.appointments': 'id',
  'therapy.appointment_notes': 'id', 'therapy.messages': 'id', 'therapy.medical_records': 'id',
} as const
export type TableName = keyof typeof keyColumn

/** A UUID made of a label, so that a test can name rows. */
export function idOf(label: string): string {
  const hex = createHash('sha256').update(label).digest('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}

const freeSlots = ['free of hanna', 'free of ines']
const published = ['hanna', 'ines', 'jonas']
const own = (name: Name) => ({ 'redoubt.users': [name], 'redoubt.sessions': [`session of ${name}`], 'therapy.therapist_profiles': published })

/** Labels of the rows each viewer may see; a table that is not named: none. */
export const visible: Readonly<Record<Viewer, Partial<Readonly<Record<TableName, readonly string[]>>>>> = {
  hanna: {
    ...own('hanna'), 'redoubt.idempotency_keys': ['key of hanna'], 'redoubt.audit_logs': ['entry hanna anton'],
    'therapy.patients': ['anton', 'berta'], 'therapy.care_relationships': ['hanna anton', 'hanna berta', 'hanna clara'],
    'therapy.appointments': ['booked hanna anton', 'done hanna berta', 'free of hanna', 'done hanna clara'],
    'therapy.appointment_notes': ['hanna on anton', 'hanna on anton, released', 'anton himself'],
    'therapy.messages': ['hanna to anton', 'anton to hanna'], 'therapy.medical_records': ['hanna of anton', 'hanna of anton, released', 'hanna of berta'],
  },
  ines: {
    ...own('ines'), 'redoubt.audit_logs': ['entry ines clara'], 'therapy.patients': ['clara'], 'therapy.care_relationships': ['ines clara', 'ines dora'],
    'therapy.appointments': ['booked ines clara', 'free of ines'], 'therapy.appointment_notes': ['clara herself', 'hanna on clara'],
    'therapy.messages': ['clara to ines'], 'therapy.medical_records': ['ines of clara', 'hanna of clara'],
  },
  jonas: { ...own('jonas'), 'therapy.care_relationships': ['jonas anton'], 'therapy.appointments': ['cancelled jonas anton'] },
  kurt: { ...own('kurt'), 'therapy.therapist_profiles': [...published, 'kurt'], 'therapy.appointments': ['free of kurt'] },
  egon: own('egon'),
  ludwig: { ...own('ludwig'), 'therapy.therapist_profiles': [...published, 'ludwig'] },
  anton: {
    ...own('anton'), 'redoubt.idempotency_keys': ['key of anton'], 'redoubt.audit_logs': ['entry hanna anton', 'entry anton'], 'redoubt.audit_subjects': ['entry hanna anton'],
    'therapy.patients': ['anton'], 'therapy.care_relationships': ['hanna anton', 'jonas anton'], 'therapy.consents': ['processing of anton'],
    'therapy.appointments': ['booked hanna anton', 'cancelled jonas anton', ...freeSlots], 'therapy.appointment_notes': ['hanna on anton, released', 'anton himself'],
    'therapy.messages': ['hanna to anton', 'anton to hanna', 'jonas to anton', 'anton to jonas'], 'therapy.medical_records': ['hanna of anton, released'],
  },
  berta: { ...own('berta'), 'therapy.patients': ['berta'], 'therapy.care_relationships': ['hanna berta'], 'therapy.consents': ['sharing of berta'], 'therapy.appointments': ['done hanna berta', ...freeSlots] },
  clara: {
    ...own('clara'), 'redoubt.audit_logs': ['entry ines clara'], 'redoubt.audit_subjects': ['entry ines clara'], 'therapy.patients': ['clara'], 'therapy.care_relationships': ['hanna clara', 'ines clara'],
    'therapy.consents': ['sharing of clara'], 'therapy.appointments': ['booked ines clara', 'done hanna clara', ...freeSlots], 'therapy.appointment_notes': ['clara herself', 'clara to hanna'],
    'therapy.messages': ['clara to ines', 'hanna to clara'],
  },
  dora: { ...own('dora'), 'therapy.patients': ['dora'], 'therapy.care_relationships': ['ines dora'], 'therapy.appointments': freeSlots },
  frida: { ...own('frida'), 'therapy.appointments': freeSlots },
  greta: { ...own('greta'), 'therapy.patients': ['greta'], 'therapy.appointments': freeSlots },
  vera: own('vera'),
  udo: own('udo'),
  registration: { 'therapy.therapist_profiles': published },
  'sign-in': { 'therapy.therapist_profiles': published },
}

export type Household = { readonly callers: Readonly<Record<Viewer, Caller>>; readonly accounts: Readonly<Record<Name, Account>> }

/** Plants everybody and every row past the policies; foreign keys and checks hold. */
export async function plantHousehold(database: TestDatabase): Promise<Household> {
  const accounts = {} as Record<Name, Account>
  for (const name of [...therapists, ...patients, 'vera', 'udo'] as const) {
    const role = (therapists as readonly string[]).includes(name) ? 'therapist' : (patients as readonly string[]).includes(name) ? 'patient' : name === 'vera' ? 'admin' : 'auditor'
    accounts[name] = await makeAccount(database, name, role, { actor: idOf(name), session: idOf(`session of ${name}`) })
  }
  const id = (label: string): string => `'${idOf(label)}'`
  const pair = (label: string): string => label.split(' ').map(id).join(', ')
  const day = 'timestamptz \'2026-03-01 10:00+00\''
  let hour = 0
  const slot = (): string => `tstzrange(${day} + interval '${++hour} hours', ${day} + interval '${hour} hours 50 minutes')`
  const texts: string[] = []

  for (const name of ['hanna', 'ines', 'jonas', 'kurt', 'ludwig'] as const) {
    const verified = published.includes(name)
    texts.push(`insert into therapy.therapist_profiles (user_id, display_name, specialisation, licence_number_enc, verification, verified_at, price_minor, currency, time_zone, created_at)
      values (${id(name)}, '${name}', 'x', '\\x01', '${verified ? 'verified' : 'pending'}', ${verified ? day : 'null'}, 100, 'EUR', 'UTC', ${day})`)
  }
  for (const name of ['anton', 'berta', 'clara', 'dora', 'greta']) texts.push(`insert into therapy.patients (id, first_name_enc, last_name_enc, dob_enc, created_at) values (${id(name)}, '\\x01', '\\x01', '\\x01', ${day})`)
  for (const [label, state] of [['hanna anton', 'active'], ['hanna berta', 'active'], ['hanna clara', 'ended'], ['ines clara', 'active'], ['ines dora', 'requested'], ['jonas anton', 'ended']] as const) {
    texts.push(`insert into therapy.care_relationships (id, therapist_id, patient_id, state, basis, created_at, started_at, ended_at)
      values (${id(label)}, ${pair(label)}, '${state}', 'referral', ${day}, ${state === 'requested' ? 'null' : day}, ${state === 'ended' ? day : 'null'})`)
  }
  for (const label of ['processing of anton', 'sharing of clara', 'sharing of berta']) {
    const [kind, , who = ''] = label.split(' ')
    texts.push(`insert into therapy.consents (id, patient_id, kind, text_version, given_at, withdrawn_at, proof_hash) values (${id(label)}, ${id(who)}, '${kind}', '1', ${day}, ${who === 'berta' ? day : 'null'}, sha256('x'))`)
  }
  for (const [label, status, therapist, patient] of [
    ['booked hanna anton', 'booked', 'hanna', 'anton'], ['done hanna berta', 'completed', 'hanna', 'berta'], ['free of hanna', 'available', 'hanna', null], ['done hanna clara', 'completed', 'hanna', 'clara'],
    ['booked ines clara', 'booked', 'ines', 'clara'], ['free of ines', 'available', 'ines', null], ['free of kurt', 'available', 'kurt', null], ['cancelled jonas anton', 'cancelled', 'jonas', 'anton'],
  ] as const) {
    texts.push(`insert into therapy.appointments (id, therapist_id, patient_id, slot, kind, status, price_minor, currency, created_at)
      values (${id(label)}, ${id(therapist)}, ${patient === null ? 'null' : id(patient)}, ${slot()}, 'video', '${status}', 100, 'EUR', ${day})`)
  }
  for (const [label, appointment, patient, therapist, kind, released] of [
    ['hanna on anton', 'booked hanna anton', 'anton', 'hanna', 'therapist', false], ['hanna on anton, released', 'booked hanna anton', 'anton', 'hanna', 'therapist', true],
    ['anton himself', 'booked hanna anton', 'anton', 'hanna', 'patient', false], ['hanna on clara', 'done hanna clara', 'clara', 'hanna', 'therapist', false],
    ['clara to hanna', 'done hanna clara', 'clara', 'hanna', 'patient', false], ['clara herself', 'booked ines clara', 'clara', 'ines', 'patient', false],
    ['jonas on anton', 'cancelled jonas anton', 'anton', 'jonas', 'therapist', false],
  ] as const) {
    texts.push(`insert into therapy.appointment_notes (id, appointment_id, patient_id, therapist_id, author_id, kind, body_enc, released_at, created_at)
      values (${id(label)}, ${id(appointment)}, ${id(patient)}, ${id(therapist)}, ${id(kind === 'patient' ? patient : therapist)}, '${kind}', '\\x01', ${released ? day : 'null'}, ${day})`)
  }
  for (const [label, relationship] of [
    ['hanna to anton', 'hanna anton'], ['anton to hanna', 'hanna anton'], ['clara to ines', 'ines clara'], ['hanna to clara', 'hanna clara'], ['jonas to anton', 'jonas anton'], ['anton to jonas', 'jonas anton'],
  ] as const) {
    const [sender = '', , recipient = ''] = label.split(' ')
    const [therapist = '', patient = ''] = relationship.split(' ')
    texts.push(`insert into therapy.messages (id, care_relationship_id, patient_id, therapist_id, sender_id, recipient_id, body_enc, created_at)
      values (${id(label)}, ${id(relationship)}, ${id(patient)}, ${id(therapist)}, ${id(sender)}, ${id(recipient)}, '\\x01', ${day})`)
  }
  for (const [label, therapist, patient, released] of [
    ['hanna of anton', 'hanna', 'anton', false], ['hanna of anton, released', 'hanna', 'anton', true], ['hanna of berta', 'hanna', 'berta', false], ['hanna of clara', 'hanna', 'clara', false],
    ['ines of clara', 'ines', 'clara', false], ['jonas of anton', 'jonas', 'anton', false],
  ] as const) {
    texts.push(`insert into therapy.medical_records (id, patient_id, therapist_id, kind, body_enc, signed_at, released_at) values (${id(label)}, ${id(patient)}, ${id(therapist)}, 'plan', '\\x01', ${day}, ${released ? day : 'null'})`)
  }
  for (const name of ['hanna', 'anton']) texts.push(`insert into redoubt.idempotency_keys (id, principal, route, key, request_hash, expires_at) values (${id(`key of ${name}`)}, ${id(name)}, 'r', 'k', '\\x01', now() + interval '1 day')`)
  for (const [label, actor, subject] of [['entry hanna anton', 'hanna', 'anton'], ['entry anton', 'anton', null], ['entry ines clara', 'ines', 'clara']] as const) {
    texts.push(`insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_id, actor_role, tenant_id, action, outcome, request_id, retention_class, retain_until)
      values (${id(label)}, pg_current_xact_id(), ${day}, 'user', ${id(actor)}, 'x', 'x', 'record.viewed', 'done', 'r', 'access', now() + interval '1 day')`)
    if (subject !== null) texts.push(`insert into redoubt.audit_subjects (subject_id, entry_id) values (${id(subject)}, ${id(label)})`)
  }
  await database.admin(texts.join(';\n'))
  const visitor = { requestId: 'r', address: null }
  return { accounts, callers: { ...accounts, registration: systemCaller('register', database.service, visitor), 'sign-in': systemCaller('sign-in', database.service, visitor) } }
}
