import { sql as raw } from 'kysely'
import { newId } from 'redoubt/bytes'
import { Refusal } from 'redoubt/errors'
import type { Tx } from 'redoubt/pg'
import { z } from 'zod'
import { noteSubjects, changed, visible, sql } from './app.ts'
import { rowId, utc, utcOf } from './fields.ts'
import { localTime } from './zones.ts'

export const kinds = ['video', 'in_person'] as const
export const statuses = ['available', 'held', 'booked', 'completed', 'cancelled', 'no_show'] as const

export const appointmentAnswer = z.object({
  id: rowId,
  therapist_id: rowId,
  patient_id: rowId.nullable(),
  starts_at: utc,
  ends_at: utc,
  /** For display: the therapist's zone, and the start as a clock there shows it. */
  time_zone: z.string().nullable(),
  local_start: z.string().nullable(),
  kind: z.enum(kinds),
  status: z.enum(statuses),
  price_minor: z.int(),
  currency: z.string(),
  payment_state: z.string(),
  version: z.int(),
})
export type Appointment = z.output<typeof appointmentAnswer>

/** Hours before the start until which a patient may cancel; after that they ask the therapist. */
const cancellationHours = 24

const startsAt = raw<Date>`lower(slot)`
const endsAt = raw<Date>`upper(slot)`

/** Every query that gives appointments starts here. */
export function selectAppointments() {
  return sql.selectFrom('therapy.appointments as appointment')
    .leftJoin('therapy.therapist_profiles as profile', 'profile.user_id', 'appointment.therapist_id')
    .select([
      'appointment.id', 'appointment.therapist_id', 'appointment.patient_id', startsAt.as('starts_at'), endsAt.as('ends_at'), 'profile.time_zone',
      'appointment.kind', 'appointment.status', 'appointment.price_minor', 'appointment.currency', 'appointment.payment_state', 'appointment.version',
    ])
}

type Row = Omit<Appointment, 'starts_at' | 'ends_at' | 'local_start' | 'kind' | 'status'> & { readonly starts_at: Date; readonly ends_at: Date; readonly kind: string; readonly status: string }

export function viewAppointment(row: Row): Appointment {
  return {
    ...row,
    kind: row.kind as Appointment['kind'],
    status: row.status as Appointment['status'],
    starts_at: utcOf(row.starts_at),
    ends_at: utcOf(row.ends_at),
    local_start: row.time_zone === null ? null : localTime(row.starts_at, row.time_zone),
  }
}

async function rowOf(tx: Tx, id: string): Promise<Row> {
  return visible(noteSubjects(tx, 'therapy.appointments', await tx.run(selectAppointments().where('appointment.id', '=', id))))
}

/** @throws Refusal not_found */
export async function readAppointment(tx: Tx, id: string): Promise<Appointment> {
  return viewAppointment(await rowOf(tx, id))
}

export type NewSlot = { readonly starts_at: Date; readonly minutes: number; readonly kind: (typeof kinds)[number] }

/** The half-open range: a slot that ends at 10:00 and one that starts at 10:00 do not overlap. */
function slotOf(start: Date, minutes: number) {
  return raw<string>`tstzrange(${start}, ${new Date(start.getTime() + minutes * 60_000)}, '[)')`
}

/**
 * A therapist's changes of slots come one after the other: two that overlap and check the exclusion constraint at the
 * same time would wait for each other until the server ends one as a deadlock.
 */
function lockCalendar(therapist: string) {
  return sql.selectFrom('therapy.therapist_profiles').select(['verification', 'price_minor', 'currency']).where('user_id', '=', therapist).forNoKeyUpdate()
}

/**
 * Offers a slot at the price of the therapist's profile.
 * @throws Refusal slot_taken when it overlaps another that was not cancelled; forbidden before verification
 */
export async function offerSlot(tx: Tx, therapist: string, slot: NewSlot, now: Date): Promise<Appointment> {
  const profile = visible(await tx.run(lockCalendar(therapist)))
  if (profile.verification !== 'verified') throw new Refusal('forbidden', { detail: 'slots can be offered once the profile is verified' })
  const id = newId()
  tx.about('appointment', id)
  await tx.run(
    sql.insertInto('therapy.appointments').values({
      id, therapist_id: therapist, slot: slotOf(slot.starts_at, slot.minutes), kind: slot.kind, status: 'available',
      price_minor: profile.price_minor, currency: profile.currency, created_at: now,
    }),
  )
  return readAppointment(tx, id)
}

