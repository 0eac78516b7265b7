import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { newId } from 'redoubt/bytes'
import type { Person } from 'redoubt/context'
import { openPool, type Statement } from 'redoubt/pg'
import { kernelRetention } from 'redoubt/tables/kernel'
import { transaction, type Gate } from 'redoubt/transaction'
import { openSigner } from 'redoubt/transaction/signer'
import type { Told } from './audit/sequencer.ts'
import { benchDatabase, benchService, type BenchDatabase } from './database.ts'
import { prepare, rate } from './gate.ts'
import { rounds } from './rounds.ts'

/**
 * What the entry costs: the same small write and the same read through the gate, with an audited action and with one
 * that is not, while the sequencer seals in a process of its own. Every commit waits for the disk.
 */
const actions = {
  'message.sent': { audited: true, keep: 'change' }, 'message.sent.unaudited': { audited: false },
  'patient.viewed': { audited: true }, 'patient.viewed.unaudited': { audited: false },
} as const
type Action = keyof typeof actions
const nothing = (): void => undefined

/** What the entry may leave of the throughput, at the least. */
const goals = { write: 0.7, read: 0.4, 'read in one trip': 0.4 } as const
/** Milliseconds of one measurement: several looks of the sequencer, so that what it seals late weighs little. */
const span = 2000

type Pair = { readonly relationship: string; readonly patient: string }

async function pairsOf(database: BenchDatabase, therapist: string): Promise<readonly Pair[]> {
  const rows = await database.admin(`select id as relationship, patient_id as patient from therapy.care_relationships where therapist_id = $1 and state = 'active'`, [therapist])
  return rows.map((row) => ({ relationship: String(row['relationship']), patient: String(row['patient']) }))
}

const body = Buffer.alloc(160, 0xab)
const insert = `insert into therapy.messages (id, care_relationship_id, patient_id, therapist_id, sender_id, recipient_id, body_enc, created_at)
  values ($1, $2, $3, $4, $4, $3, $5, now())`
const read = `select id, therapist_id, first_name_enc, last_name_enc, dob_enc, phone_enc, address_enc, emergency_contact_enc, insurance_no_enc, created_at, version
  from therapy.patients where id = $1`

/** Milliseconds until the disk has 8 KiB, the median of many: what every commit waits for, and an unaudited read does not. */
async function flushTime(): Promise<number> {
  const path = join(import.meta.dirname, '../.redoubt/bench', `flush-${process.pid}`)
  const file = await open(path, 'w')
  const times: number[] = []
  for (let n = 0; n < 200; n += 1) {
    await file.write(Buffer.alloc(8192, n), 0, 8192, n * 8192)
    const started = performance.now()
    await file.datasync()
    times.push(performance.now() - started)
  }
  await file.close()
  await rm(path)
  return times.sort((a, b) => a - b)[100] ?? 0
}

/** Entries of one variant must not be sealed at the cost of the next. */
async function settled(database: BenchDatabase): Promise<void> {
  for (const until = performance.now() + 60_000; performance.now() < until; await pause(50)) {
    const [row] = await database.admin('select (select count(*) from redoubt.audit_logs)::text as entries, (select seq from redoubt.audit_head)::text as sealed')
    if (row?.['entries'] === row?.['sealed']) return
  }
  throw new Error('audit: the sequencer did not seal everything within a minute')
}

