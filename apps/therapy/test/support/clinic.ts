import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import type { Emit, Event } from 'redoubt/events'
import { isBreached } from 'redoubt/tokens/breached'
import { testDatabase, type TestDatabase } from '../../../../packages/redoubt/test/support/database.ts'
import { wayTo } from '../../../../packages/redoubt/test/support/way.ts'
import { createAdministrator } from '../../src/administrators.ts'
import { openService, type Service, type ServiceSettings } from '../../src/service.ts'
import { verifyTherapist } from '../../src/verification.ts'
import { protect } from './factors.ts'

export type Answer = { readonly status: number; readonly headers: Headers; readonly text: string; readonly body: Readonly<Record<string, never>> & Record<string, unknown> }
export type Send = (method: string, path: string, body?: unknown, headers?: Record<string, string>) => Promise<Answer>
export type Someone = { readonly id: string; readonly email: string; readonly password: string; readonly token: string; readonly send: Send }

/** A process of the service. */
export type Instance = { readonly service: Service; readonly address: string; readonly adminAddress: string; send(token?: string): Send; /** At the door of the administration. */ admin(token?: string): Send; stop(): Promise<void> }

export type Clinic = {
  readonly database: TestDatabase
  readonly service: Service
  readonly events: Event[]
  readonly address: string
  /** Of the door of the administration. */
  readonly adminAddress: string
  /** Setting of the key service. */
  readonly kms: string
  /** Moves the service's clock; the database keeps its own. */
  travel(to: Date): void
  /** Another instance of the same service, on the same database and keys; stopped at the end of the file at the latest. */
  another(more?: Partial<ServiceSettings>): Promise<Instance>
  /** By itself at the end of the file. */
  close(): Promise<void>
  /** The same at the door of the administration. */
  admin(token?: string): Send
  /** Somebody who administers or audits, past the second factor, signed in at their own door. */
  administrator(role?: 'admin' | 'auditor'): Promise<Someone & { readonly refresh: string; readonly recovery: readonly string[] }>
  /** A request without a token, or with the given one. */
  send(token?: string): Send
  patient(name?: { readonly first?: string; readonly last?: string; readonly phone?: string }): Promise<Someone>
  therapist(more?: { readonly verified?: boolean; readonly zone?: string }): Promise<Someone>
  /** The digits that the mail for this registration carries. */
  mailed(request: unknown): Promise<string>
  /** An active care relationship; gives its id. */
  care(patient: Someone, therapist: Someone): Promise<string>
  /** A slot some hours from now (25 by default, so that it can be cancelled), booked when a patient is given. */
  slot(therapist: Someone, more?: { readonly hours?: number; readonly patient?: Someone }): Promise<string>
}

