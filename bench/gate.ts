import { fork } from 'node:child_process'
import { join } from 'node:path'
import pg from 'pg'
import { newId } from 'redoubt/bytes'
import type { Person } from 'redoubt/context'
import { openPool, type Statement } from 'redoubt/pg'
import { kernelRetention } from 'redoubt/tables/kernel'
import { transaction, type Gate } from 'redoubt/transaction'
import { openSigner } from 'redoubt/transaction/signer'
import { benchDatabase, benchService, type BenchDatabase } from './database.ts'
import { rounds } from './rounds.ts'

/**
 * What the gate costs: one statement and groups of statements as a signed caller, against the conventional
 * BEGIN, set_config, query, COMMIT and against the unprotected named query. The signature is checked in the policy.
 */
const actions = { 'patient.listed': { audited: false }, 'patient.viewed': { audited: true } } as const
const nothing = (): void => undefined

export async function prepare(database: BenchDatabase): Promise<{ readonly me: Person; readonly patients: readonly string[] }> {
  const therapist = newId()
  const session = newId()
  await database.admin(`set row_security = off; set session_replication_role = replica`)
  const patients = Array.from({ length: 200 }, () => newId())
  await database.admin('insert into redoubt.sessions (id, user_id, tenant, absolute_expires_at) values ($1, $2, $3, now() + interval \'1 day\')', [session, therapist, benchService])
  await database.admin(
    `insert into therapy.patients (id, first_name_enc, last_name_enc, dob_enc, phone_enc, address_enc, emergency_contact_enc, insurance_no_enc, created_at)
     select p, decode(repeat('ab', 60), 'hex'), decode(repeat('cd', 62), 'hex'), decode(repeat('ef', 56), 'hex'), decode(repeat('12', 60), 'hex'),
       decode(repeat('34', 110), 'hex'), decode(repeat('56', 100), 'hex'), decode(repeat('78', 60), 'hex'), now() from unnest($1::uuid[]) p`,
    [patients],
  )
  // A therapist with twenty patients in care.
  await database.admin(
    `insert into therapy.care_relationships (id, therapist_id, patient_id, state, basis, created_at, started_at)
     select gen_random_uuid(), $1, p, 'active', 'referral', now(), now() from unnest($2::uuid[]) p`,
    [therapist, patients.slice(0, 20)],
  )
  await database.admin('vacuum analyze')
  return { patients: patients.slice(0, 20), me: { kind: 'user', actor: therapist, role: 'therapist', tenant: benchService, session, requestId: newId(), address: null } }
}

const columns = 'id, therapist_id, first_name_enc, last_name_enc, dob_enc, phone_enc, address_enc, emergency_contact_enc, insurance_no_enc, created_at, version'
const read = `select ${columns} from therapy.patients where id = $1`

/** Runs `clients` loops for a time and gives operations per second. */
export async function rate(clients: number, milliseconds: number, once: (client: number) => Promise<unknown>): Promise<number> {
  let done = 0
  const started = performance.now()
  const end = started + milliseconds
  await Promise.all(
    Array.from({ length: clients }, async (_, client) => {
      while (performance.now() < end) {
        await once(client)
        done += 1
      }
    }),
  )
  return (done * 1000) / (performance.now() - started)
}

