import { newId } from 'redoubt/bytes'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { visible, make, sql, type App } from './app.ts'
import { idParams, prose, rowId, utc, utcOf } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'

const noteBody = z.strictObject({ text: prose(5000) })
const noteAnswer = z.object({
  id: rowId,
  appointment_id: rowId,
  author_id: rowId,
  kind: z.enum(['therapist', 'patient']),
  text: z.string(),
  released_at: utc.nullable(),
  created_at: utc,
})
type Note = z.output<typeof noteAnswer>

export function noteRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/appointments/{id}/notes', tags: ['notes'], summary: 'Notes on an appointment; a therapist’s only once released',
      access: ['patient', 'therapist'], params: idParams, query: z.strictObject(pageQuery), answer: pageOf(noteAnswer),
      handle: ({ caller, params, query }) =>
        transaction(app.db, caller, { action: 'note.viewed', resource: { type: 'appointment', id: params.id } }, (tx) => listNotes(app, tx, params.id, query)),
    }),
    route({
      method: 'POST', path: '/api/appointments/{id}/notes', tags: ['notes'], summary: 'Write a note on one’s own appointment',
      access: ['patient', 'therapist'], params: idParams, body: noteBody, answer: noteAnswer, status: 201, idempotent: true,
      handle: ({ caller, params, body, repeatable }) =>
        make(app, { caller, repeatable, on: { type: 'appointment', id: params.id } }, 'note.created', (tx) => writeNote(app, tx, caller.actor, params.id, body.text, app.now()), (tx, id) => readNote(app, tx, id)),
    }),
    route({
      method: 'POST', path: '/api/notes/{id}/release', tags: ['notes'], summary: 'Let the patient read a therapist’s note',
      access: ['therapist'], params: idParams, answer: noteAnswer, refuses: ['conflict'],
      handle: ({ caller, params }) =>
        transaction(app.db, caller, { action: 'note.released', resource: { type: 'note', id: params.id } }, (tx) => releaseNote(app, tx, caller.actor, params.id, app.now())),
    }),
  ]
}

const shown = ['id', 'appointment_id', 'patient_id', 'author_id', 'kind', 'body_enc', 'released_at', 'created_at'] as const
type Row = { readonly id: string; readonly appointment_id: string; readonly author_id: string; readonly kind: string; readonly body: string; readonly released_at: Date | null; readonly created_at: Date }

function view(row: Row): Note {
  const { body: text, kind, released_at, created_at, ...rest } = row
  return { ...rest, kind: kind as Note['kind'], text, released_at: utcOf(released_at), created_at: utcOf(created_at) }
}

/** @throws Refusal not_found when neither the appointment nor a note on it is in the caller's sight */
async function listNotes(app: App, tx: Tx, appointment: string, query: PageQuery): Promise<{ readonly items: readonly Note[]; readonly next: string | null }> {
  const after = cursorOf(query, z.tuple([rowId]))?.[0]
  const rows = await tx.run(
    sql.selectFrom('therapy.appointment_notes').select(shown).where('appointment_id', '=', appointment)
      .$if(after !== undefined, (q) => q.where('id', '>', after ?? ''))
      .orderBy('id').limit(limitOf(query)),
  )
  if (rows.length === 0) visible(await tx.run(sql.selectFrom('therapy.appointments').select('id').where('id', '=', appointment)))
  return pageFrom(await app.columns.open(tx, 'therapy.appointment_notes', rows), query, (row) => [row.id], view)
}

/** @throws Refusal not_found */
async function readNote(app: App, tx: Tx, id: string): Promise<Note> {
  return view(visible(await app.columns.open(tx, 'therapy.appointment_notes', await tx.run(sql.selectFrom('therapy.appointment_notes').select(shown).where('id', '=', id)))))
}

/** @throws Refusal not_found for an appointment of others; forbidden for a therapist whose care of the patient has ended */
export async function writeNote(app: App, tx: Tx, author: string, appointment: string, text: string, now: Date): Promise<Note> {
  const about = visible(await tx.run(sql.selectFrom('therapy.appointments').select(['patient_id', 'therapist_id']).where('id', '=', appointment)))
  const { patient_id, therapist_id } = about
  if (patient_id === null || (author !== patient_id && author !== therapist_id)) throw new Refusal('not_found')
  const [patient] = await tx.run(sql.selectFrom('therapy.patients').select('id').where('id', '=', patient_id))
  if (patient === undefined) throw new Refusal('forbidden', { detail: 'notes need an active care relationship' })
  const id = newId()
  tx.about('note', id)
  const kind = author === therapist_id ? 'therapist' : 'patient'
  const row = await app.columns.seal(tx, 'therapy.appointment_notes', { id, appointment_id: appointment, patient_id, therapist_id, author_id: author, kind, body: text, created_at: now })
  await tx.run(sql.insertInto('therapy.appointment_notes').values(row))
  return { id, appointment_id: appointment, author_id: author, kind, text, released_at: null, created_at: utcOf(now) }
}

/** @throws Refusal not_found for a note the caller did not write; conflict when it was released already */
export async function releaseNote(app: App, tx: Tx, therapist: string, id: string, now: Date): Promise<Note> {
  visible(await tx.run(sql.selectFrom('therapy.appointment_notes').select('id').where('id', '=', id).where('author_id', '=', therapist)))
  const rows = await tx.run(sql.updateTable('therapy.appointment_notes').set({ released_at: now }).where('id', '=', id).where('released_at', 'is', null).returning(shown))
  if (rows.length === 0) throw new Refusal('conflict', { detail: 'this note was released already' })
  return view(visible(await app.columns.open(tx, 'therapy.appointment_notes', rows)))
}
