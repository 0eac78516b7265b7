import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { ApiClient, Person, Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Tokens } from '../tokens.ts'
import { insideNetworks } from '../tokens/clients.ts'
import type { SessionCookies } from './cookies.ts'
import type { Kind } from './route.ts'

/** How a caller came. Only the edge knows it; CSRF is asked of those whose browser sends the proof by itself. */
export type Via = 'bearer' | 'cookie' | 'api_client'
export type Authenticated = {
  readonly caller: Person | ApiClient
  readonly via: Via
  /** Lines of Set-Cookie that must reach the browser, whatever becomes of the request. */
  readonly renewed?: readonly string[]
}

/** Turns a request into its caller, or refuses: `unauthenticated`; `caller_refused` where a page's renewal was refused. */
export type Authenticate = {
  (req: IncomingMessage, visitor: Visitor, kind: Kind): Authenticated | Promise<Authenticated>
  /** Left out by one that takes no cookies; `mount` refuses one that does without `csrf`. */
  readonly ways?: readonly Via[]
  /** The cookie that carries the access token, for the OpenAPI document; left out by one that takes none. */
  readonly cookie?: string
  /** Whether the request carries what this one reads; for `anyOf`. */
  present?(req: IncomingMessage): boolean
}

const scheme = /^bearer +([A-Za-z0-9_.-]+)$/i

/**
 * Callers, people and API clients, by `Authorization: Bearer` (RFC 6750 §2.1); never by a query parameter or a form field, which end in logs.
 * The signature, the claims and the time are checked here; whether the session still stands is checked inside the
 * gate, in the transaction that does the work.
 */
export function bearer(tokens: Tokens): Authenticate {
  if (typeof tokens?.verify !== 'function') throw new TypeError('bearer: tokens must come from openTokens')
  const read = (req: IncomingMessage, visitor: Visitor): Authenticated => {
    const header = req.headers.authorization
    if (header === undefined) throw new Refusal('unauthenticated')
    const token = scheme.exec(header)?.[1]
    if (token === undefined) throw new Refusal('unauthenticated')
    const caller = callerOf(tokens, token, visitor)
    return { caller, via: caller.kind === 'user' ? 'bearer' : 'api_client' }
  }
  return Object.assign(read, { ways: ['bearer'] as const, present: (req: IncomingMessage) => req.headers.authorization !== undefined })
}

/** Exchanges the refresh token of a browser for the next pair; refuses with `caller_refused`. */
export type Renew = (refresh: string, headers: IncomingHttpHeaders, visitor: Visitor) => Promise<{ readonly access: string; readonly refresh: string; readonly seconds: number }>

/**
 * Callers by the access cookie of a browser's session. `mount` asks CSRF of them, by default and on every unsafe method.
 * @param cookies of sessionCookies
 * @param renew asked where a page is wanted and the access token is over: a browser that runs no script of ours cannot
 *   do it itself. Never for the API: many requests at once would each exchange the same token
 */
export function cookie(tokens: Tokens, cookies: SessionCookies, renew?: Renew): Authenticate {
  if (typeof tokens?.verify !== 'function') throw new TypeError('cookie: tokens must come from openTokens')
  if (typeof cookies?.read !== 'function') throw new TypeError('cookie: cookies must come from sessionCookies')
  const again = async (refresh: string, req: IncomingMessage, visitor: Visitor, ask: Renew): Promise<Authenticated> => {
    const next = await ask(refresh, req.headers, visitor)
    return { caller: personOf(tokens, next.access, visitor), via: 'cookie', renewed: cookies.set(next, next.seconds) }
  }
  const read = (req: IncomingMessage, visitor: Visitor, kind: Kind): Authenticated | Promise<Authenticated> => {
    const { access = '', refresh = '' } = cookies.read(req.headers)
    try {
      return { caller: personOf(tokens, access, visitor), via: 'cookie' }
    } catch (error) {
      if (!(error instanceof Refusal) || kind !== 'page' || refresh === '' || renew === undefined) throw error
      return again(refresh, req, visitor, renew)
    }
  }
  return Object.assign(read, { ways: ['cookie'] as const, cookie: cookies.names.access, present: (req: IncomingMessage) => isSent(cookies.read(req.headers)) })
}

/**
 * The first of several whose credential the request carries decides alone: a wrong token in Authorization is refused,
 * and not made good by a cookie beside it.
 * @throws TypeError when one of them cannot tell whether its credential is there
 */
export function anyOf(...authenticates: readonly [Authenticate, ...Authenticate[]]): Authenticate {
  if (authenticates.length === 0 || authenticates.some(({ present }) => present === undefined)) throw new TypeError('anyOf: takes what bearer, cookie and their like make')
  const read = (req: IncomingMessage, visitor: Visitor, kind: Kind): Authenticated | Promise<Authenticated> => {
    const which = authenticates.find(({ present }) => present?.(req))
    if (which === undefined) throw new Refusal('unauthenticated')
    return which(req, visitor, kind)
  }
  const named = authenticates.find((each) => each.cookie !== undefined)?.cookie
  return Object.assign(read, {
    ways: authenticates.flatMap(({ ways }) => ways ?? []),
    ...(named === undefined ? undefined : { cookie: named }),
    present: (req: IncomingMessage) => authenticates.some(({ present }) => present?.(req)),
  })
}

function isSent({ access, refresh }: { readonly access?: string; readonly refresh?: string }): boolean {
  return access !== undefined || refresh !== undefined
}

/** @throws Refusal unauthenticated, also for an API client's token from outside its networks */
function callerOf(tokens: Tokens, token: string, visitor: Visitor): Person | ApiClient {
  const { actor, role, tenant, session, client } = tokens.verify(token)
  const { requestId, address } = visitor
  if (client === undefined) return { kind: 'user', actor, role, tenant, session, requestId, address }
  if (!insideNetworks(client.networks, address)) throw new Refusal('unauthenticated')
  return { kind: 'api_client', actor, role: 'api_client', tenant, session, scopes: client.scopes, requestId, address }
}

/** A program has no browser: its token in a cookie was put there by somebody else. */
function personOf(tokens: Tokens, token: string, visitor: Visitor): Person {
  const caller = callerOf(tokens, token, visitor)
  if (caller.kind !== 'user') throw new Refusal('unauthenticated')
  return caller
}
