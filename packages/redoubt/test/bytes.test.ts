import assert from 'node:assert/strict'
import { test } from 'node:test'
import { framed } from '../src/bytes.ts'

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
