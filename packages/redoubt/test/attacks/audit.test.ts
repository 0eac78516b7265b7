import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { appendFile, readFile, truncate, writeFile } from 'node:fs/promises'
import { after, test } from 'node:test'
import { lineHash, parseAnchor, signAnchor, anchorText } from '../../src/audit/anchor-line.ts'
import type { Problem, ProblemKind } from '../../src/audit/verify.ts'
import { anchorKey, auditWorld } from '../support/audit.ts'
import { testDatabase } from '../support/database.ts'

// Every attack is a superuser's, with triggers off, on a record of 60 sealed and anchored entries; each is undone.
const database = await testDatabase({ origins: ['redoubt'] })
const world = await auditWorld(database)
after(() => world.close())

const tables = ['audit_logs', 'audit_subjects', 'audit_chain', 'audit_head', 'audit_anchors', 'audit_tombstones']
const expired = await world.write(5, { days: 0, subjects: [randomUUID()] })
await world.write(30, { subjects: [randomUUID(), randomUUID()] })
await world.seal()
await world.expire(new Date())
await world.write(24)
await world.seal()
await world.write(10)
await world.seal()
await database.admin(`create schema saved; ${tables.map((name) => `create table saved.${name} as table redoubt.${name};`).join(' ')}`)
const file = await readFile(world.anchors.path)

async function restore(): Promise<void> {
  await world.tamper(tables.map((name) => `delete from redoubt.${name}; insert into redoubt.${name} select * from saved.${name};`).join(' '))
  await truncate(world.anchors.path, 0)
  await writeFile(world.anchors.path, file)
}

/** Runs the attack, gives what verification says, undoes it. */
async function attack(work: () => Promise<unknown>): Promise<readonly Problem[]> {
  try {
    await work()
    return (await world.verify()).problems
  } finally {
    await restore()
  }
}

const kinds = (problems: readonly Problem[]): readonly ProblemKind[] => [...new Set(problems.map(({ kind }) => kind))].sort()
const seqsOf = (problems: readonly Problem[], kind: ProblemKind): readonly (bigint | null)[] => problems.filter((problem) => problem.kind === kind).map(({ seq }) => seq)

/** The whole chain made anew from here on, as guard's own functions would: only the anchors can tell. */
const rechain = (from: number): string => `
  do $$ declare at record; running bytea := coalesce((select c.link from redoubt.audit_chain c where c.seq = ${from} - 1), (select link from redoubt.audit_chain where false)); begin
    for at in select * from redoubt.audit_chain c where c.seq >= ${from} order by c.seq loop
      update redoubt.audit_chain c set
        commitment = coalesce((select guard.entry_commitment(e, (select string_agg(s.subject_id::text, ',' order by s.subject_id) from redoubt.audit_subjects s where s.entry_id = e.id))
          from redoubt.audit_logs e where e.id = c.entry_id), c.commitment) where c.seq = at.seq;
      update redoubt.audit_chain c set link = guard.next_link(running, null, c.seq, c.kind, c.entry_id, c.retain_until, c.commitment)
        where c.seq = at.seq returning c.link into running;
    end loop;
    update redoubt.audit_head set link = running, seq = (select max(seq) from redoubt.audit_chain);
  end $$;`

/** The columns of audit_logs but id and xid. */
const others = 'occurred_at, actor_type, actor_id, actor_role, tenant_id, action, resource_type, resource_id, purpose, outcome, request_id, metadata, personal_enc, personal_commitment, retention_class, retain_until'

const entryAt = (seq: number): string => `(select entry_id from redoubt.audit_chain where seq = ${seq})`

test('the untouched record verifies, with five removals by retention', async () => {
  const result = await world.verify()
  assert.deepEqual(result.problems, [])
  assert.deepEqual([result.entries, result.removed, result.head], [65, 5, 70n])
})

for (const [column, value] of [
  ['occurred_at', `occurred_at + interval '1 microsecond'`], ['actor_type', `'user'`], ['actor_id', 'gen_random_uuid()'],
  ['actor_role', `'system.other'`], ['tenant_id', `'other'`], ['action', `'record.listed'`], ['resource_type', 'null'],
  ['resource_id', `''`], ['purpose', `'cure'`], ['outcome', `'failed:internal'`], ['request_id', `'request-2'`],
  ['metadata', `'{"fields":["last_name"]}'`], ['personal_commitment', `sha256('')`], ['retention_class', `'change'`],
  ['retain_until', `retain_until - interval '700 days'`], ['xid', `'3'`],
] as const) {
  test(`edit of ${column} is found at its place`, async () => {
    const problems = await attack(() => world.tamper(`update redoubt.audit_logs set ${column} = ${value} where id = ${entryAt(20)}`))
    assert.deepEqual(seqsOf(problems, 'entry_altered'), [20n])
    assert.equal(problems.length, 1)
  })
}

