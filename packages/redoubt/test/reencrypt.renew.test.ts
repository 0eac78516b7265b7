import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { keyId, secretKey } from '../src/aead.ts'
import { newId } from '../src/bytes.ts'
import { renewerInThread } from '../src/cli/reencrypt/thread.ts'
import type { DataKey } from '../src/keyring.ts'
import { runJobs } from '../src/reencrypt.ts'
import { keyIdText } from '../src/reencrypt/key-facts.ts'
import { parsePage, type Page } from '../src/reencrypt/page.ts'
import { openRenewer, type Renewed, type RenewFact } from '../src/reencrypt/renew.ts'
import { renewTable } from '../src/reencrypt/renewal.ts'
import { shapesFor, type Shape } from '../src/reencrypt/shape.ts'
import { blindIndex, open, seal } from '../src/seal.ts'
import { blindIndex as index, defineTables, plain, sealed } from '../src/tables.ts'
import { kernelRetention } from '../src/tables/kernel.ts'
import { testDatabase } from './support/database.ts'
import { customers, openShop } from './support/reencrypt.ts'

const tables = defineTables({
  service: 'clinic',
  retention: { ...kernelRetention, notes: { days: 30, basis: 'test' } },
  tables: {
    'clinic.people': {
      id: 210, about: 'people of several clinics', rowId: 'id', subject: 'person', tenant: 'clinic', keep: 'account',
      columns: {
        id: plain('uuid', 'INT'), person: plain('uuid', 'INT'), clinic: plain('text', 'INT'),
        email_enc: sealed(1, 'PII-E', { nullable: true }), email_bidx: index(2, 'email_enc', { nullable: true }), note_enc: sealed(3, 'SCH', { nullable: true, keep: 'notes' }),
      },
    },
  },
})
const shape = shapesFor(tables, 'reencrypt')[0] as Shape
const indexKeys = [2, 1].map((version) => ({ version, key: secretKey(randomBytes(32)) }))
const [newest, older] = indexKeys as [(typeof indexKeys)[0], (typeof indexKeys)[0]]

function keyOf(tenant: string, subject: string, keep: string): DataKey {
  const key = secretKey(randomBytes(32))
  return { id: keyId(key), key, scope: { tenant, subject, keep } }
}

type Person = { readonly id: string; readonly person: string; readonly clinic: string; readonly account: DataKey; readonly notes: DataKey; readonly fresh: DataKey; readonly freshNotes: DataKey }
function somebody(clinic: string): Person {
  const person = randomUUID()
  return { id: newId(), person, clinic, account: keyOf(clinic, person, 'account'), notes: keyOf(clinic, person, 'notes'), fresh: keyOf(clinic, person, 'account'), freshNotes: keyOf(clinic, person, 'notes') }
}

type Stored = { readonly of: Person; readonly values: readonly (Buffer | null)[] }
const placeOf = ({ id, person, clinic }: Person, column: number) => ({ tenant: clinic, table: 210, column, row: id, subject: person })
function stored(of: Person, email: string | null, note: string | null): Stored {
  return {
    of, values: [
      email === null ? null : seal(of.account, placeOf(of, 1), email),
      email === null ? null : blindIndex(older, { tenant: of.clinic, table: 210, column: 2 }, email),
      note === null ? null : seal(of.notes, placeOf(of, 3), note),
    ],
  }
}

/** A page as the server sends it (page.ts). */
function pageOf(rows: readonly Stored[]): Page {
  const counted = (value: Buffer | null): Buffer => {
    const head = Buffer.alloc(4)
    head.writeInt32BE(value?.length ?? -1)
    return Buffer.concat([head, value ?? Buffer.alloc(0)])
  }
  const packed = Buffer.concat(rows.flatMap(({ of, values }) => [Buffer.from(of.id.replaceAll('-', ''), 'hex'), Buffer.from(of.person), counted(Buffer.from(of.clinic)), ...values.map(counted)]))
  return parsePage(shape, 3, packed, '', rows.length)
}

