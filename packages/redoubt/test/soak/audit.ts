import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import type { Problem, Verification } from '../../src/audit/verify.ts'
import type { Soak } from '../soak.ts'
import { auditWorld, until, type AuditWorld } from '../support/audit.ts'
import { testDatabase, type TestDatabase } from '../support/database.ts'

const writers = 16

type Written = { readonly seconds: number; readonly worstLag: number; readonly verifications: number }

/** Sixteen writers with one entry per transaction and a sequencer; a verifier goes round all the while. */
async function write(world: AuditWorld, count: number, deadline: number, check: (result: Verification) => void): Promise<Written> {
  const subjects = Array.from({ length: 1000 }, () => randomUUID())
  const started = performance.now()
  let left = count
  let worstLag = 0
  const sequencer = world.sequencer({ intervalMs: 250, anchorMs: 500 })
  const work = Promise.all(Array.from({ length: writers }, async (_, writer) => {
    const connection = await world.app.connect()
    for (let n = writer; left > 0; n += writers) {
      left -= 1
      if (performance.now() > deadline) throw new Error(`${left} entries were left when the time was over`)
      // Every hundredth rolls back: holes in the transaction ids must alarm nobody.
      const { statements } = world.entry({ subjects: [subjects[n % 1000] ?? ''] })
      const { failure } = await connection.send(statements)
      if (failure !== undefined) throw failure.refusal
      if (n % 100 === 0) await connection.send([{ text: 'begin', values: [] }, ...world.entry().statements, { text: 'rollback', values: [] }])
      worstLag = Math.max(worstLag, sequencer.gauge().oldestUnsealed)
    }
    connection.release()
  }))
  let verifications = 0
  let writing = true
  const round = (async () => {
    for (; writing; verifications += 1) {
      check(await world.verify())
      await pause(1000)
    }
  })()
  await work
  const seconds = (performance.now() - started) / 1000
  await until('everything is sealed and anchored', () => sequencer.gauge().sealed === BigInt(count) && sequencer.gauge().anchored === BigInt(count), 120_000)
  writing = false
  await round
  await sequencer.stop()
  return { seconds, worstLag, verifications }
}

