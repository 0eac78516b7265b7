import { Refusal } from './errors.ts'
import type { KeyUser } from './context.ts'
import type { DataKey, Keyring, KeyScope } from './keyring.ts'
import type { Tx } from './pg.ts'
import { blindIndex, keyIdOf, namesKey, open, seal, type Place } from './seal.ts'
import { tableOf, type BlindIndex, type Column, type Database, type IndexColumn, type Sealed, type SealedColumn, type Table, type TableName, type Tables } from './tables.ts'

type ColumnsOf<D extends Tables, N extends TableName<D>> = D['tables'][N]['columns']
type OrNull<C, V> = C extends { readonly nullable: true } ? V | null : V

/** A row as the app knows it: `email` instead of `email_enc`, no blind indexes. */
export type Clear<D extends Tables, N extends TableName<D>> = {
  [C in keyof ColumnsOf<D, N> as ColumnsOf<D, N>[C] extends { readonly kind: 'index' | 'legacy' }
    ? never
    : ColumnsOf<D, N>[C] extends { readonly kind: 'sealed' }
      ? C extends `${infer Name}_enc` ? Name : never
      : C]: ColumnsOf<D, N>[C] extends { readonly kind: 'sealed' }
    ? OrNull<ColumnsOf<D, N>[C], string>
    : C extends keyof Database<D>[N] ? Database<D>[N][C] extends { readonly __insert__: infer I } ? I : Database<D>[N][C] : never
}

type IndexesOf<Columns, R> = {
  [C in keyof Columns as Columns[C] extends { readonly kind: 'index'; readonly of: `${infer Name}_enc` } ? (Name extends keyof R ? C : never) : never]: BlindIndex
}

/** The same row ready to be written. */
export type SealedRow<D extends Tables, N extends TableName<D>, R> = {
  [K in keyof R as K extends keyof ColumnsOf<D, N> ? K : `${K & string}_enc`]: K extends keyof ColumnsOf<D, N> ? R[K] : null extends R[K] ? Sealed | null : Sealed
} & IndexesOf<ColumnsOf<D, N>, R>

/** A row read, with its sealed columns opened. */
export type OpenedRow<R> = {
  [K in keyof R as K extends `${infer Name}_enc` ? Name : K]: K extends `${string}_enc` ? (null extends R[K] ? string | null : string) : R[K]
}

/** Where an opened subject is noted, and for whom its key is used: a Tx, or what declared() makes for transaction.one. */
export type Witness = Pick<Tx, 'opened'> & Partial<Pick<Tx, 'keyUser'>>
/** The same for sealing. */
export type Sealing = Pick<Tx, 'sealedUnder'> & Partial<Pick<Tx, 'keyUser'>>

export type Columns<D extends Tables> = {
  /**
   * Seals the clear columns of a row for writing. The row id, the subject and the tenant must be among them; for an
   * update give these and what changes.
   * @throws Refusal key_destroyed when the subject was erased
   */
  seal<N extends TableName<D>, const R extends Partial<Clear<D, N>>>(tx: Sealing, table: N, row: R & Record<Exclude<keyof R, keyof Clear<D, N>>, never>): Promise<SealedRow<D, N, R>>
  /**
   * Opens the sealed columns of rows and notes each subject on `witness`. The row id, the subject and the tenant must
   * have been selected. A nullable column whose key was destroyed reads as null.
   * @throws Refusal sealed_value_refused for a value that does not belong where it stands; key_destroyed
   */
  open<N extends TableName<D>, R extends object>(witness: Witness, table: N, rows: readonly R[]): Promise<readonly OpenedRow<R>[]>
  /**
   * Every blind index a value may stand under, for `= any(…)`; the first is the one to write.
   * @param tenant whose rows are searched; by default the service's one tenant
   */
  lookup<N extends TableName<D>>(table: N, column: keyof ColumnsOf<D, N> & `${string}_bidx`, value: string, tenant?: string): Promise<readonly BlindIndex[]>
}

/** For transaction.one: opening is allowed for the subjects the audit entry already names, and for nobody else. */
export function declared(subjects: readonly string[], keyUser: KeyUser): Witness {
  return {
    keyUser,
    opened(subject) {
      if (!subjects.includes(subject)) throw new TypeError('columns: a row of a subject was opened that the operation did not name')
    },
  }
}

type Shape = {
  readonly table: Table
  readonly sealed: readonly (readonly [name: string, clear: string, column: SealedColumn, keep: string])[]
  readonly indexes: readonly (readonly [name: string, clear: string, column: IndexColumn])[]
  /** Names of the sealed columns, as stored and as the app knows them. */
  readonly sealedNames: ReadonlySet<string>
  readonly clearNames: ReadonlySet<string>
}

function shapeOf(table: Table): Shape {
  const entries = Object.entries<Column>(table.columns)
  const sealed = entries.flatMap(([name, column]) => (column.kind === 'sealed' ? [[name, name.slice(0, -4), column, column.keep ?? table.keep] as const] : []))
  return {
    table,
    sealed,
    sealedNames: new Set(sealed.map(([name]) => name)),
    clearNames: new Set(sealed.map(([, clear]) => clear)),
    indexes: entries.flatMap(([name, column]) => (column.kind === 'index' ? [[name, column.of.slice(0, -4), column] as const] : [])),
  }
}

type Row = Readonly<Record<string, unknown>>

/** A copy without what is there under these names; from one that they are deleted from, everything is read more slowly. */
function without(row: Row, names: ReadonlySet<string>): Record<string, unknown> {
  const out: Record<string, unknown> = {}
  for (const name of Object.keys(row)) {
    if (row[name] === undefined || !names.has(name)) out[name] = row[name]
  }
  return out
}

