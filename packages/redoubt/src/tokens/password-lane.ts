import { Refusal } from '../errors.ts'

/**
 * Runs at most `concurrency` jobs at once and lets `queue` wait.
 * @throws Refusal busy, with the seconds until there should be room, when as many wait already
 */
export function lane(concurrency: number, queue: number): <T>(job: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = []
  let running = 0
  let average = 50
  return async (job) => {
    if (running >= concurrency) {
      if (waiting.length >= queue) throw new Refusal('busy', { retryAfter: Math.ceil((average * waiting.length) / concurrency / 1000) })
      // The one who finishes hands over its place, so running stays as it is.
      await new Promise<void>((resolve) => waiting.push(resolve))
    } else {
      running++
    }
    const started = performance.now()
    try {
      return await job()
    } finally {
      average = 0.9 * average + 0.1 * (performance.now() - started)
      const next = waiting.shift()
      if (next === undefined) running--
      else next()
    }
  }
}