function sendTo(address: string): (token?: string) => Send {
  return (token) => async (method, path, body, headers = {}) => {
    const response = await fetch(address + path, {
      method,
      headers: { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    return { status: response.status, headers: response.headers, text, body: (text === '' ? {} : JSON.parse(text)) as Answer['body'] }
  }
}

/** A suite asks more often than anybody may: its numbers are large, its limits on. */
export const roomy = { anonymous: 1_000_000, caller: 1_000_000, address: 1_000_000, flood: 1_000_000, signIn: 1_000_000, signInAddress: 1_000_000 } as const

/**
 * A whole Therapy over a database of its own, listening on a free port until the end of the file.
 * @param given.database another database; given.emit hears the events too; given.settings instead of the usual ones
 */
export async function openClinic(given: { readonly database?: TestDatabase; readonly emit?: Emit; readonly settings?: Partial<ServiceSettings> } = {}): Promise<Clinic> {
  const database = given.database ?? (await testDatabase())
  const way = await wayTo(database)
  const folder = await mkdtemp(join(tmpdir(), 'therapy-'))
  const kms = given.settings?.kms ?? `local:${join(folder, 'keys', 'root.key')}`
  const events: Event[] = []
  const emit = (event: Event): void => {
    events.push(event)
    given.emit?.(event)
  }
  let shift = 0
  const instances: Instance[] = []
  const start = async (more: Partial<ServiceSettings> = {}): Promise<Instance> => {
    const service = await openService({
      databaseUrl: way.url('app'), keysUrl: way.url('keys'), namedStatements: way.namedStatements, kms, roles: database.service,
      production: false, publicOrigin: 'http://therapy.test', adminOrigin: 'http://admin.therapy.test', poolSize: 8, limits: roomy, now: () => new Date(Date.now() + shift), emit, ...given.settings, ...more,
    })
    const doors = [service.server, service.admin?.server ?? assert.fail()]
    for (const door of doors) await new Promise<void>((resolve) => door.listen(0, '127.0.0.1', resolve))
    const [address = '', admin = ''] = doors.map((door) => `http://127.0.0.1:${(door.address() as AddressInfo).port}`)
    let stopping: Promise<void> | undefined
    const stop = async (): Promise<void> => {
      for (const door of doors) {
        door.closeAllConnections()
        await new Promise((resolve) => door.close(resolve))
      }
      await service.close()
    }
    const instance: Instance = { service, address, adminAddress: admin, send: sendTo(address), admin: sendTo(admin), stop: () => (stopping ??= stop()) }
    instances.push(instance)
    return instance
  }
  const { service, address, adminAddress, send, admin } = await start()
  let closing: Promise<void> | undefined
  const closeAll = async (): Promise<void> => {
    for (const instance of instances) await instance.stop()
    await way.close()
    await rm(folder, { recursive: true, force: true })
  }
  const close = (): Promise<void> => (closing ??= closeAll())
  after(close)

  async function mailed(request: unknown): Promise<string> {
    const { codes } = service.app
    const handleHash = await codes.hashOf('email_verify', String(request))
    const [row] = await database.admin<{ id: string }>('select id from redoubt.one_time_codes where handle_hash = $1', [handleHash])
    return codes.digitsOf({ id: row?.id ?? '', handleHash }, 8)
  }

  async function verify({ status, text, body }: Answer): Promise<void> {
    assert.equal(status, 202, text)
    const verified = await send()('POST', '/api/auth/email/verify', { request: body['request'], code: await mailed(body['request']) })
    assert.equal(verified.status, 200, verified.text)
  }

  async function signedIn(email: string, password: string): Promise<Someone> {
    const { status, body } = await send()('POST', '/api/auth/login', { email, password })
    assert.equal(status, 200)
    const token = String(body['access_token'])
    return { id: String(body['user_id']), email, password, token, send: send(token) }
  }

  let people = 0
  // The list of breached passwords is a Bloom filter: three of a thousand random ones seem to be on it.
  const passPhrase = (): string => {
    for (;;) {
      const password = randomBytes(12).toString('base64url')
      if (!isBreached(password)) return password
    }
  }
  const fresh = (): { email: string; password: string } => ({ email: `person${++people}@example.org`, password: passPhrase() })

  return {
    database, service, events, address, adminAddress, kms, send, mailed, admin,
    another: start,
    close,
    travel: (to) => {
      shift = to.getTime() - Date.now()
    },
    async patient({ first = 'Ada', last = 'Sommer', phone } = {}) {
      const { email, password } = fresh()
      await verify(await send()('POST', '/api/auth/register', { role: 'patient', email, password, first_name: first, last_name: last, dob: '1988-04-12', phone }))
      return signedIn(email, password)
    },
    async therapist({ verified = true, zone = 'Europe/Berlin' } = {}) {
      const { email, password } = fresh()
      await verify(await send()('POST', '/api/auth/register', {
        role: 'therapist', email, password, display_name: `Dr. Nr ${people}`, specialisation: 'Anxiety', licence_number: 'LANR 123456789',
        price_minor: 11_000, currency: 'EUR', time_zone: zone,
      }))
      if (verified) await verifyTherapist(service.app, { requestId: 'verify', address: null }, email)
      return signedIn(email, password)
    },
    async administrator(role = 'admin') {
      const { email } = fresh()
      const { id, password: printed } = await createAdministrator(service.app, { requestId: 'create', address: null }, email, role)
      const password = passPhrase()
      const login = (by: string) => admin()('POST', '/api/auth/login', { email, password: by })
      const begun = String((await login(printed)).body['access_token'])
      const changed = await admin(begun)('POST', '/api/auth/password', { old_password: printed, password })
      assert.equal(changed.status, 200, changed.text)
      const { recovery } = await protect({ id, email, password, token: begun, send: admin(begun) })
      const { status, body, text } = await admin()('POST', '/api/auth/second-factor', { pending: (await login(password)).body['pending'], proof: { kind: 'recovery', code: recovery[0] } })
      assert.equal(status, 200, text)
      const token = String(body['access_token'])
      return { id, email, password, token, refresh: String(body['refresh_token']), recovery: recovery.slice(1), send: admin(token) }
    },
    async care(patient, therapist) {
      const asked = await patient.send('POST', '/api/relationships', { therapist_id: therapist.id, basis: 'self_referral' })
      assert.equal(asked.status, 201, asked.text)
      const accepted = await therapist.send('POST', `/api/relationships/${String(asked.body['id'])}/accept`, { version: 1 })
      assert.equal(accepted.status, 200, accepted.text)
      return String(asked.body['id'])
    },
    async slot(therapist, { hours = 25, patient } = {}) {
      const starts_at = new Date(Date.now() + shift + hours * 3_600_000).toISOString()
      const offered = await therapist.send('POST', '/api/appointments', { starts_at, minutes: 50, kind: 'video' })
      assert.equal(offered.status, 201, offered.text)
      const id = String(offered.body['id'])
      if (patient !== undefined) {
        const booked = await patient.send('POST', '/api/appointments', { slot_id: id, version: 1 })
        assert.equal(booked.status, 201, booked.text)
      }
      return id
    },
  }
}