async function measure(database: BenchDatabase, me: Person, pairs: readonly Pair[], clients: number): Promise<readonly string[]> {
  const pool = openPool({ url: database.url('app'), max: clients, emit: nothing })
  const keys = openPool({ url: database.url('keys'), max: 1, emit: nothing })
  const signer = await openSigner(keys, benchService)
  const gate: Gate<typeof actions> = { pool, signer, actions, retention: kernelRetention, personal: undefined, emit: nothing }
  let next = 0
  const pair = (): Pair => pairs[next++ % pairs.length] ?? { relationship: '', patient: '' }

  async function write(action: Action): Promise<void> {
    const { relationship, patient } = pair()
    const id = newId()
    const statement: Statement = { name: 'bench_message', text: insert, values: [id, relationship, patient, me.actor, body] }
    await transaction(gate, me, { action, resource: { type: 'message', id } }, (tx) => tx.query(statement))
  }
  /** As the routes of Therapy read: the entry goes with COMMIT, in the second trip. */
  async function view(action: Action): Promise<void> {
    const { patient } = pair()
    await transaction(gate, me, { action, resource: { type: 'patient', id: patient }, subjects: [patient] }, (tx) => tx.query({ name: 'bench_patient', text: read, values: [patient] }))
  }
  /** Caller, statement and entry in one trip, as transaction.found sends it. */
  async function viewInOne(action: Action): Promise<void> {
    const { patient } = pair()
    await transaction.one(gate, me, { action, resource: { type: 'patient', id: patient }, subjects: [patient] }, { name: 'bench_patient', text: read, values: [patient], brief: 'reads' })
  }
  const timed = (work: (action: Action) => Promise<void>, action: Action) => async (): Promise<number> => {
    const speed = await rate(clients, span, () => work(action))
    await settled(database)
    return speed
  }

  const medians = await rounds({
    title: `with and without an audit entry, ${clients} connection${clients === 1 ? '' : 's'}, fsync on`,
    rounds: 5,
    variants: {
      'write, entry': timed(write, 'message.sent'),
      'write, no entry': timed(write, 'message.sent.unaudited'),
      'read, entry': timed(view, 'patient.viewed'),
      'read, no entry': timed(view, 'patient.viewed.unaudited'),
      'read in one trip, entry': timed(viewInOne, 'patient.viewed'),
      'read in one trip, no entry': timed(viewInOne, 'patient.viewed.unaudited'),
    },
    ratios: [['write, entry', 'write, no entry'], ['read, entry', 'read, no entry'], ['read in one trip, entry', 'read in one trip, no entry']],
  })
  await signer.close()
  await Promise.all([pool.close(), keys.close()])
  return (Object.keys(goals) as (keyof typeof goals)[]).flatMap((kind) => {
    const ratio = medians[`${kind}, entry`].median / medians[`${kind}, no entry`].median
    return ratio >= goals[kind] ? [] : [`goal missed: audited ${kind} at ${clients} connection${clients === 1 ? '' : 's'} ${ratio.toFixed(2)}, wanted ${goals[kind]}`]
  })
}

async function told(child: ChildProcess): Promise<Told> {
  const answer = once(child, 'message') as Promise<[Told]>
  child.send('tell')
  return (await answer)[0]
}

export async function run(): Promise<void> {
  const database = await benchDatabase()
  const sequencer = fork(join(import.meta.dirname, 'audit/sequencer.ts'), [database.url('worker'), benchService])
  try {
    await once(sequencer, 'message')
    const { me } = await prepare(database)
    const pairs = await pairsOf(database, me.actor)
    const [fsync] = await database.admin(`select pg_catalog.current_setting('fsync') as value`)
    if (fsync?.['value'] !== 'on') throw new Error('audit: the server must run with fsync on')
    const problems: string[] = []
    process.stdout.write(`the disk has 8 KiB after ${(await flushTime()).toFixed(2)} ms (median)\n`)
    for (const clients of [1, 8]) problems.push(...(await measure(database, me, pairs, clients)))
    const { sealed, milliseconds, failed } = await told(sequencer)
    process.stdout.write(`\nsealed meanwhile: ${sealed} entries, ${Math.round((sealed / Math.max(1, milliseconds)) * 1000)} a second while at work\n`)
    if (failed > 0) problems.push(`the sequencer failed ${failed} times`)
    process.stdout.write(problems.length === 0 ? 'every entry sealed, goals met\n' : `${problems.join('\n')}\n`)
    process.exitCode = problems.length === 0 ? 0 : 1
  } finally {
    const gone = once(sequencer, 'exit')
    sequencer.disconnect()
    await gone
    await database.close()
  }
}
