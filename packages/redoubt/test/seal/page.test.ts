import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { freshNonce } from '../../src/aead.ts'
import { uuidBytes } from '../../src/bytes.ts'
import { open, seal } from '../../src/seal.ts'
import { openInPage, OVERHEAD_BYTES, sealInPage, type PagePlace } from '../../src/seal/wire.ts'
import { randomPlace } from '../support/seal.ts'

// What a job seals and opens within the bytes of a page is what the columns seal and open.

const { place, key } = randomPlace()
const value = Buffer.from('what the page holds')
const page = Buffer.concat([uuidBytes(place.row), Buffer.from(place.subject), seal(key, place, value)])
const at: PagePlace = { tenant: place.tenant, table: place.table, column: place.column, page, rowAt: 0, subjectAt: 16 }
const from = 52

test('a value sealed for its row opens in the page, and one sealed in the page opens in its row', () => {
  assert.deepEqual(openInPage(key, at, from, page.length), value)
  const into = Buffer.alloc(10 + OVERHEAD_BYTES + value.length)
  assert.equal(sealInPage(key, at, value, freshNonce, into, 10), into.length)
  assert.deepEqual(open(key, place, into.subarray(10)), value)
})

test('attack: another person, tenant, column, table or row, a changed byte or a value cut short does not open in the page', () => {
  const other = { ...key, scope: { ...key.scope, subject: randomUUID() } }
  const short = { ...key, scope: { ...key.scope, subject: 'short' } }
  for (const wrong of [other, short, { ...key, scope: { ...key.scope, tenant: 'other' } }, { ...key, id: Buffer.alloc(16) }]) assert.equal(openInPage(wrong, at, from, page.length), null)
  for (const moved of [{ column: place.column % 65_535 + 1 }, { table: place.table % 65_535 + 1 }, { table: 0 }, { column: 0 }, { rowAt: 1 }]) assert.equal(openInPage(key, { ...at, ...moved }, from, page.length), null)
  for (const tenant of ['', 'x'.repeat(400)]) assert.equal(openInPage({ ...key, scope: { ...key.scope, tenant } }, { ...at, tenant }, from, page.length), null)
  for (const byte of [from, from + 3, from + 20, page.length - 1]) {
    const altered = Buffer.from(page)
    altered[byte] = (altered[byte] ?? 0) ^ 1
    assert.equal(openInPage(key, { ...at, page: altered }, from, page.length), null)
  }
  assert.equal(openInPage(key, at, from, from + OVERHEAD_BYTES - 1), null)
})

test('a place or a page that does not fit is a mistake of the caller, and nothing is sealed', () => {
  const into = Buffer.alloc(200)
  const odd = Buffer.concat([uuidBytes(place.row), Buffer.from('not a uuid, but of its thirty-six ch')])
  const scoped = { ...key, scope: { ...key.scope, subject: odd.subarray(16).toString() } }
  for (const [with_, where] of [
    [key, { ...at, tenant: 'other' }], [key, { ...at, table: 0 }], [key, { ...at, column: 70_000 }], [scoped, { ...at, page: odd }],
    [{ ...key, scope: { ...key.scope, tenant: '' } }, { ...at, tenant: '' }],
  ] as const) assert.throws(() => sealInPage(with_, where, value, freshNonce, into, 0), TypeError)
  assert.throws(() => sealInPage(key, at, value, freshNonce, Buffer.alloc(OVERHEAD_BYTES), 0), /too short/)
})
