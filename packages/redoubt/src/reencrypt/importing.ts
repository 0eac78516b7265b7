import type { DataKey, Keyring, KeyScope } from '../keyring.ts'
import { blindIndex, seal } from '../seal.ts'
import type { Decoded } from './codecs.ts'
import { scopeText, sealingKeys } from './key-facts.ts'
import { tally, type Outcome, type Verdict, type Work } from './outcome.ts'
import type { Page, PageRow } from './page.ts'
import { blank, indexKeysOf, type IndexKeysOf } from './renewal.ts'
import { columnsFor, type LegacyPart, type Shape } from './shape.ts'

/** What reads the values of a legacy column. */
export type Decoders = (column: string) => (stored: Buffer) => Decoded

/**
 * Import: values of an older system are read and sealed where the declaration says. Whatever the sealed column holds
 * already is left alone, and the source is not touched: `wipe` empties it later. A change of either column between
 * reading and writing wins over us.
 */
export function importing(settings: { readonly shape: Shape; readonly keyring: Keyring; readonly decoders: Decoders }): Work {
  const { shape, keyring, decoders } = settings
  const { read, write } = columnsFor(shape, 'import')
  const parts = shape.legacy.filter(({ into }) => into >= 0).map((part) => ({ part, decode: decoders(part.name), ...targetOf(part) }))

  function targetOf(part: LegacyPart) {
    const target = shape.sealed[part.into]
    if (target === undefined) throw new TypeError(`reencrypt: ${part.name} has no target`)
    return { target, from: read.indexOf(part.name), at: read.indexOf(target.name), indexes: target.indexes.map(({ name, column }) => [read.indexOf(name), column.id] as const) }
  }

  async function prepare(page: Pick<Page, 'rows'>): Promise<() => Outcome> {
    const decoded = new Map<PageRow, readonly (Decoded | null)[]>()
    const scopes = new Map<string, KeyScope>()
    for (const row of page.rows()) {
      const values = parts.map(({ decode, from, at, target }) => {
        const stored = row.values[from]
        if (!Buffer.isBuffer(stored) || row.values[at] !== null || row.subject === null) return null
        const value = decode(stored)
        // A key is made only for those who have something to seal.
        if ('value' in value) {
          const scope = { tenant: row.tenant, subject: row.subject, keep: target.keep }
          scopes.set(scopeText(scope), scope)
        }
        return value
      })
      if (values.some((value) => value !== null)) decoded.set(row, values)
    }
    const [keys, indexKeys] = await Promise.all([
      scopes.size === 0 ? new Map<string, DataKey>() : sealingKeys(keyring, scopes), indexKeysOf(keyring, shape)])
    return () => {
      const out = tally()
      for (const row of page.rows()) out.add(look(row, decoded.get(row), keys, indexKeys, out.hold))
      return out.outcome()
    }
  }

  function look(row: PageRow, decoded: readonly (Decoded | null)[] | undefined, keys: ReadonlyMap<string, DataKey>, indexKeys: IndexKeysOf, hold: (id: Buffer) => void): Verdict {
    const verdict: Verdict = { change: null, failures: [], already: false, erased: false }
    parts.forEach(({ part, target, from, at, indexes }, n) => {
      const stored = row.values[from]
      if (row.values[at] !== null) {
        verdict.already = true
        return
      }
      if (!Buffer.isBuffer(stored)) return
      const value = decoded?.[n]
      if (row.subject === null || value === null || value === undefined) {
        verdict.failures.push({ idBytes: row.idBytes, column: part.name, reason: 'no_subject' })
        return
      }
      if ('refused' in value) {
        verdict.failures.push({ idBytes: row.idBytes, column: part.name, reason: value.refused })
        return
      }
      const key = keys.get(scopeText({ tenant: row.tenant, subject: row.subject, keep: target.keep }))
      if (key === undefined) {
        verdict.erased = true
        value.value.fill(0)
        return
      }
      const change = (verdict.change ??= { id: row.id, idBytes: row.idBytes, olds: blank(read.length), news: blank(read.length) })
      change.olds[from] = stored
      change.news[at] = seal(key, { tenant: row.tenant, table: shape.table.id, column: target.column.id, row: row.id, subject: row.subject }, value.value)
      hold(key.id)
      for (const [index, column] of indexes) {
        const [newest] = indexKeys(column)
        if (newest === undefined) continue
        change.olds[index] = row.values[index] ?? null
        change.news[index] = blindIndex(newest, { tenant: row.tenant, table: shape.table.id, column }, value.value)
      }
      value.value.fill(0)
    })
    return verdict
  }

  return { read, write, prepare, forget: () => undefined }
}
