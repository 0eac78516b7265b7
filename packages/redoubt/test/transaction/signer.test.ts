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
const kidOf = (signer: Signer): string => signer.sign(caller, 'test.look', null).split('|')[1] ?? ''
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

test('a service whose name cannot stand in a claim is a mistake, found before a key is made', async () => {
  const keys = keysPool()
  await assert.rejects(openSigner(keys, 'two words'), TypeError)
  assert.deepEqual(await kids(), [])
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
  await until('the new key signs', () => {
    t.mock.timers.tick(30_000)
    return kidOf(signer) !== first
  })
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
  await until('the new key signs', () => {
    t.mock.timers.tick(30_000)
    return kidOf(signer) !== first
  })
  await signer.close()
  await keys.close()
})

test('rotate caller: each process replaces its key within half a minute, the old one is accepted meanwhile; a key that is gone is replaced too', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const keys = keysPool()
  const app = openPool({ url: database.url('app'), max: 1, emit: () => undefined })
  const accepted = async (signer: Signer): Promise<boolean> => {
    const connection = await app.connect()
    const { failure } = await connection.send([
      { text: 'begin', values: [] }, { text: `select set_config('redoubt.caller', $1, true)`, values: [signer.sign(caller, 'test.look', null)] },
      { text: 'select (guard.caller()).role', values: [] }, { text: 'rollback', values: [] },
    ])
    if (failure !== undefined) await connection.send([{ text: 'rollback', values: [] }])
    connection.release()
    return failure === undefined
  }
  const signers = [await openSigner(keys, database.service), await openSigner(keys, database.service)]
  const first = signers.map(kidOf)
  for (const [seconds, stillAccepted] of [[120, true], [0, false]] as const) {
    const before = signers.map(kidOf)
    await keys.query({ text: 'select guard.expire_caller_keys($1)', values: [seconds] })
    for (const signer of signers) assert.equal(await accepted(signer), stillAccepted)
    await until('all have new keys', () => {
      t.mock.timers.tick(30_000)
      return signers.every((signer, at) => kidOf(signer) !== before[at])
    })
    for (const signer of signers) assert.ok(await accepted(signer))
  }
  assert.ok(!(await kids()).some((kid) => first.includes(kid)))
  assert.equal((await database.admin(`select from redoubt.audit_logs where action = 'key.rotated' and metadata->>'kind' = 'caller'`)).length, 2)
  await assert.rejects(app.query({ text: 'select guard.expire_caller_keys(0)', values: [] }))
  for (const signer of signers) await signer.close()
  await app.close()
  await keys.close()
})
