import { performance } from 'node:perf_hooks'
import { memoryCounters } from './limits/memory.ts'
import { sharedCounters } from './limits/redis.ts'
import type { Redis } from './redis.ts'
import type { KeyObject } from 'node:crypto'

/** How much somebody may ask for. Never more than `quota` units in any span of `window` milliseconds. */
export type Limit = {
  /** Small letters and dashes; stands in RateLimit headers and events. */
  readonly name: string
  readonly quota: number
  /** Milliseconds; a multiple of 10. */
  readonly window: number
  /** Units each instance gives by itself while Redis is away. */
  readonly away: number
  /** Counts, and never refuses. */
  readonly counts?: true
}

/** Units asked for from one limit, by whom. `key` is never sent anywhere in clear. */
export type Demand = { readonly limit: Limit; readonly key: string; readonly cost: number }

/** How one limit stands after the decision. */
export type Standing = {
  /** Units used in the window, this request's included when it was allowed. */
  readonly used: number
  /** Milliseconds until the oldest units come back. */
  readonly reset: number
  /** Milliseconds until the demand fits; 0 when it does. */
  readonly wait: number
  /** In which tenth of a window the units were counted. */
  readonly slot: number
}

/** A decision over several demands: all are counted, or none. One standing for each, in their order. */
export type Decision = { readonly allowed: boolean; readonly standings: readonly Standing[]; readonly by: 'memory' | 'redis' }

/** Whatever counts: the memory of a process, or Redis. */
export type Counters = {
  take(demands: readonly Demand[]): Decision | Promise<Decision>
  /** Takes units back out of the tenth in which they were counted. */
  giveBack(demands: readonly Demand[], decision: Decision): void | Promise<void>
}

export type Limits = {
  /** Whether counters are shared with other instances at this moment. */
  readonly shared: boolean
  /** Counts all demands, or none of them when one does not fit. Waits for Redis at most once, and for its timeout at most. */
  take(demands: readonly Demand[]): Decision | Promise<Decision>
  /** Undoes a `take`, where what was asked for turned out not to count. Never throws. */
  giveBack(demands: readonly Demand[], decision: Decision): Promise<void>
}

/** @throws TypeError when a number is out of bounds */
export function defineLimit(limit: Limit): Limit {
  if (!/^[a-z][a-z0-9-]{1,40}$/.test(limit.name)) throw new TypeError('defineLimit: name must be small letters, digits and dashes')
  for (const name of ['quota', 'away'] as const) {
    if (!Number.isInteger(limit[name]) || limit[name] < 1 || limit[name] > 1e9) throw new TypeError(`defineLimit: ${limit.name}: ${name} must be a whole number from 1 to 1e9`)
  }
  if (!Number.isInteger(limit.window / 10) || limit.window < 1000 || limit.window > 86_400_000) {
    throw new TypeError(`defineLimit: ${limit.name}: window must be 1,000 to 86,400,000 milliseconds and a multiple of 10`)
  }
  return Object.freeze({ ...limit })
}

/**
 * Counters for one instance in memory, or for many in Redis. While Redis is away each instance counts by itself, by the
 * `away` of each limit: nobody waits, nobody is refused for it, and nothing is open. An outage can let through at most
 * `quota` (counted before it) plus `away` per instance in a window; coming back, those counted by the instances are not
 * in Redis, which adds at most `quota` once.
 * @param options.shared Redis and the key under which names are hashed, the same on all instances; left out: memory alone
 * @param options.clock monotonic milliseconds; of the memory only, Redis goes by its own
 * @param options.keys held in memory at most, per limit
 */
export function openLimits(options: {
  readonly shared?: { readonly redis: Redis; readonly secret: KeyObject; readonly prefix: string }
  readonly clock?: () => number
  readonly keys?: number
} = {}): Limits {
  const clock = options.clock ?? (() => performance.now())
  const keys = options.keys ?? 50_000
  const local = memoryCounters({ clock, keys, quotaOf: ({ quota }) => quota })
  if (options.shared === undefined) {
    return {
      shared: false,
      take: local.take,
      giveBack: async (demands, decision) => local.giveBack(demands, decision),
    }
  }
  const { redis } = options.shared
  const shared = sharedCounters(options.shared)
  const insurance = memoryCounters({ clock, keys, quotaOf: ({ away }) => away })
  return {
    get shared() {
      return redis.state === 'up'
    },
    take(demands) {
      return redis.state === 'up' ? shared.take(demands).catch(() => insurance.take(demands)) : insurance.take(demands)
    },
    async giveBack(demands, decision) {
      if (decision.by === 'memory') insurance.giveBack(demands, decision)
      // Redis that went away meanwhile forgets or expires the unit by itself.
      else await shared.giveBack(demands, decision).catch(() => undefined)
    },
  }
}
