import { inTransaction } from '../migrate.ts'
import { openScriptConnection, type Pool, type ScriptConnection } from '../pg.ts'
import { refusalOf } from '../pg/refusal.ts'
import type { Column, Table, Tables } from '../tables.ts'

/**
 * The rights of jobs over sealed columns (reencrypt.ts). Row security is forced, so nobody sees all rows: while jobs are
 * allowed, the migrator's login reads ids and sealed columns of every row and may change these columns alone. It is
 * the login of an operator, may become owner anyway, and no process that runs all the time has it.
 */
const select = 'reencrypt_select'
const update = 'reencrypt_update'

type Rights = { readonly name: string; readonly read: readonly string[]; readonly write: readonly string[] }

function rightsOf(name: string, table: Table): Rights | null {
  const write = Object.entries<Column>(table.columns).filter(([, { kind }]) => kind !== 'plain').map(([column]) => column)
  if (write.length === 0) return null
  const keys = [table.rowId, table.subject, table.tenant].filter((column) => column !== null)
  return { name, read: [...new Set([...keys, ...write])], write }
}

function allRights(tables: Tables): readonly Rights[] {
  return Object.entries(tables.tables).flatMap(([name, table]) => rightsOf(name, table) ?? [])
}

function checked(name: string): string {
  if (!/^[a-z_][a-z0-9_.]*$/.test(name)) throw new TypeError(`rights: ${name} is not a plain SQL identifier`)
  return name
}

function granting({ name, read, write }: Rights): string {
  const table = checked(name)
  return `set local role {owner};
    grant usage on schema ${table.split('.')[0] ?? ''} to {migrator};
    grant select (${read.map(checked).join(', ')}), update (${write.map(checked).join(', ')}) on ${table} to {migrator};
    drop policy if exists ${select} on ${table};
    drop policy if exists ${update} on ${table};
    create policy ${select} on ${table} for select to {migrator} using (true);
    create policy ${update} on ${table} for update to {migrator} using (true) with check (true);`
}

function revoking({ name, read, write }: Rights): string {
  const table = checked(name)
  return `set local role {owner};
    drop policy if exists ${select} on ${table};
    drop policy if exists ${update} on ${table};
    revoke select (${read.map(checked).join(', ')}), update (${write.map(checked).join(', ')}) on ${table} from {migrator};`
}

async function connected<T>(url: string, work: (connection: ScriptConnection) => Promise<T>): Promise<T> {
  const connection = await openScriptConnection(url).catch((error: unknown) => {
    throw refusalOf(error).refusal
  })
  try {
    return await work(connection)
  } finally {
    await connection.close()
  }
}

/** Tables on which the login of this pool lacks the rights of a job. Without them it would see no row, and no error. */
export async function tablesWithoutRights(pool: Pick<Pool, 'query'>, tables: Tables): Promise<readonly string[]> {
  const rights = allRights(tables)
  const rows = await pool.query<{ readonly name: string }>({
    text: `select r.name from unnest($1::text[]) as r (name)
      where (select count(*) from pg_catalog.pg_policies p where p.schemaname || '.' || p.tablename = r.name
        and p.policyname in ('${select}', '${update}') and p.roles = array[session_user::name]) < 2`,
    values: [rights.map(({ name }) => name)],
  })
  return rows.map(({ name }) => name)
}

/**
 * Opens every table with sealed or legacy columns to the jobs. Each table for itself, waiting at most five seconds for
 * requests that hold it.
 * @param settings.url the migrator's login
 */
export async function allowReencryption(settings: { readonly url: string; readonly tables: Tables }): Promise<readonly string[]> {
  const rights = allRights(settings.tables)
  await connected(settings.url, async (connection) => {
    for (const one of rights) await inTransaction(connection, settings.tables.service, granting(one))
  })
  return rights.map(({ name }) => name)
}

/** Takes back what allowReencryption gave. */
export async function withdrawReencryption(settings: { readonly url: string; readonly tables: Tables }): Promise<readonly string[]> {
  const rights = allRights(settings.tables)
  await connected(settings.url, async (connection) => {
    for (const one of rights) await inTransaction(connection, settings.tables.service, revoking(one))
  })
  return rights.map(({ name }) => name)
}