/** Tells the renewer of every key that the values name, and which of them are active. */
function renewed(rows: readonly Stored[], active: (key: DataKey) => boolean = () => false): Renewed {
  const page = pageOf(rows)
  const people = [...new Set(rows.map(({ of }) => of))]
  const told: RenewFact[] = []
  const numbers = new Map<string, number>()
  const tell = ({ id, key }: DataKey): { id: string; key: DataKey['key'] } => ({ id: id.toString('latin1'), key })
  for (const { account, notes, fresh, freshNotes } of people) for (const [old, now] of [[account, fresh], [notes, freshNotes]] as const) {
    numbers.set(old.id.toString('latin1'), told.length)
    told.push({ number: told.length, active: active(old), scope: old.scope, opening: tell(old), sealing: active(old) ? null : tell(now) })
  }
  const facts = Int32Array.from(rows.flatMap(({ values }) => [values[0], values[2]].map((value) => (value === null || value === undefined ? -1 : (numbers.get(keyIdText(value)) ?? -1)))))
  return openRenewer(renewTable(shape))({ packed: page.packed, places: page.places, facts, told, floor: 0, indexKeys: new Map([[2, indexKeys]]) })
}

/** The elements of an array in PostgreSQL's binary form. */
function elements(array: Uint8Array | undefined): readonly (Buffer | null)[] {
  const bytes = Buffer.from(array ?? [])
  const out: (Buffer | null)[] = []
  if (bytes.readInt32BE(0) === 0) return out
  for (let at = 20; at < bytes.length; ) {
    const length = bytes.readInt32BE(at)
    out.push(length < 0 ? null : bytes.subarray(at + 4, at + 4 + length))
    at += 4 + Math.max(0, length)
  }
  assert.equal(out.length, bytes.readInt32BE(12))
  return out
}

test('a page is renewed as its rows would be one by one: each value opens at its place alone, each index is that of the value', () => {
  const [one, other, third, none] = [somebody('north'), somebody('south'), somebody('south'), somebody('north')]
  const rows = [stored(one, 'one@example.org', null), stored(other, 'other@example.org', 'ä note'.repeat(900)), stored(third, null, ''), stored(none, null, null)]
  const { ids, olds, news, rows: changed, already, absent, left, held } = renewed(rows)
  assert.deepEqual([changed, already, absent, left.length, held.length], [3, 0, 1, 0, 4])
  assert.deepEqual(elements(ids).map((id) => id?.toString('hex')), [one, other, third].map(({ id }) => id.replaceAll('-', '')))
  for (const column of [0, 1, 2]) assert.deepEqual(elements(olds[column]), rows.slice(0, 3).map(({ values }) => values[column] ?? null))
  const [emails, indexes, notes] = news.map(elements)
  const said = (key: DataKey, of: Person, column: number, value: Buffer | null | undefined): string | null => (value === null || value === undefined ? null : open(key, placeOf(of, column), value).toString())
  assert.deepEqual([one, other, third].map((of, n) => said(of.fresh, of, 1, emails?.[n])), ['one@example.org', 'other@example.org', null])
  assert.deepEqual([one, other, third].map((of, n) => said(of.freshNotes, of, 3, notes?.[n])), [null, 'ä note'.repeat(900), ''])
  assert.deepEqual(indexes, [one, other].map((of, n) => blindIndex(newest, { tenant: of.clinic, table: 210, column: 2 }, ['one@example.org', 'other@example.org'][n] ?? '') as Buffer).concat([null as never]))
})

test('what stands under the active key stays: alone its index is computed anew, and a row with nothing to do is not written', () => {
  const [one, other] = [somebody('north'), somebody('south')]
  const fresh = stored(other, 'other@example.org', 'note')
  const rows = [stored(one, 'one@example.org', 'note'), { of: other, values: [fresh.values[0] ?? null, blindIndex(newest, { tenant: 'south', table: 210, column: 2 }, 'other@example.org'), fresh.values[2] ?? null] }]
  const out = renewed(rows, () => true)
  assert.deepEqual([out.rows, out.already, out.left.length, out.held.length], [1, 1, 0, 0])
  assert.deepEqual(out.news.map((array) => elements(array).map((value) => value !== null)), [[false], [true], [false]])
})

