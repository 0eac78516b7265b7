import { randomBytes, randomUUID } from 'node:crypto'
import { idOf, type TableName, type Viewer } from './household.ts'

export type Row = Readonly<Record<string, unknown>>

/** Assignments that belong together, or that have an effect alone: what somebody who knows the schema would try. */
const likely: Partial<Readonly<Record<TableName, readonly string[]>>> = {
  'redoubt.users': [`role = 'admin'`, `password_hash = 'x'`, `status = 'suspended'`],
  'redoubt.sessions': ['revoked_at = now()', 'user_id = {me}', `absolute_expires_at = now() + interval '90 days'`],
  'redoubt.idempotency_keys': ['principal = {me}', `state = 'done'`],
  'redoubt.audit_logs': ['actor_id = {me}', `outcome = 'refused:forbidden'`], 'redoubt.audit_subjects': ['subject_id = {me}'],
  'therapy.therapist_profiles': [`display_name = 'changed'`, 'price_minor = 0', `verification = 'verified', verified_at = now()`],
  'therapy.patients': [`first_name_enc = '\\x02', version = 2`, 'therapist_id = {me}'],
  'therapy.care_relationships': [`state = 'active', started_at = now(), ended_at = null`, `state = 'ended', ended_at = now()`, 'therapist_id = {me}', 'patient_id = {me}', `state = 'requested'`],
  'therapy.consents': ['withdrawn_at = null', 'withdrawn_at = now()', 'patient_id = {me}'],
  'therapy.appointments': [
    `status = 'cancelled', version = 2`, `status = 'booked', patient_id = {me}, version = 2`, `status = 'available', patient_id = null, version = 2`, `status = 'completed', version = 2`,
    `slot = tstzrange('2031-01-01 10:00+00', '2031-01-01 11:00+00'), version = 2`, 'therapist_id = {me}', 'patient_id = {me}, version = 2',
  ],
  'therapy.appointment_notes': ['released_at = now()', `body_enc = '\\x02'`, 'author_id = {me}'],
  'therapy.messages': ['read_at = now()', `body_enc = '\\x02'`, 'recipient_id = {me}', 'sender_id = {me}'],
  'therapy.medical_records': ['released_at = null', 'released_at = now(), version = 2', `body_enc = '\\x02'`, 'therapist_id = {me}', 'patient_id = {me}'],
}

/** What is tried in an UPDATE: every column alone, and what is likely to have an effect. */
export function assignments(table: TableName, columns: readonly string[], me: string): readonly { readonly sql: string; readonly likely: boolean }[] {
  return [
    ...columns.map((name) => ({ sql: `${name} = default`, likely: false })),
    ...(likely[table] ?? []).map((sql) => ({ sql: sql.replaceAll('{me}', `'${me}'`), likely: true })),
  ]
}

const people = ['therapist_id', 'patient_id', 'sender_id', 'recipient_id', 'author_id', 'user_id', 'principal', 'actor_id', 'subject_id'] as const
let far = 0

/** What keeps two rows from colliding, so that nothing but a policy holds a copy back. */
function apart(table: TableName): Row {
  switch (table) {
    case 'redoubt.users':
      return { id: randomUUID(), email_bidx: `\\x${randomBytes(17).toString('hex')}` }
    case 'redoubt.idempotency_keys':
      return { id: randomUUID(), key: randomUUID() }
    case 'redoubt.audit_subjects':
      return {}
    case 'therapy.therapist_profiles':
      return { user_id: idOf('egon') }
    case 'therapy.patients':
      return { id: idOf('frida') }
    case 'therapy.consents':
      return { id: randomUUID(), kind: 'research' }
    case 'therapy.appointments':
      return { id: randomUUID(), slot: `["${2040 + (far += 1)}-01-01 10:00:00+00","${2040 + far}-01-01 11:00:00+00")` }
    default:
      return { id: randomUUID() }
  }
}

/** What is tried as an INSERT: each row again, and again with the attacker, or a patient in nobody's care, in the place of each person in it. */
export function insertions(table: TableName, rows: readonly Row[], me: string): readonly Row[] {
  const extra: Row[] = table === 'redoubt.audit_subjects' ? [{ subject_id: me, entry_id: idOf('entry ines clara') }, { subject_id: me, entry_id: idOf('entry hanna anton') }] : []
  const states = table === 'therapy.care_relationships' ? [{ state: 'active', ended_at: null }, { state: 'requested', ended_at: null }] : [{}]
  return [
    ...extra,
    ...rows.flatMap((row) => states.flatMap((state) => [
      { ...row, ...state, ...apart(table) },
      ...people.filter((column) => column in row).flatMap((column) => [{ ...row, ...state, ...apart(table), [column]: me }, { ...row, ...state, ...apart(table), [column]: idOf('dora') }]),
    ])),
  ]
}

