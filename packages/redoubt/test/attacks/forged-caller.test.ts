import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import type pg from 'pg'
import type { Caller } from '../../src/context.ts'
import { systemCaller } from '../../src/context.ts'
import { transaction } from '../../src/transaction.ts'
import { callerText } from '../../src/transaction/signer.ts'
import { makeAccount } from '../support/accounts.ts'
import { believed, believedBy, claimOf, installKnownKey, loggedIn, signText, sqlStateOf } from '../support/claims.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate } from '../support/gate.ts'
import { createNotes, plantNote } from '../support/notes.ts'

const database = await testDatabase({ origins: ['redoubt'] })
await createNotes(database)
const key = await installKnownKey(database)
const alice = await makeAccount(database, 'alice')
const mallory = await makeAccount(database, 'mallory')
await plantNote(database, alice.actor, 'of alice')
await plantNote(database, mallory.actor, 'of mallory')
const opened = await openTestGate(database)
after(() => opened.close())

/** A signed claim with the fields as given, whatever they are. */
const crafted = (fields: Partial<Record<'version' | 'kid' | 'audience' | 'actor' | 'role' | 'tenant' | 'session' | 'action' | 'request' | 'entry' | 'at', string>>): string => {
  const all = {
    version: 'v1', kid: key.kid, audience: `${database.service}/${database.name}`, actor: alice.actor, role: alice.role, tenant: alice.tenant,
    session: alice.session, action: 'test.read', request: alice.requestId, entry: '', at: String(Date.now()), ...fields,
  }
  return signText(key, Object.values(all).join('|'))
}
/** Begins a transaction. Gives its moment, in milliseconds: a claim's age is counted to it, however slow the machine is. */
async function beginning(client: pg.Client): Promise<number> {
  await client.query('begin')
  return (await client.query<{ at: number }>(`select date_part('epoch', transaction_timestamp()) * 1000 as at`)).rows[0]?.at ?? assert.fail()
}
/** Whom the transaction that has begun takes this claim for. */
async function takenFor(client: pg.Client, claim: string): Promise<unknown> {
  await client.query(`select set_config('redoubt.caller', $1, true)`, [claim])
  return (await client.query('select guard.actor() as id')).rows[0]
}
const refused = async (claims: Readonly<Record<string, string>>): Promise<void> => {
  // What the holder of a key signs, and is no uuid or number where one must be, fails as such; everything else with the verifier's own refusal.
  await loggedIn(database.url('app'), async (client) => {
    for (const [attack, claim] of Object.entries(claims)) assert.match(await believedBy(client, claim), /^(RD401|22P02|22003)$/, attack)
  })
}

test('a genuine claim is believed, or nothing below would prove anything', async () => {
  assert.equal(await believed(database, claimOf(key, database, alice)), `patient ${alice.actor}`)
  assert.equal(await believed(database, crafted({})), `patient ${alice.actor}`)
  assert.equal(await believed(database, claimOf(key, database, systemCaller('sign-in', alice.tenant, alice))), 'system.sign-in')
  await loggedIn(database.url('app'), async (client) => {
    assert.deepEqual(await takenFor(client, claimOf(key, database, alice, { now: await beginning(client) - 9_900 })), { id: alice.actor })
  })
})

test('no claim, an empty one and noise are nobody', async () => {
  await refused({
    empty: '', bars: '||||||||||', 'eleven words': 'v1|a|b|c|d|e|f|g|h|i|j', noise: randomBytes(200).toString('hex'),
    'SQL in it': `v1|' or true --|x|${alice.actor}|patient|t||a|r|1|${'0'.repeat(64)}`, long: 'v1|'.repeat(20_000),
  })
  const none = await loggedIn(database.url('app'), (client) => sqlStateOf(client.query('select * from guard.caller()')))
  assert.equal(none, 'RD401')
})

test('a signature truncated, extended, altered or of another text', async () => {
  const genuine = claimOf(key, database, alice)
  const body = genuine.slice(0, -65)
  const other = claimOf(key, database, mallory)
  const claims: Record<string, string> = {
    'with the MAC of another claim': body + other.slice(-65),
    'with letters of the MAC in capitals': body + genuine.slice(-65).toUpperCase(),
    'with the MAC twice': genuine + genuine.slice(-65),
    'with a field more': `${genuine}|`, 'with a field in front': `v1|${genuine}`, 'with a blank behind': `${genuine} `, 'with a line end behind': `${genuine}\n`,
    'with an empty MAC': `${body}|`, 'with a MAC of zeros': `${body}|${'0'.repeat(64)}`,
    'with a hash instead of a MAC': signText({ kid: key.kid, secret: Buffer.alloc(0) }, body),
  }
  for (const cut of [1, 2, 32, 63, 64, 65, 66, 80, genuine.length - 1]) claims[`cut by ${cut}`] = genuine.slice(0, -cut)
  for (let at = 0; at < genuine.length; at += 7) {
    claims[`altered at ${at}`] = genuine.slice(0, at) + (genuine[at] === '1' ? '2' : '1') + genuine.slice(at + 1)
  }
  await refused(claims)
})

