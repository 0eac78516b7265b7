import type { DataKey, Keyring, KeyScope } from '../keyring.ts'
import { blindIndex } from '../seal.ts'
import { looksSealed, openWith } from '../seal/wire.ts'
import type { Decoders } from './importing.ts'
import { keyIdText, openingKeys, scopeText, type KeyFacts } from './key-facts.ts'
import { tally, type Reason, type Verdict, type Work } from './outcome.ts'
import type { Page, PageRow } from './page.ts'
import { blank, indexKeysOf, placesOf, scopesOf, type IndexKeysOf } from './renewal.ts'
import { columnsFor, type SealedPart, type Shape } from './shape.ts'

type Keys = { readonly opening: ReadonlyMap<string, DataKey>; readonly erased: ReadonlySet<string>; readonly indexes: IndexKeysOf }

/** Everything that opens the sealed values of a page, and which subjects are erased. */
async function keysOf(page: Pick<Page, 'rows'>, shape: Shape, parts: ReturnType<typeof placesOf>, keyring: Keyring, facts: KeyFacts): Promise<Keys> {
  const { values, scope } = scopesOf(page, parts.map(([part, at]) => [part, at] as const))
  const named = new Map(values.map((value) => [keyIdText(value), value]))
  const [opening, indexes] = await Promise.all([openingKeys(keyring, named), indexKeysOf(keyring, shape)])
  const unknown = new Map<string, KeyScope>()
  for (const row of page.rows()) for (const [part, at] of parts) {
    const value = row.values[at]
    const owner = scope(row, part)
    if (owner !== null && Buffer.isBuffer(value) && looksSealed(value) && !opening.has(keyIdText(value))) unknown.set(scopeText(owner), owner)
  }
  return { opening, erased: await facts.erased([...unknown.values()]), indexes }
}

/** The plaintext of a value where it stands, or why there is none. The caller zeroes it. */
function opened(row: PageRow, part: SealedPart, value: Buffer, table: number, keys: Keys): Buffer | 'erased' | Reason {
  if (row.subject === null) return 'no_subject'
  if (!looksSealed(value)) return 'not_sealed'
  const scope = { tenant: row.tenant, subject: row.subject, keep: part.keep }
  const key = keys.opening.get(keyIdText(value))
  if (key === undefined) return keys.erased.has(scopeText(scope)) ? 'erased' : 'key_unknown'
  if (scopeText(key.scope) !== scopeText(scope)) return 'wrong_place'
  return openWith(key, { tenant: row.tenant, table, column: part.column.id, row: row.id, subject: row.subject }, value) ?? 'does_not_open'
}

/** Work that looks at each row by itself, with the keys of its page at hand. */
function rowByRow(
  { shape, keyring, facts }: { readonly shape: Shape; readonly keyring: Keyring; readonly facts: KeyFacts },
  parts: ReturnType<typeof placesOf>,
  look: (row: PageRow, keys: Keys) => Verdict,
): Pick<Work, 'prepare' | 'forget'> {
  return {
    async prepare(page) {
      const keys = await keysOf(page, shape, parts, keyring, facts)
      return () => {
        const out = tally()
        for (const row of page.rows()) out.add(look(row, keys))
        return out.outcome()
      }
    },
    forget: () => facts.forget(),
  }
}

/**
 * Verification: every sealed value is opened where it stands, every blind index computed again, and where the value of
 * an older system is still beside it, the two are compared. Changes nothing; rows that are right count as `already`.
 */
export function verification(settings: { readonly shape: Shape; readonly keyring: Keyring; readonly facts: KeyFacts; readonly decoders: Decoders }): Work {
  const { shape, decoders } = settings
  const { read, write } = columnsFor(shape, 'verify')
  const parts = placesOf(shape, read)
  const sources = shape.legacy.filter(({ into }) => into >= 0).map((part) => ({ into: shape.sealed[part.into]?.name, name: part.name, from: read.indexOf(part.name), decode: decoders(part.name) }))

  function look(row: PageRow, keys: Keys): Verdict {
    const verdict: Verdict = { change: null, failures: [], already: false, erased: false }
    for (const [part, at, indexes] of parts) {
      const fail = (reason: Reason, column = part.name): void => void verdict.failures.push({ idBytes: row.idBytes, column, reason })
      const value = row.values[at]
      const beside = sources.filter(({ into, from }) => into === part.name && row.values[from] !== null)
      if (!Buffer.isBuffer(value)) {
        for (const { name } of beside) fail('not_imported', name)
        continue
      }
      const plaintext = opened(row, part, value, shape.table.id, keys)
      if (plaintext === 'erased') {
        verdict.erased = true
        continue
      }
      if (typeof plaintext === 'string') {
        fail(plaintext)
        continue
      }
      verdict.already = true
      indexes.forEach((index, n) => {
        const { name, column } = part.indexes[n] ?? {}
        const stored = row.values[index]
        const key = keys.indexes(column?.id ?? 0).find((one) => one.version === stored?.[0])
        const place = { tenant: row.tenant, table: shape.table.id, column: column?.id ?? 0 }
        if (key === undefined || !Buffer.isBuffer(stored) || !blindIndex(key, place, plaintext).equals(stored)) fail('index_differs', name)
      })
      for (const { name, from, decode } of beside) {
        const source = decode(row.values[from] ?? Buffer.alloc(0))
        if ('refused' in source) fail(source.refused, name)
        else if (!source.value.equals(plaintext)) fail('value_differs', name)
      }
      plaintext.fill(0)
    }
    return verdict
  }

  return { read, write, ...rowByRow(settings, parts, look) }
}

/**
 * Wiping: columns of an older system are set to null. One that was imported is wiped only where the sealed value beside
 * it opens; one without a target (a card verification value) always.
 */
export function wiping(settings: { readonly shape: Shape; readonly keyring: Keyring; readonly facts: KeyFacts }): Work {
  const { shape } = settings
  const { read, write } = columnsFor(shape, 'wipe')
  const targets = new Set(shape.legacy.map(({ into }) => into))
  const parts = placesOf(shape, read).filter((_, n) => targets.has(n))

  function look(row: PageRow, keys: Keys): Verdict {
    const verdict: Verdict = { change: null, failures: [], already: false, erased: false }
    let without = false
    for (const { name, into } of shape.legacy) {
      const at = read.indexOf(name)
      const stored = row.values[at]
      if (!Buffer.isBuffer(stored)) continue
      const target = parts.find(([part]) => part === shape.sealed[into])
      if (target !== undefined) {
        const sealed = row.values[target[1]]
        const plaintext = Buffer.isBuffer(sealed) ? opened(row, target[0], sealed, shape.table.id, keys) : 'not_imported'
        // Erased: what an older system left of that person goes too.
        if (typeof plaintext === 'string' && plaintext !== 'erased') {
          verdict.failures.push({ idBytes: row.idBytes, column: name, reason: plaintext })
          continue
        }
        if (typeof plaintext !== 'string') plaintext.fill(0)
      }
      // What must not be kept in any form goes at once; what could not be imported is told by the next pass.
      if (target === undefined) without = true
      const change = (verdict.change ??= { id: row.id, idBytes: row.idBytes, olds: blank(read.length), news: blank(read.length) })
      change.olds[at] = stored
    }
    if (without) verdict.failures = []
    return verdict
  }

  return { read, write, ...rowByRow(settings, parts, look) }
}
