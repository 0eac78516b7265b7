import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Person, Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Authenticate } from './authenticate.ts'
import { announcesBody, checkContentType, defaultBodyLimit, readBody } from './body.ts'
import { parseJson } from './json.ts'
import { openApi } from './openapi.ts'
import type { ApiInfo } from './openapi.ts'
import { onlyKnown, whole } from './options.ts'
import { fieldProblems, parse } from './parse.ts'
import { decodeSegment, parseQuery, pathTree, splitTarget } from './path.ts'
import { answerProblem } from './problem.ts'
import { isReply, limitOf } from './route.ts'
import type { Route } from './route.ts'
import { sendEmpty, sendJson } from './send.ts'
import { visitOf } from './visit.ts'
import type { Step, Visit } from './visit.ts'

/** A further check after authentication and before the body: CSRF, limits by caller. Throws a Refusal. */
export type Check = (
  req: IncomingMessage,
  res: ServerResponse,
  about: { readonly visitor: Visitor; readonly caller: Person | null; readonly route: Route },
) => void | Promise<void>

export type MountOptions = {
  readonly authenticate: Authenticate
  /** Every role a route may name. */
  readonly roles: readonly string[]
  readonly emit: Emit
  /** Bytes of a JSON body, default 100 KiB. */
  readonly limit?: number
  /** Milliseconds for a whole body, default 10,000. */
  readonly bodyTimeout?: number
  readonly checks?: readonly Check[]
  /** Served to everybody as JSON, by default at /openapi.json; left out: not served. */
  readonly openapi?: ApiInfo & { readonly path?: string }
}

type Leaf = { readonly byMethod: Map<string, Route>; allow: string; document: string | undefined }
type Limits = { readonly limit: number; readonly timeout: number }

/**
 * Serves a list of routes, and nothing else: what is not declared is 404, another method 405 with Allow. Both are
 * answered before authentication, since the list of routes is no secret (it is in the OpenAPI document), and an
 * unknown path then costs no signature check. The order for a declared route: caller, role, checks, path, query,
 * headers, body, handler, answer by its schema.
 * @throws TypeError when two routes are the same, a role is unknown, or an option would do nothing
 */
export function mount(routes: readonly Route[], options: MountOptions): Step {
  onlyKnown('mount', options, ['authenticate', 'roles', 'emit', 'limit', 'bodyTimeout', 'checks', 'openapi'])
  const { authenticate, emit, checks = [] } = options
  for (const [name, value] of [['authenticate', authenticate], ['emit', emit]] as const) {
    if (typeof value !== 'function') throw new TypeError(`mount: ${name} must be a function`)
  }
  const limits = {
    limit: whole('mount: limit', options.limit ?? defaultBodyLimit, 1, 64 * 1024 * 1024),
    timeout: whole('mount: bodyTimeout', options.bodyTimeout ?? 10_000, 10, 600_000),
  }
  const tree = plant(routes, options)
  const run = async (req: IncomingMessage, res: ServerResponse, visit: Visit): Promise<void> => {
    const target = splitTarget(originalTarget(req))
    const found = tree.match(target.path)
    if (found === undefined) throw new Refusal('not_found')
    const { leaf } = found
    const method = req.method === 'HEAD' ? 'GET' : (req.method ?? '')
    const route = leaf.byMethod.get(method)
    if (route === undefined) {
      if (method === 'GET' && leaf.document !== undefined) return sendJson(res, 200, leaf.document)
      res.setHeader('Allow', leaf.allow)
      throw new Refusal('method_not_allowed')
    }
    visit.route = route.path
    const { visitor } = visit
    let caller: Person | null = null
    if (route.access !== 'public') {
      const known = authenticate(req, visitor)
      caller = known instanceof Promise ? await known : known
      visit.actor = caller.actor
      if (!route.access.includes(caller.role)) {
        emit({ type: 'security.unauthorized_access', requestId: visitor.requestId, action: `${route.method} ${route.path}`, code: 'forbidden', actor: caller.actor })
        throw new Refusal('forbidden')
      }
    }
    for (const check of checks) {
      const wait = check(req, res, { visitor, caller, route })
      if (wait instanceof Promise) await wait
    }
    const params = readParams(route, found.values)
    const query = readQuery(route, target.query)
    const key = readIdempotencyKey(route, req)
    const body = route.body === undefined && route.raw === undefined ? noBody(req) : await readInput(route, req, limits)
    const repeatable = { key, route: `${route.method} ${route.path}`, request: { params, query, body } }
    const made = route.handle({ caller, visitor, params, query, body, repeatable, headers: req.headers })
    answer(route, res, made instanceof Promise ? await made : made)
  }
  return (req, res) => {
    const visit = visitOf(req)
    if (visit === undefined) return answerProblem(req, res, new TypeError('mount: the steps of perimeter() must run before the routes'), emit)
    run(req, res, visit).catch((error: unknown) => answerProblem(req, res, error, emit))
  }
}

