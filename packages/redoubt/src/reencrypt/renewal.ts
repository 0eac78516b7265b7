import type { IndexKey, Keyring, KeyScope } from '../keyring.ts'
import { blindIndex, seal } from '../seal.ts'
import { looksSealed, openWith, version } from '../seal/wire.ts'
import { openingKeys, scopeText, sealingKeys, type KeyFact, type KeyFacts } from './key-facts.ts'
import { tally, type Outcome, type Reason, type Verdict, type Work } from './outcome.ts'
import type { Page, PageRow } from './page.ts'
import { columnsFor, type SealedPart, type Shape } from './shape.ts'

/** Whether a value has to be sealed again, or why it cannot be. */
export type Standing = 'new' | 'old' | Reason

/** What a value's header and the key schema say, without opening it. */
function standing(value: Buffer, fact: KeyFact | undefined, row: Pick<PageRow, 'tenant' | 'subject'>, part: Pick<SealedPart, 'keep'>): Standing {
  if (!looksSealed(value)) return 'not_sealed'
  if (fact === undefined) return 'key_unknown'
  // A key that is genuine, but somebody else's or of another retention class: the row was moved.
  if (fact.scope.subject !== row.subject || fact.scope.tenant !== row.tenant || fact.scope.keep !== part.keep) return 'wrong_place'
  return fact.active && value[0] === version ? 'new' : 'old'
}

/** The column's values of a page with their scopes; rows about nobody are left out. */
export function scopesOf(page: Page, parts: readonly (readonly [part: SealedPart, at: number])[]): { readonly values: readonly Buffer[]; scope(row: PageRow, part: SealedPart): KeyScope | null } {
  const values: Buffer[] = []
  for (const row of page.rows) for (const [, at] of parts) {
    const value = row.values[at]
    if (Buffer.isBuffer(value) && looksSealed(value)) values.push(value)
  }
  return { values, scope: (row, part) => (row.subject === null ? null : { tenant: row.tenant, subject: row.subject, keep: part.keep }) }
}

/** Where each sealed part stands in the pages of a job: its values, and those of its indexes behind it. */
export function placesOf(shape: Shape, read: readonly string[]): readonly (readonly [part: SealedPart, at: number, indexes: readonly number[]])[] {
  return shape.sealed.map((part) => [part, read.indexOf(part.name), part.indexes.map(({ name }) => read.indexOf(name))] as const)
}

export type IndexKeysOf = (columnId: number) => readonly IndexKey[]

/** Index keys of a table's columns, asked once a page: a rotation in the middle of a job is seen. */
export async function indexKeysOf(keyring: Keyring, shape: Shape): Promise<IndexKeysOf> {
  const found = new Map<number, readonly IndexKey[]>()
  for (const { indexes } of shape.sealed) for (const { column } of indexes) found.set(column.id, await keyring.indexKeys(shape.table.id, column.id))
  return (columnId) => found.get(columnId) ?? []
}

/** Whether an index value has the version that is written now; or a later one, by a process whose clock is ahead. */
export function isNewest(value: Buffer | null | undefined, keys: readonly IndexKey[]): boolean {
  return Buffer.isBuffer(value) && keys[0] !== undefined && (value[0] ?? 0) >= keys[0].version && keys.some(({ version: known }) => known === value[0])
}

const nothingStale: readonly (readonly [index: number, column: number, newest: IndexKey])[] = []

/** The indexes of a value that have to be computed anew, with the key to do it. */
function staleOf(row: PageRow, part: SealedPart, indexes: readonly number[], keysOf: IndexKeysOf): typeof nothingStale {
  if (indexes.length === 0) return nothingStale
  let stale: (typeof nothingStale)[number][] | null = null
  for (let n = 0; n < indexes.length; n++) {
    const index = indexes[n] as number
    const column = part.indexes[n]?.column.id ?? 0
    const keys = keysOf(column)
    const [newest] = keys
    if (newest !== undefined && !isNewest(row.values[index], keys)) (stale ??= []).push([index, column, newest])
  }
  return stale ?? nothingStale
}

/**
 * Re-encryption: what is not under the active key of its subject, or in an older form, is sealed anew; a blind index
 * under an older version is computed anew. One opening serves both.
 */