test('fields of a genuine claim exchanged with each other, or with those of another person', async () => {
  const parts = claimOf(key, database, alice).split('|')
  const others = claimOf(key, database, mallory).split('|')
  const claims: Record<string, string> = {}
  for (let i = 0; i < parts.length; i++) {
    if (parts[i] !== others[i]) claims[`field ${i} of somebody else`] = parts.with(i, others[i] ?? '').join('|')
    for (let j = 0; j < i; j++) claims[`fields ${i} and ${j} exchanged`] = parts.with(i, parts[j] ?? '').with(j, parts[i] ?? '').join('|')
  }
  await refused(claims)
})

test('signed too long ago, or in the future', async () => {
  const at = (shift: number): string => claimOf(key, database, alice, { now: Date.now() + shift })
  await refused({ 'a day old': at(-86_400_000), 'a day ahead': at(86_400_000), 'of 1970': crafted({ at: '0' }) })
  for (const shift of [-10_100, 10_100]) {
    await loggedIn(database.url('app'), async (client) => {
      assert.deepEqual(await takenFor(client, claimOf(key, database, alice, { now: await beginning(client) + shift })), { id: null }, String(shift))
      assert.equal(await sqlStateOf(client.query('select guard.caller()')), 'RD401', String(shift))
    })
  }
  for (const text of ['', '1e12', 'NaN', '-1', '99999999999999999999']) await refused({ [`at ${text}`]: crafted({ at: text }) })
})

test('a captured claim replayed after ten seconds, also inside a transaction that began before', async () => {
  await loggedIn(database.url('app'), async (client) => {
    const claim = claimOf(key, database, alice, { now: await beginning(client) - 9_000 })
    assert.deepEqual(await takenFor(client, claim), { id: alice.actor })
    await client.query('select pg_sleep(1.5)')
    assert.deepEqual((await client.query('select guard.actor() as id')).rows, [{ id: alice.actor }], 'a long transaction keeps the caller it began with')
    await client.query('commit; begin')
    assert.deepEqual(await takenFor(client, claim), { id: null })
    assert.equal(await sqlStateOf(client.query('select guard.caller()')), 'RD401')
  })
})

test('signed for another database, another service, or by another key', async () => {
  const foreign = await installKnownKey(database)
  const audience = (text: string): string => claimOf(key, database, alice, { audience: text })
  await refused({
    'another database': audience(`${database.service}/postgres`), 'another service': audience(`therapy/${database.name}`), 'no database': audience(database.service),
    'no audience': audience(''), 'audience with a tail': audience(`${database.service}/${database.name}/x`),
    'the id of another key': crafted({ kid: foreign.kid }), 'an unknown key': crafted({ kid: 'unknown-key-0' }), 'no key id': crafted({ kid: '' }),
    'another version': crafted({ version: 'v2' }), 'no version': crafted({ version: '' }),
  })
  const elsewhere = await testDatabase({ origins: ['redoubt'] })
  await elsewhere.admin(`insert into redoubt.sessions (id, user_id, tenant, absolute_expires_at) values ($1, $2, 't', now() + interval '1 day')`, [alice.session, alice.actor])
  assert.equal(await believed(elsewhere, claimOf(key, database, alice)), 'RD401')
})

test('signed with a key that was taken away or ran out', async () => {
  const gone = await installKnownKey(database)
  const claim = (): string => claimOf(gone, database, alice)
  const endIn = (interval: string): Promise<unknown> => database.admin('update guard.caller_keys set not_after = now() + $2::interval where kid = $1', [gone.kid, interval])
  assert.equal(await believed(database, claim()), `patient ${alice.actor}`)
  await endIn('-1 second')
  await refused({ 'run out': claim() })
  await endIn('1 hour')
  await loggedIn(database.url('keys'), (client) => client.query('select guard.drop_caller_key($1)', [gone.kid]))
  await refused({ 'taken away': claim() })
})

test('a session that is another person’s, revoked, expired, unknown or missing', async () => {
  const ended = await makeAccount(database, 'ended')
  const expired = await makeAccount(database, 'expired')
  await database.admin('update redoubt.sessions set revoked_at = now() where id = $1', [ended.session])
  await database.admin(`update redoubt.sessions set absolute_expires_at = now() - interval '1 second' where id = $1`, [expired.session])
  await refused({
    'of another person': crafted({ session: mallory.session }), revoked: claimOf(key, database, ended), expired: claimOf(key, database, expired),
    unknown: crafted({ session: randomUUID() }), missing: crafted({ session: '' }), 'a session and nobody': crafted({ actor: '' }),
  })
})

