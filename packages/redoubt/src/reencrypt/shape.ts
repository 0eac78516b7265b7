import type { Column, IndexColumn, LegacyColumn, SealedColumn, Table, Tables } from '../tables.ts'

/** What a job does with the rows of one table. */
const kinds = ['reencrypt', 'import', 'wipe', 'verify'] as const
export type Kind = (typeof kinds)[number]

export type SealedPart = { readonly name: string; readonly column: SealedColumn; readonly keep: string; readonly indexes: readonly IndexPart[] }
export type IndexPart = { readonly name: string; readonly column: IndexColumn }
/** A legacy column; `into` is the place of its target among `sealed`, -1 where it is only wiped. */
export type LegacyPart = { readonly name: string; readonly column: LegacyColumn; readonly into: number }

/** One table as the jobs see it: everything from tables.ts, so that no column is forgotten. */
export type Shape = {
  readonly service: string
  readonly name: string
  readonly table: Table
  readonly sealed: readonly SealedPart[]
  readonly legacy: readonly LegacyPart[]
}

function entriesOf<K extends Column['kind']>(table: Table, kind: K): readonly (readonly [string, Extract<Column, { readonly kind: K }>])[] {
  return Object.entries<Column>(table.columns).filter((entry): entry is [string, Extract<Column, { readonly kind: K }>] => entry[1].kind === kind)
}

function shapeOf(tables: Tables, name: string, table: Table): Shape {
  const indexes = entriesOf(table, 'index')
  const sealed = entriesOf(table, 'sealed').map(([column, declared]) => ({
    name: column,
    column: declared,
    keep: declared.keep ?? table.keep,
    indexes: indexes.filter(([, index]) => index.of === column).map(([index, of]) => ({ name: index, column: of })),
  }))
  const legacy = entriesOf(table, 'legacy').map(([column, declared]) => ({
    name: column, column: declared, into: sealed.findIndex(({ name: target }) => target === declared.source?.into),
  }))
  return { service: tables.service, name, table, sealed, legacy }
}

/** The tables a job of this kind has to visit: all with sealed columns, or all with columns of an older system. */
export function shapesFor(tables: Tables, kind: Kind): readonly Shape[] {
  const all = Object.entries(tables.tables).map(([name, table]) => shapeOf(tables, name, table))
  if (kind === 'wipe') return all.filter(({ legacy }) => legacy.length > 0)
  if (kind === 'import') return all.filter(({ legacy }) => legacy.some(({ into }) => into >= 0))
  return all.filter(({ sealed }) => sealed.length > 0)
}

/** The columns that a job of this kind reads and may write, in the order in which a page carries them. */
export function columnsFor(shape: Shape, kind: Kind): { readonly read: readonly string[]; readonly write: readonly string[] } {
  const own = shape.sealed.flatMap(({ name, indexes }) => [name, ...indexes.map((index) => index.name)])
  const imported = shape.legacy.filter(({ into }) => into >= 0).map(({ name }) => name)
  const old = shape.legacy.map(({ name }) => name)
  switch (kind) {
    case 'reencrypt':
      return { read: own, write: own }
    case 'import':
      return { read: [...own, ...imported], write: own }
    case 'verify':
      return { read: [...own, ...imported], write: [] }
    case 'wipe':
      return { read: [...own, ...old], write: old }
  }
}

/** SQL identifiers of ours: checked, then written without quotes. @throws TypeError for anything else */
export function identifier(name: string): string {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(name)) throw new TypeError(`reencrypt: ${name} is not a plain SQL identifier`)
  return name
}

/** `schema.table`, each part checked. */
export function relation(name: string): string {
  const [schema = '', table = '', ...more] = name.split('.')
  if (more.length > 0) throw new TypeError(`reencrypt: ${name} is not schema.table`)
  return `${identifier(schema)}.${identifier(table)}`
}
