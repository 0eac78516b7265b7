import { identifier, relation, type Shape } from './shape.ts'

/** A row as a page carries it. The buffers are parts of the page: they live as long as it does. */
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
  readonly rows: readonly PageRow[]
  readonly bytes: number
  /** The id behind the last row: where reading goes on. */
  readonly next: string
  /** Whether the range is read to its end. */
  readonly end: boolean
}

/** How much of a value a page carries. */
export type Extent = 'whole' | 'head'

/** What a value is recognised by: version and key id of a sealed value; version of a blind index. */
const headBytes = 17
const nobody = ' '.repeat(36)

function packed(shape: Shape, name: string, extent: Extent): string {
  const column = shape.table.columns[name]
  const of = `p.${identifier(name)}`
  const bytes = column?.kind === 'legacy' && column.type === 'text' ? `convert_to(${of}, 'UTF8')` : of
  const part = extent === 'head' ? `substring(${bytes} from 1 for ${headBytes})` : bytes
  return `case when ${of} is null then '\\xffffffff'::bytea else int4send(octet_length(${part})) || ${part} end`
}

/**
 * Text of the statement that reads a page as one bytea: $1 first id, $2 last id (both included), $3 rows at most. One
 * value instead of thousands: parsing rows costs this process more than decrypting them.
 * @param where $1 is a list of ids instead, for rows that somebody else changed under us
 */
export function pageText(shape: Shape, columns: readonly string[], extent: Extent, where: 'range' | 'ids'): string {
  const { rowId, subject, tenant } = shape.table
  const id = identifier(rowId)
  const named = [...new Set([rowId, ...(subject === null ? [] : [subject]), ...(tenant === null ? [] : [tenant]), ...columns])].map((name) => `t.${identifier(name)}`)
  const parts = [
    `uuid_send(p.${id})`,
    `textsend(p.${id}::text)`,
    subject === null ? `textsend('${nobody}')` : `textsend(coalesce(p.${identifier(subject)}::text, '${nobody}'))`,
    ...(tenant === null ? [] : [`int4send(octet_length(p.${identifier(tenant)})) || convert_to(p.${identifier(tenant)}, 'UTF8')`]),
    ...columns.map((name) => packed(shape, name, extent)),
  ]
  const rows = where === 'range' ? `t.${id} >= $1::uuid and t.${id} <= $2::uuid order by t.${id} limit $3::int8` : `t.${id} = any ($1::uuid[]) order by t.${id}`
  return `select string_agg(${parts.join(' || ')}, ''::bytea order by p.${id}) as page from (select ${named.join(', ')} from ${relation(shape.name)} t where ${rows}) p`
}

/** The id after this one; the last of all is its own. */
function successor(id: Buffer): string {
  const bytes = Buffer.from(id)
  for (let at = 15; at >= 0; at--) {
    bytes[at] = ((bytes[at] ?? 0) + 1) & 0xff
    if (bytes[at] !== 0) {
      const hex = bytes.toString('hex')
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
    }
  }
  return 'f'.repeat(32).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

/**
 * Takes a page apart.
 * @param from the first id that was asked for
 * @param limit of the statement that read it: fewer rows mean the end of the range
 */
export function parsePage(shape: Shape, columns: number, packedRows: Buffer | null, from: string, limit: number): Page {
  if (packedRows === null) return { rows: [], bytes: 0, next: from, end: true }
  const rows: PageRow[] = []
  let at = 0
  while (at < packedRows.length) {
    const idBytes = packedRows.subarray(at, at + 16)
    const id = packedRows.toString('latin1', at + 16, at + 52)
    const subject = packedRows.toString('latin1', at + 52, at + 88)
    at += 88
    let tenant = shape.service
    if (shape.table.tenant !== null) {
      const length = packedRows.readInt32BE(at)
      tenant = packedRows.toString('utf8', at + 4, at + 4 + length)
      at += 4 + length
    }
    const values: (Buffer | null)[] = []
    for (let column = 0; column < columns; column++) {
      const length = packedRows.readInt32BE(at)
      at += 4
      if (length < 0) {
        values.push(null)
        continue
      }
      values.push(packedRows.subarray(at, at + length))
      at += length
    }
    rows.push({ id, idBytes, subject: subject === nobody ? null : subject, tenant, values })
  }
  const last = rows.at(-1)
  return { rows, bytes: packedRows.length, next: last === undefined ? from : successor(last.idBytes), end: rows.length < limit }
}
