import assert from 'node:assert/strict'
import { test } from 'node:test'
import { framed, isUuid, newId, saltBytes } from '../src/bytes.ts'

test('parts stand behind their lengths in bytes, whether text or bytes', () => {
  const parts = ['', 'a', 'é\u{1f9e1}', Buffer.from([0, 255]), Buffer.alloc(0), 'lone \ud800', 'x'.repeat(70_000)]
  const bodies = parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'utf8') : part))
  const wanted = Buffer.concat(bodies.flatMap((body) => {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(body.length)
    return [length, body]
  }))
  assert.deepEqual(framed(parts), wanted)
  assert.deepEqual(framed([]), Buffer.alloc(0))
})

test('a byte moved over the seam gives other bytes', () => {
  assert.notDeepEqual(framed(['ab', 'c']), framed(['a', 'bc']))
})

test('an id is a UUID of version 7 with its millisecond in front, and no two made in one millisecond are alike', () => {
  const at = Date.UTC(2026, 0, 2, 3, 4, 5, 678)
  const ids = Array.from({ length: 3_000 }, () => newId(at))
  for (const id of ids) {
    assert.ok(isUuid(id), id)
    assert.match(id, /^.{14}7.{4}[89ab]/)
    assert.equal(Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16), at)
  }
  assert.equal(new Set(ids.map((id) => id.slice(14))).size, ids.length)
})

test('the milliseconds of ids made one after the other do not mix, whichever way the clock goes', () => {
  const times = [0, 0xff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, 0xffff_ffff_ffff, 1, 0]
  assert.deepEqual(times.map((at) => Number.parseInt(newId(at).replace('-', '').slice(0, 12), 16)), times)
})

test('what was given out stays as it was while more is taken', () => {
  const [first, salt] = [newId(1), saltBytes(16)]
  const [text, bytes] = [first.slice(), Buffer.from(salt)]
  for (let i = 0; i < 1_000; i++) assert.notDeepEqual([newId(1), saltBytes(16)], [first, salt])
  assert.deepEqual([first, salt], [text, bytes])
})
