import { randomBytes } from 'node:crypto'
import { keyId, secretKey } from '../aead.ts'
import { Refusal } from '../errors.ts'
import type { DataKey, Keyring, KeysPool, KeyScope } from '../keyring.ts'
import type { Pool } from '../pg.ts'
import { scopeText, type KeyFacts } from './key-facts.ts'
import { firstId, lastId, type Counts } from './jobs.ts'
import type { Reason, Work } from './outcome.ts'
import { pageText, parsePage } from './page.ts'
import type { Kind, Shape } from './shape.ts'

/** A keyring for a dry run: it opens what is there, and makes no key anywhere but in memory, good for nothing. */
export function rehearsalKeyring(keyring: Keyring, pool: KeysPool, facts: KeyFacts): Keyring {
  async function keysFor(scopes: readonly KeyScope[]): Promise<readonly DataKey[]> {
    const erased = await facts.erased(scopes)
    return scopes.map((scope) => {
      if (erased.has(scopeText(scope))) throw new Refusal('key_destroyed')
      const key = secretKey(randomBytes(32))
      return { id: keyId(key), key, scope }
    })
  }
  return {
    ...keyring,
    keysFor,
    async keyFor(scope) {
      const [key] = await keysFor([scope])
      if (key === undefined) throw new Refusal('key_refused')
      return key
    },
    async indexKeys(table, column) {
      const [there] = await pool.query({ text: 'select 1 as one from keys.index_keys i where i.table_id = $1 and i.column_id = $2 limit 1', values: [table, column] })
      return there === undefined ? [{ version: 1, key: secretKey(randomBytes(32)) }] : keyring.indexKeys(table, column)
    },
  }
}

export type Rehearsed = { readonly kind: Kind; readonly table: string; readonly counts: Counts; readonly reasons: Readonly<Partial<Record<Reason, number>>> }

/**
 * What a job would do to a table now, without writing anything: each row is read, opened and computed. What only the
 * table itself would refuse (a duplicate under a unique index) is not foreseen.
 */
export async function rehearse(pool: Pick<Pool, 'query'>, shape: Shape, kind: Kind, work: Work, stopped: () => boolean, moved: (rows: number) => void): Promise<Rehearsed> {
  const text = pageText(shape, work.read, 'range')
  const counts = { changed: 0, already: 0, absent: 0, erased: 0, failed: 0, seen: 0 }
  const reasons: Partial<Record<Reason, number>> = {}
  for (let from = firstId, end = false; !end && !stopped(); ) {
    const [answer] = await pool.query<{ readonly page: Buffer | null }>({ name: `redoubt_reencrypt_read_${kind}_${shape.table.id}`, text, values: [from, lastId, 500] })
    const page = parsePage(shape, work.read.length, answer?.page ?? null, from, 500)
    const outcome = (await work.prepare(page))()
    counts.changed += outcome.changes.length
    counts.already += outcome.already
    counts.absent += outcome.absent
    counts.erased += outcome.erased
    counts.failed += outcome.failed
    counts.seen += page.count
    for (const { reason } of outcome.failures) reasons[reason] = (reasons[reason] ?? 0) + 1
    moved(page.count)
    from = page.next
    end = page.end
  }
  return { kind, table: shape.name, counts, reasons }
}
