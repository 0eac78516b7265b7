/**
 * Starts work that is done again and again with a pause after each round, as the loops of a worker do, until it is stopped.
 * @param settings.pauseMs milliseconds between two rounds
 * @param settings.round reports its own errors; asks `stopping` between steps that take long
 * @returns stop: ends a pause at once, and waits for the round that is running
 */
export function startRounds(settings: { readonly pauseMs: number; readonly round: (stopping: () => boolean) => Promise<void> }): { stop(): Promise<void> } {
  const { pauseMs, round } = settings
  const stopped = Promise.withResolvers<void>()
  let stopping = false

  async function run(): Promise<void> {
    while (!stopping) {
      await round(() => stopping)
      const pause = Promise.withResolvers<void>()
      const timer = setTimeout(pause.resolve, pauseMs)
      await Promise.race([pause.promise, stopped.promise])
      clearTimeout(timer)
    }
  }

  const running = run()
  return {
    stop() {
      stopping = true
      stopped.resolve()
      return running
    },
  }
}
