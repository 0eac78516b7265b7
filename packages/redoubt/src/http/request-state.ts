import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ApiClient, Person, Visitor } from '../context.ts'
import type { RefusalCode } from '../errors.ts'
import type { Kind } from './route.ts'

/** One step of the perimeter. Mounts on Express 5, on NestJS and on bare node:http. */
export type Middleware = (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void) => void

/** The route of a request for which none was found, or not yet. */
export const unmatched = 'unmatched'

/** What the edge knows of a request; the last six are filled as the request goes on, for `http.answered`. */
export type RequestState = {
  readonly visitor: Visitor
  /** Over TLS, by the socket or by the word of a trusted proxy. */
  readonly secure: boolean
  route: string
  /** The kind of the matched route: how an error is told. */
  kind: Kind
  code: RefusalCode | undefined
  actor: string | undefined
  /** Past the limits by a signed token alone: whether the session still stands is asked before anything is told. */
  unasked: Person | ApiClient | undefined
  /** Lines of Set-Cookie that go with any answer: the browser's old refresh token is spent. */
  renewed: readonly string[]
}

/*
 * A property under a symbol of this module: where the package is loaded twice, the other copy finds nothing
 * and refuses, instead of reading somebody else's state.
 */
const key = Symbol('redoubt request state')
type Marked = IncomingMessage & { [key]?: RequestState }

export function setRequestState(req: IncomingMessage, state: RequestState): void {
  ;(req as Marked)[key] = state
}

/** What the request-id step recorded, or undefined when it has not run. */
export function requestStateOf(req: IncomingMessage): RequestState | undefined {
  return (req as Marked)[key]
}

/**
 * The visitor behind a request.
 * @throws TypeError when the perimeter has not run for it
 */
export function visitorOf(req: IncomingMessage): Visitor {
  const state = requestStateOf(req)
  if (state === undefined) throw new TypeError('visitorOf: the steps of perimeter() must run before this')
  return state.visitor
}
