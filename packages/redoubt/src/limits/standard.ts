import { networkOf, parseAddress } from '../context/address.ts'
import { defineLimit, type Limit } from '../limits.ts'

/** The numbers an operator may change; the defaults are those of the founding documents. */
export type LimitNumbers = {
  /** Requests of nobody in particular per address in 15 minutes: reads, and apart from them writes. */
  readonly anonymous: number
  /** Units of one caller per minute; a route weighs one unless it says otherwise. */
  readonly caller: number
  /** Requests of all signed-in callers of one address per minute. */
  readonly address: number
  /** Requests of one address per minute that one process looks at, before it knows whose they are. */
  readonly flood: number
  /** Failed tries per account and device, or account and address, in 15 minutes. */
  readonly signIn: number
  /** Failed tries per address in 15 minutes, whatever the account. */
  readonly signInAddress: number
}

export const standardNumbers: LimitNumbers = Object.freeze({ anonymous: 100, caller: 60, address: 600, flood: 1_200, signIn: 5, signInAddress: 20 })

/**
 * How much more an IPv6 /48 may than one of its 65,536 /64. A provider gives a household a /64, a /56 or a whole /48:
 * without this, whoever has a /48 has 65,536 quotas; with less, neighbours in one /48 would use up each other's.
 */
const wideFactor = 10

const minute = 60_000
const quarter = 15 * minute

/** A limit for the narrow network of an address, and for the wide one around it. */
export type NetworkLimit = { readonly narrow: Limit; readonly wide: Limit }

function networkLimit(name: string, quota: number, window: number, away: number): NetworkLimit {
  const narrow = defineLimit({ name, quota, window, away })
  return Object.freeze({ narrow, wide: defineLimit({ name: `${name}-wide`, quota: quota * wideFactor, window, away: away * wideFactor }) })
}

/** The limits of the edge. While Redis is away each instance goes on with the same numbers. */
export type EdgeTable = { readonly flood: NetworkLimit; readonly read: NetworkLimit; readonly write: NetworkLimit; readonly address: NetworkLimit; readonly caller: Limit }

/** @throws TypeError when a number is out of bounds */
export function edgeTable({ flood, anonymous, address, caller }: LimitNumbers): EdgeTable {
  return Object.freeze({
    flood: networkLimit('flood', flood, minute, flood),
    read: networkLimit('anonymous-read', anonymous, quarter, anonymous),
    write: networkLimit('anonymous-write', anonymous, quarter, anonymous),
    address: networkLimit('address', address, minute, address),
    caller: defineLimit({ name: 'caller', quota: caller, window: minute, away: caller }),
  })
}

/** What is tried under limits of its own. */
export type Tried = 'sign-in' | 'second-factor' | 'reset' | 'register'

/** Failed tries of an account from everywhere, before answers are held back. */
export const freeTries = 10

/** Failed tries of all accounts together in 15 minutes, before an event tells of them. */
export const manyTries = 100

/** The limits of one kind of try. While Redis is away each instance is stricter, for it sees only its own part. */
export type TryTable = { readonly device: Limit; readonly pair: Limit; readonly network: NetworkLimit; readonly account: Limit; readonly everybody: Limit }

export function tryTable(tried: Tried, { signIn, signInAddress }: LimitNumbers): TryTable {
  const strict = Math.max(Math.floor(signIn / 2), 1)
  return Object.freeze({
    device: defineLimit({ name: `${tried}-device`, quota: signIn, window: quarter, away: strict }),
    pair: defineLimit({ name: `${tried}-pair`, quota: signIn, window: quarter, away: strict }),
    network: networkLimit(`${tried}-address`, signInAddress, quarter, Math.max(Math.floor(signInAddress / 4), 1)),
    account: defineLimit({ name: `${tried}-account`, quota: freeTries, window: quarter, away: freeTries, counts: true }),
    everybody: defineLimit({ name: `${tried}-everybody`, quota: manyTries, window: quarter, away: manyTries, counts: true }),
  })
}

/** The networks an address is limited by: IPv4 /32; IPv6 /64, and the /48 around it. */
export type Networks = { readonly narrow: string; readonly wide: string | undefined }

const nowhere: Networks = Object.freeze({ narrow: 'nowhere', wide: undefined })

/** Who has no readable address shares one budget: better one crowded than none. */
export function networksOf(address: string | null): Networks {
  const read = address === null ? null : parseAddress(address)
  if (read === null) return nowhere
  return { narrow: networkOf(read, { v4: 32, v6: 64 }), wide: read.family === 6 ? networkOf(read, { v4: 32, v6: 48 }) : undefined }
}
