import type { DecodeFailure } from './codecs.ts'
import type { Page } from './page.ts'
import type { Renewed } from './renew.ts'

/** Why a row was not settled: a class, never a value. docs/runbooks/re-encryption.md says what to do about each. */
export type Reason =
  | DecodeFailure
  | 'not_sealed'
  | 'key_unknown'
  | 'wrong_place'
  | 'no_subject'
  | 'index_differs'
  | 'value_differs'
  | 'not_imported'
  | 'duplicate'
  | 'refused_by_table'
  | 'changed_meanwhile'

/**
 * A row to be written. `olds` are what was read, by column of the page, for the compare-and-set; null where the column
 * plays no part. `news` are what comes in their place; null leaves a column as it is.
 */
export type Change = { readonly id: string; readonly idBytes: Buffer; readonly olds: (Buffer | null)[]; readonly news: (Buffer | null)[] }
export type Failure = { readonly idBytes: Buffer; readonly column: string; readonly reason: Reason }

/** Rows by what became of them: each in exactly one. How many of the changes took effect only the database knows. */
export type Outcome = {
  readonly changes: readonly Change[]
  /** More changes, ready to be sent. */
  readonly renewed: Pick<Renewed, 'rows' | 'ids' | 'olds' | 'news'> | null
  readonly failures: readonly Failure[]
  readonly already: number
  readonly absent: number
  readonly erased: number
  readonly failed: number
  /** Ids of the keys that the changes are sealed under. */
  readonly held: readonly Buffer[]
}

/** What a job does with a page: first whatever has to be fetched, then the pure computation, which may wait. */
export type Work = {
  /** Columns that a page carries. */
  readonly read: readonly string[]
  /** Those of them that a change may write. */
  readonly write: readonly string[]
  prepare(page: Pick<Page, 'rows'>): Promise<() => Outcome>
  /** The same for a whole page at once, where the job has a quick way. */
  quick?(page: Page): Promise<Outcome>
  /** After a key was destroyed under us: believe nothing that was read before. */
  forget(): void
}

/** What became of one row while its columns are looked at; the gravest wins, and a failed row is not changed at all. */
export type Verdict = { change: Change | null; failures: Failure[]; already: boolean; erased: boolean }

/** Collects verdicts into an outcome. */
export function tally(): { add(verdict: Verdict): void; hold(id: Buffer): void; outcome(): Outcome } {
  const changes: Change[] = []
  const failures: Failure[] = []
  const held = new Set<Buffer>()
  const counts = { already: 0, absent: 0, erased: 0, failed: 0 }
  return {
    add(verdict) {
      if (verdict.failures.length > 0) {
        failures.push(...verdict.failures)
        counts.failed++
      } else if (verdict.change !== null) changes.push(verdict.change)
      else if (verdict.erased) counts.erased++
      else if (verdict.already) counts.already++
      else counts.absent++
    },
    hold: (id) => void held.add(id),
    outcome: () => ({ changes, renewed: null, failures, ...counts, held: [...held] }),
  }
}
