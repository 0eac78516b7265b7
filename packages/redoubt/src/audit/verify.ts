import type { KeyObject } from 'node:crypto'
import { anchorHolds, type Anchor } from './anchor-line.ts'
import { checkAnchorFile } from './verify/anchors.ts'
import { collectFindings, type Findings, type Problem } from './verify/findings.ts'
import { openRetention } from './verify/retention.ts'
import { walkChain, type Query } from './verify/walk.ts'

export type { Problem, ProblemKind } from './verify/findings.ts'

export type Verification = {
  /** What is wrong, the first thousand in the order found; empty when the record is whole. */
  readonly problems: readonly Problem[]
  readonly problemCount: number
  readonly head: bigint
  /** Entries recomputed, entries removed by retention, and entries too young to be in the chain. */
  readonly entries: number
  readonly removed: number
  readonly unsealed: number
  /** Removals whose retention entry is not sealed yet. */
  readonly pendingRemovals: number
  readonly anchors: number
  /** The last anchor: an administrator of the database can still rewrite what lies behind it, and nothing before it. */
  readonly anchored: bigint
  /** Resumptions after a restore, and how many sealed entries each took away. */
  readonly discontinuities: readonly { readonly seq: bigint; readonly at: string; readonly lost: bigint }[]
}

type HeadRow = { readonly seq: bigint; readonly link: Buffer; readonly horizon: string; readonly last: bigint | null; readonly interrupted: boolean }
type CopyRow = Omit<Anchor, 'service' | 'at'> & { readonly at: Date }

/** The database's own copies, the first and the last: if they are ahead of the file, somebody has cut the file; if they begin before it, somebody has begun it anew. */
async function checkCopies(query: Query, service: string, publicKeys: ReadonlyMap<string, KeyObject>, findings: Findings): Promise<{ readonly first: bigint; readonly last: bigint }> {
  const seqOf = async (order: 'asc' | 'desc'): Promise<bigint | undefined> => {
    const rows = await query<CopyRow>({
      text: `select seq, link, kind, after_seq as after, previous, at, kid, signature from redoubt.audit_anchors order by at ${order}, seq ${order} limit 1`, values: [],
    })
    const copy = rows[0]
    if (copy === undefined) return undefined
    if (anchorHolds({ ...copy, service, at: copy.at.toISOString() }, publicKeys)) return copy.seq
    findings.add('anchor_forged', { seq: copy.seq }, 'the copy of an anchor in the database is not signed by a trusted key')
    return undefined
  }
  return { first: (await seqOf('asc')) ?? 0n, last: (await seqOf('desc')) ?? 0n }
}

async function checkStrays(query: Query, head: HeadRow, findings: Findings): Promise<number> {
  const notChained = 'not exists (select from redoubt.audit_chain c where c.entry_id = e.id)'
  const waiting = await query<{ readonly count: bigint }>({
    text: `select count(*) as count from redoubt.audit_logs e
      where e.xid >= $1::text::xid8 and e.xid < pg_snapshot_xmax(pg_current_snapshot()) and ${notChained}`,
    values: [head.horizon],
  })
  // Whoever is visible has a transaction id below the snapshot's end; the sequencer would never come to the others.
  const inserted = head.interrupted ? [] : await query<{ readonly id: string }>({
    text: `select e.id::text as id from redoubt.audit_logs e
      where (e.xid < $1::text::xid8 or e.xid >= pg_snapshot_xmax(pg_current_snapshot())) and ${notChained} limit 1000`,
    values: [head.horizon],
  })
  for (const { id } of inserted) findings.add('entry_inserted', { entry: id }, 'an entry that the sequencer has not sealed and never would')
  const orphans = await query<{ readonly id: string }>({
    text: `select distinct s.entry_id::text as id from redoubt.audit_subjects s
      where not exists (select from redoubt.audit_logs e where e.id = s.entry_id) limit 1000`,
    values: [],
  })
  for (const { id } of orphans) findings.add('subject_orphaned', { entry: id }, 'subjects of an entry that does not exist')
  const graves = await query<{ readonly seq: bigint; readonly id: string }>({
    text: `select t.seq, t.entry_id::text as id from redoubt.audit_tombstones t
      where not exists (select from redoubt.audit_chain c where c.seq = t.seq and c.entry_id = t.entry_id) limit 1000`,
    values: [],
  })
  for (const { seq, id } of graves) findings.add('tombstone_forged', { seq, entry: id }, 'a tombstone for what the chain does not have')
  return Number(waiting[0]?.count ?? 0n)
}

