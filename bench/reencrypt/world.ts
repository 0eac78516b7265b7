import { createCipheriv, createDecipheriv, createHmac, createSecretKey, randomBytes, randomUUID } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newId } from 'redoubt/bytes'
import { renewerInThread } from 'redoubt/cli/reencrypt/thread'
import { openKeyring, type Keyring } from 'redoubt/keyring'
import { openRotation } from 'redoubt/keyring/rotate'
import { unrecorded } from '../../packages/redoubt/test/support/unrecorded.ts'
import { openKeyService } from 'redoubt/kms'
import { allowReencryption } from 'redoubt/migrate/rights'
import { openPool, type Pool } from 'redoubt/pg'
import { runJobs, type JobResult } from 'redoubt/reencrypt'
import { byteaArray, uuidArray } from 'redoubt/reencrypt/arrays'
import { blindIndex, seal } from 'redoubt/seal'
import { blindIndex as index, defineTables, plain, sealed } from 'redoubt/tables'
import { kernelRetention } from 'redoubt/tables/kernel'
import { benchDatabase, benchService, type BenchDatabase } from '../database.ts'

const tables = defineTables({
  service: benchService,
  retention: kernelRetention,
  tables: {
    'bench.contacts': {
      id: 300, about: 'rows of the bench', rowId: 'id', subject: 'person', tenant: null, keep: 'account',
      columns: { id: plain('uuid', 'INT'), person: plain('uuid', 'INT'), email_enc: sealed(1, 'PII-E'), email_bidx: index(2, 'email_enc') },
    },
    'bench.loop_contacts': {
      id: 301, about: 'the same rows for the loop', rowId: 'id', subject: 'person', tenant: null, keep: 'account',
      columns: { id: plain('uuid', 'INT'), person: plain('uuid', 'INT'), email_enc: sealed(1, 'PII-E'), email_bidx: index(2, 'email_enc') },
    },
  },
})

const quiet = (): void => undefined
const bytesOf = (id: string): Buffer => Buffer.from(id.replaceAll('-', ''), 'hex')

/** Processor time of each session of the database by its process, as Linux tells it. */
async function serverSeconds(database: BenchDatabase): Promise<ReadonlyMap<number, number>> {
  const spent = new Map<number, number>()
  for (const { pid } of await database.admin('select pid from pg_stat_activity where datname = current_database()')) {
    const text = await readFile(`/proc/${Number(pid)}/schedstat`, 'utf8').catch(() => '')
    if (text !== '') spent.set(Number(pid), Number(text.split(' ')[0]) / 1e9)
  }
  return spent
}

export type World = {
  readonly database: BenchDatabase
  readonly pool: Pool
  /** New versions of all data keys and of the index key; the old index key goes. Outside of what is measured. */
  rotate(): Promise<void>
  /** The job, from planning to proof, without consideration for others. @throws when not every row was changed and proven */
  job(): Promise<{ readonly result: JobResult; readonly seconds: number; readonly cpuSeconds: number; /** Of all sessions of the database; not a number where the system does not tell. */ readonly serverSeconds: number; readonly rss: number; readonly rssBefore: number }>
  /** `UPDATE … SET col = col` of all rows. */
  bare(): Promise<number>
  /** Decrypt, encrypt, index and one UPDATE of both columns per row in a loop, over so many rows of a copy, each awaited. */
  loop(rows: number): Promise<number>
  /** Opening, sealing and index of so many values in memory. */
  crypto(rows: number): number
  close(): Promise<void>
}

/** How row ids are made: as the platform makes them (UUIDv7), or at random, as an older system may have. */
export type Ids = 'time' | 'random'

/** What a loop written by hand keeps in a column: nonce, ciphertext, tag, under one key. */
function plainSeal(key: KeyObject, text: Buffer): Buffer {
  const nonce = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, nonce)
  return Buffer.concat([nonce, cipher.update(text), cipher.final(), cipher.getAuthTag()])
}

function plainOpen(key: KeyObject, value: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, value.subarray(0, 12), { authTagLength: 16 })
  decipher.setAuthTag(value.subarray(-16))
  return Buffer.concat([decipher.update(value.subarray(12, -16)), decipher.final()])
}

function plainIndex(key: KeyObject, text: Buffer): Buffer {
  return createHmac('sha256', key).update(text).digest().subarray(0, 17)
}

