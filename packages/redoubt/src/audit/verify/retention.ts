import { createHash, type Hash } from 'node:crypto'
import type { Findings } from './findings.ts'
import { microsecondsOf } from '../form.ts'
import type { Query } from './walk.ts'

type RunRow = {
  readonly id: string
  readonly occurred_at: string
  readonly genuine: boolean
  readonly seq: bigint | null
  readonly seqs: unknown
  readonly digest: string | null
  readonly removed: string | null
}

type Run = {
  readonly id: string
  readonly occurredAt: bigint
  readonly seq: bigint | null
  readonly ranges: readonly (readonly [low: bigint, high: bigint])[]
  readonly digest: string | null
  readonly removed: string | null
  readonly seen: Hash
  count: number
}

/** A removed entry as the chain and its tombstone tell it. */
export type Removed = { readonly seq: bigint; readonly entry: string; readonly retainUntil: string; readonly link: Buffer; readonly tombstoneEntry: string; readonly run: string }

/** Retention entries may say a time to come only by this much (microseconds): clocks differ. */
const skew = 300_000_000n

const select = `select e.id::text as id, ${microsecondsOf('e.occurred_at')} as occurred_at,
    (e.action = 'retention.run' and e.actor_type = 'system' and e.actor_role = 'system.retention' and e.outcome = 'done') as genuine,
    c.seq, e.metadata -> 'seqs' as seqs, e.metadata ->> 'digest' as digest, e.metadata ->> 'removed' as removed
  from redoubt.audit_logs e left join redoubt.audit_chain c on c.entry_id = e.id
  where e.id = $1`

function rangesOf(seqs: unknown): readonly (readonly [bigint, bigint])[] {
  if (!Array.isArray(seqs)) return []
  return seqs.flatMap((pair: unknown) =>
    Array.isArray(pair) && Number.isSafeInteger(pair[0]) && Number.isSafeInteger(pair[1]) ? [[BigInt(pair[0] as number), BigInt(pair[1] as number)] as const] : [],
  )
}

function lists(run: Run, seq: bigint): boolean {
  let low = 0
  let high = run.ranges.length - 1
  while (low <= high) {
    const middle = (low + high) >> 1
    const range = run.ranges[middle]
    if (range === undefined) return false
    if (seq < range[0]) high = middle - 1
    else if (seq > range[1]) low = middle + 1
    else return true
  }
  return false
}

/**
 * Judges removals: each must be listed by a retention entry that is itself in the chain behind it, and must have come
 * after the chained `retain_until`. That time is under the links and the anchors, so it cannot be moved afterwards.
 * A run that is not sealed yet is pending, not wrong.
 */
export function openRetention(settings: { readonly query: Query; readonly findings: Findings; readonly head: bigint; readonly now: bigint }): {
  judge(removed: Removed): Promise<void>
  finish(): void
  pending(): number
} {
  const { query, findings, head, now } = settings
  const runs = new Map<string, Run | null>()
  let pending = 0

  async function runOf(id: string): Promise<Run | null> {
    const known = runs.get(id)
    if (known !== undefined) return known
    const row = (await query<RunRow>({ text: select, values: [id] }))[0]
    const run: Run | null =
      row === undefined || !row.genuine
        ? null
        : { id, occurredAt: BigInt(row.occurred_at), seq: row.seq, ranges: rangesOf(row.seqs), digest: row.digest, removed: row.removed, seen: createHash('sha256'), count: 0 }
    runs.set(id, run)
    return run
  }

  return {
    async judge({ seq, entry, retainUntil, link, tombstoneEntry, run: id }) {
      const forged = (detail: string): void => findings.add('tombstone_forged', { seq, entry }, detail)
      if (tombstoneEntry !== entry) return forged('the tombstone names another entry than the chain')
      const run = await runOf(id)
      if (run === null) return forged('its retention entry does not exist')
      if (!lists(run, seq)) return forged('its retention entry does not list it')
      if (BigInt(retainUntil) > run.occurredAt) return forged('it was removed before its time')
      if (run.occurredAt > now + skew) return forged('its retention entry lies in the future')
      if (run.seq !== null && run.seq <= seq) return forged('its retention entry is older than the entry')
      run.seen.update(link)
      run.count += 1
      if (run.seq === null || run.seq > head) pending += 1
    },
    finish() {
      for (const run of runs.values()) {
        // Removals of a run that came during this verification may have been passed before they happened.
        if (run === null || run.seq === null || run.seq > head) continue
        if (run.seen.digest('hex') !== run.digest || String(run.count) !== run.removed) {
          findings.add('tombstone_forged', { seq: run.seq, entry: run.id }, 'the removals are not those that the retention entry sums up')
        }
      }
    },
    pending: () => pending,
  }
}
