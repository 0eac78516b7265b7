import type { KeyObject } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { Refusal } from '../errors.ts'
import { makeFolder } from '../folder.ts'
import { anchorHolds, anchorText, lineHash, noLine, readAnchorLines, signAnchor, type Anchor } from './anchor-line.ts'
import type { ChainPoint } from './form.ts'

/** The signing key and the public keys of its versions: keyring.purposeKey('audit-anchor'). Never on the database's host. */
export type AnchorKey = { readonly kid: string; readonly privateKey: KeyObject; readonly verifiers: ReadonlyMap<string, KeyObject> }

/** The append-only file of one service's anchors. One writer at a time: the sequencer's lease sees to that. */
export type Anchors = {
  readonly path: string
  /** The last anchor of the file, also when another process wrote it. @throws Refusal audit_interrupted for one that none of our keys has signed */
  last(): Promise<Anchor | undefined>
  /**
   * Signs and appends the head; on disk when the promise settles. The same head again writes nothing.
   * @throws Refusal audit_interrupted when the head lies before the last anchor: that is a restore
   */
  append(head: ChainPoint): Promise<Anchor>
  /** Signs a discontinuity of the chain: anchors above `after` before this line speak of what a restore took away. */
  discontinue(point: ChainPoint, after: bigint): Promise<Anchor>
  close(): Promise<void>
}

/** Where the anchors of a service are. */
export function anchorPath(directory: string, service: string): string {
  if (!/^[a-z][a-z0-9_]{1,30}$/.test(service)) throw new TypeError('anchorPath: service must be small letters, digits, underscores')
  return join(directory, `anchors-${service}.jsonl`)
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** How much of the end is looked at for the last line; lines are some 450 bytes. */
const tail = 65_536

/**
 * Opens (and makes) the anchor file of a service. Works with a file that may only be appended to: what a kill -9 in the
 * middle of a write has left is ended by a newline and skipped, never removed.
 * @param settings.directory ANCHOR_DIR: on another machine than the database, or an append-only store mounted here
 * @param settings.key asked for at each line, so that a rotation needs no restart
 * @param settings.now milliseconds since 1970, for `at`
 */
export async function openAnchors(settings: { readonly directory: string; readonly service: string; readonly key: AnchorKey | (() => Promise<AnchorKey>); readonly now?: () => number }): Promise<Anchors> {
  const { directory, service, now = Date.now } = settings
  const present = async (): Promise<AnchorKey> => (typeof settings.key === 'function' ? settings.key() : settings.key)
  const key = await present()
  if (key.privateKey.asymmetricKeyType !== 'ed25519') throw new TypeError('openAnchors: key must be an Ed25519 key')
  if (!key.verifiers.has(key.kid)) throw new TypeError('openAnchors: key.verifiers must hold the public key of key.kid')
  const path = anchorPath(directory, service)
  await makeFolder(directory, 0o700)
  const file: FileHandle = await open(path, 'a+', 0o600)
  await syncDirectory(directory)

  let known = -1
  let latest: Anchor | undefined
  let latestHash: Buffer = noLine

  /** Reads the end again when the file is not as long as this process left it. */
  async function refresh(): Promise<void> {
    let { size } = await file.stat()
    if (size === known) return
    if (size > 0) {
      const end = Buffer.alloc(1)
      await file.read(end, 0, 1, size - 1)
      if (end[0] !== 0x0a) {
        await file.appendFile('\n')
        await file.datasync()
        size += 1
      }
    }
    latest = undefined
    latestHash = noLine
    for (let start = Math.max(0, size - tail); ; start = Math.max(0, start - tail * 16)) {
      for await (const { text, anchor } of readAnchorLines(path, { start, end: size })) {
        if (anchor === undefined) continue
        latest = anchor
        latestHash = lineHash(text)
      }
      if (latest !== undefined || start === 0) break
    }
    if (latest !== undefined && (latest.service !== service || !anchorHolds(latest, (await present()).verifiers))) {
      throw new Refusal('audit_interrupted', { detail: `the last line of ${path} is not signed by a key of this service` })
    }
    known = size
  }

  async function write(kind: Anchor['kind'], point: ChainPoint, after: bigint | null): Promise<Anchor> {
    const { kid, privateKey } = await present()
    const anchor = signAnchor({ kind, service, ...point, after, previous: latestHash, at: new Date(now()).toISOString(), kid }, privateKey)
    const text = anchorText(anchor)
    const before = known
    known = -1
    await file.appendFile(`${text}\n`)
    await file.datasync()
    latest = anchor
    latestHash = lineHash(text)
    known = before + Buffer.byteLength(text) + 1
    return anchor
  }

  return {
    path,
    async last() {
      await refresh()
      return latest
    },
    async append(head) {
      await refresh()
      if (latest !== undefined && head.seq === latest.seq && head.link.equals(latest.link)) return latest
      if (latest !== undefined && head.seq <= latest.seq) {
        throw new Refusal('audit_interrupted', { detail: 'the head of the audit chain lies before its last anchor' })
      }
      return write('head', { seq: head.seq, link: head.link }, null)
    },
    async discontinue(point, after) {
      await refresh()
      return write('discontinuity', { seq: point.seq, link: point.link }, after)
    },
    close: () => file.close(),
  }
}
