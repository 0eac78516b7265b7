import { createHash } from 'node:crypto'
import { framed, newId } from 'redoubt/bytes'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { noteSubjects, visible, make, sql, type App } from './app.ts'
import { idParams, rowId, utc, utcOf } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'

/** The words a patient agrees to, by version. A version that somebody agreed to is never edited: add a new one. */
const consentTexts = {
  processing: { '2026-01': 'I agree that Therapy processes my health data so that I can be treated.' },
  video: { '2026-01': 'I agree to sessions by video. They are not recorded.' },
  sharing: { '2026-01': 'I agree that the therapist who treats me now reads what my earlier therapists recorded.' },
  research: { '2026-01': 'I agree that my data, without my name, is used for research on psychotherapy.' },
} as const satisfies Record<string, Record<string, string>>

const kinds = ['processing', 'video', 'sharing', 'research'] as const
const consentBody = z.strictObject({ kind: z.enum(kinds), text_version: z.string().min(1).max(40) })
const consentAnswer = z.object({ id: rowId, kind: z.enum(kinds), text_version: z.string(), given_at: utc, withdrawn_at: utc.nullable() })
type Consent = z.output<typeof consentAnswer>

export function consentRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/consents', tags: ['consents'], summary: 'What the caller agreed to, newest first',
      access: ['patient'], query: z.strictObject(pageQuery), answer: pageOf(consentAnswer),
      handle: ({ caller, query }) => transaction(app.db, caller, 'consent.viewed', (tx) => listConsents(tx, query)),
    }),
    route({
      method: 'POST', path: '/api/consents', tags: ['consents'], summary: 'Agree to something, in the words of a stated version',
      access: ['patient'], body: consentBody, answer: consentAnswer, status: 201, idempotent: true, refuses: ['already_exists'],
      handle: ({ caller, body, repeatable }) => make(app, { caller, repeatable }, 'consent.given', (tx) => giveConsent(tx, caller.actor, body, app.now()), readConsent),
    }),
    route({
      method: 'POST', path: '/api/consents/{id}/withdraw', tags: ['consents'], summary: 'Take a consent back, from now on',
      access: ['patient'], params: idParams, answer: consentAnswer, refuses: ['conflict'],
      handle: ({ caller, params }) =>
        transaction(app.db, caller, { action: 'consent.withdrawn', resource: { type: 'consent', id: params.id } }, (tx) => withdrawConsent(tx, params.id, app.now())),
    }),
  ]
}

const shown = ['id', 'patient_id', 'kind', 'text_version', 'given_at', 'withdrawn_at'] as const

type Row = { readonly id: string; readonly patient_id: string; readonly kind: string; readonly text_version: string; readonly given_at: Date; readonly withdrawn_at: Date | null }

function view({ patient_id: _, ...row }: Row): Consent {
  return { ...row, kind: row.kind as Consent['kind'], given_at: utcOf(row.given_at), withdrawn_at: utcOf(row.withdrawn_at) }
}

async function listConsents(tx: Tx, query: PageQuery): Promise<{ readonly items: readonly Consent[]; readonly next: string | null }> {
  const before = cursorOf(query, z.tuple([rowId]))?.[0]
  const rows = await tx.run(
    sql.selectFrom('therapy.consents').select(shown)
      .$if(before !== undefined, (q) => q.where('id', '<', before ?? ''))
      .orderBy('id', 'desc').limit(limitOf(query)),
  )
  const page = pageFrom(rows, query, (row) => [row.id], (row) => row)
  return { ...page, items: noteSubjects(tx, 'therapy.consents', page.items).map(view) }
}

/** @throws Refusal not_found */
async function readConsent(tx: Tx, id: string): Promise<Consent> {
  return view(visible(noteSubjects(tx, 'therapy.consents', await tx.run(sql.selectFrom('therapy.consents').select(shown).where('id', '=', id)))))
}

/** @throws Refusal invalid_input for words nobody was shown; already_exists while one of this kind stands */
export async function giveConsent(tx: Tx, patient: string, given: z.output<typeof consentBody>, now: Date): Promise<Consent> {
  const texts: Readonly<Record<string, string>> = consentTexts[given.kind]
  const text = Object.hasOwn(texts, given.text_version) ? texts[given.text_version] : undefined
  if (text === undefined) throw new Refusal('invalid_input', { fields: [{ field: 'text_version', rule: 'unknown' }] })
  const id = newId()
  tx.about('consent', id)
  const proof = createHash('sha256').update(framed([id, patient, given.kind, given.text_version, text, now.toISOString()])).digest()
  return view(visible(
    await tx.run(
      sql.insertInto('therapy.consents')
        .values({ id, patient_id: patient, kind: given.kind, text_version: given.text_version, given_at: now, proof_hash: proof })
        .returning(shown),
    ),
  ))
}

/** @throws Refusal not_found; conflict when it was withdrawn before */
async function withdrawConsent(tx: Tx, id: string, now: Date): Promise<Consent> {
  visible(await tx.run(sql.selectFrom('therapy.consents').select('id').where('id', '=', id)))
  const [row] = await tx.run(sql.updateTable('therapy.consents').set({ withdrawn_at: now }).where('id', '=', id).where('withdrawn_at', 'is', null).returning(shown))
  if (row === undefined) throw new Refusal('conflict', { detail: 'this consent was withdrawn already' })
  return view(row)
}
