import type { Pool } from '../pg.ts'
import { version } from '../seal/wire.ts'
import { keyIdText, type KeyFacts } from './key-facts.ts'
import { planRanges } from './jobs.ts'
import { isNewest } from './renew.ts'
import { placesOf, type IndexKeysOf } from './renewal.ts'
import { columnsFor, identifier, relation, type Kind, type Shape } from './shape.ts'

/** What is left to do, by column; counts only. */
export type Leftover = { readonly rows: number; readonly columns: Readonly<Record<string, Readonly<Record<string, number>>>> }

/** Rows whose heads are told in one answer; heads that are the same are told once. */
const partRows = 100_000
/** What a sealed value is recognised by, version and key id; of a blind index the version alone. */
const sealedHead = 17
const indexHead = 1
const absent = 0xff

/**
 * Text of the statement that tells the heads of the rows of a range, each combination once with how many rows have it:
 * read row by row in the order of ids, with all that a page carries, they took a tenth of a whole job.
 */
function headsText(shape: Shape, columns: readonly (readonly [name: string, bytes: number])[]): string {
  const id = identifier(shape.table.rowId)
  const heads = columns.map(([name, bytes]) => `case when t.${identifier(name)} is null then '\\xff'::bytea else set_byte('\\x00'::bytea, 0, least(octet_length(t.${identifier(name)}), ${bytes})) || substring(t.${identifier(name)} from 1 for ${bytes}) end`)
  return `select string_agg(int4send(g.n) || g.head, ''::bytea) as heads from (
      select ${heads.join(' || ')} as head, count(*)::int4 as n from ${relation(shape.name)} t where t.${id} >= $1::uuid and t.${id} <= $2::uuid group by 1) g`
}

type Head = { readonly rows: number; readonly values: readonly (Buffer | null)[] }

function headsOf(packed: Buffer, columns: number): readonly Head[] {
  const heads: Head[] = []
  for (let at = 0; at < packed.length; ) {
    const rows = packed.readInt32BE(at)
    at += 4
    const values: (Buffer | null)[] = []
    for (let column = 0; column < columns; column++) {
      const length = packed[at++] ?? absent
      values.push(length === absent ? null : packed.subarray(at, at + length))
      if (length !== absent) at += length
    }
    heads.push({ rows, values })
  }
  return heads
}

/**
 * Looks at the head of every sealed value and blind index of a table: which stand under a key that is not active any
 * more, or in an older form or version. What names no key at all depends on none; it is counted apart.
 * @param pool of the role that runs the jobs
 */
export async function provenHeads(pool: Pick<Pool, 'query'>, shape: Shape, facts: KeyFacts, indexKeys: IndexKeysOf): Promise<Leftover> {
  const columnNames = columnsFor(shape, 'reencrypt').read
  const parts = placesOf(shape, columnNames)
  const sealedNames = new Set(parts.map(([part]) => part.name))
  const text = headsText(shape, columnNames.map((name) => [name, sealedNames.has(name) ? sealedHead : indexHead]))
  const columns: Record<string, Record<string, number>> = {}
  let rows = 0
  const count = (column: string, what: string, more: number): void => {
    const counts = (columns[column] ??= {})
    counts[what] = (counts[what] ?? 0) + more
  }
  const { next, last } = await planRanges(pool, shape, partRows)
  for (let range = 0; range < next.length; range++) {
    const [answer] = await pool.query<{ readonly heads: Buffer | null }>({ name: `redoubt_reencrypt_heads_${shape.table.id}`, text, values: [next[range], last[range]] })
    const heads = headsOf(answer?.heads ?? Buffer.alloc(0), columnNames.length)
    const known = await facts.active(heads.flatMap(({ values }) => parts.map(([, at]) => values[at]).filter((value): value is Buffer => Buffer.isBuffer(value) && value.length >= sealedHead)))
    for (const head of heads) {
      let old = false
      for (const [part, at, indexes] of parts) {
        const value = head.values[at]
        if (Buffer.isBuffer(value)) {
          // Only whether some key that is on its way out still has this value: what the row claims to be is verify's question.
          const active = value.length < sealedHead ? undefined : known.get(keyIdText(value))
          const stands = active === undefined ? 'without_key' : active && value[0] === version ? 'new' : 'old'
          count(part.name, stands, head.rows)
          if (stands === 'old') old = true
        }
        indexes.forEach((index, n) => {
          const stored = head.values[index]
          const { name = '', column } = part.indexes[n] ?? {}
          if (!Buffer.isBuffer(stored)) return
          const current = isNewest(stored[0] ?? 0, indexKeys(column?.id ?? 0))
          count(name, current ? 'new' : 'old', head.rows)
          if (!current) old = true
        })
      }
      if (old) rows += head.rows
    }
  }
  return { rows, columns }
}

/** What of an older system is still there: values not imported yet, or values not wiped yet. */
export async function provenColumns(pool: Pick<Pool, 'query'>, shape: Shape, kind: Kind): Promise<Leftover> {
  const wanted = shape.legacy.filter(({ into }) => kind === 'wipe' || into >= 0)
  const conditions = wanted.map(({ name, into }) => {
    const target = shape.sealed[into]
    return kind === 'wipe' || target === undefined ? `t.${identifier(name)} is not null` : `t.${identifier(name)} is not null and t.${identifier(target.name)} is null`
  })
  const [row] = await pool.query<Readonly<Record<string, number>>>({
    text: `select count(*) filter (where ${conditions.join(' or ')})::float8 as any_left, ${conditions.map((condition, n) => `count(*) filter (where ${condition})::float8 as left_${n}`).join(', ')} from ${relation(shape.name)} t`, values: [],
  })
  return { rows: row?.['any_left'] ?? 0, columns: Object.fromEntries(wanted.map(({ name }, n) => [name, { left: row?.[`left_${n}`] ?? 0 }])) }
}
