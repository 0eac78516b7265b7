/** Held per generation; of tokens, two generations of about 0.7 KB each stay under 15 MB. */
const perGeneration = 10_000

/** What was found to be so, by the text it was found of. */
export type Memory<V> = {
  get(text: string): V | undefined
  set(text: string, value: V): void
}

/**
 * Characters from the end by which a text is looked up; then all of it is compared. To hash a whole token at each request
 * costs four times what comparing it does. Here an access token has the end of its signature and a CSRF token that of its
 * MAC: what ends alike without being the same was never signed, and is not remembered.
 */
const tail = 22

type Held<V> = { readonly text: string; readonly value: V }

/**
 * Remembers what was verified: access tokens, CSRF tokens. Bounded by two generations: when the younger is full, the
 * older is dropped as a whole, which costs a verification and nothing else. Refusals are not to be remembered: random
 * garbage must not push out what is in use. What can end by itself (times, keys) the caller checks at each use.
 */
export function twoGenerations<V>(size: number = perGeneration): Memory<V> {
  let young = new Map<string, Held<V>>()
  let old = new Map<string, Held<V>>()
  const keep = (end: string, held: Held<V>): void => {
    if (young.size >= size) {
      old = young
      young = new Map()
    }
    young.set(end, held)
  }
  return {
    get(text) {
      const end = text.slice(-tail)
      const found = young.get(end)
      if (found !== undefined && found.text === text) return found.value
      const earlier = old.get(end)
      if (earlier === undefined || earlier.text !== text) return undefined
      keep(end, earlier)
      return earlier.value
    },
    set: (text, value) => keep(text.slice(-tail), { text, value }),
  }
}
