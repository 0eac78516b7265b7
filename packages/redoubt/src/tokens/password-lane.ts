import { Refusal } from '../errors.ts'

export type Lane = {
  /**
   * Lets in as many as can run and wait, before they do anything else: who finds no room has cost little. Of 100 sign-ins
   * at once, 67 had their account looked up and were refused afterwards. A burst begins a few at a time, so that one
   * turn of the event loop, for which all others wait, stays under two milliseconds, and a work that has to wait begins
   * when its turn to be run comes near: thirty look-ups at once were as many connections and processes at once.
   * @throws Refusal busy, with the seconds until there should be room
   */
  room<T>(work: () => Promise<T>): Promise<T>
  /**
   * Runs a job when its turn comes.
   * @throws Refusal busy when as many wait already
   */
  run<T>(job: () => Promise<T>): Promise<T>
}

/** Sign-ins that begin, or are refused, in one turn of the event loop: each takes 0.1 to 0.2 ms of it. */
const perTurn = 4

/** Resolves at once for the first few of a turn of the event loop, and for the others a few each turn, in their order. */
function fewPerTurn(): () => Promise<void> {
  const later: (() => void)[] = []
  let begun = 0
  const next = (): void => {
    const now = later.splice(0, perTurn)
    begun = now.length
    if (begun > 0) setImmediate(next)
    for (const go of now) go()
  }
  return async () => {
    if (begun === 0) setImmediate(next)
    if (begun < perTurn) begun++
    else await new Promise<void>((go) => later.push(go))
  }
}

/** At most `most` at once, the others in their order. Whoever leaves hands over the place. */
function turnstile(most: number): { readonly waiting: () => number; enter(): Promise<void>; leave(): void } {
  const waiting: (() => void)[] = []
  let inside = 0
  return {
    waiting: () => waiting.length,
    async enter() {
      if (inside < most) inside++
      else await new Promise<void>((go) => waiting.push(go))
    },
    leave() {
      const next = waiting.shift()
      if (next === undefined) inside--
      else next()
    },
  }
}

/** At most `concurrency` jobs at once, and `queue` that wait. */
export function lane(concurrency: number, queue: number): Lane {
  const turn = fewPerTurn()
  const jobs = turnstile(concurrency)
  // One more than can be hashed: its account is looked up meanwhile.
  const works = turnstile(concurrency + 1)
  let admitted = 0
  let average = 50
  let last = new Refusal('busy', { retryAfter: 1 })

  /** One for all who are told the same: where it was thrown says nothing, and taking note of it cost more than the answer. */
  function busy(): Refusal {
    const retryAfter = Math.max(1, Math.ceil((average * queue) / concurrency / 1000))
    if (last.retryAfter !== retryAfter) last = new Refusal('busy', { retryAfter })
    return last
  }

  return {
    async room(work) {
      await turn()
      if (admitted >= concurrency + queue) throw busy()
      admitted++
      await works.enter()
      try {
        return await work()
      } finally {
        works.leave()
        admitted--
      }
    },
    async run(job) {
      if (jobs.waiting() >= queue) throw busy()
      await jobs.enter()
      const started = performance.now()
      try {
        return await job()
      } finally {
        average = 0.9 * average + 0.1 * (performance.now() - started)
        jobs.leave()
      }
    },
  }
}
