import type { IncomingHttpHeaders } from 'node:http'
import type { z } from 'zod'
import type { ApiClient, Person, Visitor } from '../context.ts'
import { refusals } from '../errors.ts'
import type { RefusalCode } from '../errors.ts'
import type { Repeatable } from '../idempotency.ts'
import { isScope } from '../tokens/claims.ts'
import { defaultBodyLimit, isMediaType } from './body.ts'
import { onlyKnown, whole } from './options.ts'
import { parameterName, pathSegments } from './path.ts'
import type { Sources } from './headers.ts'
import { answerShape, strictShape } from './shape.ts'
import type { JsonSchema } from './shape.ts'

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
export type Access = 'public' | readonly [string, ...string[]]
/** What a route answers with: JSON, a page, a file to save, or a file a page is made of. Each has headers of its own. */
export type Kind = 'api' | 'page' | 'download' | 'asset'
export type Nothing = z.ZodObject<Record<never, never>, z.core.$strict>

/** The bytes of a body as sent: at most so many, of one of these types exactly. */
export type Raw = { readonly limit: number; readonly type: string | readonly [string, ...string[]] }

/** A value a handler may hand over: lists and objects may be readonly. */
export type Given<T> = T extends readonly (infer U)[] ? readonly Given<U>[] : T extends object ? { readonly [K in keyof T]: Given<T[K]> } : T

export type Input<C extends Access, P extends z.ZodType, Q extends z.ZodType, B, S = undefined> = {
  /** Whoever calls; null on a public route. An API client only where the route has a scope. */
  readonly caller: C extends 'public' ? null : S extends string ? Person | ApiClient : Person
  readonly visitor: Visitor
  readonly params: z.output<P>
  readonly query: z.output<Q>
  readonly body: B
  /** This request as `once` takes it; its key is undefined unless the route is `idempotent`. */
  readonly repeatable: Repeatable
  readonly headers: IncomingHttpHeaders
}

const replies = new WeakSet<object>()
/** An answer with its own status or headers; made by `reply`. */
export type Reply<T> = {
  readonly value: T
  readonly status: number | undefined
  readonly headers: Readonly<Record<string, string>>
  /** Lines of Set-Cookie. */
  readonly cookies: readonly string[]
}
type More = { readonly status?: number; readonly headers?: Readonly<Record<string, string>>; readonly cookies?: readonly string[] }

/**
 * An answer with another status than the route's, with headers such as Location or ETag, or with the cookies of sessionCookies.
 * @param value the answer; null for an answer without body
 * @throws TypeError unless the status is 200 to 299
 */
export function reply<T>(value: T, more: More = {}): Reply<T> {
  if (more.status !== undefined) whole('reply: status', more.status, 200, 299)
  const made = { value, status: more.status, headers: more.headers ?? {}, cookies: more.cookies ?? [] }
  replies.add(made)
  return made
}

/** True for what `reply` made: a value from outside cannot pretend to be one. */
export function isReply(value: unknown): value is Reply<unknown> {
  return typeof value === 'object' && value !== null && replies.has(value)
}

export type Definition<
  C extends Access,
  P extends z.ZodObject,
  Q extends z.ZodObject,
  B extends z.ZodType,
  W extends Raw | undefined,
  A extends z.ZodType | null,
  S extends string | undefined,
> = {
  readonly method: Method
  readonly path: `/${string}`
  readonly summary: string
  readonly access: C
  /** API clients that have this scope may call too. */
  readonly scope?: S
  readonly params?: P
  readonly query?: Q
  readonly body?: B
  readonly raw?: W
  readonly answer: A
  readonly status?: number
  readonly limit?: number
  readonly weight?: number
  readonly idempotent?: true | 'required'
  readonly refuses?: readonly RefusalCode[]
  readonly tags?: readonly string[]
  handle(
    input: Input<C, P, Q, W extends object ? Buffer : z.output<B>, S>,
  ): Answer<A> | Promise<Answer<A>>
}
type Value<A extends z.ZodType | null> = A extends z.ZodType ? Given<z.input<A>> : null | undefined | void
type Answer<A extends z.ZodType | null> = Value<A> | Reply<Value<A>>

/** A route as data, checked when it was built. */
export type Route = {
  readonly kind: Kind
  readonly method: Method
  /** With its parameters in braces. */
  readonly path: string
  readonly segments: readonly string[]
  readonly names: readonly string[]
  readonly summary: string
  readonly access: Access
  readonly scope: string | undefined
  readonly params: z.ZodObject | undefined
  readonly query: z.ZodObject | undefined
  readonly body: z.ZodType | undefined
  readonly raw: Raw | undefined
  /** The fields of a page's form. */
  readonly form: z.ZodObject | undefined
  /** What a page may load from beside its own origin. */
  readonly sources: Sources | undefined
  readonly answer: z.ZodType | null
  readonly status: number
  readonly limit: number | undefined
  /** Units of a limit that one request costs; 0: none, for signed webhooks and assets, which come from memory. */
  readonly weight: number
  readonly idempotent: true | 'required' | undefined
  readonly refuses: readonly RefusalCode[]
  readonly tags: readonly string[]
  readonly shapes: { readonly params?: JsonSchema; readonly query?: JsonSchema; readonly body?: JsonSchema; readonly answer?: JsonSchema }
  readonly handle: (input: Input<Access, z.ZodType, z.ZodType, unknown, string>) => unknown
}

const keys = [
  'method', 'path', 'summary', 'access', 'scope', 'params', 'query', 'body', 'raw', 'answer', 'status', 'limit', 'weight', 'idempotent', 'refuses', 'tags', 'handle',
]

