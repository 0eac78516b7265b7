import { monitorEventLoopDelay } from 'node:perf_hooks'

/** Milliseconds between two looks at the clock; what is longer, by as much again, is a pause. */
const beat = 1

/** When the loop of this process stood still, so that a wait can be told from a pause of whoever waits. */
export type Pauses = {
  /**
   * Milliseconds of the span in which the loop did not turn, and for how many of them its thread was at work: for the rest
   * the machine did not let it. Of the last ten seconds.
   */
  within(from: number, to: number): { readonly paused: number; readonly atWork: number }
  /** By Node's own histogram of the delay of the loop: the 99th percentile and the longest, in milliseconds. */
  stop(): { readonly usual: number; readonly longest: number }
}

export function watchPauses(): Pauses {
  const delay = monitorEventLoopDelay({ resolution: beat })
  delay.enable()
  let pauses: { readonly from: number; readonly to: number; readonly atWork: number }[] = []
  let last = { at: performance.now(), work: work() }

  const look = (at: number): (typeof pauses)[number] => ({ from: last.at + beat, to: at, atWork: Math.min(Math.max(work() - last.work, 0), at - last.at) })
  const timer = setInterval(() => {
    const at = performance.now()
    if (at - last.at > 2 * beat) {
      pauses.push(look(at))
      if ((pauses[0]?.to ?? at) < at - 10_000) pauses = pauses.filter(({ to }) => to > at - 10_000)
    }
    last = { at, work: work() }
  }, beat)

  return {
    within(from, to) {
      let [paused, atWork] = [0, 0]
      // The one that is not over too: who is answered at its end comes before the next beat.
      for (const pause of [...pauses, look(to)]) {
        const both = Math.min(to, pause.to) - Math.max(from, pause.from)
        if (both <= 0) continue
        paused += both
        atWork += Math.min(pause.atWork, both)
      }
      return { paused, atWork }
    },
    stop() {
      clearInterval(timer)
      delay.disable()
      return { usual: delay.percentile(99) / 1e6, longest: delay.max / 1e6 }
    },
  }
}

/** Milliseconds of processor time of this thread. */
function work(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}
