import { declared } from 'redoubt/columns'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { keyUserOf, transaction } from 'redoubt/transaction'
import { queryById } from 'redoubt/transaction/prepared'
import { z } from 'zod'
import { changed, visible, sql, type App } from './app.ts'
import { birthDate, idParams, line, personName, phone, reference, rowId, version } from './fields.ts'
import { cursorOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'

const patientFields = {
  first_name: personName,
  last_name: personName,
  dob: birthDate,
  phone: phone.nullable(),
  address: line(1, 300).nullable(),
  emergency_contact: line(1, 300).nullable(),
  insurance_no: reference.nullable(),
}
const patientBody = z.strictObject({ ...patientFields, version })
const patientAnswer = z.object({
  id: rowId,
  therapist_id: rowId.nullable(),
  first_name: z.string(),
  last_name: z.string(),
  dob: z.string(),
  phone: z.string().nullable(),
  address: z.string().nullable(),
  emergency_contact: z.string().nullable(),
  insurance_no: z.string().nullable(),
  version: z.int(),
})
const listQuery = z.strictObject({ ...pageQuery, search: line(1, 100).optional(), sort: z.enum(['last_name', 'first_name']).optional() })

/**
 * Patients one therapist has in active care at a time. Names are sealed, so a list is searched and sorted in memory:
 * this is what makes that a bounded piece of work (relationships.ts refuses to accept one more).
 */
export const mostPatients = 500

export function patientRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/patients', tags: ['patients'], summary: 'Patients in the caller’s care; for a patient: themselves',
      access: ['patient', 'therapist'], query: listQuery,
      answer: pageOf(z.object({ id: rowId, first_name: z.string(), last_name: z.string() })),
      handle: ({ caller, query }) => transaction(app.db, caller, 'patient.listed', (tx) => listPatients(app, tx, query)),
    }),
    route({
      method: 'GET', path: '/api/patients/{id}', tags: ['patients'], summary: 'One patient',
      access: ['patient', 'therapist'], params: idParams, answer: patientAnswer,
      handle: async ({ caller, params: { id } }) => {
        const viewing = { action: 'patient.viewed', resource: { type: 'patient', id }, subjects: [id] } as const
        const row = await transaction.found(app.db, caller, viewing, patientById(id))
        return visible(await app.columns.open(declared(viewing.subjects, keyUserOf(app.db, caller, viewing.action)), 'therapy.patients', [row]))
      },
    }),
    route({
      method: 'PUT', path: '/api/patients/{id}', tags: ['patients'], summary: 'Replace one’s own identity and contact data',
      access: ['patient'], params: idParams, body: patientBody, answer: patientAnswer, refuses: ['version_conflict'],
      handle: ({ caller, params, body }) =>
        transaction(app.db, caller, { action: 'patient.updated', resource: { type: 'patient', id: params.id } }, (tx) => replacePatient(app, tx, params.id, body)),
    }),
  ]
}

const patientById = queryById((id) =>
  sql.selectFrom('therapy.patients')
    .select(['id', 'therapist_id', 'first_name_enc', 'last_name_enc', 'dob_enc', 'phone_enc', 'address_enc', 'emergency_contact_enc', 'insurance_no_enc', 'version'])
    .where('id', '=', id),
)

/** @throws Refusal not_found when there is none in the caller's sight */
export async function readPatient(app: App, tx: Tx, id: string): Promise<z.output<typeof patientAnswer>> {
  return visible(await app.columns.open(tx, 'therapy.patients', await tx.query(patientById(id))))
}

/** @throws Refusal not_found, version_conflict */
export async function replacePatient(app: App, tx: Tx, id: string, given: z.output<typeof patientBody>): Promise<z.output<typeof patientAnswer>> {
  const { version: read, ...fields } = given
  visible(await tx.run(sql.selectFrom('therapy.patients').select('id').where('id', '=', id)))
  const { id: _, ...row } = await app.columns.seal(tx, 'therapy.patients', { id, ...fields })
  changed(
    await tx.run(
      sql.updateTable('therapy.patients').set({ ...row, version: read + 1 }).where('id', '=', id).where('version', '=', read).returning('id'),
    ),
  )
  return readPatient(app, tx, id)
}

type Listed = { readonly id: string; readonly first_name: string; readonly last_name: string }

/** Capital letters and accents do not matter to somebody who looks for a name. */
function searchable(text: string): string {
  return text.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase()
}

const collator = new Intl.Collator('en', { sensitivity: 'base', numeric: true })

/** The cursor is an id, never a name: what stands in an address ends in the logs of others. */
async function listPatients(app: App, tx: Tx, query: PageQuery & { readonly search?: string | undefined; readonly sort?: 'last_name' | 'first_name' | undefined }): Promise<{ readonly items: readonly Listed[]; readonly next: string | null }> {
  const after = cursorOf(query, z.tuple([rowId]))?.[0]
  const rows = await tx.run(sql.selectFrom('therapy.patients').select(['id', 'first_name_enc', 'last_name_enc']).orderBy('id').limit(mostPatients + 1))
  if (rows.length > mostPatients) throw new Refusal('conflict', { detail: `a list has at most ${mostPatients} patients` })
  const opened: readonly Listed[] = await app.columns.open(tx, 'therapy.patients', rows)
  const wanted = searchable(query.search ?? '')
  const [first, second] = query.sort === 'first_name' ? (['first_name', 'last_name'] as const) : (['last_name', 'first_name'] as const)
  const sorted = opened
    .filter((row) => searchable(`${row.first_name} ${row.last_name}`).includes(wanted))
    .toSorted((a, b) => collator.compare(a[first], b[first]) || collator.compare(a[second], b[second]) || (a.id < b.id ? -1 : 1))
  const start = after === undefined ? 0 : sorted.findIndex((row) => row.id === after) + 1
  // The row under the cursor may have left the list since; going on from anywhere else would skip or repeat people.
  if (after !== undefined && start === 0) throw new Refusal('invalid_input', { fields: [{ field: 'cursor', rule: 'expired' }] })
  return pageFrom(sorted.slice(start), query, (row) => [row.id], (row) => row)
}
