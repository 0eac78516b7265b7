import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { changed, visible, sql, type App } from './app.ts'
import { currency, idParams, line, prose, rowId, timeZone, version } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'

export const profileFields = {
  display_name: line(2, 100),
  specialisation: line(1, 200),
  bio: prose(2000),
  price_minor: z.int().min(0).max(1_000_000),
  currency,
  time_zone: timeZone,
}
const profileBody = z.strictObject({ ...z.strictObject(profileFields).partial().shape, version })
const profileAnswer = z.object({
  id: rowId,
  display_name: z.string(),
  specialisation: z.string(),
  bio: z.string(),
  verification: z.enum(['pending', 'verified', 'rejected']),
  price_minor: z.int(),
  currency: z.string(),
  time_zone: z.string(),
  version: z.int(),
})
type Profile = z.output<typeof profileAnswer>

/** The public profiles, at either door. */
export function profileRoutes(app: App, access: readonly [string, ...string[]]): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/therapists', tags: ['therapists'], summary: 'Verified therapists by name',
      access, scope: 'therapists:read', query: z.strictObject(pageQuery), answer: pageOf(profileAnswer),
      handle: ({ caller, query }) => transaction(app.db, caller, 'therapist.viewed', (tx) => listTherapists(tx, query)),
    }),
    route({
      method: 'GET', path: '/api/therapists/{id}', tags: ['therapists'], summary: 'One verified therapist, or one’s own profile',
      access, scope: 'therapists:read', params: idParams, answer: profileAnswer,
      handle: ({ caller, params }) => transaction(app.db, caller, 'therapist.viewed', (tx) => readTherapist(tx, params.id)),
    }),
  ]
}

export function therapistRoutes(app: App): readonly Route[] {
  return [
    ...profileRoutes(app, ['patient', 'therapist', 'admin', 'auditor']),
    route({
      method: 'PATCH', path: '/api/therapists/me', tags: ['therapists'], summary: 'Change one’s own public profile; once it is verified, display_name is fixed and another one is a conflict',
      access: ['therapist'], body: profileBody, answer: profileAnswer, refuses: ['conflict', 'version_conflict'],
      handle: ({ caller, body }) =>
        transaction(app.db, caller, { action: 'therapist.updated', resource: { type: 'therapist', id: caller.actor } }, (tx) => changeProfile(tx, caller.actor, body)),
    }),
  ]
}

const shown = ['user_id', 'display_name', 'specialisation', 'bio', 'verification', 'price_minor', 'currency', 'time_zone', 'version'] as const

function view({ user_id: id, verification, ...row }: Omit<Profile, 'id' | 'verification'> & { readonly user_id: string; readonly verification: string }): Profile {
  return { id, ...row, verification: verification as Profile['verification'] }
}

async function listTherapists(tx: Tx, query: PageQuery): Promise<{ readonly items: readonly Profile[]; readonly next: string | null }> {
  const after = cursorOf(query, z.tuple([z.string(), rowId]))
  const rows = await tx.run(
    sql.selectFrom('therapy.therapist_profiles').select(shown).where('verification', '=', 'verified')
      .$if(after !== undefined, (q) => q.where((is) => is(is.refTuple('display_name', 'user_id'), '>', is.tuple(after?.[0] ?? '', after?.[1] ?? ''))))
      .orderBy('display_name').orderBy('user_id').limit(limitOf(query)),
  )
  return pageFrom(rows, query, (row) => [row.display_name, row.user_id], view)
}

/** @throws Refusal not_found for a therapist who is not verified, except for themselves */
async function readTherapist(tx: Tx, id: string): Promise<Profile> {
  return view(visible(await tx.run(sql.selectFrom('therapy.therapist_profiles').select(shown).where('user_id', '=', id))))
}

/** @throws Refusal not_found, version_conflict; conflict for another name once this one was verified (the database refuses it too) */
async function changeProfile(tx: Tx, id: string, given: z.output<typeof profileBody>): Promise<Profile> {
  const { version: read, ...fields } = given
  const { verification, display_name: name } = await readTherapist(tx, id)
  if (verification === 'verified' && (fields.display_name ?? name) !== name) throw new Refusal('conflict', { detail: 'the name was verified and cannot be changed' })
  const present = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
  return view(changed(
    await tx.run(
      sql.updateTable('therapy.therapist_profiles').set({ ...present, version: read + 1 })
        .where('user_id', '=', id).where('version', '=', read).returning(shown),
    ),
  ))
}
