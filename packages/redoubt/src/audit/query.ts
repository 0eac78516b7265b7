import type { Statement } from '../pg.ts'

/** An entry of the record as those who oversee it see it: without the personal part. */
export type AuditRow = {
  readonly id: string
  readonly occurred_at: Date
  readonly actor_type: string
  readonly actor_id: string | null
  readonly actor_role: string
  readonly action: string
  readonly resource_type: string | null
  readonly resource_id: string | null
  readonly purpose: string | null
  readonly outcome: string
  readonly request_id: string
}

/** What to look for; what is left out does not matter. */
export type AuditWanted = {
  readonly action?: string | undefined
  readonly actor?: string | undefined
  readonly resourceType?: string | undefined
  readonly resourceId?: string | undefined
  /** The word in front of the colon: done, refused (somebody tried what they may not), failed. */
  readonly outcome?: 'done' | 'refused' | 'failed' | undefined
  /** The beginning of its transaction, as the database stamped it: from `since` on, and before `until`. */
  readonly since?: Date | undefined
  readonly until?: Date | undefined
  /** Id of the entry after which a page begins. */
  readonly before?: string | undefined
  /** 1 to 101. */
  readonly limit: number
}

/** Entries of the record, newest first. The database refuses all but administrators and auditors. */
export function readAudit(wanted: AuditWanted): Statement<AuditRow> {
  const { action, actor, resourceType, resourceId, outcome, since, until, before, limit } = wanted
  return {
    name: 'redoubt.read_audit',
    text: `select id, occurred_at, actor_type, actor_id, actor_role, action, resource_type, resource_id, purpose, outcome, request_id
      from guard.read_audit($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    values: [action ?? null, actor ?? null, resourceType ?? null, resourceId ?? null, outcome ?? null, since ?? null, until ?? null, before ?? null, limit],
  }
}
