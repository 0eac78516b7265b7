import { Refusal } from 'redoubt/errors'
import { queryInteger } from 'redoubt/http/parse'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import type { Person } from 'redoubt/context'
import { sql as raw } from 'kysely'
import { z } from 'zod'
import { noteSubjects, make, type App } from './app.ts'
import {
  appointmentAnswer, bookSlot, cancelAppointment, changeSlot, closeAppointment, kinds, offerSlot, readAppointment, selectAppointments, statuses, viewAppointment,
  type Appointment,
} from './appointments.ts'
import { idParams, instant, rowId, version, versionBody } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery } from './paging.ts'

const minutes = z.int().min(10).max(240)
const slotBody = z.strictObject({ starts_at: instant, minutes, kind: z.enum(kinds) })
const bookingBody = z.strictObject({ slot_id: rowId, version })
const changeBody = z.strictObject({ version, starts_at: instant.optional(), minutes: minutes.optional(), kind: z.enum(kinds).optional(), status: z.literal('no_show').optional() })
const listQuery = z.strictObject({ ...pageQuery, therapist_id: rowId.optional(), status: z.enum(statuses).optional(), from: instant.optional(), to: instant.optional() })
const longestAhead = 366 * 24 * 3_600_000

export function appointmentRoutes(app: App): readonly Route[] {
  const about = (id: string) => ({ type: 'appointment', id })
  return [
    route({
      method: 'GET', path: '/api/appointments', tags: ['appointments'],
      summary: 'The caller’s appointments by start; with therapist_id, for a patient, that therapist’s free slots too',
      access: ['patient', 'therapist'], query: listQuery, answer: pageOf(appointmentAnswer),
      handle: ({ caller, query }) => transaction(app.db, caller, 'appointment.viewed', (tx) => listAppointments(tx, caller, query)),
    }),
    route({
      method: 'POST', path: '/api/appointments', tags: ['appointments'], summary: 'A therapist offers a slot; a patient books one by its slot_id',
      access: ['patient', 'therapist'], body: z.union([slotBody, bookingBody]), answer: appointmentAnswer, status: 201, idempotent: true,
      refuses: ['slot_taken', 'version_conflict'],
      handle: ({ caller, body, repeatable }) => {
        const booking = 'slot_id' in body
        if (booking !== (caller.role === 'patient')) throw new Refusal('invalid_input', { fields: [{ field: 'slot_id', rule: booking ? 'unknown' : 'required' }] })
        if (!booking) checkStart(body.starts_at, app.now())
        return make(app, { caller, repeatable, ...(booking ? { on: about(body.slot_id) } : {}) }, booking ? 'appointment.booked' : 'appointment.created', (tx) =>
          booking ? bookSlot(tx, caller.actor, body.slot_id, body.version, app.now()) : offerSlot(tx, caller.actor, body, app.now()), readAppointment)
      },
    }),
    route({
      method: 'GET', path: '/api/appointments/{id}', tags: ['appointments'], summary: 'One appointment or free slot',
      access: ['patient', 'therapist'], params: idParams, answer: appointmentAnswer,
      handle: ({ caller, params }) =>
        transaction(app.db, caller, { action: 'appointment.viewed', resource: about(params.id) }, (tx) => readAppointment(tx, params.id)),
    }),
    route({
      method: 'PATCH', path: '/api/appointments/{id}', tags: ['appointments'], summary: 'Change a free slot, or note that the patient did not come',
      access: ['therapist'], params: idParams, body: changeBody, answer: appointmentAnswer, refuses: ['conflict', 'slot_taken', 'version_conflict'],
      handle: ({ caller, params, body: { version: read, status, ...to } }) => {
        if (status !== undefined && Object.values(to).some((value) => value !== undefined)) throw new Refusal('invalid_input', { fields: [{ field: 'status', rule: 'alone' }] })
        if (to.starts_at !== undefined) checkStart(to.starts_at, app.now())
        return transaction(app.db, caller, { action: 'appointment.updated', resource: about(params.id) }, (tx) =>
          status === undefined ? changeSlot(tx, caller.actor, params.id, read, to) : closeAppointment(tx, caller.actor, params.id, read, status, app.now()))
      },
    }),
    route({
      method: 'DELETE', path: '/api/appointments/{id}', tags: ['appointments'], summary: 'Cancel: the row stays, its time is free again',
      access: ['patient', 'therapist'], params: idParams, query: z.strictObject({ version: queryInteger(1, 1_000_000) }), answer: appointmentAnswer, refuses: ['conflict', 'version_conflict'],
      handle: ({ caller, params, query }) =>
        transaction(app.db, caller, { action: 'appointment.cancelled', resource: about(params.id) }, (tx) => cancelAppointment(tx, caller.actor, params.id, query.version, app.now())),
    }),
    route({
      method: 'POST', path: '/api/appointments/{id}/complete', tags: ['appointments'], summary: 'Note that it took place',
      access: ['therapist'], params: idParams, body: versionBody, answer: appointmentAnswer, refuses: ['conflict', 'version_conflict'],
      handle: ({ caller, params, body }) =>
        transaction(app.db, caller, { action: 'appointment.completed', resource: about(params.id) }, (tx) => closeAppointment(tx, caller.actor, params.id, body.version, 'completed', app.now())),
    }),
  ]
}

/** @throws Refusal invalid_input for a start that is over or more than a year ahead */
function checkStart(start: Date, now: Date): void {
  const ahead = start.getTime() - now.getTime()
  if (ahead <= 0 || ahead > longestAhead) throw new Refusal('invalid_input', { fields: [{ field: 'starts_at', rule: 'range' }] })
}

const startsAt = raw<Date>`lower(appointment.slot)`

/** Ordered by (start, id), which the indexes of both sides are, so that a page deep in the list costs what the first does. */
async function listAppointments(tx: Tx, caller: Person, query: z.output<typeof listQuery>): Promise<{ readonly items: readonly Appointment[]; readonly next: string | null }> {
  const after = cursorOf(query, z.tuple([z.iso.datetime(), rowId]))
  const { therapist_id: therapist, status, from, to } = query
  let rows = selectAppointments().orderBy(startsAt).orderBy('appointment.id').limit(limitOf(query))
  if (caller.role === 'therapist') rows = rows.where('appointment.therapist_id', '=', caller.actor)
  else if (therapist === undefined) rows = rows.where('appointment.patient_id', '=', caller.actor)
  if (therapist !== undefined) rows = rows.where('appointment.therapist_id', '=', therapist)
  if (status !== undefined) rows = rows.where('appointment.status', '=', status)
  if (from !== undefined) rows = rows.where(startsAt, '>=', from)
  if (to !== undefined) rows = rows.where(startsAt, '<', to)
  if (after !== undefined) rows = rows.where(raw<boolean>`(lower(appointment.slot), appointment.id) > (${new Date(after[0])}, ${after[1]})`)
  const page = pageFrom(await tx.run(rows), query, (row) => [row.starts_at.toISOString(), row.id], viewAppointment)
  noteSubjects(tx, 'therapy.appointments', page.items)
  return page
}
