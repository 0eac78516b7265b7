import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { transaction } from '../../src/transaction.ts'
import { makeAccount } from '../support/accounts.ts'
import { loggedIn } from '../support/claims.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate } from '../support/gate.ts'
import { createNotes, plantNote } from '../support/notes.ts'

/** A policy is asked when a row has passed the conditions before it: what it raises then would tell of rows of others. */
const database = await testDatabase({ origins: ['redoubt'] })
await createNotes(database)
const alice = await makeAccount(database, 'alice')
const mallory = await makeAccount(database, 'mallory')
await plantNote(database, alice.actor, 'of alice')
await plantNote(database, mallory.actor, 'of mallory')
const [row] = await database.admin<{ readonly id: string }>('select id from attacks.notes where owner = $1', [alice.actor])
const there = row?.id ?? ''
const opened = await openTestGate(database)
after(() => opened.close())

/** The bearer's own claim, as injected SQL reads it. */
const genuine = await transaction(opened.gate, mallory, 'test.look', (tx) => tx.query<{ readonly claim: string }>({ text: `select current_setting('redoubt.caller') as claim`, values: [] }))
const parts = (genuine[0]?.claim ?? '').split('|')
const altered = (at: number, value: string): string => parts.map((part, index) => (index === at ? value : part)).join('|')
/** What a claim can be that is none of ours. Each field that is cast could be a place to raise from: who, which session, entry, when. */
const claims: Readonly<Record<string, string>> = {
  none: '', noise: 'x', bars: '|||||||||||', 'without its MAC': altered(11, ''), 'with another MAC': altered(11, '0'.repeat(64)), 'of somebody else': altered(3, alice.actor),
  'of a session that is none': altered(6, randomUUID()), 'of no session': altered(6, ''), 'of a system caller': parts.map((part, index) => (index === 3 || index === 6 ? '' : index === 4 ? 'system.sign-in' : part)).join('|'),
  ...Object.fromEntries([3, 6, 9, 10].flatMap((at) => ['rubbish', '0190a8f0-0000-7000-8000-00000000000', 'é'.repeat(36), '9'.repeat(400), '1e999', '-'.repeat(36)].map((value) => [`field ${at} ${value.slice(0, 12)}`, altered(at, value)]))),
  'a system caller out of form': parts.map((part, index) => (index === 3 || index === 6 ? '' : index === 4 ? 'system.x' : index >= 9 ? 'rubbish' : part)).join('|'),
}

test('the claim that is altered here is believed as it is', () => {
  assert.deepEqual([parts.length, parts[3], parts[6], parts[11]?.length], [12, mallory.actor, mallory.session, 64])
})

test('attack: with the claim taken away in mid-statement, a row of somebody else is as absent as none', async () => {
  const asked = (condition: string): string =>
    `select hit.found, attacks.setting('redoubt.caller', s.claim, true) is not null as back
     from (select current_setting('redoubt.caller') as claim offset 0) s
     cross join lateral (select attacks.setting('redoubt.caller', $2 || left(s.claim, 0), true) as gone offset 0) off
     cross join lateral (select exists (select 1 from attacks.notes where ${condition} and off.gone is not null) as found offset 0) hit`
  for (const action of ['test.look', 'test.read'] as const) {
    for (const [name, claim] of Object.entries(claims)) {
      for (const condition of ['id = $1', `id = $1 and body < 'z'`, 'id between $1 and $1']) {
        const told = (id: string): Promise<unknown> => transaction(opened.gate, mallory, action, (tx) => tx.query({ text: asked(condition), values: [id, claim] })).catch((error: unknown) => String(error))
        const answer = await told(there)
        assert.deepEqual(answer, [{ found: false, back: true }], `${name}: ${condition}`)
        assert.deepEqual(await told(randomUUID()), answer, `${name}: ${condition}`)
      }
    }
  }
})

test('attack: no claim makes a policy raise, and none lets a row through, also while its plan is made for these very values', async () => {
  for (const [name, claim] of Object.entries(claims)) {
    // A connection of its own: the first plans of a function see the values, and may compute with them beforehand.
    await loggedIn(database.url('app'), async (client) => {
      await client.query('begin')
      await client.query(`select set_config('redoubt.caller', $1, true)`, [claim])
      assert.deepEqual((await client.query('select count(*)::int as n from attacks.notes')).rows, [{ n: 0 }], name)
      assert.deepEqual((await client.query('select guard.actor() as actor, guard.role() as role, guard.tenant() as tenant')).rows, [{ actor: null, role: null, tenant: null }], name)
      assert.equal((await client.query('update attacks.notes set body = body')).rowCount, 0, name)
    })
  }
})

test('attack: a claim taken away and put back between two looks of one statement: the gate sends nothing that can change a setting', async () => {
  const own = `'${mallory.actor}'`
  const texts = [
    `select set_config('redoubt.caller', '', true)`, `select pg_catalog . SET_CONFIG ('redoubt.caller', '', true)`, `select "set_config"('redoubt.caller', '', true)`, `select U&"set\\005fconfig"('redoubt.caller', '', true)`,
    `select u&"\\0073et_config"('redoubt.caller', '', true)`, `select * from /* */ set_config/**/('redoubt.caller', '', true)`, `update pg_settings set setting = '' where name = 'redoubt.caller'`,
    `select query_to_xml('select set' || '_config(''redoubt.caller'', '''', true)', true, false, '')`, `select query_to_xmlschema('select 1', true, false, '')`, `select query_to_xml_and_xmlschema('select 1', true, false, '')`,
    `select cursor_to_xml('c', 1, true, false, '')`, `select * from ts_stat('select to_tsvector(set' || '_config(''redoubt.caller'', '''', true))')`, `select ts_rewrite('a', 'select to_tsquery(set' || '_config(''x.y'', '''', true)), to_tsquery(''b'')')`,
    `select s.n, (select count(*) from attacks.notes x where x.id = s.id) from (values (1, $1::uuid, set_config('redoubt.caller', '', true)), (2, ${own}::uuid, set_config('redoubt.caller', $2, true))) s (n, id, set)`,
  ]
  for (const text of texts) {
    opened.events.length = 0
    for (const call of [transaction(opened.gate, mallory, 'test.look', (tx) => tx.query({ text, values: [] })), transaction.one(opened.gate, mallory, 'test.read', { text, values: [] })]) {
      await assert.rejects(call, { code: 'statement_refused' }, text)
    }
    assert.equal(opened.events.filter(({ type }) => type === 'security.statement_refused').length, 2, text)
  }
})
