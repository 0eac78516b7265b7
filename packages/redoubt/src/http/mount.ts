import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ApiClient, Person, Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Authenticate, Known } from './authenticate.ts'
import { defaultBodyLimit } from './body.ts'
import { answer } from './answer.ts'
import type { Csrf } from './csrf.ts'
import { readForm, readIdempotencyKey, readInput, readParams, readQuery } from './input.ts'
import { openApi } from './openapi.ts'
import type { ApiInfo } from './openapi.ts'
import { onlyKnown, whole } from './options.ts'
import { openPages } from './pages.ts'
import type { Pages, PagesOptions } from './pages.ts'
import { pathTree, splitTarget } from './path.ts'
import { answerProblem } from './problem.ts'
import type { Route } from './route.ts'
import { sendJson } from './send.ts'
import { visitOf } from './visit.ts'
import type { Step, Visit } from './visit.ts'

/** A further check after authentication and before the body, such as limits by caller. Throws a Refusal. */
export type Check = (
  req: IncomingMessage,
  res: ServerResponse,
  about: { readonly visitor: Visitor; readonly caller: Person | ApiClient | null; readonly via: Known['via'] | undefined; readonly route: Route },
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
  /** Asked of every caller by cookie; required where `authenticate` takes cookies, or a page is mounted. */
  readonly csrf?: Csrf
  /** Required where a page is mounted. */
  readonly pages?: PagesOptions
  /** Served to everybody as JSON, by default at /openapi.json; left out: not served. */
  readonly openapi?: ApiInfo & { readonly path?: string }
}

type Leaf = { readonly byMethod: Map<string, Route>; allow: string; document: string | undefined }

/**
 * Serves a list of routes, and nothing else: what is not declared is 404, another method 405 with Allow. Both are
 * answered before authentication, since the list of routes is no secret (it is in the OpenAPI document), and an
 * unknown path then costs no signature check. The order for a declared route: caller, role or scope, whose page it comes
 * from, checks, CSRF token, path, query, headers, body, handler, answer by its schema. The token of a form stands in its
 * body, and is asked as soon as that is read.
 * @throws TypeError when two routes are the same, a role is unknown, or an option would do nothing
 */
