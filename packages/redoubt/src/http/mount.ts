import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ApiClient, Person, Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { isVerified } from '../transaction/verification.ts'
import { authorize, identify } from './admit.ts'
import { answer } from './answer.ts'
import type { Authenticate, Authenticated } from './authenticate.ts'
import { defaultBodyLimit } from './body.ts'
import { checkSource, checkToken } from './cross-site.ts'
import type { Csrf } from './csrf.ts'
import { doesKeepHead, keepsHead, removeField, settleHead } from './head.ts'
import { readForm, readIdempotencyKey, readInput, readParams, readQuery } from './input.ts'
import { openApi } from './openapi.ts'
import type { ApiInfo } from './openapi.ts'
import { onlyKnown, whole } from './options.ts'
import { openPages } from './pages.ts'
import type { Pages, PagesOptions } from './pages.ts'
import { splitTarget } from './path.ts'
import { answerProblem } from './problem.ts'
import { routeTable } from './route-table.ts'
import type { Document } from './route-table.ts'
import type { Route } from './route.ts'
import { sendJson } from './send.ts'
import { unmatched, requestStateOf } from './request-state.ts'
import type { Middleware, RequestState } from './request-state.ts'

/** A further check after authentication and before the body, such as limits by caller. Throws a Refusal. */
export type Check = (
  req: IncomingMessage,
  res: ServerResponse,
  about: { readonly visitor: Visitor; readonly caller: Person | ApiClient | null; readonly via: Authenticated['via'] | undefined; readonly route: Route },
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
  /**
   * Asked before a caller is told anything that did not pass the gate, be it a refusal (role, CSRF token, input) or the
   * answer of a handler that needs no data: throws `caller_refused` where the session has ended (tokens/own-sessions:
   * `checkSession`). Left out: an ended session is told what a standing one would be, until its token expires.
   */
  readonly standing?: (caller: Person | ApiClient) => Promise<void>
  /** Asked of every caller by cookie; required where `authenticate` takes cookies, or a page is mounted. */
  readonly csrf?: Csrf
  /** Required where a page is mounted. */
  readonly pages?: PagesOptions
  /** Served to everybody as JSON, by default at /openapi.json; left out: not served. */
  readonly openapi?: ApiInfo & { readonly path?: string }
}

/**
 * Serves a list of routes, and nothing else: what is not declared is 404, another method 405 with Allow. Both are
 * answered before authentication, since the list of routes is no secret (it is in the OpenAPI document), and an
 * unknown path then costs no signature check; beside pages, a browser is told both on a page.
 *
 * The order for a declared route: caller, whose page it comes from, checks, role or scope, CSRF token, path, query,
 * headers, body, handler, answer by its schema. The token of a form stands in its body, and is asked as soon as that is
 * read. What comes behind the checks, answers as well as refusals, is told to a session that still stands alone: where the
 * gate has not verified it, one look at the database does, within the limits of the checks.
 * @throws TypeError when two routes are the same, a role is unknown, or an option would do nothing
 */
