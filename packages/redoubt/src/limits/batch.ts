import type { Decision, Demand, Standing } from '../limits.ts'
import { untilBack } from './window.ts'

/** What a limit says about a demand of so many units, and its place in the batch it was asked in last. */
export type Terms = { readonly quota: string; readonly width: string; readonly cost: string; batch: number; at: number }
/** A name in Redis, and its place in the batch it was asked in last. */
export type Name = { readonly text: string; batch: number; at: number }

/** Places are written as one character each, apart from 0: so many names and terms a batch has at most. */
const mostNames = 127
export const mostTerms = 63
/** Added to the number of the terms where a decision begins. */
const begins = 64

type Asked = { readonly demands: readonly Demand[]; readonly resolve: (decision: Decision) => void; readonly reject: (error: unknown) => void }
export type Batch = { readonly number: number; readonly names: string[]; readonly terms: string[]; codes: string; readonly asked: Asked[] }

let last = 0
export function newBatch(): Batch {
  return { number: ++last, names: [], terms: [], codes: '', asked: [] }
}

/** Whether a decision over so many demands still fits, whatever it names. */
export function fits(batch: Batch, demands: number): boolean {
  return batch.names.length + demands <= mostNames && batch.terms.length / 3 + demands <= mostTerms
}

/** Adds one demand, of the decision that is added last. */
export function write(batch: Batch, name: Name, terms: Terms, first: boolean): void {
  if (name.batch !== batch.number) {
    name.batch = batch.number
    name.at = batch.names.push(name.text)
  }
  if (terms.batch !== batch.number) {
    terms.batch = batch.number
    terms.at = batch.terms.push(terms.quota, terms.width, terms.cost) / 3
  }
  batch.codes += String.fromCharCode(name.at, first ? terms.at + begins : terms.at)
}

/**
 * Gives each its decision.
 * @param reply what the script `take` returned
 * @throws TypeError when that is not an answer to this batch; who has no decision by then has none
 */
export function answer(batch: Batch, reply: unknown): void {
  if (!Array.isArray(reply)) throw unexpected()
  let at = 0
  const next = (): number => {
    const value: unknown = reply[at++]
    if (typeof value !== 'number') throw unexpected()
    return value
  }
  const now = next()
  for (const { demands, resolve } of batch.asked) {
    const allowed = next() === 1
    const standings: Standing[] = []
    for (const { limit } of demands) {
      const width = limit.window / 10
      const used = next()
      const oldest = next()
      standings.push({ used, reset: oldest === 0 ? 0 : untilBack(oldest, now, width), wait: allowed ? 0 : next(), slot: Math.floor(now / width) })
    }
    resolve({ allowed, standings, by: 'redis' })
  }
  if (at !== reply.length) throw unexpected()
}

function unexpected(): TypeError {
  return new TypeError('sharedCounters: the script gave another answer than it gives')
}
