import type { IncomingMessage, ServerResponse } from 'node:http'

/** What all servers of this bench have in common. */
export type Headers = Readonly<Record<string, string>>
export const origin = 'https://bench.example'
/** Signed-in people whose requests take turns. */
export const people = 50
/** Nobody ever reaches a limit. */
export const quota = 100_000_000
export const note = { title: 'Evening', text: 'Slept better than last week, and went for a walk.', stars: 4 } as const

/** In which phase of the event loop this process is, while one request is watched. */
let phase: string | undefined

/** Every server answers from setImmediate: one that answers while the body ends is slower, whatever else it does. */
export function soon<T>(value: T): Promise<T> {
  return new Promise((resolve) =>
    setImmediate(() => {
      if (phase !== undefined) {
        phase = 'setImmediate'
        setImmediate(() => (phase = phase === undefined ? undefined : 'later'))
      }
      resolve(value)
    }),
  )
}

/** Watches one request. @returns the phase of the event loop in which its answer is written */
export function phaseOf(req: IncomingMessage, res: ServerResponse): Promise<string> {
  phase = 'head'
  req.prependListener('end', () => (phase = 'end of the body'))
  return new Promise((resolve) => {
    const end = res.end.bind(res) as (...given: unknown[]) => ServerResponse
    res.end = ((...given: unknown[]) => {
      resolve(phase ?? '')
      phase = undefined
      return end(...given)
    }) as typeof res.end
  })
}
