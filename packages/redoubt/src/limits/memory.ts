import type { Decision, Demand, Limit, Standing } from '../limits.ts'
import { add, advance, counted, subtract, untilBack, waitFor, type Use } from './window.ts'

/** Steps of use by which keys are told apart when one must be forgotten; the last one is an exhausted quota. */
const levels = 8

/** `next`: units from which the entry belongs to the next step. */
type Entry = Use & { level: number; next: number }
type Table = {
  readonly quota: number
  /** The quota, or no bound for a limit that only counts. */
  readonly most: number
  readonly width: number
  readonly entries: Map<string, Entry>
  /** The same entries by how much of their quota is used. */
  readonly byLevel: readonly Map<string, Entry>[]
  sweep: Iterator<readonly [string, Entry]>
}

export type MemoryCounters = {
  take(demands: readonly Demand[]): Decision
  giveBack(demands: readonly Demand[], decision: Decision): void
  /** Keys held for a limit; for tests and metrics. */
  size(limit: Limit): number
}

/**
 * Counters in the memory of one process: synchronous, so that parallel requests cannot pass between look and count.
 * At most `keys` per limit are held. What is expired goes first; after that whoever used the smallest share of the
 * quota: to have a key with k units forgotten, an attacker must first spend k units under each of `keys` other names,
 * and would have gained more by spending them on what is limited.
 * @param options.clock monotonic milliseconds
 * @param options.quotaOf which of a limit's numbers applies
 */
export function memoryCounters(options: { readonly clock: () => number; readonly keys: number; readonly quotaOf: (limit: Limit) => number }): MemoryCounters {
  const { clock, keys, quotaOf } = options
  if (!Number.isInteger(keys) || keys < 1) throw new TypeError('memoryCounters: keys must be a whole number above 0')
  const tables = new Map<Limit, Table>()
  let lastLimit: Limit | undefined
  let lastTable: Table | undefined

  function tableOf(limit: Limit): Table {
    if (limit === lastLimit && lastTable !== undefined) return lastTable
    lastLimit = limit
    return (lastTable = tables.get(limit) ?? newTable(limit))
  }

  function newTable(limit: Limit): Table {
    const entries = new Map<string, Entry>()
    const quota = quotaOf(limit)
    const made = {
      quota, most: limit.counts === true ? Number.MAX_SAFE_INTEGER : quota, width: limit.window / 10, entries,
      byLevel: Array.from({ length: levels + 1 }, () => new Map<string, Entry>()), sweep: entries.entries(),
    }
    tables.set(limit, made)
    return made
  }

  function drop(table: Table, key: string, entry: Entry): void {
    table.entries.delete(key)
    table.byLevel[entry.level]?.delete(key)
  }

  /** Looks at two keys each time one is added: the whole table is gone through before it has doubled. */
  function sweep(table: Table, slot: number): void {
    for (let looked = 0; looked < 2; looked++) {
      const next = table.sweep.next()
      if (next.done === true) {
        table.sweep = table.entries.entries()
        return
      }
      const [key, entry] = next.value
      if (entry.slot <= slot - counted) drop(table, key, entry)
    }
  }

  function makeRoom(table: Table): void {
    for (const level of table.byLevel) {
      for (const [key, entry] of level) return drop(table, key, entry)
    }
  }

  function entryOf(table: Table, key: string, slot: number): Entry {
    const known = table.entries.get(key)
    if (known === undefined) return newEntry(table, key, slot)
    advance(known, slot)
    return known
  }

  function newEntry(table: Table, key: string, slot: number): Entry {
    sweep(table, slot)
    if (table.entries.size >= keys) makeRoom(table)
    const made: Entry = { slot: -1, units: 0, total: 0, oldest: -1, past: [], level: 0, next: stepAfter(table, 0) }
    table.entries.set(key, made)
    table.byLevel[0]?.set(key, made)
    return made
  }

  /** Units from which an entry belongs to the step after `level`: a whole number, as all that is compared with it. */
  function stepAfter(table: Table, level: number): number {
    return Math.ceil(((level + 1) * table.quota) / levels)
  }

  function settle(table: Table, key: string, entry: Entry): void {
    const level = entry.total >= table.quota ? levels : Math.floor((levels * entry.total) / table.quota)
    if (level === entry.level || table.entries.get(key) !== entry) return
    table.byLevel[entry.level]?.delete(key)
    table.byLevel[level]?.set(key, entry)
    entry.level = level
    entry.next = stepAfter(table, level)
  }

  function count(table: Table, key: string, entry: Entry, slot: number, cost: number): void {
    add(entry, slot, cost)
    if (entry.total >= entry.next || entry.level > 0) settle(table, key, entry)
  }

  function standing(table: Table, entry: Entry, cost: number, now: number, slot: number, taken: boolean): Standing {
    const over = taken ? 0 : entry.total + cost - table.most
    return {
      used: entry.total, slot,
      reset: entry.oldest < 0 ? 0 : untilBack(entry.oldest, now, table.width),
      wait: over > 0 ? waitFor(entry, over, now, table.width) : 0,
    }
  }

  /** The most frequent case, without a list in between. */
  function takeOne({ limit, key, cost }: Demand, now: number): Decision {
    const table = tableOf(limit)
    const slot = Math.floor(now / table.width)
    const entry = entryOf(table, key, slot)
    const allowed = entry.total + cost <= table.most
    if (allowed) count(table, key, entry, slot, cost)
    return { allowed, standings: [standing(table, entry, cost, now, slot, allowed)], by: 'memory' }
  }

  return {
    take(demands) {
      const now = clock()
      const only = demands.length === 1 ? demands[0] : undefined
      if (only !== undefined) return takeOne(only, now)
      const looked = demands.map(({ limit, key, cost }) => {
        const table = tableOf(limit)
        const slot = Math.floor(now / table.width)
        const entry = entryOf(table, key, slot)
        return { table, key, cost, slot, entry }
      })
      const allowed = looked.every(({ table, cost, entry }) => entry.total + cost <= table.most)
      if (allowed) {
        for (const { table, key, cost, slot, entry } of looked) count(table, key, entry, slot, cost)
      }
      return { allowed, standings: looked.map(({ table, cost, slot, entry }) => standing(table, entry, cost, now, slot, allowed)), by: 'memory' }
    },
    giveBack(demands, decision) {
      if (!decision.allowed) return
      for (const [at, { limit, key, cost }] of demands.entries()) {
        const table = tableOf(limit)
        const entry = table.entries.get(key)
        if (entry === undefined) continue
        subtract(entry, decision.standings[at]?.slot ?? -1, cost)
        settle(table, key, entry)
      }
    },
    size: (limit) => tables.get(limit)?.entries.size ?? 0,
  }
}
