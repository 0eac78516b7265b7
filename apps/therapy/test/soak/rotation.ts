import assert from 'node:assert/strict'
import { fork, type ChildProcess } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { allowReencryption } from 'redoubt/migrate/rights'
import { openPool } from 'redoubt/pg'
import type { Soak } from '../../../../packages/redoubt/test/soak.ts'
import { testDatabase } from '../../../../packages/redoubt/test/support/database.ts'
import { startVault } from '../../../../packages/redoubt/test/support/vault.ts'
import { tables } from '../../src/tables.ts'
import { openClinic, type Clinic } from '../support/clinic.ts'
import { startClients } from './rotation/clients.ts'

const levels = ['root', 'key-encryption', 'data', 'index', 'signing', 'caller'] as const
type Level = (typeof levels)[number]

/** What a rotating process is told. */
export type Task = { readonly level: Level; readonly keysUrl: string; readonly ownerUrl: string; readonly vault: string; readonly token: string; readonly realm: string; readonly overlap: number; readonly before: string }

/** Milliseconds that processes of this run believe what they read, and that a rotation leaves them for it. */
const believed = 1_000
const overlap = 2_500

/** Runs one rotation; with `kill` it is cut off some moment after it began. */
async function rotate(task: Task, kill: boolean): Promise<'done' | 'killed'> {
  const child: ChildProcess = fork(join(import.meta.dirname, 'rotation', 'rotator.ts'), [JSON.stringify(task)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
  const begun = await Promise.race([new Promise<boolean>((resolve) => child.once('message', () => resolve(true))), ended.then(() => false)])
  if (kill && begun) {
    await pause(randomInt(task.level === 'data' || task.level === 'index' ? task.overlap * 2 : 60))
    child.kill('SIGKILL')
  }
  const code = await ended
  if (code === 0) return 'done'
  assert.ok(kill && code === null, `a rotation of ${task.level} ended with ${code ?? 'a signal'}`)
  return 'killed'
}

/**
 * Every level of keys rotated again and again while 32 clients read and write through two instances of Therapy: no read
 * fails and none is wrong, also with the rotating process killed at random moments. The long run takes 60 s a level.
 */
export const soak: Soak = async ({ short, print }) => {
  const seconds = short ? 3 : 60
  const killsWanted = short ? 1 : 4
  const database = await testDatabase()
  const vault = await startVault()
  vault.transit('POST', 'keys/root', { derived: true })
  const token = vault.token({})
  // An administrator's, past every policy.
  const all = openPool({ url: database.adminUrl, max: 4, emit: () => undefined })
  let clinic: Clinic | undefined
  try {
    clinic = await openClinic({
      database,
      settings: {
        kms: 'vault:transit/root', keyService: { vault: { address: vault.origin, signIn: { method: 'token', token } } },
        openedKeys: { lifetimes: { keyEncryptionKey: 2 * believed, dataKey: believed } }, tokenKeysEvery: 200, poolSize: 8,
      },
    })
    const people = []
    const instances = [await clinic.another(), await clinic.another()]
    for (let n = 0; n < 32; n++) people.push(await clinic.patient())
    await clinic.service.keyring.purposeKey('audit-anchor')
    await allowReencryption({ url: database.url('migrator'), tables: { ...tables, service: database.service } })
    const search = async (indexes: readonly Buffer[]): Promise<boolean> => (await all.query({ text: `select 1 as one from redoubt.users where email_bidx = any ($1) and status = 'active'`, values: [indexes] })).length === 1
    const clients = startClients(instances, people, search)
    const { figures } = clients
    let killed = 0
    try {
      for (const level of levels) {
        const before = { ...figures }
        const [end, begin] = [performance.now() + seconds * 1000, new Date()]
        let [rounds, kills] = [0, 0]
        // What one rotation of these leaves behind, the next one retires.
        const roundsWanted = level === 'data' || level === 'index' ? 3 : 1
        while (performance.now() < end || rounds < roundsWanted || kills < killsWanted) {
          if (level === 'root') vault.transit('POST', 'keys/root/rotate')
          const task = { level, keysUrl: database.url('keys'), ownerUrl: database.url('migrator'), vault: vault.origin, token, realm: 'therapy', overlap, before: (rounds + kills > 0 ? new Date() : begin).toISOString() }
          const outcome = await rotate(task, kills < killsWanted && rounds > 0)
          if (outcome === 'done') rounds++
          else kills++
          if (figures.failed.length + figures.wrong.length > 0) break
        }
        killed += kills
        const doing = `${figures.reads - before.reads} reads, ${figures.writes - before.writes} writes, ${figures.searches - before.searches} searches, ${figures.registrations - before.registrations} registrations, ${figures.tokens - before.tokens} tokens`
        print(`${level}: ${Math.round((performance.now() - end) / 1000 + seconds)} s, ${rounds} rotations, ${kills} killed; ${doing}; ${figures.failed.length} failed, ${figures.wrong.length} wrong`)
        assert.deepEqual([figures.failed.slice(0, 5), figures.wrong.slice(0, 5)], [[], []], `while ${level} was rotated`)
      }
      // The versions that were made last come into use.
      await pause(overlap + believed)
    } finally {
      await clients.stop()
    }
    assert.deepEqual([figures.failed.slice(0, 5), figures.wrong.slice(0, 5)], [[], []])
    const states = await database.admin<{ text: string }>(`select purpose || ' ' || count(*) filter (where state = 'active') || ' active ' || count(*) filter (where state = 'decrypt_only') || ' old' as text from keys.key_encryption_keys group by purpose order by 1`)
    assert.deepEqual(states.map(({ text }) => text.replace(/\d+ old$/, '')), ['data 1 active ', 'index 1 active ', 'purpose 1 active '])
    const [keys] = await database.admin<{ versions: number; most: number }>(`select count(*)::int4 as versions, max(version)::int4 as most from keys.data_keys`)
    const ended = await database.admin<{ kind: string; keys: number }>(`select metadata->>'kind' as kind, sum(coalesce((metadata->>'keys')::int, 1))::int4 as keys from redoubt.audit_logs where action = 'key.retired' group by 1 order by 1`)
    for (const kind of ['data', 'index:1.2', 'kek:data', ...(short ? [] : ['token-sign'])]) assert.ok(ended.some((one) => one.kind === kind && one.keys > 0), `no old version of ${kind} was retired`)
    const accounts = await database.admin(`select from redoubt.users where status = 'active'`)
    assert.equal(accounts.length, people.length, 'no address got a second account')
    print(`retired: ${ended.map(({ kind, keys: count }) => `${kind} ${count}`).join(', ')}`)
    print(`${killed} rotating processes killed; ${keys?.versions ?? 0} data keys, up to version ${keys?.most ?? 0}; ${figures.reads} reads, 0 failed, 0 wrong`)
  } finally {
    await clinic?.close()
    await all.close()
    await vault.close()
    await database.drop()
  }
}
