import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openCache, type Cache, type Loaded } from '../src/keyring/cache.ts'

type Load = { readonly queries: readonly string[]; answer(values: readonly Loaded<{ of: string }>[]): void; fail(error: Error): void }

/** A cache whose loads are answered by hand. */
function byHand(): { readonly cache: Cache<string, { of: string }>; readonly loads: Load[]; begun(): Promise<void> } {
  const loads: Load[] = []
  const cache = openCache<string, { of: string }>({
    name: (query) => query,
    load: (queries) => new Promise((resolve, reject) => loads.push({ queries, answer: resolve, fail: reject })),
    lifetime: 1000,
    uses: 100,
    entries: 10,
    clock: () => 0,
  })
  return { cache, loads, begun: () => new Promise((resolve) => setImmediate(resolve)) }
}

test('attack: a key read before its erasure and arriving after it is given to those who asked before, and kept for nobody', async () => {
  const { cache, loads, begun } = byHand()
  const before = cache.find(['a'])
  await begun()
  cache.drop((value) => value.of === 'a')
  const after = cache.find(['a'])
  await begun()
  assert.equal(loads.length, 2, 'who asks after the erasure does not join the load from before')
  loads[0]?.answer([{ of: 'a' }])
  assert.deepEqual(await before, [{ of: 'a' }])
  loads[1]?.answer([undefined])
  assert.deepEqual(await after, [undefined])
  const later = cache.find(['a'])
  await begun()
  assert.equal(loads.length, 3, 'neither answer was kept')
  loads[2]?.answer([undefined])
  await later
})

test('what is asked for in one turn is loaded together, each thing once', async () => {
  const { cache, loads, begun } = byHand()
  const found = [cache.find(['a', 'b']), cache.find(['b']), cache.find(['c'])]
  await begun()
  assert.deepEqual(loads.map(({ queries }) => queries), [['a', 'b', 'c']])
  loads[0]?.answer([{ of: 'a' }, new Error('b is bad'), { of: 'c' }])
  const outcomes = await Promise.allSettled(found)
  assert.deepEqual(outcomes.map(({ status }) => status), ['rejected', 'rejected', 'fulfilled'])
  assert.deepEqual(await cache.find(['a', 'c']), [{ of: 'a' }, { of: 'c' }])
})

test('a load that failed is tried again by the next who asks', async () => {
  const { cache, loads, begun } = byHand()
  const first = cache.find(['a'])
  await begun()
  loads[0]?.fail(new Error('away'))
  await assert.rejects(first, /away/)
  const second = cache.find(['a'])
  await begun()
  loads[1]?.answer([{ of: 'a' }])
  assert.deepEqual(await second, [{ of: 'a' }])
})

test('a value past its time leaves memory although nobody asks for it; one that is dropped or cleared leaves at once', async () => {
  let now = 0
  const cache = openCache<string, { of: string }>({
    name: (query) => query, load: (queries) => Promise.resolve(queries.map((of) => ({ of }))), lifetime: 5, uses: 100, entries: 10, clock: () => now,
  })
  await cache.find(['a', 'b', 'c'])
  assert.equal(cache.size(), 3)
  cache.drop(({ of }) => of === 'a')
  assert.equal(cache.size(), 2)
  now = 4
  await cache.find(['d'])
  now = 5
  while (cache.size() > 1) await new Promise((resolve) => setTimeout(resolve, 5))
  assert.equal(cache.size(), 1)
  cache.clear()
  assert.equal(cache.size(), 0)
})

test('a value is handed out 2^20 times and then loaded again', async () => {
  let loads = 0
  const cache = openCache<string, { of: string }>({
    name: (query) => query, load: (queries) => Promise.resolve(queries.map((of) => (loads++, { of }))), lifetime: 1000, uses: 2 ** 20, entries: 10, clock: () => 0,
  })
  await cache.find(['a'])
  const many = Array.from({ length: 1024 }, () => 'a')
  for (let i = 0; i < 1024; i++) await cache.find(many)
  assert.equal(loads, 1)
  await cache.find(['a'])
  assert.equal(loads, 2)
})

test('a value asked for near its end is loaded anew beside the answer; one that cannot be is served to its end and tried again', async () => {
  let now = 0
  const loads: Load[] = []
  const cache = openCache<string, { of: string }>({
    name: (query) => query, load: (queries) => new Promise((resolve, reject) => loads.push({ queries, answer: resolve, fail: reject })),
    lifetime: 3_600_000, ahead: 900_000, uses: 100, entries: 10, clock: () => now,
  })
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  const first = cache.find(['a'])
  await turn()
  loads[0]?.answer([{ of: 'first' }])
  assert.deepEqual(await first, [{ of: 'first' }])
  now = 2_699_999
  await cache.find(['a'])
  await turn()
  assert.equal(loads.length, 1, 'not yet')
  now = 2_700_000
  for (let i = 0; i < 5; i++) assert.deepEqual(await cache.find(['a']), [{ of: 'first' }])
  await turn()
  assert.equal(loads.length, 2, 'once for all who ask')
  loads[1]?.fail(new Error('away'))
  await turn()
  now += 29_999
  assert.deepEqual(await cache.find(['a']), [{ of: 'first' }])
  await turn()
  assert.equal(loads.length, 2)
  now += 1
  assert.deepEqual(await cache.find(['a']), [{ of: 'first' }])
  await turn()
  assert.equal(loads.length, 3, 'tried again')
  loads[2]?.answer([{ of: 'second' }])
  await turn()
  now = 3_600_001
  assert.deepEqual(await cache.find(['a']), [{ of: 'second' }])
  assert.equal(loads.length, 3)
})

test('what one turn asks for is loaded in pages, two at a time, and does not hold up what the next turn asks for', async () => {
  const { cache, loads, begun } = byHand()
  const names = Array.from({ length: 20_000 }, (_, n) => `n${n}`)
  const many = cache.find(names)
  await begun()
  assert.deepEqual(loads.map(({ queries }) => queries.length), [4096, 4096])
  const one = cache.find(['one'])
  await begun()
  assert.deepEqual(loads[2]?.queries, ['one'])
  loads[2]?.answer([{ of: 'one' }])
  assert.deepEqual(await one, [{ of: 'one' }])
  let answered = 0
  for (const turn of [0, 1, 3, 4, 5]) {
    const load = loads[turn]
    answered += load?.queries.length ?? 0
    load?.answer((load?.queries ?? []).map((of) => ({ of })))
    await begun()
    assert.ok(loads.length - 1 <= Math.min(5, [0, 1, 3, 4, 5].indexOf(turn) + 3), 'never more than two under way')
  }
  assert.equal(answered, 20_000)
  assert.deepEqual((await many).map((value) => value?.of), names)
})

test('what is asked for again and again outlives what nobody asks for any more', async () => {
  const loads = new Map<string, number>()
  const cache = openCache<string, { readonly of: string }>({
    name: (query) => query, load: (queries) => Promise.resolve(queries.map((of) => (loads.set(of, (loads.get(of) ?? 0) + 1), { of }))),
    lifetime: 1000, uses: 2 ** 20, entries: 64, clock: () => 0,
  })
  for (let n = 0; n < 20; n++) {
    await cache.find(['kept'])
    await cache.find(Array.from({ length: 40 }, (_, i) => `once ${n} ${i}`))
    // Many times in a row: it is moved to the end for some of them only.
    for (let i = 0; i < 10; i++) await cache.find(['kept'])
  }
  assert.equal(loads.get('kept'), 1)
  assert.ok(cache.size() <= 64)
})