/**
 * Books a free slot: one conditional UPDATE, so of many who try at once one wins. A slot that is gone, was never there
 * or is not in the caller's sight is refused in one and the same way.
 * @throws Refusal slot_taken; version_conflict when the therapist moved it meanwhile; forbidden without active care
 */
export async function bookSlot(tx: Tx, patient: string, id: string, version: number, now: Date): Promise<Appointment> {
  tx.about('appointment', id)
  const [slot] = await tx.run(selectAppointments().where('appointment.id', '=', id))
  if (slot === undefined || slot.status !== 'available' || slot.starts_at <= now) throw new Refusal('slot_taken')
  const [care] = await tx.run(sql.selectFrom('therapy.care_relationships').select('id').where('therapist_id', '=', slot.therapist_id).where('patient_id', '=', patient).where('state', '=', 'active'))
  if (care === undefined) throw new Refusal('forbidden', { detail: 'booking needs an active care relationship with this therapist' })
  if (slot.version !== version) throw new Refusal('version_conflict')
  const [booked] = await tx.run(
    sql.updateTable('therapy.appointments').set({ status: 'booked', patient_id: patient, version: version + 1 })
      .where('id', '=', id).where('status', '=', 'available').where('version', '=', version).returning('id'),
  )
  if (booked === undefined) throw new Refusal('slot_taken')
  return readAppointment(tx, id)
}

/**
 * Moves or changes a slot that nobody has booked.
 * @throws Refusal not_found, version_conflict, slot_taken; conflict once it is booked or over
 */
export async function changeSlot(tx: Tx, therapist: string, id: string, version: number, to: { readonly starts_at?: Date | undefined; readonly minutes?: number | undefined; readonly kind?: string | undefined }): Promise<Appointment> {
  const row = await rowOf(tx, id)
  if (row.status !== 'available') throw new Refusal('conflict', { detail: 'only a free slot can be changed' })
  const start = to.starts_at ?? row.starts_at
  const minutes = to.minutes ?? (row.ends_at.getTime() - row.starts_at.getTime()) / 60_000
  await tx.run(lockCalendar(therapist))
  changed(
    await tx.run(
      sql.updateTable('therapy.appointments').set({ slot: slotOf(start, minutes), kind: to.kind ?? row.kind, version: version + 1 })
        .where('id', '=', id).where('therapist_id', '=', therapist).where('status', '=', 'available').where('version', '=', version).returning('id'),
    ),
  )
  return readAppointment(tx, id)
}

/**
 * Says how a booked appointment went, once it has begun.
 * @throws Refusal not_found, version_conflict; conflict when it is not booked or has not begun
 */
export async function closeAppointment(tx: Tx, therapist: string, id: string, version: number, status: 'completed' | 'no_show', now: Date): Promise<Appointment> {
  const row = await rowOf(tx, id)
  if (row.therapist_id !== therapist) throw new Refusal('not_found')
  if (row.status !== 'booked') throw new Refusal('conflict', { detail: 'only a booked appointment can be closed' })
  if (row.starts_at > now) throw new Refusal('conflict', { detail: 'this appointment has not begun' })
  return become(tx, id, version, status, ['booked'])
}

/**
 * Cancels: the therapist a free slot or a booking at any time before its start, the patient a booking until 24 hours
 * before. The time is then free for another slot.
 * @throws Refusal not_found, version_conflict; conflict when it is too late or over
 */
export async function cancelAppointment(tx: Tx, actor: string, id: string, version: number, now: Date): Promise<Appointment> {
  const row = await rowOf(tx, id)
  const own = row.therapist_id === actor
  if (!own && row.patient_id !== actor) throw new Refusal('not_found')
  if (row.status !== 'booked' && row.status !== 'available') throw new Refusal('conflict', { detail: 'this appointment is over or cancelled' })
  const notice = own ? 0 : cancellationHours * 3_600_000
  if (row.starts_at.getTime() - now.getTime() < notice) {
    throw new Refusal('conflict', { detail: own ? 'this appointment has begun' : `a booking can be cancelled until ${cancellationHours} hours before it starts` })
  }
  return become(tx, id, version, 'cancelled', ['booked', 'available'])
}

async function become(tx: Tx, id: string, version: number, status: string, from: readonly string[]): Promise<Appointment> {
  changed(
    await tx.run(
      sql.updateTable('therapy.appointments').set({ status, version: version + 1 })
        .where('id', '=', id).where('version', '=', version).where('status', 'in', from).returning('id'),
    ),
  )
  return readAppointment(tx, id)
}
