import { hash, sign, verify, type KeyObject } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { framed } from '../bytes.ts'
import type { ChainPoint } from './form.ts'

/**
 * A signed statement about the chain, kept where the database host cannot write.
 * `head`: the chain had this link at this seq. `discontinuity`: the same, and anchors of a seq above `after` that stand
 * before this line speak of a state that a restore has taken away.
 */
export type Anchor = ChainPoint & {
  readonly kind: 'head' | 'discontinuity'
  readonly service: string
  readonly after: bigint | null
  /** SHA-256 of the line before, without its newline; 32 zero bytes on the first. */
  readonly previous: Buffer
  /** ISO 8601, UTC, milliseconds; the clock of the signer, not of the database. */
  readonly at: string
  readonly kid: string
  readonly signature: Buffer
}

/** What stands before the first line. */
export const noLine: Buffer = Buffer.alloc(32)

function signedBytes(anchor: Omit<Anchor, 'signature'>): Buffer {
  return framed([
    'redoubt.audit.anchor.1', anchor.kind, anchor.service, String(anchor.seq), anchor.link,
    anchor.after === null ? '' : String(anchor.after), anchor.previous, anchor.at, anchor.kid,
  ])
}

/** Signs with Ed25519 (RFC 8032). */
export function signAnchor(anchor: Omit<Anchor, 'signature'>, privateKey: KeyObject): Anchor {
  return { ...anchor, signature: sign(null, signedBytes(anchor), privateKey) }
}

/** True when the anchor's own key, of those trusted, has signed exactly this. */
export function anchorHolds(anchor: Anchor, publicKeys: ReadonlyMap<string, KeyObject>): boolean {
  const key = publicKeys.get(anchor.kid)
  return key !== undefined && verify(null, signedBytes(anchor), key, anchor.signature)
}

/** The line as it stands in the file, without newline. */
export function anchorText(anchor: Anchor): string {
  return JSON.stringify({
    v: 1, kind: anchor.kind, service: anchor.service, seq: String(anchor.seq), link: anchor.link.toString('hex'),
    after: anchor.after === null ? null : String(anchor.after), previous: anchor.previous.toString('hex'),
    at: anchor.at, kid: anchor.kid, sig: anchor.signature.toString('base64url'),
  })
}

/** What the next line names as `previous`. */
export function lineHash(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}

const whole = /^(0|[1-9][0-9]{0,18})$/
const digest = /^[0-9a-f]{64}$/

/** The anchor of a line, or undefined where the line is not exactly one: torn, or not ours. */
export function parseAnchor(text: string): Anchor | undefined {
  let line: unknown
  try {
    line = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof line !== 'object' || line === null) return undefined
  const { kind, service, seq, link, after, previous, at, kid, sig } = line as Record<string, unknown>
  if ((kind !== 'head' && kind !== 'discontinuity') || typeof service !== 'string' || typeof at !== 'string' || typeof kid !== 'string') return undefined
  if (typeof seq !== 'string' || !whole.test(seq) || typeof link !== 'string' || !digest.test(link)) return undefined
  if (after !== null && (typeof after !== 'string' || !whole.test(after))) return undefined
  if (typeof previous !== 'string' || !digest.test(previous) || typeof sig !== 'string') return undefined
  const anchor: Anchor = {
    kind, service, seq: BigInt(seq), link: Buffer.from(link, 'hex'), after: after === null ? null : BigInt(after),
    previous: Buffer.from(previous, 'hex'), at, kid, signature: Buffer.from(sig, 'base64url'),
  }
  // One text per anchor: another spelling of the same values would have another hash.
  return anchorText(anchor) === text ? anchor : undefined
}

/** One line of an anchor file. `anchor` is undefined for what a crash in the middle of a write has left. */
export type AnchorLine = { readonly text: string; readonly anchor: Anchor | undefined }

/**
 * Reads the terminated lines in order; an unterminated last one is a write in progress or torn, and not yielded.
 * @param path the file; one that does not exist has no lines
 * @param range.start byte to begin at, a line's first @param range.end bytes of the file to read at most
 */
export async function* readAnchorLines(path: string, range: { readonly start?: number; readonly end?: number } = {}): AsyncGenerator<AnchorLine> {
  const { start = 0, end = Infinity } = range
  if (end <= start) return
  let rest = ''
  try {
    for await (const chunk of createReadStream(path, { encoding: 'utf8', start, end: end - 1 }) as AsyncIterable<string>) {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop() ?? ''
      for (const text of lines) if (text !== '') yield { text, anchor: parseAnchor(text) }
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
