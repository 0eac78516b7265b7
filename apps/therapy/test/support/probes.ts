import { randomUUID } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import type pg from 'pg'
import { claimOf, installKnownKey, type KnownKey } from '../../../../packages/redoubt/test/support/claims.ts'
import type { TestDatabase } from '../../../../packages/redoubt/test/support/database.ts'
import { assignments, insertions, lawful, type Row } from './deeds.ts'
import { idOf, keyColumn, plantHousehold, visible, type Household, type TableName, type Viewer } from './household.ts'

type Column = { readonly table: TableName; readonly name: string; readonly selectable: boolean; readonly generated: boolean }

export type Probe = {
  readonly database: TestDatabase
  readonly household: Household
  /** What this viewer sees of the table that the matrix does not show them, or does not see though it does. */
  reads(viewer: Viewer, table: TableName): Promise<readonly string[]>
  /** What this viewer could change, add or remove though the matrix does not let them. */
  writes(viewer: Viewer, table: TableName): Promise<readonly string[]>
  /** Foreign keys by which this viewer tells a row they cannot see from one that does not exist. */
  references(viewer: Viewer): Promise<readonly string[]>
}

export const viewers = Object.keys(visible) as readonly Viewer[]
export const tables = Object.keys(keyColumn) as readonly TableName[]

type Snapshot = ReadonlyMap<string, { readonly table: TableName; readonly row: Row }>

