import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CompiledQuery } from 'kysely'
import { mustBeFound, preparedStatement, queryById } from '../../src/transaction/prepared.ts'

const query = (text: string) => ({ compile: () => CompiledQuery.raw(text, [1]) })

test('a text is prepared once under a name of its own; the 251st goes without, so that no connection keeps them all', () => {
  const first = preparedStatement(query('select 1 where $1 = 1'))
  assert.equal(preparedStatement(query('select 1 where $1 = 1')).name, first.name)
  const names = Array.from({ length: 260 }, (_, n) => preparedStatement(query(`select ${n} where $1 = 2`)).name)
  const given = names.filter((name) => name !== undefined)
  assert.equal(new Set(given).size, given.length)
  assert.equal(given.length, 249)
  assert.equal(names.at(-1), undefined)
})

test('a row that must be found is asked for by a statement of its own, with a name and without', () => {
  assert.match(mustBeFound({ name: 'redoubt_q1', text: 'select 1', values: [] }).name ?? '', /^redoubt_q1_found$/)
  const { name, text } = mustBeFound({ text: 'select 1 -- a comment', values: [] })
  assert.equal(name, undefined)
  assert.match(text, /select 1 -- a comment\n\)/)
  for (const other of ['delete from x', 'with a as (select 1) select 1', 'update x set a = 1']) assert.throws(() => mustBeFound({ text: other, values: [] }), TypeError)
})

test('a query by id is compiled once and carries whichever id is given; what is no parameter is left alone', () => {
  let built = 0
  const byId = queryById((id) => {
    built += 1
    return { compile: () => CompiledQuery.raw('select $1, $2, $3', ['kept', id, 7]) }
  })
  assert.deepEqual(byId('a').values, ['kept', 'a', 7])
  assert.deepEqual(byId('b').values, ['kept', 'b', 7])
  assert.equal(byId('a').name, byId('b').name)
  assert.equal(built, 1)
  assert.throws(() => queryById((id) => ({ compile: () => CompiledQuery.raw(`select '${id}'`, []) })), TypeError)
})
