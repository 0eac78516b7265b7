import type { ColumnType, Generated } from 'kysely'

/** The data classes; what each demands is in docs/data-classes.md. */
export type DataClass = 'PUB' | 'INT' | 'FIN' | 'PII' | 'PII-E' | 'SCH' | 'CHD' | 'SAD' | 'CRED'

/** SQL types an unsealed column may have, and what the driver gives for each. */
type Clear = {
  uuid: string
  text: string
  int4: number
  int8: bigint
  bool: boolean
  timestamptz: Date
  date: string
  bytea: Buffer
  jsonb: unknown
  tstzrange: string
  'text[]': readonly string[]
  'uuid[]': readonly string[]
  xid8: string
}
export type SqlType = keyof Clear

declare const sealedBrand: unique symbol
declare const indexBrand: unique symbol
/** Sealed bytes as they stand in a column. Only columns.ts turns text into one, or one into text. */
export type Sealed = Buffer & { readonly [sealedBrand]: true }
/** A keyed blind index of a value (version byte, then 16 bytes). */
export type BlindIndex = Buffer & { readonly [indexBrand]: true }

type Flags = { readonly nullable?: boolean; readonly generated?: boolean }

export type PlainColumn = Flags & { readonly kind: 'plain'; readonly type: SqlType; readonly dataClass: DataClass }
export type SealedColumn = Flags & {
  readonly kind: 'sealed'
  readonly dataClass: 'PII-E' | 'SCH' | 'CHD' | 'CRED'
  /** Immutable number of the column inside its table; part of the AAD, so SQL names may change. */
  readonly id: number
  /** Retention class whose key seals it, where it differs from the table's. */
  readonly keep?: string
}
export type IndexColumn = Flags & { readonly kind: 'index'; readonly of: string; readonly id: number }

/** Forms in which an older system stored a value (docs/formats.md, "Legacy forms"). */
export type LegacyForm = 'plaintext' | 'base64' | 'gcm-v1' | 'cryptojs' | 'jwt-hs256'
export type LegacySource = {
  /** The sealed column of the same table that takes the value. */
  readonly into: string
  /** What may stand in the column; the first one that recognises a value decides, so `plaintext` comes last. */
  readonly forms: readonly LegacyForm[]
  /** Settings with the old secrets, by form: `{ cryptojs: 'LEGACY_CARD_PASSPHRASE' }`. */
  readonly secrets?: Readonly<Partial<Record<LegacyForm, string>>>
  /** For jwt-hs256: the claim that holds the value. */
  readonly claim?: string
  /** The value as it shall be sealed (trimmed, an address in small letters), or null where it is none (a placeholder). */
  readonly accept?: (value: string) => string | null
}
/** What an older system left: read and emptied by `redoubt reencrypt` alone, invisible to queries. */
export type LegacyColumn = Flags & { readonly kind: 'legacy'; readonly type: 'text' | 'bytea'; readonly dataClass: DataClass; readonly source: LegacySource | null }
export type Column = PlainColumn | SealedColumn | IndexColumn | LegacyColumn

/**
 * A column kept as it is.
 * @param type the SQL type, as the catalogue names it
 * @param dataClass what it is; PII-E, SCH, CHD and SAD must be sealed and are refused here by the compiler
 * @param flags nullable: may be null; generated: the database fills it when it is left out
 */
export function plain<T extends SqlType, const F extends Flags = Record<never, never>>(
  type: T,
  dataClass: Exclude<DataClass, 'PII-E' | 'SCH' | 'SAD' | 'CHD'>,
  flags?: F,
): { readonly kind: 'plain'; readonly type: T; readonly dataClass: DataClass } & F {
  return { kind: 'plain', type, dataClass, ...(flags as F) }
}

/** A column sealed under the row's subject and retention class; its SQL name ends in `_enc`, its SQL type is bytea. */
export function sealed<const F extends Flags & { readonly keep?: string } = Record<never, never>>(
  id: number,
  dataClass: SealedColumn['dataClass'],
  flags?: F,
): { readonly kind: 'sealed'; readonly id: number; readonly dataClass: SealedColumn['dataClass'] } & F {
  return { kind: 'sealed', id, dataClass, ...(flags as F) }
}

/** The keyed blind index of a sealed column of the same table, for equality only; its SQL name ends in `_bidx`. */
export function blindIndex<const O extends string, const F extends Flags = Record<never, never>>(
  id: number,
  of: O,
  flags?: F,
): { readonly kind: 'index'; readonly id: number; readonly of: O } & F {
  return { kind: 'index', id, of, ...(flags as F) }
}

/**
 * A column of an older system that is still there: imported into a sealed column, then wiped; without a source it is only
 * wiped (a card verification value must not be kept in any form). The migration that drops it takes it out of tables.ts.
 */
export function legacy<const S extends LegacySource, const F extends Flags = Record<never, never>>(
  type: 'text' | 'bytea',
  dataClass: DataClass,
  source: S | null,
  flags?: F,
): { readonly kind: 'legacy'; readonly type: 'text' | 'bytea'; readonly dataClass: DataClass; readonly source: S | null } & F {
  return { kind: 'legacy', type, dataClass, source, ...(flags as F) }
}

export type Table = {
  /** Immutable number of the table; part of the AAD. */
  readonly id: number
  /** One sentence for `redoubt tables` and the record of processing. */
  readonly about: string
  /** Column with the row's id (uuid, made by the app before insert). */
  readonly rowId: string
  /** Column that names the data subject whose keys seal the row; null where nothing is about a person. */
  readonly subject: string | null
  /** Column with the tenant, or null where the service has one tenant. */
  readonly tenant: string | null
  /** Retention class of the row: a key of `retention`. */
  readonly keep: string
  readonly columns: Readonly<Record<string, Column>>
}

