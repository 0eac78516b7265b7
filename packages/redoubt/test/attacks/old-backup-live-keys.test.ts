import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { Refusal } from '../../src/errors.ts'
import { open, type Place } from '../../src/seal.ts'
import { transaction } from '../../src/transaction.ts'
import { makeAccount } from '../support/accounts.ts'
import { until } from '../support/audit.ts'
import { loggedIn, sqlStateOf } from '../support/claims.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate } from '../support/gate.ts'
import { keysWorld } from '../support/keys.ts'
import { columnsOf, createPeople, openPerson, personColumns, plantPerson, type PersonRow } from '../support/people.ts'

// One retention class of one person's keys is destroyed. Whoever holds dumps of the data from before, the newest key
// bag and everything the key service does, must read nothing of that class, and everything of the others.

const database = await testDatabase({ origins: ['redoubt'] })
await createPeople(database)
const alice = await makeAccount(database, 'alice')
const bob = await makeAccount(database, 'bob')
const world = await keysWorld(database)
const opened = await openTestGate(database)
let now = 0
const warm = world.keyring({ clock: () => now })
const warmColumns = columnsOf(database, warm)
after(async () => {
  await opened.close()
  await world.close()
})

const contact = { tenant: database.service, subject: alice.actor, keep: 'contact' }
const clear = { name: 'Adele Sandmann', diagnosis: 'F32.1 canary', phone: '+49 30 5550 4711', address: 'Kastanienallee 4711' }
const later = { ...clear, phone: '+49 30 5550 4712', address: 'Lindenstrasse 4712' }

/** A dump of the data as text, with everything but the keys: by pg_dump where it is as new as the server, else by COPY. */
async function dump(): Promise<string> {
  const [server] = await database.admin<{ version: number }>(`select current_setting('server_version_num')::int / 10000 as version`)
  const program = Number(/(\d+)\./.exec(spawnSync('pg_dump', ['--version']).stdout?.toString() ?? '')?.[1] ?? 0)
  if (program >= (server?.version ?? 99)) {
    const { stdout } = await promisify(execFile)('pg_dump', ['--data-only', '--schema=attacks', database.url('backup')], { maxBuffer: 1 << 24 })
    return stdout
  }
  return loggedIn(database.url('backup'), async (client) => {
    const { connection } = client as unknown as { readonly connection: NodeJS.EventEmitter }
    const lines: string[] = []
    connection.on('copyData', ({ chunk }: { readonly chunk: Buffer }) => void lines.push(chunk.toString('utf8')))
    await client.query(`copy attacks.people (${personColumns}) to stdout`)
    return lines.join('')
  })
}

/** The rows of a dump, put back where they were. */
async function restore(text: string): Promise<readonly PersonRow[]> {
  const lines = text.split('\n').filter((line) => /^[0-9a-f-]{36}\t/.test(line)).map((line) => line.replaceAll('\\\\x', '\\x').split('\t').map((value) => (value === '\\N' ? null : value)))
  await database.admin('delete from attacks.people')
  for (const values of lines) await database.admin(`insert into attacks.people (${personColumns}) values ($1, $2, $3, $4, $5, $6)`, values)
  return database.admin<PersonRow>(`select ${personColumns} from attacks.people`)
}

