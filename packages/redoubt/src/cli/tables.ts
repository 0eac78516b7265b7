import type { Column, Table } from '../tables.ts'
import { appOptions, tablesOf } from './app.ts'
import { aligned, asksForHelp, counted, exits, type Io } from './io.ts'

const usage = `redoubt tables --app <folder>

Prints what the app declares of its data: for each column its class, whether it is sealed and can be searched, whose
data it is, and how long it is kept.
`

function rowOf(tableName: string, table: Table, name: string, column: Column, days: (keep: string) => string): readonly string[] {
  const index = Object.entries(table.columns).find(([, other]) => other.kind === 'index' && other.of === name)
  const searchable = column.kind === 'index' ? 'is the index' : column.kind === 'legacy' ? 'no' : column.kind === 'plain' ? 'yes' : index === undefined ? 'no' : 'by equality'
  const keep = column.kind === 'sealed' && column.keep !== undefined ? column.keep : table.keep
  const dataClass = column.kind === 'index' ? `index of ${column.of}` : column.dataClass
  return [tableName, name, dataClass, column.kind === 'sealed' ? 'sealed' : column.kind === 'legacy' ? (column.source === null ? 'to be wiped' : `into ${column.source.into}`) : '-', searchable, table.subject ?? '-', days(keep)]
}

/** `redoubt tables`: the declaration as a person reads it. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(usage)
    return exits.ok
  }
  const { app } = appOptions(args)
  const declared = await tablesOf(io, app)
  const days = (keep: string): string => `${keep}, ${counted(declared.retention[keep]?.days ?? 0, 'day')}`
  const rows = Object.entries(declared.tables).flatMap(([tableName, table]) =>
    Object.entries(table.columns).map(([name, column]) => rowOf(tableName, table, name, column, days)),
  )
  io.out(aligned(['table', 'column', 'class', 'sealed', 'searchable', 'subject', 'retention'], rows))
  return exits.ok
}
