import { generateKeyPairSync } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { openAnchors } from '../../src/audit/anchor.ts'
import type { AnchorKey, Anchors } from '../../src/audit/anchor.ts'
import { commitPersonal } from '../../src/audit/entry.ts'
import { startSequencer } from '../../src/audit/sequencer.ts'
import type { Sequencer, SequencerSettings } from '../../src/audit/sequencer.ts'
import { verifyAudit } from '../../src/audit/verify.ts'
import type { Verification } from '../../src/audit/verify.ts'
import { newId } from '../../src/bytes.ts'
import { systemCaller } from '../../src/context.ts'
import type { Event } from '../../src/events.ts'
import { openPool } from '../../src/pg.ts'
import type { Pool, Statement } from '../../src/pg.ts'
import { openSigner } from '../../src/transaction/signer.ts'
import { enterStatement, finishStatement } from '../../src/transaction/statements.ts'
import type { TestDatabase } from './database.ts'
import { patience } from './gate.ts'

/** A fresh Ed25519 pair as the keyring would give it. */
export function anchorKey(kid = 'anchor-1'): AnchorKey {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  return { kid, privateKey, verifiers: new Map([[kid, publicKey]]) }
}

export type AuditWorld = {
  readonly app: Pool
  readonly worker: Pool
  readonly auditor: Pool
  readonly key: AnchorKey
  readonly anchors: Anchors
  readonly events: Event[]
  /** The statements of one call that leaves an entry: signed caller, guard.finish(). */
  entry(options?: { readonly subjects?: readonly string[]; readonly days?: number; readonly metadata?: Readonly<Record<string, unknown>> }): { readonly id: string; readonly statements: readonly Statement[] }
  /** Commits that many entries, one transaction each. @returns their ids in order */
  write(count: number, options?: { readonly subjects?: readonly string[]; readonly days?: number }): Promise<readonly string[]>
  sequencer(settings?: Partial<SequencerSettings>): Sequencer
  /** Runs a sequencer until every entry is sealed and the head anchored. */
  seal(): Promise<void>
  verify(): Promise<Verification>
  /** Retention up to a moment, at most 1000 entries. @returns how many went, and the entry that says so */
  expire(before: Date): Promise<{ readonly removed: number; readonly entry: string | null }>
  /** As a superuser with triggers off: what a hostile administrator of the database would do. */
  tamper(sql: string, values?: readonly unknown[]): Promise<void>
  close(): Promise<void>
}

/** Waits for a state; gives up when the time of a test is nearly over. Other databases of the same server may delay sealing for a while. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, milliseconds = 150_000): Promise<void> {
  for (const end = performance.now() + milliseconds; !(await holds()); await pause(20)) {
    if (performance.now() > end) throw new Error(`gave up waiting until ${what}`)
  }
}

/** Pools of the roles, an anchor file in a folder of its own, and the signed way to write entries. */
export async function auditWorld(database: TestDatabase, settings: { readonly writers?: number; readonly pageSize?: number } = {}): Promise<AuditWorld> {
  const events: Event[] = []
  const emit = (event: Event): void => void events.push(event)
  const pool = (login: 'app' | 'keys' | 'worker' | 'auditor', max: number): Pool => openPool({ url: database.url(login), max, connectTimeout: patience, emit, statementTimeout: 120_000 })
  const app = pool('app', settings.writers ?? 4)
  const [keys, worker, auditor] = [pool('keys', 1), pool('worker', 4), pool('auditor', 1)]
  const signer = await openSigner(keys, database.service)
  const directory = await mkdtemp(join(tmpdir(), 'redoubt-anchors-'))
  const key = anchorKey()
  const anchors = await openAnchors({ directory, service: database.service, key })
  const caller = systemCaller('rehearsal', 'clinic', { requestId: 'request-1', address: '192.0.2.7' })

  const world: AuditWorld = {
    app, worker, auditor, key, anchors, events,
    entry({ subjects = [], days = 730, metadata = { fields: ['first_name'] } } = {}) {
      const id = newId()
      const { clear, commitment } = commitPersonal('192.0.2.7')
      return {
        id,
        statements: [
          enterStatement({ signer, pool: app }, caller, { id, action: 'record.read', audited: true }, false).alone,
          finishStatement({
            id, action: 'record.read', resource: { type: 'record', id: newId() }, purpose: 'care', outcome: 'done', metadata,
            personal: { sealed: Buffer.from(clear), commitment }, keep: 'access', days, subjects,
          }, true).durable,
        ],
      }
    },
    async write(count, options) {
      const ids: string[] = []
      for (let n = 0; n < count; n += 1) {
        const { id, statements } = world.entry(options)
        const connection = await app.connect()
        const { failure } = await connection.send(statements)
        connection.release()
        if (failure !== undefined) throw failure.refusal
        ids.push(id)
      }
      return ids
    },
    sequencer: (more = {}) => startSequencer({ pool: worker, anchors, emit, intervalMs: 20, anchorMs: 0, ...more }),
    async seal() {
      const sequencer = world.sequencer()
      await until('everything is sealed', async () => {
        const rows = await worker.query<{ readonly seq: bigint }>({ text: 'select seq from redoubt.audit_head', values: [] })
        const { left } = (await database.admin<{ left: number }>(
          'select count(*)::int as left from redoubt.audit_logs e where not exists (select from redoubt.audit_chain c where c.entry_id = e.id)'))[0] ?? { left: 1 }
        return left === 0 && rows[0]?.seq === sequencer.gauge().anchored
      })
      await sequencer.stop()
    },
    verify: () => verifyAudit({ query: (statement) => auditor.query(statement), service: database.service, anchors: anchors.path, publicKeys: key.verifiers, pageSize: settings.pageSize ?? 500 }),
    async expire(before) {
      const rows = await worker.query<{ readonly removed: number; readonly retention_entry: string | null }>({ text: 'select * from guard.expire_audit($1, 1000)', values: [before] })
      return { removed: rows[0]?.removed ?? 0, entry: rows[0]?.retention_entry ?? null }
    },
    async tamper(sql, values) {
      await database.admin(`set session_replication_role = replica`)
      try {
        await database.admin(sql, values)
      } finally {
        await database.admin(`set session_replication_role = origin`)
      }
    },
    async close() {
      await anchors.close()
      await signer.close()
      await Promise.all([app, keys, worker, auditor].map((some) => some.close()))
      await rm(directory, { recursive: true, force: true })
    },
  }
  return world
}