export function mount(routes: readonly Route[], options: MountOptions): Step {
  onlyKnown('mount', options, ['authenticate', 'roles', 'emit', 'limit', 'bodyTimeout', 'checks', 'csrf', 'pages', 'openapi'])
  const { authenticate, emit, csrf, checks = [] } = options
  for (const [name, value] of [['authenticate', authenticate], ['emit', emit]] as const) {
    if (typeof value !== 'function') throw new TypeError(`mount: ${name} must be a function`)
  }
  if (csrf === undefined && authenticate.ways?.includes('cookie') === true) throw new TypeError('mount: callers by cookie need csrf')
  const limits = {
    limit: whole('mount: limit', options.limit ?? defaultBodyLimit, 1, 64 * 1024 * 1024),
    timeout: whole('mount: bodyTimeout', options.bodyTimeout ?? 10_000, 10, 600_000),
  }
  const tree = plant(routes, options)
  const pages = pagesOf(routes, options)
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
    visit.kind = route.kind
    const { visitor } = visit
    let known: Known | undefined
    if (route.access !== 'public') {
      const wait = authenticate(req, visitor, route.kind)
      known = wait instanceof Promise ? await wait : wait
      const { actor } = known.caller
      visit.actor = actor
      if (known.renewed !== undefined) {
        visit.renewed = known.renewed
        res.setHeader('Set-Cookie', known.renewed)
      }
      if (!mayCall(route, known.caller)) {
        emit({ type: 'security.unauthorized_access', requestId: visitor.requestId, action: `${route.method} ${route.path}`, code: 'forbidden', actor })
        throw new Refusal('forbidden')
      }
    }
    const caller = known?.caller ?? null
    const session = known?.via === 'cookie' ? known.caller.session : undefined
    if (session !== undefined && csrf === undefined) throw new TypeError('mount: a caller came by cookie, and there is no csrf to ask')
    if (csrf !== undefined && route.method !== 'GET' && (session !== undefined || route.kind === 'page')) csrf.fromOurPage(req.headers, visitor.requestId)
    else if (session !== undefined) csrf?.notEmbedded(req.headers, visitor.requestId)
    // From server to server: no page of another origin has any business with it, whatever the list of origins says.
    if (route.raw !== undefined) for (const name of ['Access-Control-Allow-Origin', 'Access-Control-Allow-Credentials', 'Access-Control-Expose-Headers']) res.removeHeader(name)
    for (const check of checks) {
      const wait = check(req, res, { visitor, caller, via: known?.via, route })
      if (wait instanceof Promise) await wait
    }
    const proof = csrf === undefined || session === undefined || route.method === 'GET' ? undefined : { csrf, session }
    if (proof !== undefined && route.form === undefined) await proof.csrf.check(proof.session, tokenHeader(req), visitor.requestId)
    const params = readParams(route, found.values)
    const query = readQuery(route, target.query)
    if (route.kind === 'page') {
      let form: unknown
      if (route.form !== undefined) {
        const sent = await readForm(route, req, limits)
        await proof?.csrf.check(proof.session, tokenHeader(req) ?? sent.token, visitor.requestId)
        form = sent.parse()
      } else await readInput(route, req, limits)
      const token = csrf === undefined || session === undefined ? '' : await csrf.token(session)
      const made = (route.handle as (input: unknown) => unknown)({ caller, visitor, params, query, form, csrf: token, headers: req.headers })
      await answer(route, res, await made, pages?.fields(route) ?? [])
      return
    }
    const key = readIdempotencyKey(route, req)
    const reading = readInput(route, req, limits)
    const body = reading === undefined ? undefined : await reading
    const repeatable = { key, route: `${route.method} ${route.path}`, request: { params, query, body } }
    const made = route.handle({ caller, visitor, params, query, body, repeatable, headers: req.headers })
    const sending = answer(route, res, made instanceof Promise ? await made : made, [])
    if (sending !== undefined) await sending
  }
  return (req, res) => {
    const visit = visitOf(req)
    if (visit === undefined) return answerProblem(req, res, new TypeError('mount: the steps of perimeter() must run before the routes'), emit)
    run(req, res, visit).catch((error: unknown) => {
      if (visit.kind === 'page' && pages !== undefined) pages.refuse(req, res, error)
      else answerProblem(req, res, error, emit)
    })
  }
}

/** People by their role, API clients by their scope alone. */
function mayCall(route: Route, caller: Person | ApiClient): boolean {
  if (caller.kind === 'api_client') return route.scope !== undefined && caller.scopes.includes(route.scope)
  return route.access.includes(caller.role)
}

/** One header, once; a form's own field is the other way. */
function tokenHeader(req: IncomingMessage): string | undefined {
  const given = req.headers['x-csrf-token']
  return typeof given === 'string' ? given : undefined
}

function pagesOf(routes: readonly Route[], options: MountOptions): Pages | undefined {
  const { csrf, pages, emit } = options
  const first = routes.find(({ kind }) => kind === 'page')
  if (first === undefined) {
    if (pages !== undefined) throw new TypeError('mount: pages does nothing while no route is a page')
    return undefined
  }
  if (pages === undefined || csrf === undefined) throw new TypeError(`mount: ${first.path} is a page, so pages and csrf are required`)
  return openPages(pages, routes, emit)
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
    leaf.document = JSON.stringify(openApi(routes, info, options.authenticate.cookie))
  }
  return tree
}

/** Under app.use('/api', …) Express cuts the prefix off url; routes are declared by the full path. */
function originalTarget(req: IncomingMessage & { readonly originalUrl?: unknown }): string {
  return typeof req.originalUrl === 'string' ? req.originalUrl : (req.url ?? '')
}