/** Plants the household and gives the probes, as SQL that runs inside a transaction of each viewer over the app's login. */
export async function openProbe(database: TestDatabase, client: pg.Client): Promise<Probe> {
  const household = await plantHousehold(database)
  const key: KnownKey = await installKnownKey(database)
  const columns = await database.admin<Column>(
    `select n.nspname || '.' || c.relname as table, a.attname as name, a.attgenerated <> '' as generated, has_column_privilege($1, c.oid, a.attnum, 'select') as selectable
     from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where n.nspname || '.' || c.relname = any($2)`, [`${database.service}_app`, tables])
  const columnsOf = (table: TableName): readonly Column[] => columns.filter((column) => column.table === table)
  const listOf = (table: TableName): string => columnsOf(table).filter(({ generated }) => !generated).map(({ name }) => name).join(', ')
  const savedName = (table: TableName): string => `saved.${table.replace('.', '_')}`
  await database.admin(['create schema saved', ...tables.map((table) => `create table ${savedName(table)} as select * from ${table}`)].join(';'))

  const snapshotText = tables.map((table) => `select '${table}' as table, ${keyColumn[table]}::text as key, to_jsonb(t) as row from ${table} t`).join(' union all ')
  async function snapshot(): Promise<Snapshot> {
    const rows = await database.admin<{ table: TableName; key: string; row: Row }>(snapshotText)
    return new Map(rows.map(({ table, key: id, row }) => [`${table} ${id}`, { table, row }]))
  }
  const planted = await snapshot()
  const labels = new Map([...Object.values(visible).flatMap((of) => Object.values(of).flat()), ...Object.keys(household.accounts)].map((label) => [idOf(label), label]))
  const named = (id: string): string => labels.get(id) ?? id

  /** As superuser with triggers off: everything as it was planted. */
  async function restore(): Promise<void> {
    await database.admin(['set session_replication_role = replica', ...tables.map((table) => `delete from ${table}; insert into ${table} (${listOf(table)}) select ${listOf(table)} from ${savedName(table)}`), 'set session_replication_role = origin'].join(';'))
  }

  /** One trip: the simple protocol runs several statements as one transaction, which is what an attacker would want. */
  async function said(viewer: Viewer, sql: string): Promise<pg.QueryResult<pg.QueryResultRow> | string> {
    const claim = claimOf(key, database, household.callers[viewer])
    const results: unknown = await client.query(`select pg_catalog.set_config('redoubt.caller', '${claim}', true); ${sql}`).catch((error: { readonly code: string; readonly constraint?: string }) => `${error.code} ${error.constraint ?? ''}`)
    return Array.isArray(results) ? (results.at(-1) as pg.QueryResult<pg.QueryResultRow>) : String(results)
  }
  async function as(viewer: Viewer, sql: string): Promise<pg.QueryResult<pg.QueryResultRow> | undefined> {
    const answer = await said(viewer, sql)
    return typeof answer === 'string' ? undefined : answer
  }

  async function copied(viewer: Viewer, sql: string): Promise<readonly string[]> {
    const { connection } = client as unknown as { readonly connection: EventEmitter }
    const lines: string[] = []
    const take = ({ chunk }: { readonly chunk: Buffer }): void => void lines.push(chunk.toString('utf8').trim())
    connection.on('copyData', take)
    await as(viewer, sql)
    connection.off('copyData', take)
    return lines
  }

  async function reads(viewer: Viewer, table: TableName): Promise<readonly string[]> {
    const column = keyColumn[table]
    const due = new Set((visible[viewer][table] ?? []).map(idOf))
    const keys = (rows: readonly pg.QueryResultRow[] | undefined): readonly string[] => (rows ?? []).map((row) => String(row[column]))
    const all = [...planted.values()].filter((each) => each.table === table).map(({ row }) => `'${String(row[column])}'`).join(', ')
    const xml: unknown = (await as(viewer, `select pg_catalog.query_to_xml('select ${column} from ${table}', true, false, '')::text as xml`))?.rows[0]?.['xml']
    const found: Readonly<Record<string, readonly string[]>> = {
      SELECT: keys((await as(viewer, `select ${column} from ${table}`))?.rows),
      'SELECT by key': keys((await as(viewer, `select ${column} from ${table} where ${column} in (${all})`))?.rows),
      'SELECT of the unwanted by a join': keys((await as(viewer, `select t.${column} from ${table} t right join (values ${all.replaceAll("'", "('").replaceAll("(',", "'),").replace(/\('$/, "')")}) k (id) on k.id::uuid = t.${column} where t.${column} is not null`))?.rows),
      'COPY of a query': await copied(viewer, `copy (select ${column} from ${table}) to stdout`),
      'COPY of the table': await copied(viewer, `copy ${table} (${column}) to stdout`),
      'a function that runs a query': typeof xml === 'string' ? (xml.match(/[0-9a-f]{8}-[0-9a-f-]{27}/g) ?? []) : [],
    }
    const problems: string[] = []
    for (const [form, ids] of Object.entries(found)) {
      for (const id of ids) if (!due.has(id)) problems.push(`${viewer} reads ${named(id)} of ${table} by ${form}`)
      for (const id of due) if (!ids.includes(id)) problems.push(`${viewer} does not read ${named(id)} of ${table} by ${form}`)
    }
    const counted = (await as(viewer, `select count(*)::int as n from ${table}`))?.rows[0]?.['n'] as number | undefined
    if ((counted ?? 0) !== due.size) problems.push(`${viewer} counts ${counted} in ${table}`)
    for (const { name, selectable } of columnsOf(table)) {
      if (!selectable && (await as(viewer, `select ${name} from ${table}`)) !== undefined) problems.push(`${viewer} reads column ${name} of ${table}`)
    }
    return problems
  }

  async function attackWrites(viewer: Viewer, table: TableName): Promise<void> {
    const column = keyColumn[table]
    const rows = [...planted.values()].filter((each) => each.table === table).map(({ row }) => row)
    const me = household.callers[viewer].actor ?? randomUUID()
    const each = rows.map((row) => `${column} = '${String(row[column])}'`)
    await as(viewer, `truncate ${table}`)
    await as(viewer, `delete from ${table}`)
    for (const where of each) await as(viewer, `delete from ${table} where ${where}`)
    for (const set of assignments(table, columnsOf(table).map(({ name }) => name), me)) {
      // Without WHERE no select policy is asked; with it, one row's refusal does not save the others.
      await as(viewer, `update ${table} set ${set.sql}`)
      if (set.likely) for (const where of each) await as(viewer, `update ${table} set ${set.sql} where ${where}`)
    }
    for (const row of insertions(table, rows, me)) await as(viewer, insertOf(table, row))
  }

  function insertOf(table: TableName, row: Row): string {
    const json = JSON.stringify(row).replaceAll("'", "''")
    return `insert into ${table} (${listOf(table)}) select ${listOf(table)} from pg_catalog.jsonb_populate_record(null::${table}, '${json}')`
  }

  async function references(viewer: Viewer): Promise<readonly string[]> {
    const keys = await database.admin<{ table: TableName; columns: string[]; target: TableName }>(
      `select k.conrelid::regclass::text as table, k.confrelid::regclass::text as target,
         array(select a.attname::text from unnest(k.conkey) c join pg_attribute a on a.attrelid = k.conrelid and a.attnum = c where a.atttypid = 'uuid'::regtype) as columns
       from pg_constraint k where k.contype = 'f' and k.conrelid::regclass::text = any($1) and k.confrelid::regclass::text = any($1)`, [tables])
    const problems: string[] = []
    const me = household.callers[viewer].actor ?? randomUUID()
    for (const { table, columns: names, target } of keys) {
      const hidden = [...planted.values()].filter((each) => each.table === target).map(({ row }) => String(row[keyColumn[target]])).filter((id) => !(visible[viewer][target] ?? []).map(idOf).includes(id))
      const mine = insertions(table, [...planted.values()].filter((each) => each.table === table).map(({ row }) => row), me).filter((row) => lawful(table, household.callers[viewer].actor, null, row, viewer))
      for (const row of mine.slice(0, 4)) {
        for (const name of names) {
          // A row's own id is a unique key: who makes the row learns that one of that id is there (guarantees §1).
          if (name === keyColumn[table]) continue
          const absent = await said(viewer, insertOf(table, { ...row, [name]: randomUUID() }))
          for (const id of hidden) {
            const answer = await said(viewer, insertOf(table, { ...row, [name]: id }))
            if (typeof answer !== 'string' || answer !== absent) problems.push(`${viewer} learns by ${table}.${name} that ${named(id)} of ${target} exists`)
          }
        }
      }
    }
    await restore()
    return problems
  }

  async function writes(viewer: Viewer, table: TableName): Promise<readonly string[]> {
    await attackWrites(viewer, table)
    const now = await snapshot()
    const problems: string[] = []
    const me = household.callers[viewer].actor
    const seen = new Set(Object.entries(visible[viewer]).flatMap(([name, of]) => of.map((label) => `${name} ${idOf(label)}`)))
    let changed = false
    for (const [id, { table: where, row }] of planted) {
      const after = now.get(id)?.row
      if (after === undefined) problems.push(`${viewer} removed ${named(id.split(' ')[1] ?? '')} of ${where}`)
      else if (JSON.stringify(after) !== JSON.stringify(row)) {
        changed = true
        if (!seen.has(id) || !lawful(where, me, row, after)) problems.push(`${viewer} changed ${named(id.split(' ')[1] ?? '')} of ${where}`)
      }
    }
    for (const [id, { table: where, row }] of now) {
      if (planted.has(id)) continue
      changed = true
      if (!lawful(where, me, null, row, viewer)) problems.push(`${viewer} added ${JSON.stringify(row)} to ${where}`)
    }
    if (changed || problems.length > 0) await restore()
    return problems
  }

  return { database, household, reads, writes, references }
}
