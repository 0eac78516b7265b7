import type { Io } from './io.ts'

/** How far something is. */
export type Position = { readonly what: string; readonly done: number; readonly expected: number }

function whole(value: number): string {
  return Math.round(value).toLocaleString('en')
}

function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return 'unknown'
  if (seconds < 90) return `${Math.ceil(seconds)} s`
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`
}

/** One line: what, how much of how much, at which rate, and how long it still takes at that rate. */
export function progressLine({ what, done, expected }: Position, rate: number): string {
  const left = Math.max(0, expected - done)
  return `${what}: ${whole(done)} of ${whole(Math.max(done, expected))} ${Math.max(done, expected) === 1 ? 'row' : 'rows'}, ${whole(rate)} rows/s, ${rate > 0 ? duration(left / rate) : 'unknown time'} left`
}

const width = 24

function bar({ done, expected }: Position): string {
  const part = expected <= 0 ? 0 : Math.min(1, done / expected)
  const full = Math.round(part * width)
  return `[${'#'.repeat(full)}${'.'.repeat(width - full)}] ${String(Math.floor(part * 100)).padStart(3)} %`
}

/**
 * Shows how far a job is: a bar that is drawn over itself in a terminal, a line every few seconds elsewhere.
 * @param look where it stands now, all workers taken together
 * @returns what ends it
 */
export function showProgress(io: Io, look: () => Promise<readonly Position[]>): () => Promise<void> {
  const terminal = io.terminal === true
  const seen = new Map<string, { readonly at: number; readonly done: number }[]>()
  let running: Promise<void> | undefined

  async function turn(): Promise<void> {
    const positions = await look().catch(() => [])
    const now = performance.now()
    for (const position of positions) {
      const points = seen.get(position.what) ?? []
      points.push({ at: now, done: position.done })
      // The last half minute: long enough to be calm, short enough to notice a change.
      while (points.length > 2 && now - (points[0]?.at ?? now) > 30_000) points.shift()
      seen.set(position.what, points)
      const [first] = points
      const elapsed = (now - (first?.at ?? now)) / 1000
      const rate = elapsed > 0 ? (position.done - (first?.done ?? 0)) / elapsed : 0
      if (terminal) io.err(`\r\u001b[K${bar(position)} ${progressLine(position, rate)}`)
      else io.out(`${progressLine(position, rate)}\n`)
    }
  }

  const timer = setInterval(() => {
    running ??= turn().finally(() => (running = undefined))
  }, terminal ? 500 : 5000)
  timer.unref()
  return async () => {
    clearInterval(timer)
    await running
    if (terminal && seen.size > 0) io.err('\r\u001b[K')
  }
}
