import assert from 'node:assert/strict'
import { readFile, truncate, writeFile } from 'node:fs/promises'
import { after, test } from 'node:test'
import { resumeAudit } from '../../src/audit.ts'
import { anchorText, noLine, parseAnchor, signAnchor, type Anchor } from '../../src/audit/anchor-line.ts'
import { auditWorld, until } from '../support/audit.ts'
import { testDatabase } from '../support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await auditWorld(database)
after(() => world.close())

test('attack: an anchor file that is gone is not begun anew: nothing is sealed until somebody resumes, and verification tells it', async () => {
  for (const round of [1, 2]) {
    await world.write(round)
    await world.seal()
  }
  const kept = await readFile(world.anchors.path)
  await truncate(world.anchors.path, 0)
  await world.write(2)
  world.events.length = 0
  const sequencer = world.sequencer()
  await until('it is told', () => world.events.some((event) => event.type === 'security.audit_chain_broken' && event.problem === 'anchor_missing'))
  assert.deepEqual((await world.verify()).problems.map(({ kind }) => kind), ['anchor_missing'])
  assert.equal((await readFile(world.anchors.path)).length, 0)
  await resumeAudit({ pool: world.worker, anchors: world.anchors, publicKeys: world.key.verifiers, reason: 'the folder of the anchors was lost' })
  await until('sealing goes on', () => sequencer.gauge().failures === 0 && sequencer.gauge().sealed > 0n && sequencer.gauge().sealed === sequencer.gauge().anchored)
  await sequencer.stop()
  const { problems, discontinuities } = await world.verify()
  assert.deepEqual([problems, discontinuities.length], [[], 1])
  // What one without this check wrote: a first line of its own, signed by the right key.
  const anew = signAnchor({ ...(parseAnchor(kept.toString().trim().split('\n').at(-1) ?? '') as Anchor), previous: noLine }, world.key.privateKey)
  const now = await readFile(world.anchors.path)
  await writeFile(world.anchors.path, `${anchorText(anew)}\n`)
  await world.tamper(`create table saved_anchors as table redoubt.audit_anchors; delete from redoubt.audit_anchors where seq > ${anew.seq}`)
  assert.ok((await world.verify()).problems.some(({ kind, seq }) => kind === 'anchor_missing' && seq !== null && seq < anew.seq))
  await world.tamper('delete from redoubt.audit_anchors; insert into redoubt.audit_anchors select * from saved_anchors; drop table saved_anchors')
  await writeFile(world.anchors.path, now)
})
