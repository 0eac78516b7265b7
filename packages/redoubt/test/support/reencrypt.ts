import { randomUUID } from 'node:crypto'
import type { Event } from '../../src/events.ts'
import type { DataKey, Keyring } from '../../src/keyring.ts'
import { openRotation } from '../../src/keyring/rotate.ts'
import { unrecorded } from './unrecorded.ts'
import { allowReencryption } from '../../src/migrate/rights.ts'
import { openPool, type Pool } from '../../src/pg.ts'
import type { ReencryptSettings } from '../../src/reencrypt.ts'
import { byteaArray, uuidArray } from '../../src/reencrypt/arrays.ts'
import { blindIndex, seal } from '../../src/seal.ts'
import { blindIndex as index, defineTables, legacy, plain, sealed, type LegacyForm, type Tables } from '../../src/tables.ts'
import { kernelRetention } from '../../src/tables/kernel.ts'
import type { TestDatabase } from './database.ts'
import { keysWorld, type KeysWorld } from './keys.ts'
import { gcmKey, jwtSecret, passphrase } from './legacy.ts'

/** A shop: customers with a sealed address and its index, a note under another retention class, and an old system's columns. */
export function shopTables(service: string, forms: readonly LegacyForm[] = ['gcm-v1', 'cryptojs', 'jwt-hs256', 'base64']) {
  return defineTables({
    service,
    retention: { ...kernelRetention, notes: { days: 30, basis: 'test' } },
    tables: {
      'shop.customers': {
        id: 200, about: 'customers', rowId: 'id', subject: 'person', tenant: null, keep: 'account',
        columns: {
          id: plain('uuid', 'INT'),
          person: plain('uuid', 'INT'),
          email_enc: sealed(1, 'PII-E', { nullable: true }),
          email_bidx: index(2, 'email_enc', { nullable: true }),
          note_enc: sealed(3, 'SCH', { nullable: true, keep: 'notes' }),
          old_email: legacy('text', 'PII-E', {
            into: 'email_enc', forms, claim: 'number', secrets: Object.fromEntries(forms.flatMap((form) => (form in settings ? [[form, settings[form] ?? '']] : []))),
            accept: (text) => (/^[\w.@-]{3,64}$/.test(text) ? text.toLowerCase() : null),
          }, { nullable: true }),
          old_cvv: legacy('text', 'SAD', null, { nullable: true }),
          seen: plain('int4', 'INT', { generated: true }),
          version: plain('int4', 'INT', { generated: true }),
        },
      },
    },
  })
}

const settings: Readonly<Partial<Record<LegacyForm, string>>> = { 'gcm-v1': 'OLD_GCM', cryptojs: 'OLD_PASSPHRASE', 'jwt-hs256': 'OLD_JWT' }
export const oldSecrets: Readonly<Record<string, string>> = { OLD_GCM: gcmKey.toString('base64'), OLD_PASSPHRASE: passphrase, OLD_JWT: jwtSecret }

export const table = { id: 200, email: 1, emailIndex: 2, note: 3 } as const

export type Customer = { readonly id: string; readonly person: string; readonly email: string | null; readonly note?: string | null }

export type Shop = {
  readonly tables: Tables
  readonly keys: KeysWorld
  readonly keyring: Keyring
  readonly pool: Pool
  readonly keysPool: Pool
  readonly events: Event[]
  readonly service: string
  /** Settings of a job, as one process has them. */
  settings(more?: Partial<ReencryptSettings>): ReencryptSettings
  /** Rows as the app would write them, with the keys that are active now. */
  insert(customers: readonly Customer[]): Promise<void>
  /** What the app would read: id to clear values. */
  read(): Promise<ReadonlyMap<string, { readonly email: string | null; readonly note: string | null; readonly found: boolean; readonly version: number }>>
  /** A new version of every data key; whoever asks for `keyring` again knows of it. */
  rotateDataKeys(): Promise<void>
  rotateIndexKey(): Promise<void>
  close(): Promise<void>
}

const shopSql = (service: string): string => `create schema shop authorization "${service}_owner";
  set role "${service}_owner";
  create table shop.customers (id uuid primary key, person uuid not null, email_enc bytea, email_bidx bytea, note_enc bytea, old_email text, old_cvv text,
    seen int4 not null default 0, version int4 not null default 1);
  create unique index customers_by_email on shop.customers (email_bidx);
  alter table shop.customers enable row level security;
  alter table shop.customers force row level security;
  reset role`

