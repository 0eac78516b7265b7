import { newId } from 'redoubt/bytes'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { noteSubjects, changed, visible, make, sql, type App } from './app.ts'
import { idParams, rowId, utc, utcOf, versionBody } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'
import { mostPatients } from './patients.ts'

const states = ['requested', 'active', 'ended'] as const
const bases = ['self_referral', 'referral', 'continuation'] as const
const requestBody = z.strictObject({ therapist_id: rowId, basis: z.enum(bases) })
const relationshipAnswer = z.object({
  id: rowId,
  therapist_id: rowId,
  patient_id: rowId,
  state: z.enum(states),
  basis: z.enum(bases),
  created_at: utc,
  started_at: utc.nullable(),
  ended_at: utc.nullable(),
  version: z.int(),
})
type Relationship = z.output<typeof relationshipAnswer>

export function relationshipRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/relationships', tags: ['relationships'], summary: 'The caller’s care relationships, newest first',
      access: ['patient', 'therapist'], query: z.strictObject({ ...pageQuery, state: z.enum(states).optional() }), answer: pageOf(relationshipAnswer),
      handle: ({ caller, query }) => transaction(app.db, caller, 'relationship.viewed', (tx) => listRelationships(tx, query)),
    }),
    route({
      method: 'POST', path: '/api/relationships', tags: ['relationships'], summary: 'Ask a verified therapist for care',
      access: ['patient'], body: requestBody, answer: relationshipAnswer, status: 201, idempotent: true, refuses: ['already_exists', 'not_found'],
      handle: ({ caller, body, repeatable }) => make(app, { caller, repeatable, on: { type: 'therapist', id: body.therapist_id } }, 'relationship.requested', (tx) => requestCare(tx, caller.actor, body, app.now()), readRelationship),
    }),
    route({
      method: 'POST', path: '/api/relationships/{id}/accept', tags: ['relationships'], summary: 'Take a patient into care',
      access: ['therapist'], params: idParams, body: versionBody, answer: relationshipAnswer, refuses: ['conflict', 'version_conflict'],
      handle: ({ caller, params, body }) =>
        transaction(app.db, caller, { action: 'relationship.accepted', resource: { type: 'relationship', id: params.id } }, (tx) => acceptCare(tx, params.id, body.version, app.now())),
    }),
    route({
      method: 'POST', path: '/api/relationships/{id}/end', tags: ['relationships'], summary: 'End a request or a relationship; either side may',
      access: ['patient', 'therapist'], params: idParams, body: versionBody, answer: relationshipAnswer, refuses: ['conflict', 'version_conflict'],
      handle: ({ caller, params, body }) =>
        transaction(app.db, caller, { action: 'relationship.ended', resource: { type: 'relationship', id: params.id } }, (tx) => endCare(tx, params.id, body.version, app.now())),
    }),
  ]
}

const shown = ['id', 'therapist_id', 'patient_id', 'state', 'basis', 'created_at', 'started_at', 'ended_at', 'version'] as const
type Row = { readonly [K in (typeof shown)[number]]: K extends 'version' ? number : K extends 'created_at' ? Date : K extends 'started_at' | 'ended_at' ? Date | null : string }

function view(row: Row): Relationship {
  return {
    ...row,
    state: row.state as Relationship['state'],
    basis: row.basis as Relationship['basis'],
    created_at: utcOf(row.created_at),
    started_at: utcOf(row.started_at),
    ended_at: utcOf(row.ended_at),
  }
}

async function listRelationships(tx: Tx, query: PageQuery & { readonly state?: string | undefined }): Promise<{ readonly items: readonly Relationship[]; readonly next: string | null }> {
  const before = cursorOf(query, z.tuple([rowId]))?.[0]
  const rows = await tx.run(
    sql.selectFrom('therapy.care_relationships').select(shown)
      .$if(query.state !== undefined, (q) => q.where('state', '=', query.state ?? ''))
      .$if(before !== undefined, (q) => q.where('id', '<', before ?? ''))
      .orderBy('id', 'desc').limit(limitOf(query)),
  )
  const page = pageFrom(rows, query, (row) => [row.id], view)
  noteSubjects(tx, 'therapy.care_relationships', page.items)
  return page
}

/** @throws Refusal not_found */
async function readRelationship(tx: Tx, id: string): Promise<Relationship> {
  return view(visible(noteSubjects(tx, 'therapy.care_relationships', await tx.run(sql.selectFrom('therapy.care_relationships').select(shown).where('id', '=', id)))))
}

/**
 * Only a patient can ask, and only by a therapist's id, which is public: nobody can try patients' ids.
 * @throws Refusal not_found for a therapist who is not listed; already_exists while one is open between the two
 */
export async function requestCare(tx: Tx, patient: string, asked: z.output<typeof requestBody>, now: Date): Promise<Relationship> {
  visible(await tx.run(sql.selectFrom('therapy.therapist_profiles').select('user_id').where('user_id', '=', asked.therapist_id).where('verification', '=', 'verified')))
  const id = newId()
  tx.about('relationship', id)
  return view(visible(
    await tx.run(
      sql.insertInto('therapy.care_relationships')
        .values({ id, therapist_id: asked.therapist_id, patient_id: patient, state: 'requested', basis: asked.basis, created_at: now })
        .returning(shown),
    ),
  ))
}

/** @throws Refusal not_found, version_conflict; conflict when it was answered already or the list is full */
export async function acceptCare(tx: Tx, id: string, version: number, now: Date): Promise<Relationship> {
  const row = visible(await tx.run(sql.selectFrom('therapy.care_relationships').select(['state', 'therapist_id', 'patient_id']).where('id', '=', id)))
  noteSubjects(tx, 'therapy.care_relationships', [row])
  if (row.state !== 'requested') throw new Refusal('conflict', { detail: 'this request was answered already' })
  // One acceptance of a therapist after the other: two that count at the same time would both find room for one more.
  visible(await tx.run(sql.selectFrom('therapy.therapist_profiles').select('user_id').where('user_id', '=', row.therapist_id).forNoKeyUpdate()))
  const active = await tx.run(sql.selectFrom('therapy.care_relationships').select('id').where('therapist_id', '=', row.therapist_id).where('state', '=', 'active').limit(mostPatients))
  if (active.length >= mostPatients) throw new Refusal('conflict', { detail: `a therapist has at most ${mostPatients} patients in active care` })
  return step(tx, id, version, { state: 'active', started_at: now })
}

/** @throws Refusal not_found, version_conflict; conflict when it has ended already */
export async function endCare(tx: Tx, id: string, version: number, now: Date): Promise<Relationship> {
  const row = visible(await tx.run(sql.selectFrom('therapy.care_relationships').select(['state', 'patient_id']).where('id', '=', id)))
  noteSubjects(tx, 'therapy.care_relationships', [row])
  if (row.state === 'ended') throw new Refusal('conflict', { detail: 'this relationship has ended already' })
  return step(tx, id, version, { state: 'ended', ended_at: now })
}

async function step(tx: Tx, id: string, version: number, to: { readonly state: string; readonly started_at?: Date; readonly ended_at?: Date }): Promise<Relationship> {
  const row = changed(
    await tx.run(
      sql.updateTable('therapy.care_relationships').set({ ...to, version: version + 1 })
        .where('id', '=', id).where('version', '=', version).where('state', '<>', 'ended').returning(shown),
    ),
  )
  // Who the main therapist is follows from the relationships; no person sets it.
  await tx.query({ text: 'select therapy.settle_main_therapist($1)', values: [id] })
  noteSubjects(tx, 'therapy.care_relationships', [row])
  return view(row)
}
