import { anchorHolds, readAnchorLines, type Anchor } from './audit/anchor-line.ts'
import type { Anchors } from './audit/anchor.ts'
import type { ChainPoint } from './audit/form.ts'
import { Refusal } from './errors.ts'
import type { Pool } from './pg.ts'
import type { KeyObject } from 'node:crypto'

type Database = Pick<Pool, 'query'>

/**
 * Removes entries whose time to be kept was over at the last midnight (UTC), at most $1 of them (up to 10 000), with their
 * subjects; for the worker's sweep. A chained entry lists them and tombstones stand for them; what is not sealed yet stays.
 * By the day, not by the minute: the entry that accounts for a removal is kept for ever.
 */
export const expireEntries = {
  name: 'redoubt_expire_entries',
  text: `select removed as gone from guard.expire_audit(date_trunc('day', now(), 'UTC'), least($1::int, 10000))`,
} as const

/** The anchors that still speak for the file: what a later discontinuity took back is left out. */
async function standingAnchors(path: string, publicKeys: ReadonlyMap<string, KeyObject>): Promise<readonly Anchor[]> {
  let standing: Anchor[] = []
  for await (const { anchor } of readAnchorLines(path)) {
    if (anchor === undefined || !anchorHolds(anchor, publicKeys)) continue
    const { after } = anchor
    if (after !== null) standing = standing.filter(({ seq }) => seq <= after)
    standing.push(anchor)
  }
  return standing
}

/** The newest anchor that the chain contains: where the present database and the anchored one parted. */
async function lastCommon(pool: Database, anchors: readonly Anchor[]): Promise<Anchor | undefined> {
  for (let end = anchors.length; end > 0; end -= 1000) {
    const some = anchors.slice(Math.max(0, end - 1000), end)
    const rows = await pool.query<{ readonly seq: bigint; readonly link: Buffer }>({
      text: 'select seq, link from redoubt.audit_chain where seq = any($1)', values: [some.map(({ seq }) => seq)],
    })
    const links = new Map(rows.map((row) => [row.seq, row.link]))
    const found = some.findLast(({ seq, link }) => links.get(seq)?.equals(link) === true)
    if (found !== undefined) return found
  }
  return undefined
}

/** An anchor that the file lacks and the database has a copy of. No link: the chain has it, the file is what was lost. */
async function lostFile(pool: Database, standing: readonly Anchor[]): Promise<ChainPoint | undefined> {
  const rows = await pool.query<{ readonly seq: bigint }>({ text: 'select seq from redoubt.audit_anchors order by at desc, seq desc limit 1', values: [] })
  const copied = rows[0]?.seq ?? 0n
  return copied === 0n || standing.some(({ seq }) => seq >= copied) ? undefined : { seq: copied, link: Buffer.alloc(32) }
}

/**
 * Takes the chain up again after a restore, or after the loss of the anchor file: a discontinuity is written into it and signed into the anchor file.
 * Verification reports every discontinuity, and refuses one that the anchors' key has not signed. May be called again
 * when it was interrupted between the two.
 * @param settings.pool pool of the worker role; the sequencer may be running
 * @param settings.reason what happened, 3 to 200 bytes, for the record; no personal data
 * @returns the discontinuity, and up to which seq earlier anchors still hold
 * @throws Refusal audit_not_interrupted when the chain is whole and its transaction ids are those of this cluster
 */
export async function resumeAudit(settings: {
  readonly pool: Database
  readonly anchors: Anchors
  readonly publicKeys: ReadonlyMap<string, KeyObject>
  readonly reason: string
}): Promise<{ readonly point: ChainPoint; readonly after: bigint }> {
  const { pool, anchors, publicKeys, reason } = settings
  const standing = await standingAnchors(anchors.path, publicKeys)
  const after = (await lastCommon(pool, standing))?.seq ?? 0n
  const lost = standing.findLast(({ seq }) => seq > after) ?? (await lostFile(pool, standing))
  const written = await pool.query<{ readonly seq: bigint; readonly link: Buffer }>({
    text: `select seq, link from redoubt.audit_chain where kind = 'discontinuity' order by seq`, values: [],
  })
  const unsigned = written.filter((row) => !standing.some(({ kind, seq }) => kind === 'discontinuity' && seq === row.seq))
  const rows =
    unsigned.length > 0
      ? unsigned
      : await pool.query<{ readonly seq: bigint; readonly link: Buffer }>({
          text: 'select * from guard.resume_audit($1, $2, $3)', values: [reason, lost?.seq ?? null, lost?.link ?? null],
        })
  const point = rows[0]
  if (point === undefined) throw new Refusal('database_error')
  await anchors.discontinue(point, after)
  return { point, after }
}
