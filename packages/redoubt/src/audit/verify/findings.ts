/**
 * What verification finds:
 * - `link_missing`, `link_broken`: rows of the chain removed, or altered, inserted or put in another order
 * - `head_altered`: the head does not point at the end of the chain
 * - `tail_cut`: the chain ends before an anchor
 * - `entry_altered`: an entry, or the list of its subjects, is not what was sealed
 * - `entry_missing`: an entry is gone without a valid tombstone
 * - `entry_inserted`: an entry that was put in beside the sequencer, behind or ahead of where it works
 * - `subject_orphaned`: subjects of an entry that does not exist
 * - `tombstone_forged`: a removal that no chained retention entry lists, or before its time
 * - `anchor_forged`, `anchor_missing`, `anchor_mismatch`: the file of anchors was altered or cut; the chain is another one
 * - `discontinuity_unsigned`: a discontinuity that the anchors' key has not signed
 * - `interrupted`: the database was restored and nobody has resumed the chain yet
 */
export type ProblemKind =
  | 'link_missing' | 'link_broken' | 'head_altered' | 'tail_cut'
  | 'entry_altered' | 'entry_missing' | 'entry_inserted' | 'subject_orphaned'
  | 'tombstone_forged' | 'anchor_forged' | 'anchor_missing' | 'anchor_mismatch'
  | 'discontinuity_unsigned' | 'interrupted'

/** `seq` where the chain tells one; `entry` the id of the entry. `detail` carries no value of the record. */
export type Problem = { readonly kind: ProblemKind; readonly seq: bigint | null; readonly entry: string | null; readonly detail: string }

export type Findings = {
  add(kind: ProblemKind, where: { readonly seq?: bigint; readonly entry?: string }, detail: string): void
  readonly problems: readonly Problem[]
  readonly count: () => number
}

/** Keeps the first `most` problems and counts all: a destroyed log must not fill the memory of the one who checks it. */
export function collectFindings(most: number): Findings {
  const problems: Problem[] = []
  let count = 0
  return {
    problems,
    count: () => count,
    add(kind, { seq, entry }, detail) {
      count += 1
      if (problems.length < most) problems.push({ kind, seq: seq ?? null, entry: entry ?? null, detail })
    },
  }
}
