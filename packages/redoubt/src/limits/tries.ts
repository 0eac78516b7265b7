import { setTimeout as pause } from 'node:timers/promises'
import type { Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Demand, Limit, Limits } from '../limits.ts'
import { freeTries, manyTries, networksOf, standardNumbers, tryTable, type LimitNumbers, type Tried } from './standard.ts'

/** One try, counted before anybody looked whether it is right. */
export type Try = {
  /** Tries of this account from everywhere in the last quarter of an hour, this one included. */
  readonly tries: number
  /** The try was right: its units are given back, so that only failures count. Never throws. */
  succeeded(): Promise<void>
}

export type Tries = {
  /**
   * Counts a try before the password, code or address is looked at, so that parallel ones cannot pass together.
   * @param what.account keyed name of the account: the newest blind index of the address, or a row id
   * @param what.device id of a device known for this account (limits/device.ts); left out: none, or not proven
   * @throws Refusal too_many_requests with the seconds to wait
   */
  admit(visitor: Visitor, what: { readonly tried: Tried; readonly account: Buffer | string; readonly device?: string | undefined }): Promise<Try>
}

/** Longest time an answer is held back, in milliseconds. */
export const longestDelay = 8_000
/** Answers held back at a time; beyond that none is, so that a crowd of tries does not fill the process with waiting. */
const mostWaiting = 1_000

/** Milliseconds a try is held back for: none for the first ten of an account, then 250 and twice as much each time. */
export function delayFor(tries: number): number {
  return tries <= freeTries ? 0 : Math.min(250 * 2 ** (tries - freeTries - 1), longestDelay)
}

/**
 * Limits of guessing. Who is refused is the guesser, never the account: five failures per account and address network,
 * twenty per network, and from a device the owner signed in with before five of its own, whatever happens elsewhere. Of
 * an account as a whole there is no limit that strangers could use up: answers come later and later, up to
 * `longestDelay`, and an event tells of it. Failures of all accounts together are told too, and refuse nobody. A known
 * device waits for nobody.
 * @param options.mode asked at each try; `report` lets pass what `enforce` refuses, with the same event
 */
export function openTries(options: { readonly limits: Limits; readonly numbers?: LimitNumbers; readonly mode: () => 'off' | 'report' | 'enforce'; readonly emit: Emit }): Tries {
  const { limits, mode, emit } = options
  const numbers = options.numbers ?? standardNumbers
  const tables = { 'sign-in': tryTable('sign-in', numbers), 'second-factor': tryTable('second-factor', numbers), reset: tryTable('reset', numbers), register: tryTable('register', numbers) }
  let waiting = 0
  const sprayed = new Map<Tried, { readonly doublings: number; readonly until: number }>()

  /** Once a quarter of an hour for each doubling: right tries come and go, and would pass the same number again and again. */
  function isNews(tried: Tried, all: number): boolean {
    if (all <= manyTries) return false
    const [doublings, now, last] = [Math.floor(Math.log2(all / manyTries)), performance.now(), sprayed.get(tried)]
    if (last !== undefined && now < last.until && doublings <= last.doublings) return false
    sprayed.set(tried, { doublings, until: now + 900_000 })
    return true
  }

  function demandsOf(visitor: Visitor, tried: Tried, account: string, device: string | undefined): readonly Demand[] {
    const table = tables[tried]
    const one = (limit: Limit, key: string): Demand => ({ limit, key, cost: 1 })
    const counted = [one(table.account, account), one(table.everybody, 'all')]
    if (device !== undefined) return [...counted, one(table.device, `${account} ${device}`)]
    const { narrow, wide } = networksOf(visitor.address)
    const near = [...counted, one(table.pair, `${account} ${narrow}`), one(table.network.narrow, narrow)]
    return wide === undefined ? near : [...near, one(table.network.wide, wide)]
  }

  async function hold(milliseconds: number): Promise<void> {
    if (milliseconds === 0 || waiting >= mostWaiting) return
    waiting++
    try {
      await pause(milliseconds)
    } finally {
      waiting--
    }
  }

  return {
    async admit(visitor, { tried, account: name, device }) {
      const account = typeof name === 'string' ? name : name.toString('hex')
      const active = mode()
      if (active === 'off') return { tries: 0, succeeded: () => Promise.resolve() }
      const demands = demandsOf(visitor, tried, account, device)
      const taken = await limits.take(demands)
      const { requestId } = visitor
      if (!taken.allowed) {
        const at = taken.standings.reduce((most, { wait }, i) => (wait > (taken.standings[most]?.wait ?? 0) ? i : most), 0)
        const wait = taken.standings[at]?.wait ?? 0
        emit({ type: 'security.rate_limited', requestId, limit: demands[at]?.limit.name ?? tried, mode: active })
        if (active === 'enforce') throw new Refusal('too_many_requests', { retryAfter: wait / 1000 })
        return { tries: taken.standings[0]?.used ?? 0, succeeded: () => Promise.resolve() }
      }
      const tries = taken.standings[0]?.used ?? 0
      // At 11, 20, 40, 80, …: often enough to see it grow, too seldom to drown the log.
      if (tries === freeTries + 1 || (tries > freeTries && Number.isInteger(Math.log2(tries / freeTries)))) {
        emit({ type: 'security.suspicious_activity', rule: 'guessing', requestId, tried, account, tries })
      }
      // One try each of very many accounts, from very many addresses, is within every limit but this.
      const all = taken.standings[1]?.used ?? 0
      if (isNews(tried, all)) emit({ type: 'security.suspicious_activity', rule: 'spraying', requestId, tried, tries: all })
      if (device === undefined && active === 'enforce') await hold(delayFor(tries))
      let right = false
      return {
        tries,
        async succeeded() {
          if (right) return
          right = true
          await limits.giveBack(demands, taken)
        },
      }
    },
  }
}
