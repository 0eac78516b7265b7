import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import pg from 'pg'
import { testDatabase } from './support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const clients: pg.Client[] = []
after(() => Promise.all(clients.map((client) => client.end())))

async function connect(login: 'app' | 'keys' | 'worker' | 'auditor' | 'ingest' | 'migrator'): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: database.url(login) })
  client.on('error', () => undefined)
  await client.connect()
  clients.push(client)
  return client
}

const kek = randomBytes(16)
const keys = await connect('keys')
await keys.query(`insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped) values ($1, 'data', 1, 'local', 'r', $2)`, [kek, randomBytes(61)])

const insert = `insert into keys.data_keys (key_id, tenant, subject, keep, kek_id, wrapped) values ($1, 'realm', $2, 'care', $3, $4)
  on conflict (tenant, subject, keep) where state = 'active' do nothing returning key_id`
const values = (subject: string): unknown[] => [randomBytes(16), subject, kek, randomBytes(61)]
const destroy = `select keys.destroy_data_keys('realm', $1, 'care') as key_id`
const sqlState = (state: string) => (error: unknown) => error instanceof pg.DatabaseError && error.code === state

async function keysOf(subject: string): Promise<number> {
  return (await database.admin('select from keys.data_keys where subject = $1', [subject])).length
}

/** Resolves once the client's backend waits for a lock. */
async function waitsForLock(pid: number): Promise<void> {
  for (const end = performance.now() + 5000; performance.now() < end; ) {
    const [row] = await database.admin<{ wait_event_type: string | null }>('select wait_event_type from pg_stat_activity where pid = $1', [pid])
    if (row?.wait_event_type === 'Lock') return
  }
  assert.fail('nothing made this statement wait')
}
async function pidOf(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
  return rows[0]?.pid ?? 0
}

test('only the keys role reads the wrapped keys', async () => {
  for (const login of ['app', 'worker', 'auditor', 'ingest'] as const) {
    const client = await connect(login)
    for (const table of ['key_encryption_keys', 'data_keys', 'erased', 'index_keys', 'purpose_keys']) {
      await assert.rejects(client.query(`select * from keys.${table}`), sqlState('42501'), `${login} ${table}`)
    }
  }
  const migrator = await connect('migrator')
  const rows = await migrator.query('select * from keys.data_keys').then((result) => result.rows.length, () => 0)
  assert.equal(rows, 0)
})

test('every table of wrapped keys has forced row security and a policy of the keys role for each command', async () => {
  const rows = await database.admin<{ name: string; forced: boolean; commands: string }>(`
    select c.relname as name, c.relrowsecurity and c.relforcerowsecurity as forced,
      (select string_agg(p.polcmd::text, '' order by p.polcmd::text) from pg_policy p
        where p.polrelid = c.oid and p.polroles = array[(select oid from pg_roles where rolname = '${database.service}_keys')]) as commands
    from pg_class c where c.relnamespace = 'keys'::regnamespace and c.relkind = 'r' order by 1`)
  assert.equal(rows.length, 5)
  for (const row of rows) assert.deepEqual([row.name, row.forced, row.commands], [row.name, true, 'adrw'])
})

test('attack: the keys role cannot change whose a key is, nor take an erasure back', async () => {
  const subject = randomUUID()
  await keys.query(insert, values(subject))
  for (const change of [`tenant = 'other'`, `subject = gen_random_uuid()`, `keep = 'chat'`, `key_id = sha256('x')`]) {
    await assert.rejects(keys.query(`update keys.data_keys set ${change} where subject = $1`, [subject]), sqlState('42501'))
  }
  await keys.query(destroy, [subject])
  await assert.rejects(keys.query('delete from keys.erased where subject = $1', [subject]), sqlState('42501'))
  await assert.rejects(keys.query('update keys.erased set erased_at = now() where subject = $1', [subject]), sqlState('42501'))
  await assert.rejects(keys.query(`delete from keys.key_encryption_keys where id = $1 returning id`, [kek]).then(({ rows }) => assert.equal(rows.length, 1)), assert.AssertionError)
})

test('attack: a new key for an erased subject is refused, at every isolation level', async () => {
  const subject = randomUUID()
  await keys.query(insert, values(subject))
  assert.equal((await keys.query(destroy, [subject])).rows.length, 1)
  await assert.rejects(keys.query(insert, values(subject)), sqlState('RD410'))
  const client = await connect('keys')
  for (const level of ['read committed', 'repeatable read', 'serializable']) {
    await client.query(`begin isolation level ${level}`)
    await assert.rejects(client.query(insert, values(subject)), sqlState('RD410'))
    await client.query('rollback')
  }
  assert.equal(await keysOf(subject), 0)
})