const activePairs = ['hanna anton', 'hanna berta', 'ines clara']
const active = (therapist: unknown, patient: unknown): boolean => activePairs.some((pair) => { const [t = '', p = ''] = pair.split(' '); return idOf(t) === therapist && idOf(p) === patient })
const verified = (therapist: unknown): boolean => ['hanna', 'ines', 'jonas'].some((name) => idOf(name) === therapist)

/** Columns that an allowed change may touch. */
const mutable: Partial<Readonly<Record<TableName, readonly string[]>>> = {
  'redoubt.idempotency_keys': ['state', 'salt_enc', 'resource_type', 'resource_id', 'expires_at', 'request_hash', 'key', 'route', 'id'],
  'therapy.therapist_profiles': ['display_name', 'specialisation', 'bio', 'price_minor', 'currency', 'time_zone', 'version'],
  'therapy.patients': ['first_name_enc', 'last_name_enc', 'dob_enc', 'phone_enc', 'address_enc', 'emergency_contact_enc', 'insurance_no_enc', 'version'],
  'therapy.care_relationships': ['state', 'started_at', 'ended_at', 'version'], 'therapy.consents': ['withdrawn_at'],
  'therapy.appointments': ['patient_id', 'slot', 'kind', 'status', 'version'], 'therapy.appointment_notes': ['released_at'], 'therapy.messages': ['read_at'],
  'therapy.medical_records': ['released_at', 'version'],
}

/**
 * Whether the matrix of domain.md allows this change (`before` given) or this new row.
 * @param me the actor, null for a system caller
 */
export function lawful(table: TableName, me: string | null, before: Row | null, after: Row, viewer?: Viewer): boolean {
  if (before === null) return lawfulInsert(table, me, after, viewer)
  const touched = Object.keys(after).filter((name) => JSON.stringify(after[name]) !== JSON.stringify(before[name]))
  if (me === null || touched.some((name) => !(mutable[table] ?? []).includes(name))) return false
  const is = (column: string): boolean => before[column] === me
  switch (table) {
    case 'redoubt.idempotency_keys':
      return is('principal')
    case 'therapy.therapist_profiles':
      return is('user_id') && !(touched.includes('display_name') && before['verification'] === 'verified')
    case 'therapy.patients':
      return is('id')
    case 'therapy.care_relationships':
      return before['state'] !== 'ended' && ((is('therapist_id') && after['state'] !== 'requested') || (is('patient_id') && after['state'] === 'ended'))
    case 'therapy.consents':
      return is('patient_id') && before['withdrawn_at'] === null && after['withdrawn_at'] !== null
    case 'therapy.appointments':
      if (is('therapist_id')) return before['patient_id'] === after['patient_id'] && after['status'] !== 'booked'
      if (before['patient_id'] === null) return after['patient_id'] === me && after['status'] === 'booked' && active(before['therapist_id'], me) && !touched.includes('slot')
      return is('patient_id') && after['status'] === 'cancelled' && !touched.includes('slot')
    case 'therapy.appointment_notes':
      return is('author_id') && before['kind'] === 'therapist' && before['released_at'] === null && active(me, before['patient_id'])
    case 'therapy.messages':
      return is('recipient_id') && before['read_at'] === null && after['read_at'] !== null
    case 'therapy.medical_records':
      return is('therapist_id') && before['released_at'] === null && active(me, before['patient_id'])
    default:
      return false
  }
}

function lawfulInsert(table: TableName, me: string | null, row: Row, viewer: Viewer | undefined): boolean {
  if (me === null) {
    if (viewer !== 'registration') return false
    if (table === 'redoubt.users') return ['patient', 'therapist'].includes(String(row['role'])) && row['status'] === 'active'
    if (table === 'therapy.therapist_profiles') return row['verification'] === 'pending' && row['user_id'] === idOf('egon')
    return table === 'therapy.patients' && row['therapist_id'] === null && row['id'] === idOf('frida')
  }
  switch (table) {
    case 'redoubt.idempotency_keys':
      return row['principal'] === me
    case 'therapy.care_relationships':
      return row['patient_id'] === me && row['state'] === 'requested' && verified(row['therapist_id'])
    case 'therapy.consents':
      return row['patient_id'] === me
    case 'therapy.appointments':
      return row['therapist_id'] === me && verified(me) && row['status'] === 'available' && row['patient_id'] === null
    case 'therapy.appointment_notes':
      return row['author_id'] === me && row['released_at'] === null && (row['kind'] === 'patient' ? row['patient_id'] === me : active(me, row['patient_id']))
    case 'therapy.messages':
      return row['sender_id'] === me && active(row['therapist_id'], row['patient_id'])
    case 'therapy.medical_records':
      return row['therapist_id'] === me && row['released_at'] === null && active(me, row['patient_id'])
    default:
      return false
  }
}