/** Plants one change at a random place, has it found there, and takes it back. */
async function plant(world: AuditWorld, database: TestDatabase, count: number): Promise<readonly string[]> {
  const found: string[] = []
  const at = (): number => 1 + (randomBytes(4).readUInt32BE() % (count - 1))
  const attacks: readonly (readonly [name: string, change: (seq: number) => string, expected: (problem: Problem, seq: number) => boolean])[] = [
    ['edit', (seq) => `update redoubt.audit_logs set purpose = 'billing' where id = (select entry_id from redoubt.audit_chain where seq = ${seq})`, ({ kind, seq }, n) => kind === 'entry_altered' && seq === BigInt(n)],
    ['deletion', (seq) => `delete from redoubt.audit_logs where id = (select entry_id from redoubt.audit_chain where seq = ${seq})`, ({ kind, seq }, n) => kind === 'entry_missing' && seq === BigInt(n)],
    ['subject taken off', (seq) => `delete from redoubt.audit_subjects where entry_id = (select entry_id from redoubt.audit_chain where seq = ${seq})`, ({ kind, seq }, n) => kind === 'entry_altered' && seq === BigInt(n)],
    ['row of the chain taken out', (seq) => `delete from redoubt.audit_chain where seq = ${seq}`, ({ kind, seq }, n) => kind === 'link_missing' && seq === BigInt(n)],
    ['row of the chain pointed elsewhere', (seq) => `update redoubt.audit_chain set entry_id = gen_random_uuid() where seq = ${seq}`, ({ kind, seq }, n) => kind === 'link_broken' && seq === BigInt(n)],
    ['two rows of the chain in each other’s place', (seq) => `delete from redoubt.audit_chain where seq in (${seq}, ${seq + 1});
      insert into redoubt.audit_chain (seq, kind, entry_id, retain_until, commitment, link) select ${2 * seq + 1} - seq, kind, entry_id, retain_until, commitment, link from saved.chain where seq in (${seq}, ${seq + 1})`, ({ kind, seq }, n) => kind === 'link_broken' && seq === BigInt(n)],
    ['tombstone', (seq) => `delete from redoubt.audit_logs where id = (select entry_id from redoubt.audit_chain where seq = ${seq}); insert into redoubt.audit_tombstones select seq, entry_id, entry_id from redoubt.audit_chain where seq = ${seq}`, ({ kind, seq }, n) => kind === 'tombstone_forged' && seq === BigInt(n)],
    ['tail cut', () => `delete from redoubt.audit_chain where seq > ${count - 10}; update redoubt.audit_head set seq = ${count - 10}, link = (select link from redoubt.audit_chain where seq = ${count - 10})`, ({ kind }) => kind === 'tail_cut'],
  ]
  for (const [name, change, expected] of attacks) {
    const seq = at()
    await database.admin(`drop schema if exists saved cascade; create schema saved;
      create table saved.logs as select e.* from redoubt.audit_logs e join redoubt.audit_chain c on c.entry_id = e.id where c.seq in (${seq}, ${seq + 1}) or c.seq > ${count - 10};
      create table saved.subjects as select s.* from redoubt.audit_subjects s join redoubt.audit_chain c using (entry_id) where c.seq in (${seq}, ${seq + 1}) or c.seq > ${count - 10};
      create table saved.chain as select * from redoubt.audit_chain where seq in (${seq}, ${seq + 1}) or seq > ${count - 10};
      create table saved.head as table redoubt.audit_head`)
    await world.tamper(change(seq))
    const { problems } = await world.verify()
    assert.ok(problems.some((problem) => expected(problem, seq)), `${name} at ${seq} was not found`)
    found.push(name)
    await world.tamper(`delete from redoubt.audit_tombstones; delete from redoubt.audit_head; insert into redoubt.audit_head table saved.head;
      delete from redoubt.audit_chain where seq in (select seq from saved.chain); insert into redoubt.audit_chain table saved.chain;
      insert into redoubt.audit_subjects table saved.subjects on conflict do nothing;
      delete from redoubt.audit_logs where id in (select id from saved.logs); insert into redoubt.audit_logs table saved.logs`)
  }
  return found
}

/** One million entries by 16 parallel writers without one false alarm, then planted changes, each found. */
export const soak: Soak = async ({ short, print }) => {
  const count = short ? 20_000 : 1_000_000
  const deadline = performance.now() + (short ? 180_000 : 3_600_000)
  const database = await testDatabase({ origins: ['redoubt'] })
  const world = await auditWorld(database, { writers, pageSize: 5000 })
  try {
    let calm = 0
    const written = await write(world, count, deadline, (result) => {
      assert.deepEqual(result.problems, [], 'a false alarm')
      calm += result.entries
    })
    print(`${count} entries in ${written.seconds.toFixed(0)} s by ${writers} writers: ${Math.round(count / written.seconds)} transactions/s, sequencer included`)
    const sealing = world.events.filter((event) => event.type === 'audit.sealed')
    const busy = sealing.reduce((sum, { milliseconds }) => sum + milliseconds, 0)
    print(`sealing: ${sealing.length} batches, ${Math.round((count / busy) * 1000)} entries/s while it works, ${(busy / written.seconds / 10).toFixed(0)} % of the time; oldest unsealed ${written.worstLag.toFixed(2)} s at worst`)
    print(`${written.verifications} verifications while writing looked at ${calm} entries: no false alarm`)
    const failed = world.events.filter(({ type }) => type === 'audit.failed' || type === 'security.audit_chain_broken')
    assert.deepEqual(failed, [])
    const started = performance.now()
    const result = await world.verify()
    const seconds = (performance.now() - started) / 1000
    assert.deepEqual(result.problems, [])
    assert.equal(result.entries, count)
    print(`verification: ${seconds.toFixed(1)} s, ${Math.round(count / seconds)} entries/s, ${result.anchors} anchors, ${Math.round(process.memoryUsage().rss / 1e6)} MB resident`)
    print(`found: ${(await plant(world, database, count)).join(', ')}`)
    assert.deepEqual((await world.verify()).problems, [])
  } finally {
    await world.close()
    await database.drop()
  }
}
