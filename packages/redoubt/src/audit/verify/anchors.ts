import { stat } from 'node:fs/promises'
import type { KeyObject } from 'node:crypto'
import { anchorHolds, lineHash, noLine, readAnchorLines, type Anchor } from '../anchor-line.ts'
import type { Findings } from './findings.ts'

/** A discontinuity line: it takes back the anchors before it whose seq is above `after`. */
type Cut = { readonly line: number; readonly anchor: Anchor; readonly after: bigint; readonly lost: bigint }

/** What the anchor file says, once its own links and signatures have been checked. */
export type AnchorFile = {
  readonly lines: number
  readonly highest: bigint
  /** The first line that holds. */
  readonly first: Anchor | undefined
  /** Discontinuities that stand, by seq. */
  readonly discontinuities: ReadonlyMap<bigint, Cut>
  /** The standing anchors of heads, in the order of the file; reads the file again. */
  heads(): AsyncGenerator<Anchor>
}

/**
 * Checks an anchor file on its own: each line names the hash of the one before, and is signed. The size is taken first
 * and nothing behind it is read, so that anchors written meanwhile disturb nothing.
 * @param path the file; one that does not exist has no lines
 */
export async function checkAnchorFile(path: string, service: string, publicKeys: ReadonlyMap<string, KeyObject>, findings: Findings): Promise<AnchorFile> {
  const end = await stat(path).then(({ size }) => size, () => 0)
  const bad = new Set<number>()
  let cuts: readonly Cut[] = []
  let previous = noLine
  let highest = 0n
  let first: Anchor | undefined
  let lines = 0
  for await (const { text, anchor } of readAnchorLines(path, { end })) {
    lines += 1
    if (anchor === undefined) continue
    if (!anchor.previous.equals(previous)) findings.add('anchor_missing', { seq: anchor.seq }, `line ${lines} does not follow the line before it`)
    previous = lineHash(text)
    if (anchor.service !== service || !anchorHolds(anchor, publicKeys)) {
      bad.add(lines)
      findings.add('anchor_forged', { seq: anchor.seq }, `line ${lines} is not signed by a trusted key of this service`)
      continue
    }
    first ??= anchor
    const { after } = anchor
    if (after !== null) {
      cuts = [...cuts.filter((cut) => cut.anchor.seq <= after), { line: lines, anchor, after, lost: highest > after ? highest - after : 0n }]
      highest = after
    }
    if (anchor.seq > highest) highest = anchor.seq
  }
  const after = [...cuts]
  return {
    lines,
    highest,
    first,
    discontinuities: new Map(after.map((cut) => [cut.anchor.seq, cut])),
    async *heads() {
      let line = 0
      for await (const { anchor } of readAnchorLines(path, { end })) {
        line += 1
        if (anchor?.kind !== 'head' || bad.has(line)) continue
        if (after.some((cut) => cut.line > line && anchor.seq > cut.after)) continue
        yield anchor
      }
    },
  }
}
