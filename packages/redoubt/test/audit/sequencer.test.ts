import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { resumeAudit } from '../../src/audit.ts'
import { startSequencer } from '../../src/audit/sequencer.ts'
import { Refusal } from '../../src/errors.ts'
import { auditWorld, until } from '../support/audit.ts'
import { testDatabase } from '../support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await auditWorld(database)
after(() => world.close())

const resume = (reason: string): ReturnType<typeof resumeAudit> =>
  resumeAudit({ pool: world.worker, anchors: world.anchors, publicKeys: world.key.verifiers, reason })
const code = (wanted: string) => (error: unknown): boolean => error instanceof Refusal && error.code === wanted
const snapshot = `drop schema if exists saved cascade; create schema saved;` +
  ['audit_logs', 'audit_subjects', 'audit_chain', 'audit_head', 'audit_anchors', 'audit_tombstones'].map((name) => `create table saved.${name} as table redoubt.${name};`).join('')
const restoreSnapshot = ['audit_logs', 'audit_subjects', 'audit_chain', 'audit_head', 'audit_anchors', 'audit_tombstones']
  .map((name) => `delete from redoubt.${name}; insert into redoubt.${name} select * from saved.${name};`).join('')

test('settings that cannot work are refused when built', () => {
  const base = { pool: world.worker, anchors: world.anchors, emit: () => undefined }
  for (const wrong of [{ intervalMs: 0 }, { batch: 0 }, { batch: 1.5 }, { leaseSeconds: 1 }, { lagSeconds: 0 }, { anchorMs: -1 }]) {
    assert.throws(() => startSequencer({ ...base, ...wrong }), TypeError)
  }
})

/** Sealing waits for the oldest write transaction of the whole cluster, and other test files write on the same one. */
async function heldUpByOthers(): Promise<boolean> {
  const rows = await database.admin(`select from pg_stat_activity where backend_xid is not null and datname <> current_database() and xact_start < clock_timestamp() - interval '500 ms'`)
  return rows.length > 0
}

test('at its own pace an entry is sealed and anchored about a second after its commit', async () => {
  const sequencer = startSequencer({ pool: world.worker, anchors: world.anchors, emit: (event) => world.events.push(event) })
  const waits: number[] = []
  for (let attempt = 0; waits.length < 3 && attempt < 30; attempt++) {
    const [id = ''] = await world.write(1)
    const written = performance.now()
    let held = false
    await until('it is anchored', async () => {
      held ||= await heldUpByOthers()
      const rows = await database.admin('select from redoubt.audit_chain c where c.entry_id = $1 and c.seq <= $2', [id, sequencer.gauge().anchored])
      return rows.length === 1
    })
    if (!held) waits.push(performance.now() - written)
  }
  await sequencer.stop()
  assert.equal(waits.length, 3, 'three entries were not held up by somebody else')
  assert.ok(Math.max(...waits) < 3000, `one entry waited ${Math.round(Math.max(...waits))} ms`)
})

test('stop anchors what is sealed, gives back the lease, and may be called twice', async () => {
  const sequencer = world.sequencer({ anchorMs: 60_000 })
  await world.write(3)
  await until('they are sealed', async () => (await database.admin('select from redoubt.audit_logs e where not exists (select from redoubt.audit_chain c where c.entry_id = e.id)')).length === 0)
  await Promise.all([sequencer.stop(), sequencer.stop()])
  assert.equal((await world.anchors.last())?.seq, sequencer.gauge().sealed)
  assert.deepEqual((await database.admin<{ holder: string | null }>('select holder from redoubt.audit_head'))[0]?.holder, null)
})

test('an idle sequencer writes nothing', async () => {
  const sequencer = world.sequencer({ leaseSeconds: 60 })
  await until('it holds the lease', () => sequencer.gauge().holding)
  const version = async (): Promise<string> => (await database.admin<{ v: string }>('select xmin::text || ctid::text as v from redoubt.audit_head'))[0]?.v ?? ''
  const before = await version()
  const last = (await world.anchors.last())?.signature
  await new Promise((resolve) => setTimeout(resolve, 300))
  assert.equal(await version(), before)
  assert.equal((await world.anchors.last())?.signature, last)
  await sequencer.stop()
})

test('a worker that died without a word is followed by the one that stands by', async () => {
  await world.worker.query({ text: 'select guard.claim_audit(gen_random_uuid(), 60)', values: [] })
  const sequencer = world.sequencer({ leaseSeconds: 2 })
  await world.write(1)
  assert.equal(sequencer.gauge().holding, false)
  await world.tamper('update redoubt.audit_head set held_until = clock_timestamp()')
  await until('the lease has run out', () => sequencer.gauge().holding && sequencer.gauge().sealed === sequencer.gauge().anchored)
  await sequencer.stop()
})