async function measure(title: string, database: BenchDatabase, me: Person, patients: readonly string[], clients: number, via: (url: string) => string): Promise<void> {
  const pool = openPool({ url: via(database.url('app')), max: clients, emit: nothing })
  const keys = openPool({ url: database.url('keys'), max: 1, emit: nothing })
  const signer = await openSigner(keys, benchService)
  const gate: Gate<typeof actions> = { pool, signer, actions, retention: kernelRetention, personal: undefined, emit: nothing }
  const conventional = new pg.Pool({ connectionString: via(database.url('app')), max: clients })
  // The rival without protection reads as superuser: no policy, no caller.
  const unprotected = new pg.Pool({ connectionString: via(database.adminUrl), max: clients })
  let next = 0
  const one = (): string => patients[next++ % patients.length] ?? ''
  const statement = (): { name: string; text: string; values: string[] } => ({ name: 'patient', text: read, values: [one()] })

  /** As transaction.found sends it. */
  const brief = (): Statement => ({ ...statement(), brief: 'reads' })

  async function fourTrips(statements: number): Promise<void> {
    const client = await conventional.connect()
    await client.query('begin')
    await client.query({ name: 'caller', text: `select set_config('redoubt.caller', $1, true)`, values: [signer.sign(me, 'patient.listed', null)] })
    for (let i = 0; i < statements; i += 1) await client.query(statement())
    await client.query('commit')
    client.release()
  }

  const span = 700
  const medians = await rounds({
    title: `${title}, ${clients} connection${clients === 1 ? '' : 's'}`,
    rounds: 7,
    variants: {
      'transaction.one': () => rate(clients, span, () => transaction.one(gate, me, 'patient.listed', brief())),
      'conventional, 4 trips': () => rate(clients, span, () => fourTrips(1)),
      'unprotected named query': () => rate(clients, span, () => unprotected.query(statement())),
      'transaction, 1 statement': () => rate(clients, span, () => transaction(gate, me, 'patient.listed', (tx) => tx.query(statement()))),
      'transaction, 3 together': () => rate(clients, span, () => transaction(gate, me, 'patient.listed', (tx) => Promise.all([tx.query(statement()), tx.query(statement()), tx.query(statement())]))),
      'transaction, 3 dependent': () =>
        rate(clients, span, () =>
          transaction(gate, me, 'patient.listed', async (tx) => {
            for (let i = 0; i < 3; i += 1) await tx.query(statement())
          }),
        ),
      'conventional, 3 statements': () => rate(clients, span, () => fourTrips(3)),
      'transaction.one, audited': () => rate(clients, span, () => transaction.one(gate, me, { action: 'patient.viewed', resource: { type: 'patient', id: patients[0] ?? '' }, subjects: [patients[0] ?? ''] }, brief())),
    },
    ratios: [
      ['transaction.one', 'conventional, 4 trips'],
      ['transaction.one', 'unprotected named query'],
      ['transaction, 1 statement', 'conventional, 4 trips'],
      ['transaction, 3 together', 'conventional, 3 statements'],
      ['transaction, 3 dependent', 'conventional, 3 statements'],
      ['transaction.one, audited', 'transaction.one'],
    ],
  })
  if (Object.keys(medians).length === 0) throw new TypeError('gate: nothing was measured')
  await signer.close()
  await Promise.all([pool.close(), keys.close(), conventional.end(), unprotected.end()])
}

async function delayed(port: number, milliseconds: number): Promise<{ readonly port: number; stop(): void }> {
  const child = fork(join(import.meta.dirname, 'delay-proxy.ts'), [String(port), String(milliseconds)], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
  const line = await new Promise<string>((resolve) => child.stdout?.once('data', (chunk: Buffer) => resolve(chunk.toString())))
  return { port: Number(line), stop: () => child.disconnect() }
}

export async function run(): Promise<void> {
  const database = await benchDatabase()
  try {
    const { me, patients } = await prepare(database)
    for (const clients of [1, 8]) await measure('loopback', database, me, patients, clients, (url) => url)
    const proxy = await delayed(Number(new URL(database.adminUrl).port), 1)
    const via = (url: string): string => {
      const through = new URL(url)
      through.port = String(proxy.port)
      return through.href
    }
    const probe = new pg.Client({ connectionString: via(database.adminUrl) })
    await probe.connect()
    const started = performance.now()
    for (let i = 0; i < 50; i += 1) await probe.query({ name: 'probe', text: 'select 1' })
    process.stdout.write(`round trip through the proxy: ${((performance.now() - started) / 50).toFixed(2)} ms\n`)
    await probe.end()
    for (const clients of [1, 8]) await measure('1 ms each way', database, me, patients, clients, via)
    proxy.stop()
  } finally {
    await database.close()
  }
}
