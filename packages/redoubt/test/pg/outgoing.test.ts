import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { serialize } from 'pg-protocol'
import { Batch } from '../../src/pg/batch.ts'
import { Outgoing } from '../../src/pg/outgoing.ts'
import { fieldsOf, rowOf } from '../../src/pg/rows.ts'

const { prepareValue } = createRequire(import.meta.url)('pg/lib/utils.js') as { prepareValue(value: unknown): unknown }

function bound(statement: string, values: readonly unknown[]): Buffer {
  const outgoing = new Outgoing()
  outgoing.bind(statement, values)
  return outgoing.take()
}

const lists: readonly (readonly unknown[])[] = [
  [],
  ['', 'patient', 'Käthe \u{1f9e1} \ud800', null, undefined],
  [Buffer.alloc(0), Buffer.from([0, 255, 7]), new Uint8Array([1, 2])],
  [0, -1, 2 ** 40, 12n, true, false, new Date(0)],
  [['a', 'b"\\', null], [], [Buffer.from('x')], { a: [1] }],
  [Buffer.alloc(100_000, 3), 'é'.repeat(70_000), 'end'],
  Array.from({ length: 300 }, (_, i) => (i % 3 === 0 ? null : String(i))),
]

test('a Bind message is byte for byte the one of the driver', () => {
  for (const values of lists) {
    for (const statement of ['', 'redoubt_finish', 'ünïcode']) {
      assert.deepEqual(bound(statement, values), serialize.bind({ statement, values: [...values], valueMapper: prepareValue }))
    }
  }
})

test('messages stand one behind another, and what was taken stays as it is', () => {
  const outgoing = new Outgoing()
  outgoing.bind('a', ['first'])
  outgoing.add(serialize.execute())
  const first = outgoing.take()
  const before = Buffer.from(first)
  outgoing.bind('b', ['x'.repeat(5_000)])
  outgoing.add(serialize.sync())
  assert.deepEqual(first, before)
  assert.deepEqual(first, Buffer.concat([serialize.bind({ statement: 'a', values: ['first'] }), serialize.execute()]))
  assert.deepEqual(outgoing.take(), Buffer.concat([serialize.bind({ statement: 'b', values: ['x'.repeat(5_000)] }), serialize.sync()]))
  assert.equal(outgoing.length, 0)
})

test('a value that cannot be sent takes its own batch out of the write, and nothing of those before it', () => {
  const state = { prepared: new Map(), active: undefined }
  const outgoing = new Outgoing()
  const odd = { toJSON: () => { throw new RangeError('no text') } }
  new Batch([{ text: 'select $1', values: ['kept'] }], state, () => undefined).appendTo(outgoing)
  const kept = outgoing.length
  const broken = new Batch([{ text: 'select $1', values: ['gone'] }, { text: 'select $1', values: [odd] }], state, () => undefined)
  broken.appendTo(outgoing)
  assert.ok(broken.failure instanceof RangeError)
  const sent = outgoing.take()
  assert.equal(sent.includes('kept'), true)
  assert.deepEqual(sent.subarray(kept), serialize.sync())
})

test('of columns under one name the last stands in the row, also where it is null', () => {
  const fields = fieldsOf([{ name: 'a', dataTypeID: 23 }, { name: 'b', dataTypeID: 25 }, { name: 'a', dataTypeID: 25 }])
  assert.deepEqual(rowOf(fields, ['1', 'two', 'three']), { b: 'two', a: 'three' })
  assert.deepEqual(rowOf(fields, ['1', 'two', null]), { b: 'two', a: null })
})