test('a value moved over the seam between two columns is found', async () => {
  const problems = await attack(() => world.tamper(`update redoubt.audit_logs set resource_type = resource_type || 'x', resource_id = substr(resource_id, 2) where id = ${entryAt(20)}`))
  assert.deepEqual(seqsOf(problems, 'entry_altered'), [20n])
})

test('deletion of an entry is found', async () => {
  const problems = await attack(() => world.tamper(`delete from redoubt.audit_logs where id = ${entryAt(40)}`))
  assert.deepEqual(seqsOf(problems, 'entry_missing'), [40n])
})

test('deletion of an entry and its row of the chain is found', async () => {
  const problems = await attack(() => world.tamper(`delete from redoubt.audit_logs where id = ${entryAt(40)}; delete from redoubt.audit_chain where seq = 40`))
  assert.deepEqual(seqsOf(problems, 'link_missing'), [40n])
})

test('deletion with the whole chain closed up and made anew is found by the anchors', async () => {
  const problems = await attack(() => world.tamper(
    `delete from redoubt.audit_subjects where entry_id = ${entryAt(20)}; delete from redoubt.audit_logs where id = ${entryAt(20)}; delete from redoubt.audit_chain where seq = 20;
     update redoubt.audit_chain set seq = -seq where seq > 20; update redoubt.audit_chain set seq = -seq - 1 where seq < 0; ${rechain(20)}`))
  assert.ok(kinds(problems).includes('anchor_mismatch'))
  assert.ok(kinds(problems).includes('tail_cut'))
  assert.ok(!kinds(problems).includes('link_broken'), 'the forgery itself is consistent')
})

test('an edit with the whole chain made anew is found by the anchors', async () => {
  const problems = await attack(() => world.tamper(`update redoubt.audit_logs set purpose = 'cure' where id = ${entryAt(10)}; ${rechain(10)}`))
  assert.deepEqual(kinds(problems), ['anchor_mismatch'])
})

test('two rows of the chain in exchanged order are found', async () => {
  const problems = await attack(() => world.tamper('update redoubt.audit_chain set seq = -seq where seq in (20, 30); update redoubt.audit_chain set seq = case seq when -20 then 30 else 20 end where seq < 0'))
  assert.ok(seqsOf(problems, 'link_broken').includes(20n) && seqsOf(problems, 'link_broken').includes(30n))
})

test('the bodies of two entries exchanged are found', async () => {
  const problems = await attack(() => world.tamper(
    `update redoubt.audit_logs e set resource_id = o.resource_id from redoubt.audit_logs o where (e.id, o.id) in ((${entryAt(20)}, ${entryAt(21)}), (${entryAt(21)}, ${entryAt(20)}))`))
  assert.deepEqual(seqsOf(problems, 'entry_altered'), [20n, 21n])
})

test('a cut tail, with the head set back, is found by the anchors', async () => {
  const problems = await attack(() => world.tamper(
    `delete from redoubt.audit_logs where id in (select entry_id from redoubt.audit_chain where seq > 60); delete from redoubt.audit_chain where seq > 60;
     update redoubt.audit_head set seq = 60, link = (select link from redoubt.audit_chain where seq = 60)`))
  assert.deepEqual(kinds(problems), ['tail_cut'])
})

test('a cut tail without the head is found', async () => {
  const problems = await attack(() => world.tamper('delete from redoubt.audit_logs where id in (select entry_id from redoubt.audit_chain where seq > 60); delete from redoubt.audit_chain where seq > 60'))
  assert.deepEqual(kinds(problems), ['anchor_mismatch', 'link_missing'])
})

test('a head set back, so that sealing would write over the end, is found', async () => {
  const problems = await attack(() => world.tamper('update redoubt.audit_head set seq = 60, link = (select link from redoubt.audit_chain where seq = 60)'))
  assert.ok(kinds(problems).includes('head_altered'))
})

test('an entry put in behind the horizon is found', async () => {
  const problems = await attack(() => world.tamper(`insert into redoubt.audit_logs select gen_random_uuid(), xid, ${others} from redoubt.audit_logs where id = ${entryAt(20)}`))
  assert.deepEqual(kinds(problems), ['entry_inserted'])
})

