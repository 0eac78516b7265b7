import { newId } from 'redoubt/bytes'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { noteSubjects, changed, visible, make, sql, type App } from './app.ts'
import { idParams, prose, rowId, utc, utcOf, version, versionBody } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'

const kinds = ['soap_note', 'diagnosis', 'risk', 'plan'] as const
const risks = ['none', 'low', 'medium', 'high'] as const
const content = {
  kind: z.enum(kinds),
  text: prose(10_000),
  /** ICD-10: a letter, two digits, up to two more behind a point. */
  icd_code: z.string().regex(/^[A-Z]\d{2}(\.\d{1,2})?$/).nullable().optional(),
  risk_level: z.enum(risks).nullable().optional(),
}
const recordBody = z.strictObject(content)
const correctionBody = z.strictObject({ ...content, version })
type Content = z.output<typeof recordBody>
const recordAnswer = z.object({
  id: rowId,
  patient_id: rowId,
  therapist_id: rowId,
  kind: z.enum(kinds),
  text: z.string(),
  icd_code: z.string().nullable(),
  risk_level: z.enum(risks).nullable(),
  signed_at: utc,
  released_at: utc.nullable(),
  supersedes_id: rowId.nullable(),
  superseded_by: rowId.nullable(),
  version: z.int(),
})
type MedicalRecord = z.output<typeof recordAnswer>

export function recordRoutes(app: App): readonly Route[] {
  const about = (id: string) => ({ type: 'record', id })
  return [
    route({
      method: 'GET', path: '/api/patients/{id}/records', tags: ['records'], summary: 'A patient’s medical record, newest first; for the patient what was released',
      access: ['patient', 'therapist'], params: idParams, query: z.strictObject(pageQuery), answer: pageOf(recordAnswer),
      handle: ({ caller, params, query }) =>
        transaction(app.db, caller, { action: 'record.viewed', resource: { type: 'patient', id: params.id } }, (tx) => listRecords(app, tx, params.id, query)),
    }),
    route({
      method: 'POST', path: '/api/patients/{id}/records', tags: ['records'], summary: 'Add to the medical record of a patient in care',
      access: ['therapist'], params: idParams, body: recordBody, answer: recordAnswer, status: 201, idempotent: true,
      handle: ({ caller, params, body, repeatable }) =>
        make(app, { caller, repeatable, on: { type: 'patient', id: params.id } }, 'record.created', (tx) => addRecord(app, tx, caller.actor, params.id, body, app.now()), (tx, id) => readRecord(app, tx, id)),
    }),
    route({
      method: 'GET', path: '/api/records/{id}', tags: ['records'], summary: 'One entry of a medical record',
      access: ['patient', 'therapist'], params: idParams, answer: recordAnswer,
      handle: ({ caller, params }) => transaction(app.db, caller, { action: 'record.viewed', resource: about(params.id) }, (tx) => readRecord(app, tx, params.id)),
    }),
    route({
      method: 'POST', path: '/api/records/{id}/release', tags: ['records'], summary: 'Let the patient read it',
      access: ['therapist'], params: idParams, body: versionBody, answer: recordAnswer, refuses: ['conflict', 'version_conflict'],
      handle: ({ caller, params, body }) =>
        transaction(app.db, caller, { action: 'record.released', resource: about(params.id) }, (tx) => releaseRecord(app, tx, caller.actor, params.id, body.version, app.now())),
    }),
    route({
      method: 'POST', path: '/api/records/{id}/correct', tags: ['records'], summary: 'Supersede one’s own entry by a corrected one; the old one stays',
      access: ['therapist'], params: idParams, body: correctionBody, answer: recordAnswer, status: 201, idempotent: true, refuses: ['forbidden', 'version_conflict'],
      handle: ({ caller, params, body, repeatable }) =>
        make(app, { caller, repeatable, on: about(params.id) }, 'record.corrected', (tx) => correctRecord(app, tx, caller.actor, params.id, body, app.now()), (tx, id) => readRecord(app, tx, id)),
    }),
  ]
}

/** Row security decides which corrections the join can see, too. */
function selectRecords() {
  return sql.selectFrom('therapy.medical_records as record')
    .leftJoin('therapy.medical_records as correction', 'correction.supersedes_id', 'record.id')
    .select([
      'record.id', 'record.patient_id', 'record.therapist_id', 'record.kind', 'record.body_enc', 'record.icd_code_enc', 'record.risk_level_enc',
      'record.signed_at', 'record.released_at', 'record.supersedes_id', 'correction.id as superseded_by', 'record.version',
    ])
}

type Row = Omit<MedicalRecord, 'kind' | 'text' | 'risk_level' | 'signed_at' | 'released_at'> & { readonly kind: string; readonly body: string; readonly risk_level: string | null; readonly signed_at: Date; readonly released_at: Date | null }

