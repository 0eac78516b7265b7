import { randomUUID } from 'node:crypto'
import { openColumns, type Columns } from '../../src/columns.ts'
import type { Keyring } from '../../src/keyring.ts'
import { defineTables, plain, sealed } from '../../src/tables.ts'
import { kernelRetention } from '../../src/tables/kernel.ts'
import type { TestDatabase } from './database.ts'

/** A service as small as can be: one table about people, with columns of two retention classes. */
export function peopleTables(service: string) {
  return defineTables({
    service,
    retention: { ...kernelRetention, care: { days: 3653, basis: 'kept by law' }, contact: { days: 365, basis: 'consent' } },
    tables: {
      'attacks.people': {
        id: 900, about: 'People', rowId: 'id', subject: 'person', tenant: null, keep: 'care',
        columns: {
          id: plain('uuid', 'INT'), person: plain('uuid', 'INT'), name_enc: sealed(1, 'PII-E'), diagnosis_enc: sealed(2, 'SCH'),
          phone_enc: sealed(3, 'PII-E', { nullable: true, keep: 'contact' }), address_enc: sealed(4, 'PII-E', { nullable: true, keep: 'contact' }),
        },
      },
      'attacks.relatives': {
        id: 901, about: 'Their relatives', rowId: 'id', subject: 'person', tenant: null, keep: 'care',
        columns: { id: plain('uuid', 'INT'), person: plain('uuid', 'INT'), name_enc: sealed(1, 'PII-E') },
      },
    },
  })
}
export type PeopleColumns = Columns<ReturnType<typeof peopleTables>>

/** The row as it is in the table. */
export type PersonRow = { readonly id: string; readonly person: string; readonly name_enc: Buffer; readonly diagnosis_enc: Buffer; readonly phone_enc: Buffer | null; readonly address_enc: Buffer | null }

export const personColumns = 'id, person, name_enc, diagnosis_enc, phone_enc, address_enc'

/** The tables themselves; rows belong to the person they are about. */
export async function createPeople(database: TestDatabase): Promise<void> {
  const role = (name: string): string => `"${database.service}_${name}"`
  const owned = ['people', 'relatives'].map((table) => `
    alter table attacks.${table} enable row level security;
    alter table attacks.${table} force row level security;
    grant select, insert, update on attacks.${table} to ${role('app')};
    grant select on attacks.${table} to ${role('backup')};
    create policy app_select on attacks.${table} for select to ${role('app')} using (person = (select guard.actor()));
    create policy app_insert on attacks.${table} for insert to ${role('app')} with check (person = (select guard.actor()));
    create policy app_update on attacks.${table} for update to ${role('app')} using (person = (select guard.actor())) with check (person = (select guard.actor()));`)
  await database.admin(`
    create schema attacks authorization ${role('owner')};
    grant usage on schema attacks to ${role('app')}, ${role('backup')};
    set role ${role('owner')};
    create table attacks.people (id uuid primary key, person uuid not null, name_enc bytea not null, diagnosis_enc bytea not null, phone_enc bytea, address_enc bytea);
    create table attacks.relatives (id uuid primary key, person uuid not null, name_enc bytea not null);
    ${owned.join('')}
    reset role`)
}

export const columnsOf = (database: TestDatabase, keyring: Keyring): PeopleColumns => openColumns(peopleTables(database.service), keyring)

/** Writes a row past the policies, sealed as the service seals it. */
export async function plantPerson(database: TestDatabase, columns: PeopleColumns, person: string, clear: { readonly name: string; readonly diagnosis: string; readonly phone: string; readonly address: string }): Promise<string> {
  const row = await columns.seal({ sealedUnder: () => undefined }, 'attacks.people', { id: randomUUID(), person, ...clear })
  await database.admin(`insert into attacks.people (${personColumns}) values ($1, $2, $3, $4, $5, $6)`, [row.id, row.person, row.name_enc, row.diagnosis_enc, row.phone_enc, row.address_enc])
  return row.id
}

/** Reads a person's row past the policies and opens it as the service would. */
export async function openPerson(database: TestDatabase, columns: PeopleColumns, id: string): Promise<{ readonly name: string; readonly diagnosis: string; readonly phone: string | null; readonly address: string | null } | undefined> {
  const rows = await database.admin<PersonRow>(`select ${personColumns} from attacks.people where id = $1`, [id])
  return (await columns.open({ opened: () => undefined }, 'attacks.people', rows))[0]
}
