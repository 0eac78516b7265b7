import { performance } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { openBreaker } from './breaker.ts'
import { refusalOf, textIn, troubles, type Trouble } from './trouble.ts'

/** How long and how often a key service is asked. Milliseconds. */
export type Patience = {
  /** One attempt. Default 2 000. */
  readonly attempt?: number
  /** All attempts of one call with the pauses between them. Default 8 000. */
  readonly whole?: number
  /** The most attempts. Default 4. */
  readonly attempts?: number
  /** Most of the first pause; doubles each time, up to 2 000. The pause itself is drawn from 0 to there. Default 100. */
  readonly pause?: number
  /** Failures in a row, over all calls, after which no call is made for a while. Default 8. */
  readonly failures?: number
  /** How long that while is at first. Default 2 000; doubles up to 30 000. */
  readonly open?: number
  /** Monotonic milliseconds. */
  readonly clock?: () => number
  /** From 0 to 1. */
  readonly random?: () => number
  readonly wait?: (milliseconds: number) => Promise<void>
}

export type Resilience = {
  /**
   * Runs a call that may be repeated without harm, within bounded time.
   * @param attempt must end when its signal aborts; one that does not is left behind
   * @throws Refusal
   */
  run<T>(attempt: (signal: AbortSignal) => Promise<T>): Promise<T>
  close(): void
}

function whole(name: string, value: number | undefined, otherwise: number, most: number): number {
  if (value === undefined) return otherwise
  if (!Number.isInteger(value) || value < 1 || value > most) throw new TypeError(`key service: patience.${name} must be a whole number from 1 to ${most}`)
  return value
}

/** The outcome of the attempt, or a TimeoutError: also of one that ignores its signal. */
async function within<T>(milliseconds: number, closing: AbortSignal, attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const timer = new AbortController()
  const timeout = setTimeout(() => timer.abort(new DOMException('took too long', 'TimeoutError')), milliseconds)
  const signal = AbortSignal.any([timer.signal, closing])
  const over = Promise.withResolvers<never>()
  const end = (): void => over.reject(signal.reason)
  signal.addEventListener('abort', end, { once: true })
  try {
    signal.throwIfAborted()
    return await Promise.race([attempt(signal), over.promise])
  } finally {
    clearTimeout(timeout)
    signal.removeEventListener('abort', end)
  }
}

/**
 * The one place that repeats, bounds and translates calls of a key service. The retries of the SDKs are switched off:
 * two layers multiply, and theirs do not know what an answer means here.
 * @param classify what an error of this provider means
 * @throws TypeError when the patience is not usable
 */
export function openResilience(settings: {
  readonly provider: string
  readonly classify: (error: unknown) => Trouble
  readonly patience?: Patience
  readonly emit?: Emit
}): Resilience {
  const { provider, classify, patience = {}, emit = () => undefined } = settings
  const { clock = () => performance.now(), random = Math.random, wait = (ms: number) => pause(ms) } = patience
  const attempts = whole('attempts', patience.attempts, 4, 10)
  const attemptTime = whole('attempt', patience.attempt, 2_000, 60_000)
  const wholeTime = whole('whole', patience.whole, 8_000, 120_000)
  const firstPause = whole('pause', patience.pause, 100, 2_000)
  const breaker = openBreaker({
    failures: whole('failures', patience.failures, 8, 1_000),
    open: whole('open', patience.open, 2_000, 30_000),
    mostOpen: 30_000,
    clock,
    random,
    changed: (state) => emit({ type: state === 'open' ? 'key.service_cut_off' : 'key.service_restored', provider }),
  })
  const closing = new AbortController()
  const closed = (): Refusal => new Refusal('key_service_unavailable', { detail: 'the key service is closed' })

  return {
    async run(attempt) {
      const end = clock() + wholeTime
      for (let made = 1; ; made++) {
        if (closing.signal.aborted) throw closed()
        const blocked = breaker.enter()
        if (blocked > 0) throw refusalOf('away', Math.ceil(blocked / 1000))
        try {
          const result = await within(Math.max(1, Math.min(attemptTime, end - clock())), closing.signal, attempt)
          breaker.answered()
          return result
        } catch (error) {
          if (closing.signal.aborted) throw closed()
          if (error instanceof Refusal) {
            breaker.answered()
            throw error
          }
          const trouble = classify(error)
          const rule = troubles[trouble]
          if (rule.counts) breaker.failed()
          else breaker.answered()
          // Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): callers that failed together do not return together.
          const rest = random() * Math.min(firstPause * 2 ** (made - 1), 2_000)
          if (!rule.again || made >= attempts || clock() + rest >= end) throw refusalOf(trouble, 1, textIn(error, 'name'))
          await wait(rest)
        }
      }
    },
    close: () => closing.abort(new DOMException('closed', 'AbortError')),
  }
}

/**
 * Renews something that many calls use (credentials, a token) once for all of them: who comes while it is renewed
 * waits for that, who failed with what has been renewed since goes on at once.
 */
export function openRenewal(renew: () => Promise<void>): {
  /** To be read before the call, and given back when it failed. */
  round(): number
  renewed(since: number): Promise<void>
} {
  let round = 0
  let under: Promise<void> | null = null
  return {
    round: () => round,
    async renewed(since) {
      if (since !== round) return
      under ??= renew().then(() => void round++).finally(() => void (under = null))
      await under
    },
  }
}
