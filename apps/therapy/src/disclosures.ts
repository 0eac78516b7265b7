import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { visible, sql, type App } from './app.ts'
import { idParams, rowId, utc, utcOf } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'

const entryAnswer = z.object({
  id: rowId,
  at: utc,
  actor: z.object({ type: z.enum(['user', 'system']), id: rowId.nullable(), role: z.string(), name: z.string().nullable(), you: z.boolean() }),
  action: z.string(),
  purpose: z.string().nullable(),
  outcome: z.string(),
  resource: z.object({ type: z.string(), id: z.string() }).nullable(),
})

export function disclosureRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/patients/{id}/audit', tags: ['patients'],
      summary: 'Who read a patient’s data: for the patient every time a sealed value was opened or a row about them answered, for a therapist their own entries',
      access: ['patient', 'therapist'], params: idParams, query: z.strictObject(pageQuery), answer: pageOf(entryAnswer),
      handle: ({ caller, params, query }) =>
        transaction(app.db, caller, { action: 'audit.viewed', resource: { type: 'patient', id: params.id } }, (tx) => listDisclosures(tx, caller.actor, params.id, query)),
    }),
  ]
}

/** What the caller may see of the trail is decided by its policies; this only asks for what concerns the patient. */
async function listDisclosures(tx: Tx, reader: string, patient: string, query: PageQuery): Promise<{ readonly items: readonly z.output<typeof entryAnswer>[]; readonly next: string | null }> {
  const before = cursorOf(query, z.tuple([rowId]))?.[0]
  visible(await tx.run(sql.selectFrom('therapy.patients').select('id').where('id', '=', patient)))
  const rows = await tx.run(
    sql.selectFrom('redoubt.audit_logs as entry')
      .leftJoin('therapy.therapist_profiles as profile', 'profile.user_id', 'entry.actor_id')
      .select(['entry.id', 'entry.occurred_at', 'entry.actor_type', 'entry.actor_id', 'entry.actor_role', 'entry.action', 'entry.purpose', 'entry.outcome', 'entry.resource_type', 'entry.resource_id', 'profile.display_name'])
      .where((is) => is.or([
        is('entry.id', 'in', is.selectFrom('redoubt.audit_subjects as subject').select('subject.entry_id').where('subject.subject_id', '=', patient)),
        is.and([is('entry.resource_type', '=', 'patient'), is('entry.resource_id', '=', patient)]),
      ]))
      .$if(before !== undefined, (q) => q.where('entry.id', '<', before ?? ''))
      .orderBy('entry.id', 'desc')
      .limit(limitOf(query)),
  )
  return pageFrom(rows, query, (row) => [row.id], (row) => ({
    id: row.id,
    at: utcOf(row.occurred_at),
    actor: { type: row.actor_type === 'user' ? 'user' as const : 'system' as const, id: row.actor_id, role: row.actor_role, name: nameOf(row), you: row.actor_id === reader },
    action: row.action,
    purpose: row.purpose,
    outcome: row.outcome,
    resource: row.resource_type === null || row.resource_id === null ? null : { type: row.resource_type, id: row.resource_id },
  }))
}

/** A therapist as they call themselves; what no person did, by what it was for; nobody else has a name that others may read. */
function nameOf({ display_name: name, actor_type: type, actor_role: role }: { readonly display_name: string | null; readonly actor_type: string; readonly actor_role: string }): string | null {
  return type === 'system' ? `Therapy (${role.replace(/^system\./, '').replaceAll('-', ' ')})` : name
}
