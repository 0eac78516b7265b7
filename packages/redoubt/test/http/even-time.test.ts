import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Refusal } from '../../src/errors.ts'
import { evenly } from '../../src/http/even-time.ts'

test('an outcome and a refusal both wait for their time', async () => {
  const started = performance.now()
  assert.equal(await evenly(40, () => Promise.resolve('done')), 'done')
  await assert.rejects(evenly(40, () => Promise.reject(new Refusal('code_refused'))), (error) => error instanceof Refusal && error.code === 'code_refused')
  // A timer may fire up to a millisecond early by the clock that is read here.
  assert.ok(performance.now() - started >= 78)
})

test('work begins at once: the time it takes is not added', async () => {
  let begun = false
  const answer = evenly(40, async () => { begun = true })
  assert.ok(begun)
  await answer
})

test('a time that makes no sense is a mistake', async () => {
  for (const wrong of [0, 1.5, 1_001, NaN]) await assert.rejects(evenly(wrong, () => Promise.resolve()), TypeError)
})