/** Until somebody in this database waits for a lock. */
const someoneWaits = (): Promise<void> =>
  until('somebody waits', async () => (await database.admin(`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)).length > 0, 10_000)

const alicesRow = await plantPerson(database, warmColumns, alice.actor, clear)
const bobsRow = await plantPerson(database, warmColumns, bob.actor, { ...clear, name: 'Bruno', phone: '+49 30 5550 9999' })
const dumps = [await dump()]
const changed = await warmColumns.seal({ sealedUnder: () => undefined }, 'attacks.people', { id: alicesRow, person: alice.actor, ...later })
await database.admin('update attacks.people set phone_enc = $1, address_enc = $2 where id = $3', [changed.phone_enc, changed.address_enc, alicesRow])
dumps.push(await dump())

test('before the erasure every dump opens: what is lost below is lost by the erasure', async () => {
  const columns = columnsOf(database, world.keyring())
  for (const [index, text] of dumps.entries()) {
    assert.equal((await restore(text)).length, 2)
    assert.deepEqual({ ...(await openPerson(database, columns, alicesRow)) }, { id: alicesRow, person: alice.actor, ...(index === 0 ? clear : later) })
    for (const value of Object.values({ ...clear, ...later })) assert.ok(!text.includes(value) && !text.includes(Buffer.from(value).toString('hex')), 'a dump holds something in clear')
  }
})

test('a transaction that holds the key commits before the erasure, which waits for it; its value is lost with the rest', async () => {
  await loggedIn(database.url('app'), async (client) => {
    const erased = { ...contact, subject: bob.actor }
    const key = await warm.keyFor(erased)
    await client.query('begin')
    await client.query('select guard.hold_keys($1)', [[key.id]])
    let ended = false
    const erasure = world.keyring().destroy(erased).then(() => {
      ended = true
    })
    await someoneWaits()
    assert.equal(ended, false, 'the erasure overtook a transaction that was about to commit')
    await client.query('commit')
    await erasure
  })
  assert.equal((await openPerson(database, columnsOf(database, world.keyring()), bobsRow))?.phone, null)
})

test('an erasure that is about to commit lets no value in: the sealing transaction waits and fails', async () => {
  const before = await database.admin<PersonRow>(`select ${personColumns} from attacks.people where id = $1`, [alicesRow])
  const write = (): Promise<unknown> =>
    transaction(opened.gate, alice, 'test.write', async (tx) => {
      const row = await warmColumns.seal(tx, 'attacks.people', { id: alicesRow, person: alice.actor, phone: 'sealed under a key that is going' })
      await tx.query({ text: 'update attacks.people set phone_enc = $1 where id = $2', values: [row.phone_enc, alicesRow] })
    })
  await loggedIn(database.url('keys'), async (client) => {
    await client.query('begin')
    await client.query('select keys.destroy_data_keys($1, $2, $3)', [contact.tenant, contact.subject, contact.keep])
    const writing = write().then(() => 'committed', (error: unknown) => (error as Refusal).code)
    await someoneWaits()
    await client.query('commit')
    assert.equal(await writing, 'key_destroyed')
  })
  assert.deepEqual(await database.admin<PersonRow>(`select ${personColumns} from attacks.people where id = $1`, [alicesRow]), before)
  // And ever after, though this process still holds the key in its cache.
  await assert.rejects(write(), { code: 'key_destroyed' })
})

test('every older dump, with the key service and the present keys: nothing of the erased class, all of the class kept by law', async () => {
  const keyring = world.keyring()
  const columns = columnsOf(database, keyring)
  for (const text of dumps) {
    const rows = await restore(text)
    assert.deepEqual({ ...(await openPerson(database, columns, alicesRow)) }, { id: alicesRow, person: alice.actor, ...clear, phone: null, address: null })
    // Past columns.ts: with every key there is, at every place.
    const ids = (await database.admin<{ key_id: Buffer }>('select key_id from keys.data_keys')).map((row) => row.key_id)
    const keys = [...(await keyring.byId(ids)).values()]
    assert.ok(keys.length >= 2)
    for (const row of rows.filter((each) => each.person === alice.actor)) {
      for (const value of [row.phone_enc, row.address_enc]) {
        assert.ok(value !== null)
        for (const key of keys) {
          for (const column of [1, 2, 3, 4]) {
            const place: Place = { tenant: database.service, table: 900, column, row: row.id, subject: row.person }
            assert.throws(() => open(key, place, value), { code: 'sealed_value_refused' })
          }
        }
        await assert.rejects(world.service.unwrap({ provider: 'local', keyRef: 'x', blob: value }, {}), Refusal)
      }
    }
  }
})

test('a process that had the keys in its cache reads on for the lifetime of a data key and no longer', async () => {
  const before = await openPerson(database, warmColumns, alicesRow)
  assert.notEqual(before?.phone, null, 'it was not warm, so nothing is shown')
  now += 5 * 60_000 - 1
  assert.notEqual((await openPerson(database, warmColumns, alicesRow))?.phone, null)
  now += 1
  assert.equal((await openPerson(database, warmColumns, alicesRow))?.phone, null)
  assert.equal((await openPerson(database, warmColumns, alicesRow))?.name, clear.name)
})

test('no new key for what was erased: not by the service, not by the keys role, not after a restore of the data', async () => {
  await assert.rejects(world.keyring().keyFor(contact), { code: 'key_destroyed' })
  await assert.rejects(columnsOf(database, world.keyring()).seal({ sealedUnder: () => undefined }, 'attacks.people', { id: alicesRow, person: alice.actor, phone: 'x' }), { code: 'key_destroyed' })
  await loggedIn(database.url('keys'), async (client) => {
    const copy = `insert into keys.data_keys (key_id, tenant, subject, keep, version, kek_id, wrapped) select sha256(key_id)::bytea, tenant, subject, $1, 9, kek_id, wrapped from keys.data_keys where subject = $2 limit 1`
    assert.match(String(await sqlStateOf(client.query(copy.replace('sha256(key_id)::bytea', 'substring(sha256(key_id), 1, 16)'), ['contact', alice.actor]))), /RD410/)
    assert.equal(await sqlStateOf(client.query('delete from keys.erased')), '42501')
    assert.equal(await sqlStateOf(client.query(`update keys.erased set keep = 'other'`)), '42501')
  })
  const care = await world.keyring().keyFor({ ...contact, keep: 'care' })
  assert.equal(care.scope.keep, 'care')
})