export function renewal(settings: { readonly shape: Shape; readonly keyring: Keyring; readonly facts: KeyFacts }): Work {
  const { shape, keyring, facts } = settings
  const { read, write } = columnsFor(shape, 'reencrypt')
  const parts = placesOf(shape, read)
  const { id: table } = shape.table

  async function prepare(page: Page): Promise<() => Outcome> {
    const values: (Buffer | null)[] = []
    for (const row of page.rows) for (const [, at] of parts) {
      const value = row.values[at]
      values.push(Buffer.isBuffer(value) && looksSealed(value) ? value : null)
    }
    const [found, indexKeys] = await Promise.all([facts.of(values), indexKeysOf(keyring, shape)])

    // What each value is, asked once, in the order of rows and parts.
    const stands: (Standing | null)[] = []
    const stales: (typeof nothingStale)[] = []
    const toOpen = new Map<KeyFact, Buffer>()
    const toSeal = new Map<KeyFact, KeyScope>()
    const unknown = new Map<string, KeyScope>()
    for (const row of page.rows) for (const [part, at, indexes] of parts) {
      const value = row.values[at]
      const fact = found[stands.length]
      const stand = !Buffer.isBuffer(value) ? null : row.subject === null ? 'no_subject' : standing(value, fact, row, part)
      stands.push(stand)
      const stale = stand === 'old' || stand === 'new' ? staleOf(row, part, indexes, indexKeys) : nothingStale
      stales.push(stale)
      if (stand === 'key_unknown' && row.subject !== null) {
        const owner = { tenant: row.tenant, subject: row.subject, keep: part.keep }
        unknown.set(scopeText(owner), owner)
      }
      if (fact === undefined || !Buffer.isBuffer(value) || (stand !== 'old' && stand !== 'new')) continue
      if (stand === 'old' && fact.sealing === undefined) toSeal.set(fact, fact.scope)
      if ((stand === 'old' || stale.length > 0) && fact.opening === undefined) toOpen.set(fact, value)
    }
    const [opening, sealing, erased] = await Promise.all([openingKeys(keyring, toOpen), sealingKeys(keyring, toSeal), facts.erased([...unknown.values()])])
    for (const fact of toOpen.keys()) fact.opening = opening.get(fact) ?? null
    for (const fact of toSeal.keys()) fact.sealing = sealing.get(fact) ?? null

    function look(row: PageRow, first: number, verdict: Verdict, hold: (id: Buffer) => void): void {
      for (let n = 0; n < parts.length; n++) {
        const [part, at] = parts[n] as (typeof parts)[number]
        const value = row.values[at]
        const stand = stands[first + n] ?? null
        if (!Buffer.isBuffer(value) || stand === null) continue
        const fact = found[first + n]
        if (stand === 'key_unknown' && row.subject !== null && erased.has(scopeText({ tenant: row.tenant, subject: row.subject, keep: part.keep }))) {
          verdict.erased = true
          continue
        }
        const fail = (reason: Reason): void => void verdict.failures.push({ idBytes: row.idBytes, column: part.name, reason })
        if (fact === undefined || row.subject === null || (stand !== 'new' && stand !== 'old')) {
          fail(stand === 'new' || stand === 'old' ? 'key_unknown' : stand)
          continue
        }
        const stale = stales[first + n] ?? nothingStale
        if (stand === 'new' && stale.length === 0) {
          verdict.already = true
          continue
        }
        const key = fact.opening ?? undefined
        const place = { tenant: row.tenant, table, column: part.column.id, row: row.id, subject: row.subject }
        const plaintext = key === undefined ? null : openWith(key, place, value)
        if (plaintext === null) {
          fail(key === undefined ? 'key_unknown' : 'does_not_open')
          continue
        }
        const change = (verdict.change ??= { id: row.id, idBytes: row.idBytes, olds: blank(read.length), news: blank(read.length) })
        change.olds[at] = value
        if (stand === 'old') {
          const fresh = fact.sealing ?? undefined
          if (fresh === undefined) {
            // Erased between two of our questions: there is nothing left to seal with, and nothing to keep.
            verdict.erased = true
            verdict.change = null
            plaintext.fill(0)
            return
          }
          change.news[at] = seal(fresh, place, plaintext)
          hold(fresh.id)
        }
        for (const [index, column, newest] of stale) {
          change.olds[index] = row.values[index] ?? null
          change.news[index] = blindIndex(newest, { tenant: row.tenant, table, column }, plaintext)
        }
        plaintext.fill(0)
      }
    }

    return () => {
      const out = tally()
      page.rows.forEach((row, n) => {
        const verdict: Verdict = { change: null, failures: [], already: false, erased: false }
        look(row, n * parts.length, verdict, out.hold)
        out.add(verdict)
      })
      return out.outcome()
    }
  }

  return { read, write, prepare, forget: () => facts.forget() }
}

/** One entry per column of a page, none of them filled. */
export function blank(columns: number): (Buffer | null)[] {
  return Array<Buffer | null>(columns).fill(null)
}
