import type { Pool } from '../pg.ts'
import { version } from '../seal/wire.ts'
import { keyIdText, type KeyFacts } from './key-facts.ts'
import { firstId, lastId } from './jobs.ts'
import { pageText, parsePage, type Page } from './page.ts'
import { isNewest, placesOf, type IndexKeysOf } from './renewal.ts'
import { columnsFor, identifier, relation, type Kind, type Shape } from './shape.ts'

/** What is left to do, by column; counts only. */
export type Leftover = { readonly rows: number; readonly columns: Readonly<Record<string, Readonly<Record<string, number>>>> }

const pageRows = 20_000

/**
 * Looks at the head of every sealed value and blind index of a table: which stand under a key that is not active any
 * more, or in an older form or version. What names no key at all depends on none; it is counted apart.
 * @param pool of the role that runs the jobs
 */
export async function provenHeads(pool: Pick<Pool, 'query'>, shape: Shape, facts: KeyFacts, indexKeys: IndexKeysOf): Promise<Leftover> {
  const columnNames = columnsFor(shape, 'reencrypt').read
  const parts = placesOf(shape, columnNames)
  const text = pageText(shape, columnNames, 'head', 'range')
  const columns: Record<string, Record<string, number>> = {}
  let rows = 0
  const count = (column: string, what: string): void => {
    const counts = (columns[column] ??= {})
    counts[what] = (counts[what] ?? 0) + 1
  }
  const read = async (from: string): Promise<Page> => {
    const [answer] = await pool.query<{ readonly page: Buffer | null }>({ name: `redoubt_reencrypt_heads_${shape.table.id}`, text, values: [from, lastId, pageRows] })
    return parsePage(shape, columnNames.length, answer?.page ?? null, from, pageRows)
  }
  for (let page = await read(firstId), next: Promise<Page> | null; ; page = await next) {
    // The server reads the next page while this one is looked at.
    next = page.end ? null : read(page.next)
    next?.catch(() => undefined)
    const known = await facts.active(page.rows.flatMap(({ values }) => parts.map(([, at]) => values[at]).filter((value): value is Buffer => Buffer.isBuffer(value) && value.length >= 17)))
    for (const row of page.rows) {
      let old = false
      for (const [part, at, indexes] of parts) {
        const value = row.values[at]
        if (Buffer.isBuffer(value)) {
          // Only whether some key that is on its way out still has this value: what the row claims to be is verify's question.
          const active = value.length < 17 ? undefined : known.get(keyIdText(value))
          const stands = active === undefined ? 'without_key' : active && value[0] === version ? 'new' : 'old'
          count(part.name, stands)
          if (stands === 'old') old = true
        }
        indexes.forEach((index, n) => {
          const stored = row.values[index]
          const { name = '', column } = part.indexes[n] ?? {}
          if (!Buffer.isBuffer(stored)) return
          const current = isNewest(stored, indexKeys(column?.id ?? 0))
          count(name, current ? 'new' : 'old')
          if (!current) old = true
        })
      }
      if (old) rows++
    }
    if (next === null) return { rows, columns }
  }
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