test('a system caller that is a person too, or a person without a session', async () => {
  await refused({
    'system role with an actor': crafted({ role: 'system.sign-in', session: '' }), 'a person’s role without one': crafted({ actor: '', session: '' }),
    'nearly a system role': crafted({ actor: '', session: '', role: 'systemx' }), 'no role at all': crafted({ actor: '', session: '', role: '' }),
  })
})

test('a bar in a field, so that it reads as two', () => {
  const with_ = (more: Partial<Caller>, action = 'a'): (() => string) => () => callerText('kid', 'a/b', { ...alice, ...more } as Caller, action, null, 1)
  for (const build of [with_({ requestId: `x|${mallory.actor}` }), with_({ role: 'patient|x' }), with_({ tenant: 'a|b' }), with_({}, 'read|admin'), with_({ requestId: 'a\nb' })]) {
    assert.throws(build, TypeError)
  }
})

test('a session revoked while a transaction runs: its next statement is refused', async () => {
  const leaver = await makeAccount(database, 'leaver')
  const run = transaction(opened.gate, leaver, 'test.read', async (tx) => {
    await tx.query({ text: 'select * from attacks.notes', values: [] })
    await database.admin('update redoubt.sessions set revoked_at = now() where id = $1', [leaver.session])
    return tx.query({ text: 'select * from attacks.notes', values: [] })
  })
  await assert.rejects(run, { code: 'caller_refused' })
})

test('a forged claim set by SQL injected into the transaction of another caller', async () => {
  const forged = signText({ kid: key.kid, secret: randomBytes(32) }, callerText(key.kid, `${database.service}/${database.name}`, alice, 'test.read', null, Date.now()))
  const inject = (sql: string) => transaction(opened.gate, mallory, 'test.read', (tx) => tx.query({ text: sql, values: [] }))
  const set = `attacks.setting('redoubt.caller', '${forged}', true)`
  for (const sql of [
    `with forged as materialized (select ${set}) select n.* from attacks.notes n, forged`,
    `select * from attacks.notes where ${set} is not null`,
    `select (select ${set}), n.* from attacks.notes n`,
  ]) {
    const rows = await inject(sql).catch((error: unknown) => error)
    assert.ok(!JSON.stringify(rows).includes('of alice'), sql)
  }
  await assert.rejects(inject(`select ${set}`), { code: 'caller_refused' }, 'the entry cannot be written under a forged name')
  const [entry] = await database.admin<{ actor_role: string; outcome: string; metadata: { claimed_actor: string } }>('select * from redoubt.audit_logs order by id desc limit 1')
  assert.deepEqual([entry?.actor_role, entry?.outcome, entry?.metadata.claimed_actor], ['system.gate', 'refused:caller_refused', mallory.actor])
})

test('SET ROLE and SET SESSION AUTHORIZATION, as statements and through set_config', async () => {
  for (const login of ['app', 'worker', 'auditor', 'ingest', 'keys', 'backup'] as const) {
    await loggedIn(database.url(login), async (client) => {
      for (const role of ['owner', 'guard', 'migrator', 'app', 'keys', 'worker', 'auditor', 'backup'].filter((name) => name !== login)) {
        const name = `${database.service}_${role}`
        for (const sql of [`set role ${name}`, `set local role ${name}`, `set session authorization ${name}`, `select set_config('role', '${name}', false)`, `select set_config('session_authorization', '${name}', true)`]) {
          assert.equal(await sqlStateOf(client.query(sql)), '42501', `${login}: ${sql}`)
        }
      }
      assert.equal(await sqlStateOf(client.query('set role postgres')), '42501')
    })
  }
  for (const sql of [`set role ${database.service}_guard`, `reset role`, `set role none`, `reset session authorization`]) {
    await assert.rejects(transaction(opened.gate, mallory, 'test.read', (tx) => tx.query({ text: sql, values: [] })), (error: { code?: string }) => /^(statement_refused|database_error)$/.test(error.code ?? ''), sql)
  }
})

test('reading the keys that sign callers', async () => {
  for (const login of ['app', 'worker', 'auditor', 'ingest', 'keys', 'backup'] as const) {
    await loggedIn(database.url(login), async (client) => {
      for (const sql of [
        'select * from guard.caller_keys', 'select count(*) from guard.caller_keys', 'copy guard.caller_keys to stdout', `select table_to_xml('guard.caller_keys', true, false, '')`,
        `select query_to_xml('select inner_pad from guard.caller_keys', true, false, '')`, `insert into guard.caller_keys select 'planted-key', 'p', 'x', 'y', now()`,
        'update guard.caller_keys set not_after = now()', 'delete from guard.caller_keys', 'truncate guard.caller_keys', 'create table guard.mine (a int)',
      ]) {
        assert.equal(await sqlStateOf(client.query(sql)), '42501', `${login}: ${sql}`)
      }
      const { rows } = await client.query(`select * from pg_stats where tablename = 'caller_keys'`)
      assert.deepEqual(rows, [])
    })
  }
})
