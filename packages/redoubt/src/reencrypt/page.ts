import { identifier, relation, type Shape } from './shape.ts'

/** A row of a page. The buffers are parts of the page: they live as long as it does. */
export type PageRow = {
  readonly id: string
  readonly idBytes: Buffer
  /** Null where the row is about nobody. */
  readonly subject: string | null
  readonly tenant: string
  /** In the order of the columns asked for. */
  readonly values: readonly (Buffer | null)[]
}

export type Page = {
  readonly packed: Buffer
  /** For each row where it begins, then for each column where its value does, behind the length of it; -1 for none. */
  readonly places: Int32Array
  readonly count: number
  /** Taken apart when somebody asks: most pages are worked on as they are (renew.ts). */
  row(n: number): PageRow
  rows(): readonly PageRow[]
  readonly bytes: number
  /** The id behind the last row: where reading goes on. */
  readonly next: string
  /** Whether the range is read to its end. */
  readonly end: boolean
}

/** Where the letters of the subject stand in a row, behind its id, and where its tenant does. */
export const SUBJECT_AT = 16
export const TENANT_AT = SUBJECT_AT + 36
const nobody = ' '.repeat(36)

function packed(shape: Shape, name: string): string {
  const column = shape.table.columns[name]
  const of = `p.${identifier(name)}`
  const bytes = column?.kind === 'legacy' && column.type === 'text' ? `convert_to(${of}, 'UTF8')` : of
  return `case when ${of} is null then '\\xffffffff'::bytea else int4send(octet_length(${bytes})) || ${bytes} end`
}

/**
 * Text of the statement that reads a page as one bytea: $1 first id, $2 last id (both included), $3 rows at most. One
 * value instead of thousands: parsing rows costs this process more than decrypting them.
 * @param where $1 is a list of ids instead, for rows that somebody else changed under us
 */
export function pageText(shape: Shape, columns: readonly string[], where: 'range' | 'ids'): string {
  const { rowId, subject, tenant } = shape.table
  const id = identifier(rowId)
  const named = [...new Set([rowId, ...(subject === null ? [] : [subject]), ...(tenant === null ? [] : [tenant]), ...columns])].map((name) => `t.${identifier(name)}`)
  const parts = [
    `uuid_send(p.${id})`,
    subject === null ? `textsend('${nobody}')` : `textsend(coalesce(p.${identifier(subject)}::text, '${nobody}'))`,
    ...(tenant === null ? [] : [`int4send(octet_length(p.${identifier(tenant)})) || convert_to(p.${identifier(tenant)}, 'UTF8')`]),
    ...columns.map((name) => packed(shape, name)),
  ]
  const rows = where === 'range' ? `t.${id} >= $1::uuid and t.${id} <= $2::uuid order by t.${id} limit $3::int8` : `t.${id} = any ($1::uuid[]) order by t.${id}`
  return `select string_agg(${parts.join(' || ')}, ''::bytea order by p.${id}) as page from (select ${named.join(', ')} from ${relation(shape.name)} t where ${rows}) p`
}

/** The text of the 16 bytes of an id. */
function idText(bytes: Buffer): string {
  const hex = bytes.toString('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** The id after this one; the last of all is its own. */
function successor(id: Buffer): string {
  const bytes = Buffer.from(id)
  for (let at = 15; at >= 0; at--) {
    bytes[at] = ((bytes[at] ?? 0) + 1) & 0xff
    if (bytes[at] !== 0) return idText(bytes)
  }
  return idText(id)
}

/**
 * Finds the rows of a page, without taking them apart.
 * @param from the first id that was asked for
 * @param limit of the statement that read it: fewer rows mean the end of the range
 */
export function parsePage(shape: Shape, columns: number, answered: Buffer | null, from: string, limit: number): Page {
  const packed = answered ?? Buffer.alloc(0)
  const tenants = shape.table.tenant !== null
  const width = 1 + columns
  const places: number[] = []
  for (let at = 0; at < packed.length; ) {
    places.push(at)
    at += TENANT_AT
    if (tenants) at += 4 + packed.readInt32BE(at)
    for (let column = 0; column < columns; column++) {
      const length = packed.readInt32BE(at)
      at += 4
      places.push(length < 0 ? -1 : at)
      if (length > 0) at += length
    }
  }
  const count = places.length / width

  function row(n: number): PageRow {
    const at = places[n * width] as number
    const idBytes = packed.subarray(at, at + 16)
    const subject = packed.toString('latin1', at + SUBJECT_AT, at + TENANT_AT)
    const tenant = tenants ? packed.toString('utf8', at + TENANT_AT + 4, at + TENANT_AT + 4 + packed.readInt32BE(at + TENANT_AT)) : shape.service
    const values: (Buffer | null)[] = []
    for (let column = 1; column < width; column++) {
      const value = places[n * width + column] as number
      values.push(value < 0 ? null : packed.subarray(value, value + packed.readInt32BE(value - 4)))
    }
    return { id: idText(idBytes), idBytes, subject: subject === nobody ? null : subject, tenant, values }
  }

  let made: readonly PageRow[] | undefined
  const last = places[(count - 1) * width]
  return {
    packed,
    places: Int32Array.from(places),
    count,
    row,
    rows: () => (made ??= Array.from({ length: count }, (_, n) => row(n))),
    bytes: packed.length,
    next: last === undefined ? from : successor(packed.subarray(last, last + 16)),
    end: count < limit,
  }
}
