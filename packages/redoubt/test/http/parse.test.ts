import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { Refusal } from '../../src/errors.ts'
import { parse } from '../../src/http/parse.ts'

/** Field and rule of each problem, as one text. */
function problemsOf(schema: z.ZodType, value: unknown): readonly string[] {
  try {
    parse(schema, value, 'invalid_input')
  } catch (error) {
    assert.ok(error instanceof Refusal)
    return error.fields.map(({ field, rule }) => `${field} ${rule}`)
  }
  return []
}

const cat = z.strictObject({ kind: z.literal('cat'), name: z.string(), lives: z.int() })
const dog = z.strictObject({ kind: z.literal('dog'), name: z.string() })

for (const [name, union] of [['a union with a discriminator', z.discriminatedUnion('kind', [cat, dog])], ['a plain union', z.union([cat, dog])]] as const) {
  test(`${name}: the problems are those of the variant that was meant`, () => {
    assert.deepEqual(problemsOf(union, { kind: 'cat', name: 'Mia' }), ['lives required'])
    assert.deepEqual(problemsOf(union, { kind: 'cat', name: 1, bark: 'x', tail: 'y' }), ['name type', 'lives required', 'bark unknown', 'tail unknown'])
    assert.deepEqual(problemsOf(union, { kind: 'cow', name: 'Emma' }), ['kind enum'])
    assert.deepEqual(problemsOf(union, { name: 'Emma' }), ['kind required'])
  })
}

test('a union inside a body: the path leads to the field', () => {
  const body = z.strictObject({ pets: z.array(z.union([cat, dog])) })
  assert.deepEqual(problemsOf(body, { pets: [{ kind: 'dog', name: 'Rex' }, { kind: 'dog' }] }), ['pets.1.name required'])
})

test('variants without a word that tells them apart: the one with the fewest problems', () => {
  const body = z.union([z.strictObject({ from: z.string(), to: z.string() }), z.strictObject({ slot: z.string(), version: z.int() })])
  assert.deepEqual(problemsOf(body, { slot: 'a' }), ['version required'])
  assert.deepEqual(problemsOf(body, { from: 'a' }), ['to required'])
})

test('a body that is no object is named body', () => {
  for (const value of [[], 'text', 3, null]) {
    assert.deepEqual(problemsOf(cat, value), ['body type'])
    assert.deepEqual(problemsOf(z.union([cat, dog]), value), ['body type'])
  }
})