/** The row's own place: who and where it claims to be. A row that was moved claims something the seal does not say. */
function placeOf(name: string, { table }: Shape, service: string, row: Row): Omit<Place, 'column'> {
  const rowId = row[table.rowId]
  const subject = table.subject === null ? undefined : row[table.subject]
  const tenant = table.tenant === null ? service : row[table.tenant]
  if (typeof rowId !== 'string' || typeof subject !== 'string' || typeof tenant !== 'string') {
    throw new TypeError(`columns: a row of ${name} needs ${[table.rowId, table.subject, table.tenant].filter((c) => c !== null).join(', ')}`)
  }
  return { tenant, table: table.id, row: rowId, subject }
}

/**
 * Seals and opens rows as tables.ts says. The only code that sees sealed columns in clear.
 * @param tables the declaration
 * @param keyring where the subjects' keys come from
 */
export function openColumns<D extends Tables>(tables: D, keyring: Keyring): Columns<D> {
  const shapes = new Map(Object.entries(tables.tables).map(([name, table]) => [name, shapeOf(table)]))

  function shape(name: string): Shape {
    return shapes.get(name) ?? shapeOf(tableOf(tables, name))
  }

  async function sealRow(tx: Sealing, name: string, row: Row): Promise<Row> {
    const of = shape(name)
    const place = placeOf(name, of, tables.service, row)
    const keeps: string[] = []
    for (const [, clear, , keep] of of.sealed) {
      if (row[clear] !== undefined && row[clear] !== null && !keeps.includes(keep)) keeps.push(keep)
    }
    const scopes: readonly KeyScope[] = keeps.map((keep) => ({ tenant: place.tenant, subject: place.subject, keep }))
    const keys = await keyring.keysFor(scopes, tx.keyUser)
    const out = without(row, of.clearNames)
    for (const [column, clear, { id }, keep] of of.sealed) {
      const value = row[clear]
      if (value === undefined) continue
      const key = keys[keeps.indexOf(keep)]
      if (value === null || key === undefined) {
        out[column] = null
        continue
      }
      if (typeof value !== 'string') throw new TypeError(`columns: ${name}.${clear} must be a text`)
      out[column] = seal(key, { ...place, column: id }, value)
      tx.sealedUnder(key.id)
    }
    for (const [column, clear, { id }] of of.indexes) {
      const value = row[clear]
      if (value === null) out[column] = null
      if (typeof value !== 'string') continue
      const [newest] = await keyring.indexKeys(of.table.id, id, tx.keyUser)
      if (newest === undefined) throw new Refusal('key_refused')
      out[column] = blindIndex(newest, { tenant: place.tenant, table: of.table.id, column: id }, value)
    }
    return out
  }

  /** Nobody has this key: the class was erased, or somebody altered the key id. Only the first may read as nothing. */
  async function withoutKey(place: Place, keep: string, column: SealedColumn): Promise<null> {
    if (!(await keyring.erased({ tenant: place.tenant, subject: place.subject, keep }))) throw new Refusal('sealed_value_refused')
    if (column.nullable === true) return null
    throw new Refusal('key_destroyed')
  }

  function openValue(key: DataKey, place: Place, keep: string, value: Buffer): string {
    // A key that is genuine but somebody else's, or of another retention class, opens nothing here.
    if (key.scope.tenant !== place.tenant || key.scope.subject !== place.subject || key.scope.keep !== keep) throw new Refusal('sealed_value_refused')
    return open(key, place, value).toString('utf8')
  }

  async function openRows(witness: Witness, name: string, rows: readonly Row[]): Promise<readonly Row[]> {
    const of = shape(name)
    const ids = new Map<string, Buffer>()
    let last: Buffer | undefined
    for (const row of rows) {
      for (const [column] of of.sealed) {
        const value = row[column]
        if (!Buffer.isBuffer(value) || (last !== undefined && namesKey(value, last))) continue
        last = keyIdOf(value)
        ids.set(last.toString('hex'), last)
      }
    }
    const keys = ids.size === 0 ? new Map<string, DataKey>() : await keyring.byId([...ids.values()], witness.keyUser)
    const opened: Row[] = []
    // Columns of a row, and often rows of a page, stand under one key.
    let [key] = keys.values()
    for (const row of rows) {
      const out = without(row, of.sealedNames)
      let place: Omit<Place, 'column'> | undefined
      for (const [column, clear, declaredColumn, keep] of of.sealed) {
        const value = row[column]
        if (value === undefined) continue
        if (!Buffer.isBuffer(value)) {
          out[clear] = null
          continue
        }
        if (place === undefined) {
          place = placeOf(name, of, tables.service, row)
          witness.opened(place.subject)
        }
        if (key === undefined || !namesKey(value, key.id)) key = keys.get(keyIdOf(value).toString('hex'))
        const at = { ...place, column: declaredColumn.id }
        out[clear] = key === undefined ? await withoutKey(at, keep, declaredColumn) : openValue(key, at, keep, value)
      }
      opened.push(out)
    }
    return opened
  }

  async function lookupValue(name: string, column: string, value: string, tenant: string): Promise<readonly BlindIndex[]> {
    const { table, indexes } = shape(name)
    const index = indexes.find(([other]) => other === column)
    if (index === undefined) throw new TypeError(`columns: ${name}.${column} is not a blind index`)
    const place = { tenant, table: table.id, column: index[2].id }
    return (await keyring.indexKeys(table.id, place.column)).map((key) => blindIndex(key, place, value))
  }

  return {
    seal: (tx, table, row) => sealRow(tx, table, row) as never,
    open: (witness, table, rows) => openRows(witness, table, rows as readonly Row[]) as never,
    lookup: (table, column, value, tenant = tables.service) => lookupValue(table, column, value, tenant),
  }
}