/** @param rows of the table @param people data subjects, each with a data key of their own */
export async function openWorld(rows: number, people: number, ids: Ids = 'time'): Promise<World> {
  const database = await benchDatabase()
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-bench-'))
  const service = await openKeyService(`local:${folder}/root.key`, { production: false, create: true, dataExists: () => Promise.resolve(false) })
  const pool = openPool({ url: database.url('migrator'), max: 4, statementTimeout: 600_000, emit: quiet })
  const keysPool = openPool({ url: database.url('keys'), max: 4, statementTimeout: 600_000, emit: quiet })
  const ring = (): Keyring => openKeyring({ pool: keysPool, service, realm: benchService, emit: quiet, usage: unrecorded })
  let keyring = ring()
  await database.admin(`create schema bench authorization "${benchService}_owner"; set role "${benchService}_owner";
    create table bench.contacts (id uuid primary key, person uuid not null, email_enc bytea not null, email_bidx bytea not null);
    create unique index contacts_by_email on bench.contacts (email_bidx);
    alter table bench.contacts enable row level security, force row level security;
    create table bench.loop_contacts (like bench.contacts including all);
    alter table bench.loop_contacts enable row level security, force row level security; reset role`)
  await allowReencryption({ url: database.url('migrator'), tables })

  const persons = Array.from({ length: people }, () => randomUUID())
  const [indexKey] = await keyring.indexKeys(300, 2)
  if (indexKey === undefined) throw new Error('bench: no index key')
  const [loopKey, loopIndexKey] = [createSecretKey(randomBytes(32)), createSecretKey(randomBytes(32))]
  const step = 5000
  for (let from = 0; from < rows; from += step) {
    const some = Array.from({ length: Math.min(step, rows - from) }, (_, i) => ({ id: ids === 'time' ? newId() : randomUUID(), person: persons[(from + i) % people] ?? '', email: `person.${from + i}@mail-${(from + i) % 1000}.example.org` }))
    const keys = await keyring.keysFor(some.map(({ person }) => ({ tenant: benchService, subject: person, keep: 'account' })))
    await database.admin('insert into bench.contacts select * from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[])', [
      uuidArray(some.map(({ id }) => bytesOf(id))), uuidArray(some.map(({ person }) => bytesOf(person))),
      byteaArray(some.map(({ id, person, email }, n) => {
        const key = keys[n]
        if (key === undefined) throw new Error('bench: no key')
        return seal(key, { tenant: benchService, table: 300, column: 1, row: id, subject: person }, email)
      })),
      byteaArray(some.map(({ email }) => blindIndex(indexKey, { tenant: benchService, table: 300, column: 2 }, email))),
    ])
    await database.admin('insert into bench.loop_contacts select * from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[])', [
      uuidArray(some.map(({ id }) => bytesOf(id))), uuidArray(some.map(({ person }) => bytesOf(person))),
      byteaArray(some.map(({ email }) => plainSeal(loopKey, Buffer.from(email)))), byteaArray(some.map(({ email }) => plainIndex(loopIndexKey, Buffer.from(email)))),
    ])
  }

  return {
    database,
    pool,
    async rotate() {
      const rotation = openRotation({ pool: keysPool, service, realm: benchService, emit: quiet, usage: unrecorded, overlap: 0 })
      await rotation.dataKeys({})
      await rotation.indexKey({ table: 300, column: 2 })
      rotation.close()
      keyring.close()
      keyring = ring()
      await database.admin('vacuum analyze bench.contacts')
    },
    async job() {
      const rssBefore = process.memoryUsage.rss()
      let rss = rssBefore
      // Sessions that are idle for a minute end, and take their count with them: the job's are new or busy.
      const before = await serverSeconds(database)
      const watch = setInterval(() => (rss = Math.max(rss, process.memoryUsage.rss())), 50)
      const [started, cpu] = [performance.now(), process.cpuUsage()]
      const [result] = await runJobs({ tables, pool, keysPool, keyring, emit: quiet, throttle: { latencyMs: 10_000 }, only: ['bench.contacts'], renewer: renewerInThread }, 'reencrypt')
      const used = process.cpuUsage(cpu)
      clearInterval(watch)
      const seconds = (performance.now() - started) / 1000
      const after = await serverSeconds(database)
      const inServer = [...after].reduce((sum, [pid, spent]) => sum + spent - (before.get(pid) ?? 0), 0)
      if (result?.proven !== true || result.counts.changed !== rows) throw new Error(`bench: the job changed ${result?.counts.changed ?? 0} of ${rows} rows`)
      await database.admin('delete from keys.index_keys i where i.table_id = 300 and i.version < (select max(n.version) from keys.index_keys n where n.table_id = 300)')
      return { result, seconds, cpuSeconds: (used.user + used.system) / 1e6, serverSeconds: after.size === 0 ? Number.NaN : inServer, rss, rssBefore }
    },
    async bare() {
      await database.admin('vacuum analyze bench.contacts')
      const started = performance.now()
      await database.admin('update bench.contacts set email_enc = email_enc')
      return rows / ((performance.now() - started) / 1000)
    },
    async loop(count) {
      await database.admin('vacuum analyze bench.loop_contacts')
      const list = await database.admin('select id::text as id, email_enc from bench.loop_contacts limit $1', [count])
      const freshIndexKey = createSecretKey(randomBytes(32))
      const started = performance.now()
      for (const { id, email_enc } of list) {
        const clear = plainOpen(loopKey, email_enc as Buffer)
        await pool.query({ name: 'bench_one', text: 'update bench.loop_contacts set email_enc = $2, email_bidx = $3 where id = $1', values: [id, plainSeal(loopKey, clear), plainIndex(freshIndexKey, clear)] })
      }
      return count / ((performance.now() - started) / 1000)
    },
    crypto(count) {
      const subject = persons[0] ?? ''
      const key = { id: randomBytes(16), key: loopKey, scope: { tenant: benchService, subject, keep: 'account' } }
      const place = { tenant: benchService, table: 300, column: 1, row: subject, subject }
      const started = performance.now()
      for (let n = 0; n < count; n++) {
        seal(key, place, 'person.123456@mail-123.example.org')
        blindIndex(indexKey, { tenant: benchService, table: 300, column: 2 }, 'person.123456@mail-123.example.org')
      }
      return count / ((performance.now() - started) / 1000)
    },
    async close() {
      keyring.close()
      service.close()
      await pool.close()
      await keysPool.close()
      await database.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
