import type { Claims } from './claims.ts'

/** Tokens held per generation; two generations of about 0.7 KB a token stay under 15 MB. */
const perGeneration = 10_000

/**
 * Tokens whose signature held. Bounded by two generations: when the younger is full, the older is dropped as a
 * whole, which costs a verification and nothing else. Refusals are not remembered: random garbage must not push
 * out tokens that are in use. The caller checks the times at each use.
 */
export function tokenCache(size: number = perGeneration): {
  get(token: string): Claims | undefined
  set(token: string, claims: Claims): void
} {
  let young = new Map<string, Claims>()
  let old = new Map<string, Claims>()
  const set = (token: string, claims: Claims): void => {
    if (young.size >= size) {
      old = young
      young = new Map()
    }
    young.set(token, claims)
  }
  return {
    get(token) {
      const found = young.get(token)
      if (found !== undefined) return found
      const earlier = old.get(token)
      if (earlier !== undefined) set(token, earlier)
      return earlier
    },
    set,
  }
}
