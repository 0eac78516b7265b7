import type { IncomingMessage, ServerResponse } from 'node:http'
import { performance } from 'node:perf_hooks'
import type { Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Decision, Demand, Limit, Limits } from '../limits.ts'
import { memoryCounters } from '../limits/memory.ts'
import { edgeTable, networksOf, standardNumbers, type LimitNumbers, type NetworkLimit, type Networks } from '../limits/standard.ts'
import type { Authenticate } from './authenticate.ts'
import { keepsHead, setField } from './head.ts'
import type { Check } from './mount.ts'
import { onlyKnown } from './options.ts'
import { answerProblem } from './problem.ts'
import { visitorOf, type Middleware } from './request-state.ts'

export type EdgeLimits = {
  /** By address, in this process, before anything is verified: what a flood costs us. */
  readonly step: Middleware
  /** By caller and address after authentication, by address alone on public routes; one trip to Redis. */
  readonly check: Check
  /** The same authentication; a request it refuses counts as one of nobody in particular. */
  counting(authenticate: Authenticate): Authenticate
}

/** Addresses whose networks are remembered per generation. */
const remembered = 10_000

/**
 * The limits of the edge, for `perimeter` and `mount`. RateLimit fields are those of
 * draft-ietf-httpapi-ratelimit-headers (08 and later): of the caller's own limit (of the address's, where nobody is signed
 * in), and in a refusal of the limit that has to be waited for longest; Retry-After stands with each 429.
 * @param options.mode asked at each request: off, report (an event, and the request passes) or enforce
 * @param options.exempt exact paths the step lets pass: of signed webhooks, whose sender comes in bursts
 */
export function edgeLimits(options: {
  readonly limits: Limits
  readonly mode: () => 'off' | 'report' | 'enforce'
  readonly emit: Emit
  readonly numbers?: LimitNumbers
  readonly exempt?: readonly string[]
  readonly clock?: () => number
  readonly keys?: number
}): EdgeLimits {
  onlyKnown('edgeLimits', options, ['limits', 'mode', 'emit', 'numbers', 'exempt', 'clock', 'keys'])
  const { limits, mode, emit } = options
  for (const name of ['mode', 'emit'] as const) if (typeof options[name] !== 'function') throw new TypeError(`edgeLimits: ${name} must be a function`)
  const table = edgeTable(options.numbers ?? standardNumbers)
  const exempt = new Set(options.exempt ?? [])
  const local = memoryCounters({ clock: options.clock ?? (() => performance.now()), keys: options.keys ?? 50_000, quotaOf: ({ quota }) => quota })
  const networks = networkCache()

  function decide(visitor: Visitor, res: ServerResponse | undefined, demands: readonly Demand[], decision: Decision): void {
    let shown = 0
    if (!decision.allowed) for (const [at, { wait }] of decision.standings.entries()) if (wait > (decision.standings[shown]?.wait ?? 0)) shown = at
    const limit = demands[shown]?.limit
    const standing = decision.standings[shown]
    if (limit === undefined || standing === undefined) return
    const seconds = Math.ceil((decision.allowed ? standing.reset : standing.wait) / 1000)
    if (res !== undefined) {
      setField(res, 'RateLimit-Policy', policyOf(limit))
      setField(res, 'RateLimit', `"${limit.name}";r=${decision.allowed ? Math.max(limit.quota - standing.used, 0) : 0};t=${seconds}`)
    }
    if (decision.allowed) return
    const active = mode() === 'report' ? 'report' : 'enforce'
    emit({ type: 'security.rate_limited', requestId: visitor.requestId, limit: limit.name, mode: active })
    if (active === 'enforce') throw new Refusal('too_many_requests', { retryAfter: seconds })
  }

  function anonymous(visitor: Visitor, req: IncomingMessage, cost: number): readonly Demand[] {
    const safe = req.method === 'GET' || req.method === 'HEAD'
    return demandsOf(safe ? table.read : table.write, networks(visitor.address), cost)
  }

  function take(visitor: Visitor, res: ServerResponse | undefined, demands: readonly Demand[]): void | Promise<void> {
    const taken = limits.take(demands)
    return taken instanceof Promise ? taken.then((decision) => decide(visitor, res, demands, decision)) : decide(visitor, res, demands, taken)
  }

  return Object.freeze<EdgeLimits>({
    step: keepsHead<Middleware>((req, res, next) => {
      const path = req.url ?? ''
      if (mode() === 'off' || exempt.has(path)) return next()
      const visitor = visitorOf(req)
      const demands = demandsOf(table.flood, networks(visitor.address), 1)
      const decision = local.take(demands)
      if (decision.allowed) return next()
      try {
        decide(visitor, res, demands, decision)
      } catch (error) {
        return answerProblem(req, res, error, emit)
      }
      next()
    }),
    check: keepsHead<Check>((req, res, { visitor, caller, route }) => {
      if (mode() === 'off' || route.weight === 0) return undefined
      if (caller === null) return take(visitor, res, anonymous(visitor, req, route.weight))
      const { narrow, wide } = networks(visitor.address)
      // By session, not by account: a stolen token, also of a session that has ended, must not use up what its owner may ask.
      const key = caller.kind === 'user' ? caller.session : caller.actor
      const demands: Demand[] = [{ limit: table.caller, key, cost: route.weight }, { limit: table.address.narrow, key: narrow, cost: 1 }]
      if (wide !== undefined) demands.push({ limit: table.address.wide, key: wide, cost: 1 })
      return take(visitor, res, demands)
    }),
    counting(authenticate) {
      const refused = async (req: IncomingMessage, visitor: Visitor, error: unknown): Promise<never> => {
        if (mode() !== 'off' && error instanceof Refusal && (error.code === 'unauthenticated' || error.code === 'caller_refused')) await take(visitor, undefined, anonymous(visitor, req, 1))
        throw error
      }
      const read: Authenticate = (req, visitor, kind) => {
        try {
          const found = authenticate(req, visitor, kind)
          return found instanceof Promise ? found.catch((error: unknown) => refused(req, visitor, error)) : found
        } catch (error) {
          return refused(req, visitor, error)
        }
      }
      return Object.assign(read, authenticate)
    },
  })
}

const policies = new WeakMap<Limit, string>()

function policyOf(limit: Limit): string {
  const known = policies.get(limit)
  if (known !== undefined) return known
  const made = `"${limit.name}";q=${limit.quota};w=${limit.window / 1000}`
  policies.set(limit, made)
  return made
}

function demandsOf(limit: NetworkLimit, { narrow, wide }: Networks, cost: number): readonly Demand[] {
  const near = { limit: limit.narrow, key: narrow, cost }
  return wide === undefined ? [near] : [near, { limit: limit.wide, key: wide, cost }]
}

/** Remembers the networks of the last addresses: the parse would be the dearest part of a decision. */
function networkCache(): (address: string | null) => Networks {
  let young = new Map<string | null, Networks>()
  let old = new Map<string | null, Networks>()
  return (address) => {
    const known = young.get(address) ?? old.get(address)
    if (known !== undefined) return known
    const made = networksOf(address)
    if (young.size >= remembered) {
      old = young
      young = new Map()
    }
    young.set(address, made)
    return made
  }
}