function view({ body: text, ...row }: Row): MedicalRecord {
  return {
    ...row, text, kind: row.kind as MedicalRecord['kind'], risk_level: row.risk_level as MedicalRecord['risk_level'],
    signed_at: utcOf(row.signed_at), released_at: utcOf(row.released_at),
  }
}

/** @throws Refusal not_found for a patient out of the caller's sight */
async function listRecords(app: App, tx: Tx, patient: string, query: PageQuery): Promise<{ readonly items: readonly MedicalRecord[]; readonly next: string | null }> {
  const before = cursorOf(query, z.tuple([rowId]))?.[0]
  const [patients, rows] = await Promise.all([
    tx.run(sql.selectFrom('therapy.patients').select('id').where('id', '=', patient)),
    tx.run(
      selectRecords().where('record.patient_id', '=', patient)
        .$if(before !== undefined, (q) => q.where('record.id', '<', before ?? ''))
        .orderBy('record.id', 'desc').limit(limitOf(query)),
    ),
  ])
  visible(noteSubjects(tx, 'therapy.patients', patients))
  return pageFrom(await app.columns.open(tx, 'therapy.medical_records', rows), query, (row) => [row.id], view)
}

/** @throws Refusal not_found */
async function readRecord(app: App, tx: Tx, id: string): Promise<MedicalRecord> {
  return view(visible(await app.columns.open(tx, 'therapy.medical_records', await tx.run(selectRecords().where('record.id', '=', id)))))
}

/** @throws Refusal not_found for a patient who is not in the therapist's care */
export async function addRecord(app: App, tx: Tx, therapist: string, patient: string, given: Content, now: Date): Promise<MedicalRecord> {
  visible(await tx.run(sql.selectFrom('therapy.patients').select('id').where('id', '=', patient)))
  return insertRecord(app, tx, { therapist_id: therapist, patient_id: patient, supersedes_id: null }, given, now)
}

/**
 * Releases and corrections of one entry come one after the other. In a statement of its own: what is read after it is
 * what the one before left. Gives nothing where the caller could not release it.
 */
function lockRecord(id: string) {
  return sql.selectFrom('therapy.medical_records').select('id').where('id', '=', id).forNoKeyUpdate()
}

/** @throws Refusal not_found, version_conflict; conflict when it was released or superseded already */
export async function releaseRecord(app: App, tx: Tx, therapist: string, id: string, version: number, now: Date): Promise<MedicalRecord> {
  await tx.run(lockRecord(id))
  const row = visible(await tx.run(selectRecords().where('record.id', '=', id).where('record.therapist_id', '=', therapist)))
  if (row.released_at !== null) throw new Refusal('conflict', { detail: 'this entry was released already' })
  if (row.superseded_by !== null) throw new Refusal('conflict', { detail: 'this entry was corrected: release the correction' })
  changed(
    await tx.run(
      sql.updateTable('therapy.medical_records').set({ released_at: now, version: version + 1 })
        .where('id', '=', id).where('version', '=', version).where('released_at', 'is', null).returning('id'),
    ),
  )
  return readRecord(app, tx, id)
}

/** @throws Refusal not_found; forbidden for another therapist's entry; version_conflict when it was corrected or released since it was read */
export async function correctRecord(app: App, tx: Tx, therapist: string, id: string, given: Content & { readonly version: number }, now: Date): Promise<MedicalRecord> {
  await tx.run(lockRecord(id))
  const row = visible(await tx.run(selectRecords().where('record.id', '=', id)))
  if (row.therapist_id !== therapist) throw new Refusal('forbidden', { detail: 'only its author corrects an entry' })
  if (row.superseded_by !== null || row.version !== given.version) throw new Refusal('version_conflict')
  return insertRecord(app, tx, { therapist_id: therapist, patient_id: row.patient_id, supersedes_id: id }, given, now)
}

async function insertRecord(app: App, tx: Tx, of: { readonly therapist_id: string; readonly patient_id: string; readonly supersedes_id: string | null }, given: Content, now: Date): Promise<MedicalRecord> {
  const id = newId()
  tx.about('record', id)
  const row = await app.columns.seal(tx, 'therapy.medical_records', {
    id, ...of, kind: given.kind, body: given.text, icd_code: given.icd_code ?? null, risk_level: given.risk_level ?? null, signed_at: now,
  })
  // Two corrections of one entry at once: the second inserts nothing.
  changed(await tx.run(sql.insertInto('therapy.medical_records').values(row).onConflict((conflict) => conflict.column('supersedes_id').doNothing()).returning('id')))
  return readRecord(app, tx, id)
}
