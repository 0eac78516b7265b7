import pg from 'pg'

/** A column of a result, as RowDescription names it, with the parser of its type. */
export type Field = { readonly name: string; readonly parse: (text: string) => unknown }

/** Undefined for a column that a later one of its name takes the place of. */
export type Fields = readonly (Field | undefined)[]

/** What the batch needs of a RowDescription message. */
export type DescribedField = { readonly name: string; readonly dataTypeID: number }

const int8 = 20
const date = 1082
const int8Array = 1016

/**
 * bigint stays exact (the driver's default is text), and a date stays the text it is: as a Date it would
 * move by a day with the time zone of the process.
 */
const parsers = new Map<number, (text: string) => unknown>([
  [int8, (text) => BigInt(text)],
  [date, (text) => text],
  [int8Array, (text) => (text === '{}' ? [] : text.slice(1, -1).split(',').map((item) => BigInt(item)))],
])

function parserOf(oid: number): (text: string) => unknown {
  let parser = parsers.get(oid)
  if (parser === undefined) {
    parser = pg.types.getTypeParser(oid, 'text') as (text: string) => unknown
    parsers.set(oid, parser)
  }
  return parser
}

/** The fields of a result, ready to parse rows with. Of several under one name the last stands in the row; the others are not looked at. */
export function fieldsOf(described: readonly DescribedField[]): Fields {
  const last = new Map(described.map(({ name }, at) => [name, at]))
  return described.map((field, at) => (last.get(field.name) === at ? { name: field.name, parse: parserOf(field.dataTypeID) } : undefined))
}

/** One row as an object; `values` are the column texts of a DataRow message. */
export function rowOf(fields: Fields, values: readonly (string | null)[]): Record<string, unknown> {
  const row: Record<string, unknown> = {}
  for (let i = 0; i < fields.length; i += 1) {
    const field = fields[i]
    const value = values[i]
    if (field !== undefined) row[field.name] = value === null || value === undefined ? null : field.parse(value)
  }
  return row
}