test('attack: a value that was moved, altered or cut, or whose key is of somebody else, is left alone with its whole row', () => {
  const [good, one, other] = [somebody('north'), somebody('north'), somebody('south')]
  const [mine, theirs] = [stored(one, 'one@example.org', 'note'), stored(other, 'other@example.org', 'note')]
  const sealedOf = (from: Stored, column: 0 | 2): Buffer => from.values[column] as Buffer
  const flipped = (at: number): Buffer => { const bytes = Buffer.from(sealedOf(mine, 0)); bytes[at < 0 ? bytes.length + at : at] = (bytes.at(at) ?? 0) ^ 1; return bytes }
  const secondRow = { ...one, id: newId() }
  const attacks: Record<string, Stored> = {
    'of another person': { of: one, values: [sealedOf(theirs, 0), mine.values[1] ?? null, null] },
    'of another row': { of: secondRow, values: [sealedOf(mine, 0), null, null] },
    'of another column, and so of another retention class': { of: one, values: [sealedOf(mine, 2), null, null] },
    'under a key of another retention class': { of: one, values: [null, null, seal(one.account, placeOf(one, 3), 'note')] },
    'of another tenant': { of: { ...one, clinic: 'south' }, values: mine.values },
    'a tag that was altered': { of: one, values: [flipped(-1), null, null] },
    'a nonce that was altered': { of: one, values: [flipped(20), null, null] },
    'a key id that was altered': { of: one, values: [flipped(3), null, null] },
    'a version that nobody knows': { of: one, values: [flipped(0), null, null] },
    'cut off': { of: one, values: [sealedOf(mine, 0).subarray(0, 44), null, null] },
    'empty': { of: one, values: [Buffer.alloc(0), null, null] },
    'the second value of a row': { of: one, values: [sealedOf(mine, 0), mine.values[1] ?? null, sealedOf(theirs, 2)] },
  }
  for (const [what, row] of Object.entries(attacks)) {
    for (const active of [false, true]) {
      // The keys of both are known, as they are in a job.
      const out = renewed([stored(good, 'good@example.org', null), row, theirs], () => active)
      assert.deepEqual([...out.left], [1], `${what}, ${active ? 'active' : 'old'}`)
      assert.equal(out.rows, 2, what)
      assert.ok(elements(out.ids).every((id) => id?.toString('hex') !== row.of.id.replaceAll('-', '')), what)
    }
  }
})

const database = await testDatabase({ origins: ['redoubt'] })
const shop = await openShop(database)
after(() => shop.close())

test('a job in a thread of its own changes every row, and what it wrote is what stood there', async () => {
  await shop.insert(customers(4000, 400, 't'))
  await shop.rotateDataKeys()
  await shop.rotateIndexKey()
  const before = await shop.read()
  const [result] = await runJobs(shop.settings({ renewer: renewerInThread }), 'reencrypt')
  assert.deepEqual([result?.counts.changed, result?.counts.failed, result?.proven], [4000, 0, true])
  assert.deepEqual(await shop.read(), before)
})

test('a thread that ends in the middle ends the job with an error, and the next one goes on where it was', async () => {
  await shop.rotateDataKeys()
  const before = await shop.read()
  let pages = 0
  const dying = runJobs(shop.settings({ leaseSeconds: 2, renewer: (table) => {
    const { renew, close } = renewerInThread(table)
    return { close, renew: (page) => (++pages === 3 ? renew({ ...page, packed: page.packed.subarray(0, 100) }) : renew(page)) }
  } }), 'reencrypt')
  await assert.rejects(dying)
  const [result] = await runJobs(shop.settings({ leaseSeconds: 2, renewer: renewerInThread }), 'reencrypt')
  assert.deepEqual([result?.counts.changed, result?.proven], [4000, true])
  assert.deepEqual(await shop.read(), before)
})
