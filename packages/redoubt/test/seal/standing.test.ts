import assert from 'node:assert/strict'
import { createDecipheriv, randomBytes, randomInt, randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { freshNonce } from '../../src/aead.ts'
import { uuidBytes } from '../../src/bytes.ts'
import { open, seal, type Place } from '../../src/seal.ts'
import { openInPage, OVERHEAD_BYTES, sealInPage } from '../../src/seal/wire.ts'
import { dataKeyOf } from '../support/keys.ts'

/** What a value is bound to, written down without the code that is tested (docs/formats.md, "sealed value"). */
function aadOf(sealed: Buffer, { tenant, table, column, row, subject }: Place): Buffer {
  return Buffer.concat([sealed.subarray(0, 29), Buffer.from([table >> 8, table & 255, column >> 8, column & 255]), uuidBytes(row), uuidBytes(subject), Buffer.from(tenant)])
}

function openByHand(key: ReturnType<typeof dataKeyOf>, place: Place, sealed: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key.key, sealed.subarray(17, 29), { authTagLength: 16 })
  decipher.setAAD(aadOf(sealed, place)).setAuthTag(sealed.subarray(-16))
  return Buffer.concat([decipher.update(sealed.subarray(29, -16)), decipher.final()])
}

const any = <T>(list: readonly T[]): T => list[randomInt(list.length)] as T

test('attack: places that share a row, a person or a tenant, one after another, with mistakes and pages between them: each value is bound to its own', () => {
  const [rows, subjects, tenants] = [[randomUUID(), randomUUID(), randomUUID()], [randomUUID(), randomUUID()], ['clinic', 'clinic-ä', 'c']]
  const keys = new Map(subjects.flatMap((subject) => tenants.map((tenant) => [`${tenant} ${subject}`, dataKeyOf({ tenant, subject, keep: 'care' })] as const)))
  const mistakes: readonly Partial<Place>[] = [
    { row: '' }, { row: 'x'.repeat(36) }, { row: `${(rows[0] ?? '').slice(0, 35)}g` }, { row: (rows[0] ?? '').slice(1) }, { row: undefined as unknown as string }, { table: 0 }, { column: 70_000 },
  ]
  for (let round = 0; round < 3_000; round++) {
    const place = { tenant: any(tenants), table: 1 + randomInt(2), column: 1 + randomInt(2), row: any(rows), subject: any(subjects) }
    const key = keys.get(`${place.tenant} ${place.subject}`) ?? assert.fail()
    const value = randomBytes(8)
    const what = randomInt(5)
    if (what === 0) assert.throws(() => seal(key, { ...place, ...any(mistakes) }, value), TypeError)
    else if (what === 1) {
      const wrong = { ...key, scope: { ...key.scope, subject: 'x'.repeat(36) } }
      assert.throws(() => seal(wrong, { ...place, subject: 'x'.repeat(36) }, value), TypeError)
    } else if (what === 2) {
      const page = Buffer.concat([uuidBytes(place.row), Buffer.from(place.subject)])
      const into = Buffer.alloc(52 + OVERHEAD_BYTES + 8)
      page.copy(into)
      const at = { ...place, page: into, rowAt: 0, subjectAt: 16 }
      sealInPage(key, at, value, freshNonce, into, 52)
      assert.deepEqual(openByHand(key, place, into.subarray(52)), value)
      assert.deepEqual(openInPage(key, at, 52, into.length), value)
    } else {
      const sealed = seal(key, place, value)
      assert.deepEqual(openByHand(key, place, sealed), value)
      assert.deepEqual(open(key, place, sealed), value)
      const elsewhere = { ...place, row: any(rows), subject: any(subjects), tenant: any(tenants) }
      const fits = elsewhere.row === place.row && elsewhere.subject === place.subject && elsewhere.tenant === place.tenant
      const other = { ...key, scope: { tenant: elsewhere.tenant, subject: elsewhere.subject, keep: 'care' } }
      if (fits) assert.deepEqual(open(other, elsewhere, sealed), value)
      else assert.throws(() => open(other, elsewhere, sealed), { code: 'sealed_value_refused' })
    }
  }
})