export type Retention = { readonly days: number; readonly basis: string }

export type Tables = {
  /** Name of the service: bound into every AAD, and the prefix of its database roles. */
  readonly service: string
  readonly retention: Readonly<Record<string, Retention>>
  /** Keys are `schema.table`, as queries write them. */
  readonly tables: Readonly<Record<string, Table>>
}

type Value<C extends Column> = C extends { readonly kind: 'plain'; readonly type: infer T extends SqlType }
  ? Clear[T]
  : C extends { readonly kind: 'sealed' }
    ? Sealed
    : BlindIndex
type Nulls<C extends Column, V> = C extends { readonly nullable: true } ? V | null : V
type KyselyColumn<C extends Column> = C extends { readonly generated: true }
  ? Generated<Nulls<C, Value<C>>>
  : C extends { readonly nullable: true }
    ? ColumnType<Value<C> | null, Value<C> | null | undefined, Value<C> | null>
    : Value<C>

/** Kysely's Database type, inferred from the declaration: what is not classified does not compile in a query. */
export type Database<D extends Tables> = {
  [T in keyof D['tables']]: {
    [C in keyof D['tables'][T]['columns'] as D['tables'][T]['columns'][C] extends { readonly kind: 'legacy' } ? never : C]: KyselyColumn<D['tables'][T]['columns'][C]>
  }
}

/** Names of the declared tables. */
export type TableName<D extends Tables> = keyof D['tables'] & string

function check(condition: boolean, message: string): void {
  if (!condition) throw new TypeError(`defineTables: ${message}`)
}

function checkLegacy(where: string, { source, dataClass }: LegacyColumn, columns: Table['columns']): void {
  check(dataClass !== 'SAD' || source === null, `${where}: SAD is wiped, never imported`)
  if (source === null) return
  check(columns[source.into]?.kind === 'sealed', `${where}: source.into must name a sealed column of its table`)
  check(source.forms.length > 0, `${where}: source.forms must not be empty`)
  check(!source.forms.slice(0, -1).includes('plaintext'), `${where}: plaintext recognises everything and must come last`)
  check(!source.forms.includes('jwt-hs256') || source.claim !== undefined, `${where}: jwt-hs256 needs source.claim`)
  for (const form of source.forms) {
    const secret = source.secrets?.[form]
    check((form === 'plaintext' || form === 'base64') === (secret === undefined), `${where}: source.secrets must name a setting for each form that has a secret, and for no other`)
  }
}

function checkTable(name: string, table: Table, retention: Tables['retention']): void {
  const { columns } = table
  check(/^[a-z][a-z_]*\.[a-z][a-z0-9_]*$/.test(name), `${name}: a table is named schema.table`)
  check(columns[table.rowId]?.kind === 'plain', `${name}: rowId must name a plain column`)
  check(table.keep in retention, `${name}: keep must name a retention class`)
  for (const reference of [table.subject, table.tenant]) {
    check(reference === null || columns[reference]?.kind === 'plain', `${name}: subject and tenant must name plain columns`)
  }
  const ids = new Set<number>()
  for (const [columnName, column] of Object.entries(columns)) {
    const where = `${name}.${columnName}`
    if (column.kind === 'plain') continue
    if (column.kind === 'legacy') {
      checkLegacy(where, column, columns)
      continue
    }
    check(Number.isInteger(column.id) && column.id > 0 && column.id < 0x1_0000, `${where}: id must be 1 to 65535`)
    check(!ids.has(column.id), `${where}: id is used twice in the table`)
    ids.add(column.id)
    if (column.kind === 'sealed') {
      check(columnName.endsWith('_enc'), `${where}: a sealed column ends in _enc`)
      check(table.subject !== null, `${where}: a sealed column needs a data subject`)
      check(column.keep === undefined || column.keep in retention, `${where}: keep must name a retention class`)
    } else {
      check(columnName.endsWith('_bidx'), `${where}: a blind index ends in _bidx`)
      check(columns[column.of]?.kind === 'sealed', `${where}: a blind index is of a sealed column of its table`)
    }
  }
}

/**
 * The one declaration of what the data is. Sealing, isolation checks, masking, audit, export, erasure and
 * retention read it; there is no second list of sensitive columns.
 * @throws TypeError when it contradicts itself; the message names the table and column
 */
export function defineTables<const D extends Tables>(declaration: D): D {
  check(/^[a-z][a-z0-9_]{1,30}$/.test(declaration.service), 'service must be small letters, digits, underscores')
  const ids = new Map<number, string>()
  for (const [name, table] of Object.entries(declaration.tables)) {
    const taken = ids.get(table.id)
    check(taken === undefined, `${name}: id ${table.id} is already that of ${taken ?? ''}`)
    check(Number.isInteger(table.id) && table.id > 0 && table.id < 0x1_0000, `${name}: id must be 1 to 65535`)
    ids.set(table.id, name)
    checkTable(name, table, declaration.retention)
  }
  return Object.freeze(declaration)
}

/** The table's declaration. @throws TypeError when it is not declared */
export function tableOf(declaration: Tables, name: string): Table {
  const table = declaration.tables[name]
  if (table === undefined) throw new TypeError(`tables: ${name} is not declared`)
  return table
}
