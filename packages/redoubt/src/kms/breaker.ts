/** Closed: calls pass. Open: none does. Probing: one does, and its outcome decides. */
export type BreakerState = 'closed' | 'open' | 'probing'

export type Breaker = {
  /** Milliseconds until a call may pass; 0 lets this one pass, as the single probe where the breaker was open. */
  enter(): number
  /** The service answered, whatever it said. */
  answered(): void
  /** The service was away, too slow, or told us to slow down. */
  failed(): void
  state(): BreakerState
}

export type BreakerSettings = {
  /** Failures in a row that open it. */
  readonly failures: number
  /** Milliseconds it stays open at first; doubles with each probe that fails. */
  readonly open: number
  /** The most it stays open. */
  readonly mostOpen: number
  /** Monotonic milliseconds. */
  readonly clock: () => number
  /** From 0 to 1: spreads the probes of many processes. */
  readonly random: () => number
  readonly changed?: (state: 'open' | 'closed') => void
}

/**
 * A circuit breaker: a service that is away is asked by one call at a time and at growing intervals, not by every
 * caller of every process until its timeout.
 */
export function openBreaker(settings: BreakerSettings): Breaker {
  const { clock, random, changed = () => undefined } = settings
  let state: BreakerState = 'closed'
  let inARow = 0
  let openings = 0
  let until = 0

  function open(): void {
    const length = Math.min(settings.open * 2 ** openings, settings.mostOpen)
    openings++
    // Half of it fixed, half by chance: never at once, and not all processes together.
    until = clock() + length / 2 + (random() * length) / 2
    if (state === 'closed') changed('open')
    state = 'open'
  }

  return {
    enter() {
      if (state === 'closed') return 0
      const wait = until - clock()
      if (state === 'probing' || wait > 0) return Math.max(wait, 1)
      state = 'probing'
      return 0
    },
    answered() {
      if (state !== 'closed') changed('closed')
      state = 'closed'
      inARow = 0
      openings = 0
    },
    failed() {
      inARow++
      // A late failure of a call from before the opening does not prolong it.
      if (state === 'probing' || (state === 'closed' && inARow >= settings.failures)) open()
    },
    state: () => state,
  }
}