test('an entry put in ahead, where the sequencer never comes, is found', async () => {
  const problems = await attack(() => world.tamper(`insert into redoubt.audit_logs select gen_random_uuid(), '9000000000000', ${others} from redoubt.audit_logs where id = ${entryAt(20)}`))
  assert.deepEqual(kinds(problems), ['entry_inserted'])
})

test('a subject taken off an entry is found', async () => {
  const problems = await attack(() => world.tamper(`delete from redoubt.audit_subjects where ctid = (select min(ctid) from redoubt.audit_subjects where entry_id = ${entryAt(20)})`))
  assert.deepEqual(seqsOf(problems, 'entry_altered'), [20n])
})

test('a subject put on an entry, or on one that does not exist, is found', async () => {
  const problems = await attack(() => world.tamper(`insert into redoubt.audit_subjects select gen_random_uuid(), ${entryAt(50)}; insert into redoubt.audit_subjects values (gen_random_uuid(), gen_random_uuid())`))
  assert.deepEqual(kinds(problems), ['entry_altered', 'subject_orphaned'])
})

const forgedRun = `select retention_entry from saved.audit_tombstones limit 1`
const remove = (seq: number): string => `delete from redoubt.audit_subjects where entry_id = ${entryAt(seq)}; delete from redoubt.audit_logs where id = ${entryAt(seq)};`

test('a tombstone that names a genuine retention run which does not list it is found', async () => {
  const problems = await attack(() => world.tamper(`${remove(20)} insert into redoubt.audit_tombstones select 20, ${entryAt(20)}, (${forgedRun})`))
  assert.deepEqual(seqsOf(problems, 'tombstone_forged'), [20n])
})

test('a tombstone with a retention entry made for it, before its time, is found', async () => {
  const problems = await attack(() => world.tamper(`${remove(20)} insert into redoubt.audit_tombstones select 20, ${entryAt(20)}, 'aaaaaaaa-0000-4000-8000-000000000001';
    insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, outcome, request_id, metadata, retention_class, retain_until)
    values ('aaaaaaaa-0000-4000-8000-000000000001', pg_current_xact_id(), now(), 'system', 'system.retention', 'x', 'retention.run', 'done', 'retention', '{"seqs":[[20,20]],"removed":1}', 'chain', '9999-12-31')`))
  assert.deepEqual(seqsOf(problems, 'tombstone_forged'), [20n])
})

test('a retention entry dated into the future to reach retain_until is found', async () => {
  const problems = await attack(() => world.tamper(`${remove(20)} insert into redoubt.audit_tombstones select 20, ${entryAt(20)}, 'aaaaaaaa-0000-4000-8000-000000000001';
    insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, outcome, request_id, metadata, retention_class, retain_until)
    values ('aaaaaaaa-0000-4000-8000-000000000001', pg_current_xact_id(), now() + interval '3 years', 'system', 'system.retention', 'x', 'retention.run', 'done', 'retention', '{"seqs":[[20,20]],"removed":1}', 'chain', '9999-12-31')`))
  assert.deepEqual(seqsOf(problems, 'tombstone_forged'), [20n])
})

test('retain_until of the chain moved, to make a removal look lawful, is found', async () => {
  const problems = await attack(() => world.tamper(`update redoubt.audit_chain set retain_until = now() - interval '1 day' where seq = 20`))
  assert.ok(seqsOf(problems, 'link_broken').includes(20n))
})

test('a tombstone taken away, or put on an entry that is still there, or on nothing, is found', async () => {
  assert.deepEqual(seqsOf(await attack(() => world.tamper(`delete from redoubt.audit_tombstones where entry_id = '${expired[0] ?? ''}'`)), 'entry_missing').length, 1)
  assert.ok(kinds(await attack(() => world.tamper(`insert into redoubt.audit_tombstones select 20, ${entryAt(20)}, (${forgedRun})`))).includes('tombstone_forged'))
  assert.deepEqual(kinds(await attack(() => world.tamper(`insert into redoubt.audit_tombstones select 900, gen_random_uuid(), (${forgedRun})`))), ['tombstone_forged'])
})

