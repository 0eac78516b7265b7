import { hash } from 'node:crypto'

/** An entry as its commitment sees it: every value in the text form of docs/audit-format.md, null where the column is. */
export type EntryForm = {
  readonly id: string
  readonly xid: string
  /** Microseconds since 1970. */
  readonly occurred_at: string
  readonly actor_type: string
  readonly actor_id: string | null
  readonly actor_role: string
  readonly tenant_id: string
  readonly action: string
  readonly resource_type: string | null
  readonly resource_id: string | null
  readonly purpose: string | null
  readonly outcome: string
  readonly request_id: string
  /** As PostgreSQL writes the stored jsonb. */
  readonly metadata: string
  /** Hexadecimal. */
  readonly personal_commitment: string | null
  readonly retention_class: string
  readonly retain_until: string
  /** Subject ids in ascending order, joined by commas; null where there are none. */
  readonly subjects: string | null
}

/** What a link binds besides the link before it. */
export type LinkForm = {
  readonly seq: bigint
  readonly kind: 'entry' | 'discontinuity'
  readonly entryId: string
  /** Microseconds since 1970. */
  readonly retainUntil: string
  readonly commitment: Buffer
}

/** A place in the chain, and the link that stands for everything up to it. */
export type ChainPoint = { readonly seq: bigint; readonly link: Buffer }

/** SQL expression for a timestamp in the canonical form. */
export function microsecondsOf(column: string): string {
  return `(extract(epoch from ${column}) * 1000000)::bigint::text`
}

/** Select list that gives an EntryForm for `e` (redoubt.audit_logs); guard.entry_commitment holds the same list. */
export const entryFormColumns = `e.id::text as id, e.xid::text as xid, ${microsecondsOf('e.occurred_at')} as occurred_at,
  e.actor_type, e.actor_id::text as actor_id, e.actor_role, e.tenant_id, e.action, e.resource_type, e.resource_id, e.purpose,
  e.outcome, e.request_id, e.metadata::text as metadata, encode(e.personal_commitment, 'hex') as personal_commitment,
  e.retention_class, ${microsecondsOf('e.retain_until')} as retain_until,
  (select string_agg(s.subject_id::text, ',' order by s.subject_id) from redoubt.audit_subjects s where s.entry_id = e.id) as subjects`

/** The canonical form: '-' for null, else the length in bytes, ':', the value. Two lists never give the same text. */
export function netstrings(values: readonly (string | null)[]): string {
  let text = ''
  for (const value of values) text += value === null ? '-' : `${Buffer.byteLength(value)}:${value}`
  return text
}

function sha256(values: readonly (string | null)[]): Buffer {
  return hash('sha256', netstrings(values), 'buffer')
}

/** SHA-256 of the whole entry but `personal_enc`, which erasure may make unreadable. */
export function entryCommitment(e: EntryForm): Buffer {
  return sha256([
    'redoubt.audit.entry.1', e.id, e.xid, e.occurred_at, e.actor_type, e.actor_id, e.actor_role, e.tenant_id, e.action,
    e.resource_type, e.resource_id, e.purpose, e.outcome, e.request_id, e.metadata, e.personal_commitment,
    e.retention_class, e.retain_until, e.subjects,
  ])
}

/** The link of one row of the chain. */
export function nextLink(previous: Buffer, link: LinkForm): Buffer {
  return sha256([
    'redoubt.audit.link.1', String(link.seq), link.kind, link.entryId, link.retainUntil,
    link.commitment.toString('hex'), previous.toString('hex'),
  ])
}

/** Where the chain of a service begins (seq 0): rows of one service cannot stand in another's. */
export function genesis(service: string): ChainPoint {
  return { seq: 0n, link: sha256(['redoubt.audit.genesis.1', service]) }
}
