import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { ofTheService } from '../src/context.ts'
import { declared, openColumns } from '../src/columns.ts'
import { Refusal } from '../src/errors.ts'
import { blindIndex, defineTables, plain, sealed, type Sealed } from '../src/tables.ts'
import { kernelRetention } from '../src/tables/kernel.ts'
import { testDatabase } from './support/database.ts'
import { keysWorld } from './support/keys.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await keysWorld(database)
after(() => world.close())

const tables = defineTables({
  service: database.service,
  retention: { ...kernelRetention, care: { days: 3653, basis: 'test' }, contact: { days: 365, basis: 'test' } },
  tables: {
    'care.people': {
      id: 500, about: 'test', rowId: 'id', subject: 'owner', tenant: null, keep: 'care',
      columns: {
        id: plain('uuid', 'INT'),
        owner: plain('uuid', 'INT'),
        name_enc: sealed(1, 'PII-E'),
        phone_enc: sealed(2, 'PII-E', { nullable: true, keep: 'contact' }),
        email_enc: sealed(3, 'PII-E', { nullable: true }),
        email_bidx: blindIndex(4, 'email_enc', { nullable: true }),
      },
    },
    'care.notes': {
      id: 501, about: 'test', rowId: 'id', subject: 'owner', tenant: null, keep: 'care',
      columns: { id: plain('uuid', 'INT'), owner: plain('uuid', 'INT'), name_enc: sealed(1, 'SCH') },
    },
  },
})
const columns = openColumns(tables, world.keyring())

/** Collects what a Tx would: keys sealed under and subjects opened. */
function witness(): { sealedUnder(id: Buffer): void; opened(subject: string): void; readonly keys: string[]; readonly subjects: string[] } {
  const keys: string[] = []
  const subjects: string[] = []
  return { keys, subjects, sealedUnder: (id) => void keys.push(id.toString('hex')), opened: (subject) => void subjects.push(subject) }
}
const refused = (code: string) => (error: unknown): boolean => error instanceof Refusal && error.code === code
const person = () => ({ id: randomUUID(), owner: randomUUID(), name: 'Zofia Malinowska', phone: '+48 601 002 003', email: 'zofia@example.org' })

test('a row goes in sealed, with its blind index, and comes out as it was', async () => {
  const tx = witness()
  const clear = person()
  const row = await columns.seal(tx, 'care.people', clear)
  assert.deepEqual(Object.keys(row).sort(), ['email_bidx', 'email_enc', 'id', 'name_enc', 'owner', 'phone_enc'])
  for (const value of Object.values(row)) assert.ok(!value.toString('latin1').includes('Zofia'))
  assert.equal(new Set(tx.keys).size, 2, 'one key per retention class')
  const { email_bidx: index, ...stored } = row
  const [opened] = await columns.open(tx, 'care.people', [stored])
  assert.deepEqual(opened, clear)
  assert.deepEqual(new Set(tx.subjects), new Set([clear.owner]))
  assert.deepEqual(await columns.lookup('care.people', 'email_bidx', clear.email), [index])
})

test('the storage overhead of a sealed value is 45 bytes', async () => {
  const { name_enc: name } = await columns.seal(witness(), 'care.people', person())
  assert.equal(name.length, 'Zofia Malinowska'.length + 45)
})

test('null stays null and what was not given is not written', async () => {
  const row = await columns.seal(witness(), 'care.people', { id: randomUUID(), owner: randomUUID(), phone: null, email: null })
  assert.equal(row.phone_enc, null)
  assert.equal(row.email_bidx, null)
  assert.ok(!('name_enc' in row))
})

test('attack: a ciphertext moved to another row, column, table or subject is refused, always alike', async () => {
  const tx = witness()
  const mine = person()
  const other = { ...person(), owner: mine.owner }
  const row = await columns.seal(tx, 'care.people', mine)
  const foreign = await columns.seal(tx, 'care.people', person())
  const name = row.name_enc
  const moved: readonly [string, () => Promise<unknown>][] = [
    ['row', () => columns.open(tx, 'care.people', [{ id: other.id, owner: mine.owner, name_enc: name }])],
    ['column', () => columns.open(tx, 'care.people', [{ id: mine.id, owner: mine.owner, email_enc: name }])],
    ['retention class', () => columns.open(tx, 'care.people', [{ id: mine.id, owner: mine.owner, phone_enc: name }])],
    ['table', () => columns.open(tx, 'care.notes', [{ id: mine.id, owner: mine.owner, name_enc: name }])],
    ['subject', () => columns.open(tx, 'care.people', [{ id: mine.id, owner: randomUUID(), name_enc: name }])],
    ['owner', () => columns.open(tx, 'care.people', [{ id: mine.id, owner: mine.owner, name_enc: foreign.name_enc }])],
  ]
  const messages = new Set<string>()
  for (const [what, attempt] of moved) {
    await assert.rejects(attempt(), (error: unknown) => {
      assert.ok(refused('sealed_value_refused')(error), what)
      messages.add((error as Error).message)
      return true
    })
  }
  assert.equal(messages.size, 1)
})