function plant(routes: readonly Route[], options: MountOptions): ReturnType<typeof pathTree<Leaf>> {
  const tree = pathTree<Leaf>()
  const leafAt = (segments: readonly string[]): Leaf => tree.at(segments, () => ({ byMethod: new Map(), allow: '', document: undefined }))
  for (const route of routes) {
    const leaf = leafAt(route.segments)
    if (leaf.byMethod.has(route.method)) throw new TypeError(`mount: ${route.method} ${route.path} is declared twice`)
    for (const role of route.access === 'public' ? [] : route.access) {
      if (!options.roles.includes(role)) throw new TypeError(`mount: ${route.method} ${route.path} names the unknown role ${role}`)
    }
    leaf.byMethod.set(route.method, route)
    leaf.allow = [...leaf.byMethod.keys()].flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method])).join(', ')
  }
  if (options.openapi !== undefined) {
    const { path = '/openapi.json', ...info } = options.openapi
    const leaf = leafAt(path.slice(1).split('/'))
    if (leaf.byMethod.size > 0) throw new TypeError(`mount: ${path} is a route already`)
    leaf.allow = 'GET, HEAD'
    leaf.document = JSON.stringify(openApi(routes, info))
  }
  return tree
}

/** Under app.use('/api', …) Express cuts the prefix off url; routes are declared by the full path. */
function originalTarget(req: IncomingMessage & { readonly originalUrl?: unknown }): string {
  return typeof req.originalUrl === 'string' ? req.originalUrl : (req.url ?? '')
}

function readParams(route: Route, values: readonly string[]): unknown {
  if (route.params === undefined) return {}
  const given: Record<string, string> = {}
  for (const [i, name] of route.names.entries()) given[name] = decodeSegment(values[i] ?? '')
  return parse(route.params, given, 'malformed_request')
}

function readQuery(route: Route, text: string): unknown {
  if (route.query === undefined && text === '') return {}
  const given = parseQuery(text)
  if (route.query !== undefined) return parse(route.query, given, 'invalid_input')
  const fields = Object.keys(given).slice(0, 32).map((key) => ({ field: /^[A-Za-z_][A-Za-z0-9_-]{0,63}$/.test(key) ? key : '?', rule: 'unknown' }))
  throw new Refusal('invalid_input', { fields })
}

function readIdempotencyKey(route: Route, req: IncomingMessage): string | undefined {
  if (route.idempotent === undefined) return undefined
  const key = req.headers['idempotency-key']
  if (key === undefined && route.idempotent === true) return undefined
  if (typeof key === 'string' && /^[\x21-\x2b\x2d-\x7e]{8,128}$/.test(key)) return key
  throw new Refusal('malformed_request', { fields: [{ field: 'idempotency-key', rule: key === undefined ? 'required' : 'form' }] })
}

function noBody(req: IncomingMessage): undefined {
  if (announcesBody(req)) throw new Refusal('malformed_request', { fields: [{ field: 'body', rule: 'unexpected' }] })
}

async function readInput(route: Route, req: IncomingMessage, limits: Limits): Promise<unknown> {
  checkContentType(req, route.raw?.type)
  const bytes = await readBody(req, limitOf(route, limits.limit), limits.timeout)
  return route.body === undefined ? bytes : parse(route.body, parseJson(bytes), 'invalid_input')
}

function answer(route: Route, res: ServerResponse, made: unknown): void {
  const given = isReply(made) ? made : undefined
  const status = given?.status ?? route.status
  const value = given === undefined ? made : given.value
  let text: string | undefined
  if (route.answer !== null) {
    const shaped = route.answer.safeParse(value)
    if (!shaped.success) {
      const broken = fieldProblems(shaped.error.issues, value).map(({ field, rule }) => `${field} ${rule}`).join(', ')
      throw new TypeError(`${route.method} ${route.path}: the answer does not fit its schema: ${broken}`)
    }
    text = JSON.stringify(shaped.data)
  }
  if (given !== undefined) for (const [name, header] of Object.entries(given.headers)) res.setHeader(name, header)
  if (text === undefined) sendEmpty(res, status)
  else sendJson(res, status, text)
}
