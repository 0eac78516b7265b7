import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { appendFile, mkdtemp, readFile, rm, stat, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { anchorHolds, noLine, readAnchorLines } from '../../src/audit/anchor-line.ts'
import { anchorPath, openAnchors } from '../../src/audit/anchor.ts'
import { checkAnchorFile } from '../../src/audit/verify/anchors.ts'
import { collectFindings } from '../../src/audit/verify/findings.ts'
import { Refusal } from '../../src/errors.ts'
import { anchorKey } from '../support/audit.ts'

const root = await mkdtemp(join(tmpdir(), 'redoubt-anchor-'))
after(() => rm(root, { recursive: true, force: true }))

const key = anchorKey()
let folders = 0
const folder = (): string => join(root, String((folders += 1)))
const point = (seq: bigint): { seq: bigint; link: Buffer } => ({ seq, link: randomBytes(32) })
const interrupted = (error: unknown): boolean => error instanceof Refusal && error.code === 'audit_interrupted'

async function check(directory: string): Promise<readonly string[]> {
  const findings = collectFindings(100)
  await checkAnchorFile(anchorPath(directory, 'demo'), 'demo', key.verifiers, findings)
  return findings.problems.map(({ kind }) => kind)
}

test('anchors are signed, linked to the line before, and on disk', async () => {
  const directory = folder()
  const anchors = await openAnchors({ directory, service: 'demo', key, now: () => Date.UTC(2026, 2, 29, 1, 30) })
  assert.equal(await anchors.last(), undefined)
  const first = await anchors.append(point(1n))
  const second = await anchors.append(point(7n))
  assert.ok(first.previous.equals(noLine) && anchorHolds(first, key.verifiers) && anchorHolds(second, key.verifiers))
  assert.equal(second.at, '2026-03-29T01:30:00.000Z')
  assert.deepEqual(await anchors.append(second), second, 'the same head again writes nothing')
  await anchors.close()
  const lines = await Array.fromAsync(readAnchorLines(anchors.path))
  assert.deepEqual(lines.map(({ anchor }) => anchor?.seq), [1n, 7n])
  assert.equal((await stat(anchors.path)).mode & 0o777, 0o600)
  assert.deepEqual(await check(directory), [])
})

test('no byte of an anchor can be changed', async () => {
  const anchors = await openAnchors({ directory: folder(), service: 'demo', key })
  const anchor = await anchors.append(point(3n))
  await anchors.close()
  const changed = [
    { ...anchor, seq: 4n }, { ...anchor, link: randomBytes(32) }, { ...anchor, kind: 'discontinuity' as const }, { ...anchor, after: 1n },
    { ...anchor, service: 'other' }, { ...anchor, at: '2020-01-01T00:00:00.000Z' }, { ...anchor, previous: randomBytes(32) }, { ...anchor, kid: 'anchor-2' },
  ]
  for (const one of changed) assert.ok(!anchorHolds(one, key.verifiers))
})

test('a head that goes backwards, or another one of the same seq, is not anchored', async () => {
  const anchors = await openAnchors({ directory: folder(), service: 'demo', key })
  await anchors.append(point(10n))
  await assert.rejects(anchors.append(point(9n)), interrupted)
  await assert.rejects(anchors.append(point(10n)), interrupted)
  await anchors.discontinue(point(5n), 4n)
  await assert.rejects(anchors.append(point(4n)), interrupted)
  await anchors.append(point(6n))
  await anchors.close()
})

test('a key that rotates is taken up with the next line, and lines of both verify', async () => {
  const directory = folder()
  const next = anchorKey('anchor-2')
  let present = { ...key, verifiers: new Map([...key.verifiers, ...next.verifiers]) }
  const anchors = await openAnchors({ directory, service: 'demo', key: () => Promise.resolve(present) })
  assert.equal((await anchors.append(point(1n))).kid, key.kid)
  const { verifiers } = present
  present = { ...next, verifiers }
  assert.equal((await anchors.append(point(2n))).kid, 'anchor-2')
  await anchors.close()
  const again = await openAnchors({ directory, service: 'demo', key: present })
  assert.equal((await again.last())?.seq, 2n)
  await again.close()
  const findings = collectFindings(100)
  await checkAnchorFile(anchorPath(directory, 'demo'), 'demo', verifiers, findings)
  assert.deepEqual(findings.problems, [])
})

test('a line torn by kill -9, wherever, is skipped and never removed', async () => {
  const directory = folder()
  const anchors = await openAnchors({ directory, service: 'demo', key })
  await anchors.append(point(1n))
  const { size } = await stat(anchors.path)
  await anchors.append(point(2n))
  await anchors.close()
  const whole = await readFile(anchors.path)
  for (let length = size; length < whole.length - 1; length += 7) {
    await truncate(anchors.path, 0)
    await appendFile(anchors.path, whole.subarray(0, length))
    const again = await openAnchors({ directory, service: 'demo', key })
    assert.equal((await again.last())?.seq, 1n)
    await again.append(point(3n))
    await again.close()
    assert.ok((await readFile(anchors.path)).subarray(0, length).equals(whole.subarray(0, length)), 'nothing that was written is taken away')
    assert.deepEqual(await check(directory), [])
  }
})

test('a line that lacks only its newline stands', async () => {
  const directory = folder()
  const anchors = await openAnchors({ directory, service: 'demo', key })
  await anchors.append(point(1n))
  const { link } = await anchors.append(point(2n))
  await anchors.close()
  await truncate(anchors.path, (await stat(anchors.path)).size - 1)
  const again = await openAnchors({ directory, service: 'demo', key })
  assert.ok((await again.last())?.link.equals(link))
  await again.append(point(3n))
  await again.close()
  assert.deepEqual(await check(directory), [])
})

test('a second process that appended is seen; a last line that none of our keys signed is refused', async () => {
  const directory = folder()
  const [one, two] = [await openAnchors({ directory, service: 'demo', key }), await openAnchors({ directory, service: 'demo', key })]
  await one.append(point(1n))
  await two.append(point(2n))
  await one.append(point(3n))
  assert.equal((await two.last())?.seq, 3n)
  assert.deepEqual(await check(directory), [])
  await Promise.all([one.close(), two.close()])
  const stranger = await openAnchors({ directory, service: 'demo', key: anchorKey('anchor-9') })
  await assert.rejects(stranger.append(point(4n)), interrupted)
  await stranger.close()
})

test('what a discontinuity takes back is left out, what came before stands', async () => {
  const directory = folder()
  const anchors = await openAnchors({ directory, service: 'demo', key })
  for (const seq of [2n, 4n, 6n, 8n]) await anchors.append(point(seq))
  await anchors.discontinue(point(6n), 4n)
  await anchors.append(point(9n))
  await anchors.close()
  const file = await checkAnchorFile(anchors.path, 'demo', key.verifiers, collectFindings(10))
  const seqs: bigint[] = []
  for await (const { seq } of file.heads()) seqs.push(seq)
  assert.deepEqual(seqs, [2n, 4n, 9n])
  assert.deepEqual([file.highest, file.discontinuities.get(6n)?.lost], [9n, 4n])
})