test('attack: any flipped byte and any truncation is refused', async () => {
  const tx = witness()
  const clear = person()
  const { name_enc: good } = await columns.seal(tx, 'care.people', clear)
  for (let at = 0; at < good.length; at += 1) {
    const flipped = Buffer.from(good) as Sealed
    flipped[at] = (flipped[at] ?? 0) ^ 0x01
    await assert.rejects(columns.open(tx, 'care.people', [{ id: clear.id, owner: clear.owner, name_enc: flipped }]), refused('sealed_value_refused'), `byte ${at}`)
    await assert.rejects(columns.open(tx, 'care.people', [{ id: clear.id, owner: clear.owner, name_enc: good.subarray(0, at) }]), refused('sealed_value_refused'), `length ${at}`)
  }
})

test('after a class of keys is destroyed its nullable columns read as null, and the class kept by law still opens', async () => {
  const tx = witness()
  const keyring = world.keyring()
  const own = openColumns(tables, keyring)
  const clear = person()
  const { email_bidx: _index, ...row } = await own.seal(tx, 'care.people', clear)
  await keyring.destroy({ tenant: tables.service, subject: clear.owner, keep: 'contact' })
  const [opened] = await own.open(tx, 'care.people', [row])
  assert.equal(opened?.phone, null)
  assert.equal(opened?.name, clear.name)
  await assert.rejects(own.seal(tx, 'care.people', clear), refused('key_destroyed'))
})

test('a row without its id or subject is the caller’s mistake, and so is a column that does not exist', async () => {
  const { name_enc: name } = await columns.seal(witness(), 'care.people', person())
  await assert.rejects(columns.open(witness(), 'care.people', [{ name_enc: name }]), TypeError)
  await assert.rejects(columns.seal(witness(), 'care.people', { name: 'Zofia' }), TypeError)
  // @ts-expect-error: what is not declared does not compile
  await columns.seal(witness(), 'care.people', { ...person(), nickname: 'Zo' })
})

test('with transaction.one only the declared subjects can be opened', async () => {
  const clear = person()
  const { email_bidx: _index, ...row } = await columns.seal(witness(), 'care.people', clear)
  assert.equal((await columns.open(declared([clear.owner], ofTheService), 'care.people', [row]))[0]?.name, clear.name)
  await assert.rejects(columns.open(declared([randomUUID()], ofTheService), 'care.people', [row]), TypeError)
})

test('a stored null opens as null, and rows without sealed columns ask for no key', async () => {
  const tx = witness()
  const { email_bidx: _index, ...row } = await columns.seal(tx, 'care.people', { ...person(), phone: null })
  assert.equal((await columns.open(tx, 'care.people', [row]))[0]?.phone, null)
  const plainRow = { id: row.id, owner: row.owner }
  const idle = openColumns(tables, { ...world.keyring(), byId: () => Promise.reject(new Error('no key was needed')) })
  assert.deepEqual(await idle.open(tx, 'care.people', [plainRow]), [plainRow])
})

test('once its key is destroyed, a column that must have a value refuses the row', async () => {
  const keyring = world.keyring()
  const own = openColumns(tables, keyring)
  const clear = { id: randomUUID(), owner: randomUUID(), name: 'Zofia' }
  const row = await own.seal(witness(), 'care.notes', clear)
  await keyring.destroy({ tenant: tables.service, subject: clear.owner, keep: 'care' })
  await assert.rejects(own.open(witness(), 'care.notes', [row]), refused('key_destroyed'))
})

test('a table, an index or a text that the declaration does not know is the caller’s mistake', async () => {
  await assert.rejects(columns.seal(witness(), 'care.unknown' as 'care.people', person()), TypeError)
  await assert.rejects(columns.lookup('care.people', 'phone_bidx' as 'email_bidx', 'x'), /TypeError|not a blind index/)
  await assert.rejects(columns.seal(witness(), 'care.people', { ...person(), name: 7 as unknown as string }), /care\.people\.name must be a text/)
})

test('without an index key nothing is written', async () => {
  const keyless = openColumns(tables, { ...world.keyring(), indexKeys: () => Promise.resolve([]) })
  await assert.rejects(keyless.seal(witness(), 'care.people', person()), refused('key_refused'))
})

test('attack: a row re-assigned to another tenant is refused', async () => {
  const others = defineTables({
    service: database.service,
    retention: { ...kernelRetention, care: { days: 1, basis: 'test' } },
    tables: {
      'care.tenants': { id: 502, about: 'test', rowId: 'id', subject: 'owner', tenant: 'company', keep: 'care', columns: { id: plain('uuid', 'INT'), owner: plain('uuid', 'INT'), company: plain('text', 'INT'), name_enc: sealed(1, 'PII-E') } },
    },
  })
  const own = openColumns(others, world.keyring())
  const row = await own.seal(witness(), 'care.tenants', { id: randomUUID(), owner: randomUUID(), company: 'one', name: 'Zofia' })
  assert.equal((await own.open(witness(), 'care.tenants', [row]))[0]?.name, 'Zofia')
  await assert.rejects(own.open(witness(), 'care.tenants', [{ ...row, company: 'two' }]), refused('sealed_value_refused'))
})