test('attack: a key made while its subject is being erased waits, and is refused when the erasure commits', async () => {
  for (const level of ['read committed', 'repeatable read']) {
    const subject = randomUUID()
    const [eraser, maker] = [await connect('keys'), await connect('keys')]
    const pid = await pidOf(maker)
    await maker.query(`begin isolation level ${level}`)
    await maker.query('select count(*) from keys.data_keys')
    await eraser.query('begin')
    await eraser.query(destroy, [subject])
    const making = maker.query(insert, values(subject)).then(() => 'made', (error: unknown) => (error as { code: string }).code)
    await waitsForLock(pid)
    await eraser.query('commit')
    assert.match(await making, /^(RD410|40001)$/)
    await maker.query('rollback')
    assert.equal(await keysOf(subject), 0)
  }
})

test('attack: an erasure that begins while a key is being made waits, and takes that key too', async () => {
  const subject = randomUUID()
  const [eraser, maker] = [await connect('keys'), await connect('keys')]
  const pid = await pidOf(eraser)
  await maker.query('begin')
  await maker.query(insert, values(subject))
  const erasing = eraser.query(destroy, [subject])
  await waitsForLock(pid)
  await maker.query('commit')
  assert.equal((await erasing).rows.length, 1)
  assert.equal(await keysOf(subject), 0)
})

test('an erasure with an old snapshot is refused instead of missing a key', async () => {
  const client = await connect('keys')
  await client.query('begin isolation level repeatable read')
  await assert.rejects(client.query(destroy, [randomUUID()]), sqlState('25001'))
  await client.query('rollback')
})

test('150 times seven makers and an eraser at once: an erased subject never keeps a key', async () => {
  const makers = await Promise.all(Array.from({ length: 7 }, () => connect('keys')))
  const eraser = await connect('keys')
  const outcomes = { made: 0, refused: 0 }
  for (let round = 0; round < 150; round++) {
    const subject = randomUUID()
    const making = makers.map((client) =>
      client.query(insert, values(subject)).then(
        () => outcomes.made++,
        (error: unknown) => {
          assert.ok(sqlState('RD410')(error), String(error))
          outcomes.refused++
        },
      ),
    )
    await Promise.all([...making.slice(0, round % 8), eraser.query(destroy, [subject]), ...making.slice(round % 8)])
    assert.equal(await keysOf(subject), 0)
  }
  assert.ok(outcomes.made > 0 && outcomes.refused > 0, JSON.stringify(outcomes))
})

test('a transaction that sealed under a key holds it: its erasure waits for the commit', async () => {
  const subject = randomUUID()
  const { rows } = await keys.query<{ key_id: Buffer }>(insert, values(subject))
  const [app, eraser] = [await connect('app'), await connect('keys')]
  const pid = await pidOf(eraser)
  await app.query('begin')
  await app.query('select guard.hold_keys($1)', [[rows[0]?.key_id, rows[0]?.key_id]])
  const erasing = eraser.query(destroy, [subject])
  await waitsForLock(pid)
  await app.query('commit')
  assert.equal((await erasing).rows.length, 1)
})

test('attack: a value sealed under a key that is destroyed before the commit is not committed', async () => {
  const [subject, other] = [randomUUID(), randomUUID()]
  const mine = (await keys.query<{ key_id: Buffer }>(insert, values(subject))).rows[0]?.key_id
  const kept = (await keys.query<{ key_id: Buffer }>(insert, values(other))).rows[0]?.key_id
  const [app, eraser] = [await connect('app'), await connect('keys')]
  const pid = await pidOf(app)
  await eraser.query('begin')
  await eraser.query(destroy, [subject])
  const holding = app.query('select guard.hold_keys($1)', [[kept, mine]]).then(() => 'held', (error: unknown) => (error as { code: string }).code)
  await waitsForLock(pid)
  await eraser.query('commit')
  assert.equal(await holding, 'RD410')
  await assert.rejects(app.query('select guard.hold_keys($1)', [[mine]]), sqlState('RD410'))
  await app.query('select guard.hold_keys($1)', [[kept]])
  await app.query('select guard.hold_keys($1)', [[]])
  for (const nothing of [null, [null], [kept, null], [randomBytes(3)]]) await assert.rejects(app.query('select guard.hold_keys($1)', [nothing]), sqlState('RD410'))
})

test('attack: roles without sealing cannot hold keys, and nobody calls the trigger', async () => {
  for (const login of ['auditor', 'ingest'] as const) {
    const client = await connect(login)
    await assert.rejects(client.query('select guard.hold_keys($1)', [[kek]]), sqlState('42501'))
  }
  await assert.rejects((await connect('app')).query(`select keys.destroy_data_keys('realm', $1, 'care')`, [randomUUID()]), sqlState('42501'))
  await assert.rejects((await connect('app')).query('select guard.refuse_erased()'))
})

test('a scope has one active key, a purpose one active key-encryption key', async () => {
  const subject = randomUUID()
  await keys.query(insert, values(subject))
  assert.equal((await keys.query(insert, values(subject))).rows.length, 0)
  await assert.rejects(keys.query(insert.replace(/on conflict.*$/s, ''), values(subject)), sqlState('23505'))
  await assert.rejects(
    keys.query(`insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped) values ($1, 'data', 2, 'local', 'r', $2)`, [randomBytes(16), randomBytes(61)]),
    sqlState('23505'),
  )
})
