/** What all servers of this bench have in common. */
export type Headers = Readonly<Record<string, string>>
export const origin = 'https://bench.example'
/** Signed-in people whose requests take turns. */
export const people = 50
/** Nobody ever reaches a limit. */
export const quota = 100_000_000
export const note = { title: 'Evening', text: 'Slept better than last week, and went for a walk.', stars: 4 } as const

/** Every server answers from setImmediate: one that answers while the body ends is slower, whatever else it does. */
export function soon<T>(value: T): Promise<T> {
  return new Promise((resolve) => setImmediate(() => resolve(value)))
}