/**
 * Declares a route: who may call it, what it takes, what it gives. Everything else follows from that: parsing,
 * the 401 and 403, the shape of the answer, the OpenAPI document.
 * @param definition access: 'public', or the roles that may call; scope: lets API clients in that have it; params, query, body: strict objects, an unknown
 *   field is refused; answer: the allow-list of what leaves, null for no body; idempotent: takes Idempotency-Key;
 *   limit: bytes of body; weight: units of a limit that a request costs, default 1, and 0 for a signed webhook alone; raw: the body's bytes as sent, for signatures over them
 * @throws TypeError naming what is wrong: no access, a parameter without schema, a schema that lets anything through
 */
export function route<
  const C extends Access,
  A extends z.ZodType | null,
  P extends z.ZodObject = Nothing,
  Q extends z.ZodObject = Nothing,
  B extends z.ZodType = z.ZodUndefined,
  W extends Raw | undefined = undefined,
  const S extends string | undefined = undefined,
>(definition: Definition<C, P, Q, B, W, A, S>): Route {
  const name = `route ${String(definition?.method)} ${String(definition?.path)}`
  onlyKnown(name, definition, keys)
  const { method, access, params, query, body, raw, answer, idempotent } = definition
  if (!['GET', 'POST', 'PUT', 'PATCH', 'DELETE'].includes(method)) throw new TypeError(`${name}: method must be GET, POST, PUT, PATCH or DELETE`)
  const segments = pathSegments(definition.path)
  const names = segments.map(parameterName).filter((found) => found !== undefined)
  if (typeof definition.summary !== 'string' || definition.summary === '') throw new TypeError(`${name}: summary is missing`)
  checkAccess(name, access)
  if (definition.scope !== undefined && (access === 'public' || !isScope(definition.scope))) throw new TypeError(`${name}: scope must be a word such as therapists:read, on a route that is not public`)
  if (typeof definition.handle !== 'function') throw new TypeError(`${name}: handle is missing`)
  if (answer === undefined) throw new TypeError(`${name}: answer must be a schema, or null for no body`)
  if (names.length > 0 || params !== undefined) {
    const declared = params === undefined ? [] : Object.keys(params.shape)
    if (declared.length !== names.length || new Set(names).size !== names.length || !names.every((each) => declared.includes(each))) {
      throw new TypeError(`${name}: params must have exactly the parameters of the path`)
    }
  }
  if ((body !== undefined || raw !== undefined) && (method === 'GET' || method === 'DELETE')) throw new TypeError(`${name}: ${method} takes no body`)
  if (body !== undefined && raw !== undefined) throw new TypeError(`${name}: either body or raw`)
  if (raw !== undefined) {
    whole(`${name}: raw.limit`, raw.limit, 1, 64 * 1024 * 1024)
    if (!typesOf(raw).every(isMediaType)) throw new TypeError(`${name}: raw.type must be media types in small letters without parameters, such as application/json`)
  }
  if (definition.limit !== undefined) {
    if (body === undefined) throw new TypeError(`${name}: limit does nothing without body`)
    whole(`${name}: limit`, definition.limit, 1, 64 * 1024 * 1024)
  }
  const weight = whole(`${name}: weight`, definition.weight ?? 1, 0, 1_000)
  if (weight === 0 && raw === undefined) throw new TypeError(`${name}: weight 0 is for a signed webhook, which takes raw`)
  if (idempotent !== undefined && method === 'GET') throw new TypeError(`${name}: idempotent does nothing on GET`)
  const status = definition.status ?? (answer === null ? 204 : 200)
  whole(`${name}: status`, status, 200, 299)
  if ((status === 204) !== (answer === null)) throw new TypeError(`${name}: 204 is for an answer of null, and only for it`)
  for (const code of definition.refuses ?? []) if (!Object.hasOwn(refusals, code)) throw new TypeError(`${name}: there is no refusal ${code}`)

  return Object.freeze({
    kind: 'api' as const,
    method,
    path: `/${segments.join('/')}`,
    segments,
    names,
    summary: definition.summary,
    access,
    scope: definition.scope,
    params,
    query,
    body,
    raw,
    form: undefined,
    sources: undefined,
    answer,
    status,
    limit: definition.limit,
    weight,
    idempotent,
    refuses: definition.refuses ?? [],
    tags: definition.tags ?? [],
    shapes: {
      ...(params === undefined ? undefined : { params: strictShape(`${name}: params`, params) }),
      ...(query === undefined ? undefined : { query: strictShape(`${name}: query`, query) }),
      ...(body === undefined ? undefined : { body: strictShape(`${name}: body`, body) }),
      ...(answer === null ? undefined : { answer: answerShape(`${name}: answer`, answer) }),
    },
    // The schemas above are what makes the input of this type; mount passes nothing that they have not parsed.
    handle: definition.handle as unknown as Route['handle'],
  })
}

/**
 * Default deny: nothing is served that does not say who may call it.
 * @throws TypeError unless access is 'public' or a list of roles
 */
export function checkAccess(name: string, access: unknown): void {
  if (access !== 'public' && !(Array.isArray(access) && access.length > 0 && access.every((role) => typeof role === 'string' && role !== 'public' && role !== 'api_client'))) {
    throw new TypeError(`${name}: access must be 'public' or the roles that may call it; API clients are let in by scope`)
  }
}

/** The media types a raw body may have. */
export function typesOf(raw: Raw): readonly string[] {
  return typeof raw.type === 'string' ? [raw.type] : raw.type
}

/** The body limit of a route: its own, or the one mount was given. */
export function limitOf(route: Route, fallback: number = defaultBodyLimit): number {
  return route.raw?.limit ?? route.limit ?? fallback
}