/**
 * Recomputes the whole audit record and holds it against its signed anchors. Trusts neither the database's functions
 * nor its administrator; what it needs from elsewhere is the anchor file and the public keys.
 *
 * May run while entries are written, sealed and removed, and finds nothing wrong then. It needs no long snapshot: the
 * copies of anchors are read first, then the size of the anchor file, then the head; each of these was on disk before
 * the next could get further, and everything up to that head is append only. So it works behind a transaction pooler,
 * and a verification of hours holds back no vacuum.
 * @param settings.query runs a statement as the auditor role (pool.query); statements must not see older data than the one before
 * @param settings.anchors path of the anchor file
 * @param settings.publicKeys trusted keys by kid, from the keyring or from a file kept apart; never from the database alone
 * @param settings.now milliseconds since 1970
 * @returns what was found; problems do not throw
 * @throws Refusal when the database does not answer
 */
export async function verifyAudit(settings: {
  readonly query: Query
  readonly service: string
  readonly anchors: string
  readonly publicKeys: ReadonlyMap<string, KeyObject>
  readonly pageSize?: number
  readonly now?: () => number
}): Promise<Verification> {
  const { query, service, publicKeys, pageSize = 2000, now = Date.now } = settings
  if (!Number.isInteger(pageSize) || pageSize < 1) throw new TypeError('verifyAudit: pageSize must be a positive whole number')
  const findings = collectFindings(1000)
  const copied = await checkCopies(query, service, publicKeys, findings)
  const anchors = await checkAnchorFile(settings.anchors, service, publicKeys, findings)
  if (copied.last > anchors.highest) findings.add('anchor_missing', { seq: copied.last }, 'the database has the copy of an anchor that the file lacks')
  // A discontinuity says by itself that what was before it is lost, and somebody has signed that.
  else if (copied.first > 0n && anchors.first?.kind === 'head' && anchors.first.seq > copied.first) findings.add('anchor_missing', { seq: copied.first }, 'the file begins after an anchor that the database has the copy of')
  const head = (
    await query<HeadRow>({
      text: `select h.seq, h.link, h.horizon::text as horizon, (select max(c.seq) from redoubt.audit_chain c) as last,
          (h.cluster is not null and (h.horizon > pg_snapshot_xmax(pg_current_snapshot()) or h.cluster <> guard.cluster())) as interrupted
        from redoubt.audit_head h`,
      values: [],
    })
  )[0]
  if (head === undefined) {
    findings.add('head_altered', {}, 'the head of the chain is missing')
    return { problems: findings.problems, problemCount: findings.count(), head: 0n, entries: 0, removed: 0, unsealed: 0, pendingRemovals: 0, anchors: anchors.lines, anchored: anchors.highest, discontinuities: [] }
  }
  if (head.interrupted) findings.add('interrupted', { seq: head.seq }, 'the database was restored into another cluster: resume the chain')
  if ((head.last ?? 0n) > head.seq) findings.add('head_altered', { seq: head.seq }, `the head lies before the last row, ${head.last ?? 0n}`)
  const retention = openRetention({ query, findings, head: head.seq, now: BigInt(now()) * 1000n })
  const walk = await walkChain({ query, service, end: head, pageSize, anchors, retention, findings })
  const unsealed = await checkStrays(query, head, findings)
  return {
    problems: findings.problems,
    problemCount: findings.count(),
    head: head.seq,
    entries: walk.entries,
    removed: walk.removed,
    unsealed,
    pendingRemovals: retention.pending(),
    anchors: anchors.lines,
    anchored: anchors.highest,
    discontinuities: [...anchors.discontinuities].map(([seq, { anchor, lost }]) => ({ seq, at: anchor.at, lost })),
  }
}