/** A table of an app with its keys, and jobs allowed on it. */
export async function openShop(database: TestDatabase, forms?: readonly LegacyForm[]): Promise<Shop> {
  const tables = shopTables(database.service, forms)
  const keys = await keysWorld(database)
  const events: Event[] = []
  const emit = (event: Event): void => void events.push(event)
  await database.admin(shopSql(database.service))
  await allowReencryption({ url: database.url('migrator'), tables })
  const pool = openPool({ url: database.url('migrator'), max: 6, statementTimeout: 60_000, emit })
  const keysPool = openPool({ url: database.url('keys'), max: 4, emit })
  let keyring = keys.keyring()

  const shop: Shop = {
    tables, keys, pool, keysPool, events, service: database.service,
    get keyring() { return keyring },
    settings: (more = {}) => ({ tables, pool, keysPool, keyring, secrets: (name) => oldSecrets[name] ?? '', emit, leaseSeconds: 2, ...more }),
    async insert(customers) {
      const [newest] = await keyring.indexKeys(table.id, table.emailIndex)
      if (newest === undefined) throw new Error('no index key')
      const tenant = database.service
      for (let at = 0; at < customers.length; at += 2000) {
        const some = customers.slice(at, at + 2000)
        const care = await keyring.keysFor(some.map(({ person }) => ({ tenant, subject: person, keep: 'account' })))
        const notes = some.some(({ note }) => typeof note === 'string') ? await keyring.keysFor(some.map(({ person }) => ({ tenant, subject: person, keep: 'notes' }))) : []
        const place = (customer: Customer, column: number) => ({ tenant, table: table.id, column, row: customer.id, subject: customer.person })
        const key = <K>(list: readonly K[], n: number): K => { const found = list[n]; if (found === undefined) throw new Error('no key'); return found }
        await database.admin(
          'insert into shop.customers (id, person, email_enc, email_bidx, note_enc) select * from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[], $5::bytea[])',
          [
            uuidArray(some.map(({ id }) => Buffer.from(id.replaceAll('-', ''), 'hex'))),
            uuidArray(some.map(({ person }) => Buffer.from(person.replaceAll('-', ''), 'hex'))),
            byteaArray(some.map((one, n) => (one.email === null ? null : seal(key(care, n), place(one, table.email), one.email)))),
            byteaArray(some.map(({ email }) => (email === null ? null : blindIndex(newest, { tenant, table: table.id, column: table.emailIndex }, email)))),
            byteaArray(some.map((one, n) => (typeof one.note === 'string' ? seal(key(notes, n), place(one, table.note), one.note) : null))),
          ],
        )
      }
    },
    async read() {
      const { openWith } = await import('../../src/seal/wire.ts')
      const fresh = keys.keyring()
      const rows = await database.admin<{ id: string; person: string; email_enc: Buffer | null; email_bidx: Buffer | null; note_enc: Buffer | null; version: number }>('select id, person, email_enc, email_bidx, note_enc, version from shop.customers')
      const ids = rows.flatMap(({ email_enc, note_enc }) => [email_enc, note_enc]).filter((value) => value !== null && value.length > 17).map((value) => (value as Buffer).subarray(1, 17))
      const found = new Map<string, DataKey>()
      // A hundred thousand at once would wait for a connection longer than anybody should.
      for (let at = 0; at < ids.length; at += 4000) for (const [id, key] of await fresh.byId(ids.slice(at, at + 4000))) found.set(id, key)
      const indexKeys = await fresh.indexKeys(table.id, table.emailIndex)
      const open = (row: { readonly id: string; readonly person: string }, column: number, value: Buffer | null): string | null => {
        const key = value === null ? undefined : found.get(value.subarray(1, 17).toString('hex'))
        return value === null || key === undefined ? null : (openWith(key, { tenant: database.service, table: table.id, column, row: row.id, subject: row.person }, value)?.toString('utf8') ?? 'does not open')
      }
      return new Map(rows.map((row) => {
        const email = open(row, table.email, row.email_enc)
        const bidx = email === null ? null : indexKeys.map((one) => blindIndex(one, { tenant: database.service, table: table.id, column: table.emailIndex }, email))
        return [row.id, { email, note: open(row, table.note, row.note_enc), found: bidx === null ? row.email_bidx === null : bidx.some((one) => row.email_bidx?.equals(one) === true), version: row.version }]
      }))
    },
    async rotateDataKeys() {
      const rotation = openRotation({ pool: keysPool, service: keys.service, realm: database.service, emit, usage: unrecorded, overlap: 0 })
      await rotation.dataKeys({})
      rotation.close()
      keyring = keys.keyring()
    },
    async rotateIndexKey() {
      const rotation = openRotation({ pool: keysPool, service: keys.service, realm: database.service, emit, usage: unrecorded, overlap: 0 })
      await rotation.indexKey({ table: table.id, column: table.emailIndex })
      rotation.close()
      keyring = keys.keyring()
    },
    async close() {
      await pool.close()
      await keysPool.close()
      await keys.close()
    },
  }
  return shop
}

/** So many customers, with a person each or several rows a person. */
export function customers(count: number, people = count, label = 'c'): readonly Customer[] {
  const persons = Array.from({ length: people }, () => randomUUID())
  return Array.from({ length: count }, (_, n) => ({ id: randomUUID(), person: persons[n % people] ?? randomUUID(), email: `${label}${n}@example.org`, note: n % 3 === 0 ? `note ${n}` : null }))
}
