import type { Statement } from '../../pg.ts'
import { entryCommitment, entryFormColumns, genesis, microsecondsOf, nextLink, type ChainPoint, type EntryForm } from '../form.ts'
import type { AnchorFile } from './anchors.ts'
import type { Findings } from './findings.ts'
import type { openRetention } from './retention.ts'

/** Runs one statement as the auditor role; each may have a snapshot of its own. */
export type Query = <R>(statement: Statement<R>) => Promise<readonly R[]>

type Nullable<T> = { readonly [K in keyof T]: T[K] | null }

type ChainRow = Nullable<EntryForm> & {
  readonly seq: bigint
  readonly kind: 'entry' | 'discontinuity'
  readonly entry_id: string
  readonly chain_retain_until: string
  readonly commitment: Buffer
  readonly link: Buffer
  readonly tombstone_entry: string | null
  readonly retention_entry: string | null
}

export type Walk = { readonly entries: number; readonly removed: number; readonly discontinuities: readonly bigint[] }

// By keyset and in pages: the memory of the one who checks is bounded, and no snapshot is held for the whole time.
const page = `select c.seq, c.kind, c.entry_id::text as entry_id, ${microsecondsOf('c.retain_until')} as chain_retain_until, c.commitment, c.link,
    t.entry_id::text as tombstone_entry, t.retention_entry::text as retention_entry, ${entryFormColumns}
  from redoubt.audit_chain c
  left join redoubt.audit_logs e on e.id = c.entry_id
  left join redoubt.audit_tombstones t on t.seq = c.seq
  where c.seq > $1 and c.seq <= $2
  order by c.seq limit $3`

function isWhole(row: ChainRow): row is ChainRow & EntryForm {
  return row.id !== null
}

/** Checks that the anchors lie on the chain, as the walk goes by. */
function followAnchors(anchors: AnchorFile, findings: Findings): { pass(row: ChainPoint): Promise<void>; end(head: bigint): Promise<void> } {
  const heads = anchors.heads()
  let next = heads.next()
  async function strays(below: bigint): Promise<void> {
    for (let step = await next; step.done !== true && step.value.seq < below; step = await next) {
      findings.add('anchor_mismatch', { seq: step.value.seq }, 'the chain has no row where this anchor stands')
      next = heads.next()
    }
  }
  return {
    async pass({ seq, link }) {
      await strays(seq)
      for (let step = await next; step.done !== true && step.value.seq === seq; step = await next) {
        if (!step.value.link.equals(link)) findings.add('anchor_mismatch', { seq }, 'the chain has another link than was anchored')
        next = heads.next()
      }
    },
    async end(head) {
      await strays(head + 1n)
      const step = await next
      if (step.done !== true) findings.add('tail_cut', { seq: head }, `the chain ends here but was anchored up to ${anchors.highest}`)
      await heads.return(undefined)
    },
  }
}

/**
 * Goes through the chain up to the head, recomputing every commitment and link in this process.
 * @param settings.end the head as read before; the chain is append only, so what comes behind it disturbs nothing
 */
export async function walkChain(settings: {
  readonly query: Query
  readonly service: string
  readonly end: ChainPoint
  readonly pageSize: number
  readonly anchors: AnchorFile
  readonly retention: ReturnType<typeof openRetention>
  readonly findings: Findings
}): Promise<Walk> {
  const { query, end, pageSize, anchors, retention, findings } = settings
  const follow = followAnchors(anchors, findings)
  const discontinuities: bigint[] = []
  let at = genesis(settings.service)
  let entries = 0
  let removed = 0

  async function check(row: ChainRow): Promise<void> {
    const { seq, kind, entry_id: entry, link, commitment } = row
    const where = { seq, entry }
    const gap = seq !== at.seq + 1n
    if (gap) findings.add('link_missing', { seq: at.seq + 1n }, `the chain has nothing from here to ${seq - 1n}`)
    const wanted = nextLink(at.link, { seq, kind, entryId: entry, retainUntil: row.chain_retain_until, commitment })
    // Behind a gap the link before is unknown; that is reported already.
    if (!gap && !link.equals(wanted)) findings.add('link_broken', where, 'the link does not follow from the row and the link before it')
    at = { seq, link }
    await follow.pass(at)

    if (isWhole(row)) {
      entries += 1
      if (row.retention_entry !== null) findings.add('tombstone_forged', where, 'the entry is still there')
      if (!entryCommitment(row).equals(commitment)) findings.add('entry_altered', where, 'the entry or its subjects are not what was sealed')
      else if (row.retain_until !== row.chain_retain_until) findings.add('link_broken', where, 'the chain has another retain_until than the entry')
    } else if (row.retention_entry === null || row.tombstone_entry === null) {
      findings.add('entry_missing', where, 'the entry is gone and nothing accounts for it')
    } else {
      removed += 1
      await retention.judge({ seq, entry, retainUntil: row.chain_retain_until, link, tombstoneEntry: row.tombstone_entry, run: row.retention_entry })
    }

    if (kind !== 'discontinuity') return
    discontinuities.push(seq)
    if (anchors.discontinuities.get(seq)?.anchor.link.equals(link) !== true) {
      findings.add('discontinuity_unsigned', where, 'a discontinuity that the anchors do not know')
    }
  }

  for (;;) {
    const rows = await query<ChainRow>({ name: 'redoubt_audit_walk', text: page, values: [at.seq, end.seq, pageSize] })
    for (const row of rows) await check(row)
    if (rows.length < pageSize) break
  }
  if (at.seq !== end.seq) findings.add('link_missing', { seq: at.seq + 1n }, `the chain has nothing from here to its head at ${end.seq}`)
  else if (!at.link.equals(end.link)) findings.add('head_altered', { seq: end.seq }, 'the head has another link than the last row')
  await follow.end(end.seq)
  for (const [seq, { anchor }] of anchors.discontinuities) {
    if (!discontinuities.includes(seq)) findings.add('anchor_mismatch', { seq: anchor.seq }, 'the chain lacks a discontinuity that was signed')
  }
  retention.finish()
  return { entries, removed, discontinuities }
}