test('errors are reported and retried: an anchor file out of reach for a while stops nothing for good', async () => {
  world.events.length = 0
  let broken = true
  const anchors = { ...world.anchors, last: () => (broken ? Promise.reject(new Error('no space left')) : world.anchors.last()) }
  const sequencer = world.sequencer({ anchors })
  await until('two failures are told', () => world.events.filter(({ type }) => type === 'audit.failed').length >= 2)
  broken = false
  await world.write(1)
  await until('it works again', () => sequencer.gauge().failures === 0 && sequencer.gauge().sealed > 0n && sequencer.gauge().sealed === sequencer.gauge().anchored)
  await sequencer.stop()
})

test('a chain that is whole needs no resumption', async () => {
  await assert.rejects(resume('nothing happened'), code('audit_not_interrupted'))
})

test('a database restored to an earlier state is not sealed on, until the cut is written down and signed', async () => {
  await world.write(4)
  await world.seal()
  await database.admin(snapshot)
  const kept = (await world.verify()).head
  await world.write(6)
  await world.seal()
  await world.tamper(restoreSnapshot)
  assert.ok((await world.verify()).problems.some(({ kind }) => kind === 'tail_cut'))

  world.events.length = 0
  const sequencer = world.sequencer()
  await world.write(8)
  await until('it is told', () => world.events.some(({ type }) => type === 'security.audit_chain_broken'))
  assert.equal((await database.admin<{ seq: string }>('select seq from redoubt.audit_head'))[0]?.seq, String(kept), 'nothing was sealed over the cut')

  const { point, after: last } = await resume('restored from the backup of last night')
  assert.equal(last, kept)
  assert.equal(point.seq, kept + 1n)
  await until('sealing goes on', () => sequencer.gauge().failures === 0 && sequencer.gauge().sealed === kept + 9n && sequencer.gauge().anchored === kept + 9n)
  await sequencer.stop()
  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  assert.deepEqual(result.discontinuities.map(({ seq, lost }) => [seq, lost]), [[kept + 1n, 6n]])
  await assert.rejects(resume('again'), code('audit_not_interrupted'))
})

test('a restored database that grew past its last anchor on another line is not sealed on', async () => {
  await database.admin(snapshot)
  await world.write(2)
  await world.seal()
  await world.tamper(restoreSnapshot)
  await world.write(5)
  await world.worker.query({ text: 'select guard.seal_audit(100)', values: [] })
  world.events.length = 0
  const sequencer = world.sequencer()
  await until('it is told', () => world.events.some(({ type }) => type === 'security.audit_chain_broken'))
  assert.equal(world.events.some(({ type }) => type === 'audit.anchored'), false)
  await resume('restored, and sealed on by hand')
  await until('sealing goes on', () => sequencer.gauge().failures === 0 && sequencer.gauge().anchored > 0n && sequencer.gauge().sealed === sequencer.gauge().anchored)
  await sequencer.stop()
  assert.deepEqual((await world.verify()).problems, [])
})

test('a database moved into a cluster with lower transaction ids is not sealed until resumed; no entry is lost', async () => {
  const waiting = await world.write(3)
  await world.tamper(`update redoubt.audit_head set cluster = 1, horizon = '4000000000000'; update redoubt.audit_logs set xid = '4000000000001' where id = any($1::uuid[])`.replace('$1', `'{${waiting.join(',')}}'`))
  world.events.length = 0
  const sequencer = world.sequencer()
  await until('sealing is refused', () => world.events.some((event) => event.type === 'audit.failed' && code('audit_interrupted')(event.error)))
  const more = await world.write(2)
  await resume('moved to another machine')
  await until('all are sealed', async () => (await database.admin('select from redoubt.audit_chain where entry_id = any($1)', [[...waiting, ...more]])).length === 5)
  await until('all is anchored', () => sequencer.gauge().sealed === sequencer.gauge().anchored)
  await sequencer.stop()
  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  assert.equal(result.unsealed, 0)
  assert.equal(result.discontinuities.length, 3)
})

test('a resumption killed between database and anchor file is finished by the next one', async () => {
  await world.tamper('update redoubt.audit_head set cluster = 1')
  const broken = { ...world.anchors, discontinue: () => Promise.reject(new Error('killed')) }
  await assert.rejects(resumeAudit({ pool: world.worker, anchors: broken, publicKeys: world.key.verifiers, reason: 'moved again' }), /killed/)
  await world.write(2)
  await world.seal()
  assert.deepEqual((await world.verify()).problems.map(({ kind }) => kind), ['discontinuity_unsigned'])
  await resume('moved again')
  await world.write(1)
  await world.seal()
  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  assert.equal(result.discontinuities.length, 4)
})