export function mount(routes: readonly Route[], options: MountOptions): Middleware {
  onlyKnown('mount', options, ['authenticate', 'roles', 'emit', 'limit', 'bodyTimeout', 'checks', 'standing', 'csrf', 'pages', 'openapi'])
  const { authenticate, emit, csrf, standing } = options
  const checks = (options.checks ?? []).map((check) => (doesKeepHead(check) ? check : settling(check)))
  for (const [name, value] of [['authenticate', authenticate], ['emit', emit]] as const) {
    if (typeof value !== 'function') throw new TypeError(`mount: ${name} must be a function`)
  }
  if (standing !== undefined && typeof standing !== 'function') throw new TypeError('mount: standing must be a function')
  if (csrf === undefined && authenticate.ways?.includes('cookie') === true) throw new TypeError('mount: callers by cookie need csrf')
  const limits = {
    limit: whole('mount: limit', options.limit ?? defaultBodyLimit, 1, 64 * 1024 * 1024),
    timeout: whole('mount: bodyTimeout', options.bodyTimeout ?? 10_000, 10, 600_000),
  }
  const table = routeTable(routes, options.roles, documentOf(routes, options))
  const pages = pagesOf(routes, options)
  const stillStands = (caller: Person | ApiClient | null): Promise<void> | undefined =>
    caller === null || standing === undefined || isVerified(caller) ? undefined : standing(caller)

  const refuse = (req: IncomingMessage, res: ServerResponse, state: RequestState, error: unknown): void => {
    // No route yet: an address that leads nowhere, which a browser is told in words.
    const asPage = pages !== undefined && (state.kind === 'page' || (state.route === unmatched && pages.wanted(req, originalTarget(req))))
    if (asPage) pages.refuse(req, res, error)
    else answerProblem(req, res, error, emit)
  }

  /** A page, whose handler is given the token for the forms it shows. */
  const runPage = async (req: IncomingMessage, res: ServerResponse, asked: Asked): Promise<void> => {
    const { route, visitor, caller, session, params, query } = asked
    const form = await readForm(route, req, limits, (field) => checkToken(csrf, route, session, req, visitor, field))
    const token = csrf === undefined || session === undefined ? '' : await csrf.token(session)
    const made = await (route.handle as (input: unknown) => unknown)({ caller, visitor, params, query, form, csrf: token, headers: req.headers })
    await stillStands(caller)
    return answer(route, res, made, pages?.fields(route) ?? [])
  }

  const run = async (req: IncomingMessage, res: ServerResponse, state: RequestState): Promise<void> => {
    try {
      const { visitor } = state
      const target = splitTarget(originalTarget(req))
      const found = table.find(req, res, target.path)
      if ('document' in found) {
        state.route = found.document.path
        return sendJson(res, 200, found.document.text)
      }
      const { route } = found
      state.route = route.path
      state.kind = route.kind

      const identifying = route.access === 'public' ? undefined : identify(authenticate, route, req, res, state)
      const known = identifying instanceof Promise ? await identifying : identifying
      const caller = known?.caller ?? null
      const session = known?.via === 'cookie' ? known.caller.session : undefined
      checkSource(csrf, route, session, req, visitor)
      if (route.raw !== undefined) closeToPages(res)
      for (const check of checks) {
        const checking = check(req, res, { visitor, caller, via: known?.via, route })
        if (checking instanceof Promise) await checking
      }
      if (caller !== null) {
        state.unasked = caller
        authorize(caller, route, state, emit)
      }
      const asking = route.form === undefined ? checkToken(csrf, route, session, req, visitor) : undefined
      if (asking !== undefined) await asking

      const params = readParams(route, found.values)
      const query = readQuery(route, target.query)
      if (route.kind === 'page') return await runPage(req, res, { route, visitor, caller, session, params, query })
      const key = readIdempotencyKey(route, req)
      const reading = readInput(route, req, limits)
      const body = reading instanceof Promise ? await (reading as Promise<unknown>) : reading
      const repeatable = { key, route: `${route.method} ${route.path}`, request: { params, query, body } }
      const making = route.handle({ caller, visitor, params, query, body, repeatable, headers: req.headers })
      const made: unknown = making instanceof Promise ? await making : making
      const looking = stillStands(caller)
      if (looking !== undefined) await looking
      const sending = answer(route, res, made, [])
      if (sending !== undefined) await sending
    } catch (error) {
      // Not before the parser is through with what has come: it refuses what stands behind a last request, and then that is the one answer.
      await Promise.resolve()
      // A refusal that says so already, what is away, and a fault of ours are told to whoever it is.
      const news = error instanceof Refusal && (error.status < 500 || error.code === 'database_error') && error.code !== 'caller_refused'
      const looking = news ? stillStands(state.unasked ?? null) : undefined
      if (looking === undefined) refuse(req, res, state, error)
      else looking.then(() => refuse(req, res, state, error), (ended: unknown) => refuse(req, res, state, ended))
    }
  }

  return keepsHead<Middleware>((req, res) => {
    const state = requestStateOf(req)
    if (state === undefined) return answerProblem(req, res, new TypeError('mount: the steps of perimeter() must run before the routes'), emit)
    void run(req, res, state)
  })
}

/** Of a page: what is known once its input but the form was read. */
type Asked = {
  readonly route: Route
  readonly visitor: Visitor
  readonly caller: Person | ApiClient | null
  readonly session: string | undefined
  readonly params: unknown
  readonly query: unknown
}

/** A check that may touch the answer itself is given all fields set so far. */
function settling(check: Check): Check {
  return (req, res, about) => {
    settleHead(res)
    return check(req, res, about)
  }
}

function documentOf(routes: readonly Route[], { openapi, authenticate }: MountOptions): Document | undefined {
  if (openapi === undefined) return undefined
  const { path = '/openapi.json', ...info } = openapi
  return { path, text: JSON.stringify(openApi(routes, info, authenticate.cookie)) }
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

/** From server to server: no page of another origin has any business with it, whatever the list of origins says. */
function closeToPages(res: ServerResponse): void {
  for (const name of ['Access-Control-Allow-Origin', 'Access-Control-Allow-Credentials', 'Access-Control-Expose-Headers']) removeField(res, name)
}

/** Under app.use('/api', …) Express cuts the prefix off url; routes are declared by the full path. */
function originalTarget(req: IncomingMessage & { readonly originalUrl?: unknown }): string {
  return typeof req.originalUrl === 'string' ? req.originalUrl : (req.url ?? '')
}
