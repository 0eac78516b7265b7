/** Held per generation; of tokens, two generations of about 0.7 KB each stay under 15 MB. */
const perGeneration = 10_000

/** What was found to be so, by the text it was found of. */
export type Memory<V> = {
  get(text: string): V | undefined
  set(text: string, value: V): void
}

/**
 * Remembers what was verified: access tokens, CSRF tokens. Bounded by two generations: when the younger is full, the
 * older is dropped as a whole, which costs a verification and nothing else. Refusals are not to be remembered: random
 * garbage must not push out what is in use. What can end by itself (times, keys) the caller checks at each use.
 */
export function twoGenerations<V>(size: number = perGeneration): Memory<V> {
  let young = new Map<string, V>()
  let old = new Map<string, V>()
  const set = (text: string, value: V): void => {
    if (young.size >= size) {
      old = young
      young = new Map()
    }
    young.set(text, value)
  }
  return {
    get(text) {
      const found = young.get(text)
      if (found !== undefined) return found
      const earlier = old.get(text)
      if (earlier !== undefined) set(text, earlier)
      return earlier
    },
    set,
  }
}
