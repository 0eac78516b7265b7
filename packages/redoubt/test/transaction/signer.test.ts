import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { systemCaller } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import { openPool, type Pool } from '../../src/pg.ts'
import { openSigner, type Signer } from '../../src/transaction/signer.ts'
import { testDatabase } from '../support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const day = 24 * 3_600_000
const caller = systemCaller('probe', 'test', { requestId: 'probe', address: null })
const kidOf = (signer: Signer): string => signer.sign(caller, 'test.look').split('|')[1] ?? ''
const refused = (code: string) => (error: unknown): boolean => error instanceof Refusal && error.code === code

function keysPool(): Pool {
  return openPool({ url: database.url('keys'), max: 1, emit: () => undefined })
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = Date.now() + 10_000; !holds(); await pause(10)) assert.ok(Date.now() < end, what)
}

async function kids(): Promise<readonly string[]> {
  return (await database.admin<{ kid: string }>('select kid from guard.caller_keys order by kid')).map(({ kid }) => kid)
}

test('a machine whose clock is more than five seconds off does not start, and installs no key', async () => {
  const keys = keysPool()
  for (const drift of [-5_500, 5_500]) await assert.rejects(openSigner(keys, database.service, () => Date.now() + drift), refused('caller_refused'))
  assert.deepEqual(await kids(), [])
  await (await openSigner(keys, database.service, () => Date.now() + 4_000)).close()
  await keys.close()
})

test('a database that does not tell its name and clock is away', async () => {
  await assert.rejects(openSigner({ query: () => Promise.resolve([]) } as unknown as Pool, database.service), refused('database_unavailable'))
})

test('the key of the signature is replaced each day and the old one stays until its time; closing takes both away', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const keys = keysPool()
  let shift = 0
  const signer = await openSigner(keys, database.service, () => Date.now() + shift)
  const first = kidOf(signer)
  t.mock.timers.tick(600_000)
  assert.equal(kidOf(signer), first, 'not before a day is over')
  shift = day
  t.mock.timers.tick(600_000)
  await until('the new key signs', () => kidOf(signer) !== first)
  assert.deepEqual(await kids(), [first, kidOf(signer)].sort())
  await signer.close()
  assert.deepEqual(await kids(), [])
  await keys.close()
})

test('a replacement that fails leaves the old key signing and is tried again', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const keys = keysPool()
  let away = false
  let asked = 0
  const faulty: Pool = {
    ...keys,
    query: async (statement) => {
      asked += 1
      if (away) throw new Refusal('database_unavailable')
      return keys.query(statement)
    },
  }
  let shift = 0
  const signer = await openSigner(faulty, database.service, () => Date.now() + shift)
  const first = kidOf(signer)
  const before = asked
  shift = day
  away = true
  t.mock.timers.tick(600_000)
  await until('it was tried', () => asked > before)
  assert.equal(kidOf(signer), first)
  away = false
  t.mock.timers.tick(600_000)
  await until('the new key signs', () => kidOf(signer) !== first)
  await signer.close()
  await keys.close()
})
