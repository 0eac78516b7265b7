import { KEY_ID_BYTES } from '../aead.ts'
import type { DataKey, IndexKey, Keyring, KeyScope } from '../keyring.ts'
import { blindIndex, seal } from '../seal.ts'
import { looksSealed, openWith, OVERHEAD_BYTES, version } from '../seal/wire.ts'
import { openingKeys, scopeText, sealingKeys, type KeyFact, type KeyFacts } from './key-facts.ts'
import { tally, type Outcome, type Reason, type Verdict, type Work } from './outcome.ts'
import type { Page, PageRow } from './page.ts'
import { isNewest, openRenewer, type Renewer, type RenewFact, type RenewKey, type RenewTable } from './renew.ts'
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
export function scopesOf(page: Pick<Page, 'rows'>, parts: readonly (readonly [part: SealedPart, at: number])[]): { readonly values: readonly Buffer[]; scope(row: PageRow, part: SealedPart): KeyScope | null } {
  const values: Buffer[] = []
  for (const row of page.rows()) for (const [, at] of parts) {
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
    if (newest !== undefined && !isNewest(row.values[index]?.[0] ?? 0, keys)) (stale ??= []).push([index, column, newest])
  }
  return stale ?? nothingStale
}

/**
 * Re-encryption: what is not under the active key of its subject, or in an older form, is sealed anew; a blind index
 * under an older version is computed anew. One opening serves both.
 */
export function renewal(settings: { readonly shape: Shape; readonly keyring: Keyring; readonly facts: KeyFacts; readonly renewer?: Renewer }): Work {
  const { shape, keyring, facts, renewer } = settings
  const { read, write } = columnsFor(shape, 'reencrypt')
  const parts = placesOf(shape, read)
  const { id: table } = shape.table

  async function prepare(page: Pick<Page, 'rows'>): Promise<() => Outcome> {
    const values: (Buffer | null)[] = []
    for (const row of page.rows()) for (const [, at] of parts) {
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
    for (const row of page.rows()) for (const [part, at, indexes] of parts) {
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
      page.rows().forEach((row, n) => {
        const verdict: Verdict = { change: null, failures: [], already: false, erased: false }
        look(row, n * parts.length, verdict, out.hold)
        out.add(verdict)
      })
      return out.outcome()
    }
  }

  if (renewer === undefined) return { read, write, prepare, forget: () => facts.forget() }
  return { read, write, prepare, quick: quickly(shape, keyring, facts, renewer, prepare), forget: () => facts.forget() }
}

/** What a renewer has to know of a table. */
export function renewTable(shape: Shape): RenewTable {
  const { read } = columnsFor(shape, 'reencrypt')
  return {
    table: shape.table.id, tenant: shape.table.tenant === null ? shape.service : null, columns: read.length,
    parts: placesOf(shape, read).map(([part, at, indexes]) => ({ at, column: part.column.id, keep: part.keep, indexes: indexes.map((index, n) => ({ at: index, column: part.indexes[n]?.column.id ?? 0 })) })),
  }
}

/** The key as it is told; none for another scope than the fact says. */
function renewKey(key: DataKey | null | undefined, scope: KeyScope): RenewKey | null {
  return key === null || key === undefined || scopeText(key.scope) !== scopeText(scope) ? null : { id: key.id.toString('latin1'), key: key.key }
}

/** A renewer that works in this thread. */
export function renewerHere(table: RenewTable): Renewer {
  return { renew: openRenewer(table), close: () => Promise.resolve() }
}

/**
 * Whole pages by the renewer: this side finds out which keys they name and has them opened, the other opens, seals and
 * computes. Rows with anything out of the ordinary come back, and are looked at one by one.
 */
function quickly(shape: Shape, keyring: Keyring, facts: KeyFacts, renewer: Renewer, prepare: Work['prepare']): (page: Page) => Promise<Outcome> {
  const { columns, parts } = renewTable(shape)
  const width = 1 + columns
  /** What the renewer was told of each fact: 1 its opened key, 2 the one to seal with. */
  const told = new Map<number, number>()
  let floor = 0

  return async (page) => {
    const { packed, places, count } = page
    const ids: (string | null)[] = []
    for (let n = 0; n < count; n++) for (const { at } of parts) {
      const value = places[n * width + 1 + at] as number
      ids.push(value < 0 || packed.readInt32BE(value - 4) < OVERHEAD_BYTES || packed[value] !== version ? null : packed.toString('latin1', value + 1, value + 1 + KEY_ID_BYTES))
    }
    const [found, keysOf] = await Promise.all([facts.byId(ids), indexKeysOf(keyring, shape)])
    const toOpen = new Map<KeyFact, Buffer>()
    const toSeal = new Map<KeyFact, KeyScope>()
    const numbers = new Int32Array(found.length).fill(-1)
    found.forEach((fact, i) => {
      if (fact === undefined) return
      numbers[i] = fact.number
      if (!fact.active && fact.sealing === undefined) toSeal.set(fact, fact.scope)
      if (fact.opening !== undefined) return
      const n = Math.floor(i / parts.length)
      const { at, indexes } = parts[i % parts.length] as RenewTable['parts'][number]
      if (!fact.active || indexes.some((index) => { const stored = places[n * width + 1 + index.at] as number; return stored < 0 || !isNewest(packed[stored] ?? 0, keysOf(index.column)) })) {
        const value = places[n * width + 1 + at] as number
        toOpen.set(fact, packed.subarray(value, value + 1 + KEY_ID_BYTES))
      }
    })
    const [opening, sealing] = await Promise.all([openingKeys(keyring, toOpen), sealingKeys(keyring, toSeal)])
    for (const fact of toOpen.keys()) fact.opening = opening.get(fact) ?? null
    for (const fact of toSeal.keys()) fact.sealing = sealing.get(fact) ?? null

    if (facts.floor() > floor) {
      floor = facts.floor()
      told.clear()
    }
    const news: RenewFact[] = []
    for (const fact of found) {
      if (fact === undefined) continue
      const known = (fact.opening === undefined ? 0 : 1) + (fact.sealing === undefined ? 0 : 2)
      if (told.get(fact.number) === known) continue
      told.set(fact.number, known)
      news.push({ number: fact.number, active: fact.active, scope: fact.scope, opening: renewKey(fact.opening, fact.scope), sealing: renewKey(fact.sealing, fact.scope) })
    }
    const indexKeys = new Map(parts.flatMap(({ indexes }) => indexes.map(({ column }) => [column, keysOf(column)] as const)))
    const { already, absent, held, left, ...renewed } = await renewer.renew({ packed, places, facts: numbers, told: news, floor, indexKeys })

    const keys = new Set<Buffer>()
    for (const place of held) { const id = found[place]?.sealing?.id; if (id !== undefined) keys.add(id) }
    if (left.length === 0) return { changes: [], renewed, failures: [], already, absent, erased: 0, failed: 0, held: [...keys] }
    const rest = (await prepare({ rows: () => Array.from(left, page.row) }))()
    for (const id of rest.held) keys.add(id)
    return { ...rest, renewed, already: already + rest.already, absent: absent + rest.absent, held: [...keys] }
  }
}

/** One entry per column of a page, none of them filled. */
export function blank(columns: number): (Buffer | null)[] {
  return Array<Buffer | null>(columns).fill(null)
}