test('a tombstone for another entry, by a run that does not exist, or by a run older than the entry is found', async () => {
  const details = async (sql: string): Promise<readonly string[]> => (await attack(() => world.tamper(sql))).map(({ detail }) => detail)
  assert.ok((await details(`update redoubt.audit_tombstones set entry_id = gen_random_uuid() where seq = 2`)).includes('the tombstone names another entry than the chain'))
  assert.ok((await details(`${remove(20)} insert into redoubt.audit_tombstones select 20, ${entryAt(20)}, gen_random_uuid()`)).includes('its retention entry does not exist'))
  // The genuine run stands before the last entries; its list stretched to one of them.
  assert.ok((await details(`update redoubt.audit_chain set retain_until = '2000-01-01' where seq = 68; ${remove(68)}
    update redoubt.audit_logs set metadata = jsonb_set(metadata, '{seqs}', '[[1,68]]') where id = (${forgedRun});
    insert into redoubt.audit_tombstones select 68, ${entryAt(68)}, (${forgedRun})`)).includes('its retention entry is older than the entry'))
  assert.ok((await details('delete from redoubt.audit_tombstones where seq = 2')).includes('the removals are not those that the retention entry sums up'))
})

test('the head taken away or pointed at another link is found', async () => {
  assert.deepEqual(kinds(await attack(() => world.tamper('delete from redoubt.audit_head'))), ['head_altered'])
  assert.deepEqual(kinds(await attack(() => world.tamper(`update redoubt.audit_head set link = sha256('')`))), ['head_altered'])
})

test('retain_until of the chain moved and the chain made anew is found also behind the last anchor', async () => {
  const problems = await attack(() => world.tamper(`update redoubt.audit_chain set retain_until = '2000-01-01' where seq = 70; ${rechain(70)}`))
  assert.deepEqual(kinds(problems), ['anchor_mismatch', 'link_broken'])
  assert.deepEqual(seqsOf(problems, 'link_broken'), [70n])
})

test('a signed discontinuity that vanished from the chain is found', async () => {
  const problems = await attack(async () => {
    await world.anchors.discontinue({ seq: 71n, link: Buffer.alloc(32) }, 70n)
  })
  assert.deepEqual(kinds(problems), ['anchor_mismatch'])
})

test('a discontinuity written without the key of the anchors is found', async () => {
  const problems = await attack(async () => {
    await world.tamper(`update redoubt.audit_head set cluster = 1; select guard.resume_audit('all is well', null, null)`)
  })
  assert.deepEqual(kinds(problems), ['discontinuity_unsigned'])
})

test('a database put into another cluster is told before anybody resumes', async () => {
  assert.deepEqual(kinds(await attack(() => world.tamper('update redoubt.audit_head set cluster = 1'))), ['interrupted'])
  assert.ok(kinds(await attack(() => world.tamper(`update redoubt.audit_head set horizon = '9000000000000'`))).includes('interrupted'))
})

test('an anchor forged with another key is found', async () => {
  const problems = await attack(async () => {
    const last = (await readFile(world.anchors.path, 'utf8')).trim().split('\n').at(-1) ?? ''
    const anchor = parseAnchor(last)
    assert.ok(anchor !== undefined)
    await appendFile(world.anchors.path, `${anchorText(signAnchor({ ...anchor, previous: lineHash(last) }, anchorKey().privateKey))}\n`)
  })
  assert.deepEqual(kinds(problems), ['anchor_forged'])
})

test('an anchor edited, one taken out, and an anchor file cut or emptied are found', async () => {
  const lines = file.toString().trim().split('\n')
  assert.ok(lines.length >= 3, `${lines.length} anchors`)
  const write = (some: readonly string[]) => () => writeFile(world.anchors.path, some.map((line) => `${line}\n`).join(''))
  assert.ok(kinds(await attack(write(lines.map((line, index) => (index === 1 ? line.replace(/"seq":"\d+"/, '"seq":"31"') : line))))).includes('anchor_forged'))
  assert.deepEqual(kinds(await attack(write(lines.toSpliced(1, 1)))), ['anchor_missing'])
  assert.deepEqual(kinds(await attack(write(lines.slice(0, -1)))), ['anchor_missing'])
  assert.deepEqual(kinds(await attack(write([]))), ['anchor_missing'])
})

test('a copy of an anchor forged in the database is found', async () => {
  assert.deepEqual(kinds(await attack(() => world.tamper(`update redoubt.audit_anchors set seq = 9000 where at = (select max(at) from redoubt.audit_anchors)`))), ['anchor_forged'])
})

test('a destroyed record is counted, not kept in memory', async () => {
  const result = await attack(() => world.tamper('delete from redoubt.audit_logs; delete from redoubt.audit_subjects; delete from redoubt.audit_tombstones'))
  assert.equal(seqsOf(result, 'entry_missing').length, 70)
})
