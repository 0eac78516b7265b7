import type { IncomingHttpHeaders } from 'node:http'
import type { z } from 'zod'
import type { Person, Visitor } from '../context.ts'
import { csrfField } from './csrf.ts'
import type { Sources } from './headers.ts'
import { isOwnPath } from './html.ts'
import type { Html } from './html.ts'
import { onlyKnown, whole } from './options.ts'
import { parameterName, pathSegments } from './path.ts'
import { checkAccess } from './route.ts'
import type { Access, Nothing, Route } from './route.ts'
import { strictShape } from './shape.ts'

export type PageInput<C extends Access, P extends z.ZodType, Q extends z.ZodType, F> = {
  /** Whoever calls; null on a public page. */
  readonly caller: C extends 'public' ? null : Person
  readonly visitor: Visitor
  readonly params: z.output<P>
  readonly query: z.output<Q>
  readonly form: F
  /** The token for the forms of this page, as the hidden field `csrf_token`; empty on a public page. */
  readonly csrf: string
  readonly headers: IncomingHttpHeaders
}

const answers = new WeakSet<object>()
/** What a page answers with, made by `show` or `redirect`. */
export type PageAnswer = { readonly status: number; readonly page?: Html; readonly location?: string; readonly cookies: readonly string[] }

function answerOf(made: PageAnswer): PageAnswer {
  answers.add(made)
  return Object.freeze(made)
}

/** True for what `show` or `redirect` made. */
export function isPageAnswer(value: unknown): value is PageAnswer {
  return typeof value === 'object' && value !== null && answers.has(value)
}

/**
 * A page with another status than 200, such as 422 for a form to be corrected, or with cookies.
 * @throws TypeError unless the status is 200 to 299 or 400 to 499
 */
export function show(page: Html, more: { readonly status?: number; readonly cookies?: readonly string[] } = {}): PageAnswer {
  const status = whole('show: status', more.status ?? 200, 200, 499)
  if (status >= 300 && status < 400) throw new TypeError('show: a page does not redirect; use redirect')
  return answerOf({ status, page, cookies: more.cookies ?? [] })
}

/**
 * 303 See Other to a path of this service: after a form, the browser asks for the next page by GET.
 * @throws TypeError for anything a browser could read as another host: an open redirect lends our name to a phisher
 */
export function redirect(path: string, more: { readonly cookies?: readonly string[] } = {}): PageAnswer {
  if (typeof path !== 'string' || !isOwnPath(path)) throw new TypeError('redirect: only to a path of this service')
  return answerOf({ status: 303, location: path, cookies: more.cookies ?? [] })
}

export type PageDefinition<C extends Access, P extends z.ZodObject, Q extends z.ZodObject, F extends z.ZodObject | undefined> = {
  readonly method: 'GET' | 'POST'
  readonly path: `/${string}`
  readonly summary: string
  readonly access: C
  readonly params?: P
  readonly query?: Q
  readonly form?: F
  readonly limit?: number
  readonly sources?: Sources
  handle(input: PageInput<C, P, Q, F extends z.ZodObject ? z.output<F> : undefined>): Html | PageAnswer | Promise<Html | PageAnswer>
}

/**
 * Declares a page: HTML rendered here, made by `html`, with the headers of a page. A form comes as POST in
 * application/x-www-form-urlencoded, is parsed by a strict schema and answered by `redirect` or by `show` with 422.
 * Every POST must come from a page of ours, also a public one (signing in); for a signed-in caller the field csrf_token
 * is checked before the handler runs.
 *
 *     page({
 *       method: 'POST', path: '/notes', summary: 'Adds a note', access: ['patient'], form: z.strictObject({ text: z.string().max(500) }),
 *       handle: async ({ caller, form }) => (await add(caller, form.text), redirect('/notes')),
 *     })
 * @param definition limit: bytes of the form, default 16 KiB; sources: origins this page may load from beside its own
 * @throws TypeError naming what is wrong
 */
export function page<const C extends Access, P extends z.ZodObject = Nothing, Q extends z.ZodObject = Nothing, F extends z.ZodObject | undefined = undefined>(
  definition: PageDefinition<C, P, Q, F>,
): Route {
  const name = `page ${String(definition?.method)} ${String(definition?.path)}`
  onlyKnown(name, definition, ['method', 'path', 'summary', 'access', 'params', 'query', 'form', 'limit', 'sources', 'handle'])
  const { method, access, params, query, form, sources } = definition
  if (method !== 'GET' && method !== 'POST') throw new TypeError(`${name}: a browser's page is asked for by GET or POST`)
  if (typeof definition.summary !== 'string' || definition.summary === '') throw new TypeError(`${name}: summary is missing`)
  checkAccess(name, access)
  if (typeof definition.handle !== 'function') throw new TypeError(`${name}: handle is missing`)
  if ((form === undefined) !== (method === 'GET')) throw new TypeError(`${name}: form is for POST, which has one (an empty one where it has no fields)`)
  if (form !== undefined && csrfField in form.shape) throw new TypeError(`${name}: ${csrfField} is taken off the form before it is parsed`)
  const segments = pathSegments(definition.path)
  const names = segments.map(parameterName).filter((found) => found !== undefined)
  const declared = params === undefined ? [] : Object.keys(params.shape)
  if (declared.length !== names.length || !names.every((each) => declared.includes(each))) throw new TypeError(`${name}: params must have exactly the parameters of the path`)
  for (const [where, schema] of [['params', params], ['query', query], ['form', form]] as const) if (schema !== undefined) strictShape(`${name}: ${where}`, schema)
  return Object.freeze<Route>({
    kind: 'page', method, path: `/${segments.join('/')}`, segments, names, summary: definition.summary, access, scope: undefined, params, query, body: undefined, raw: undefined, form, sources,
    answer: null, status: 200, limit: whole(`${name}: limit`, definition.limit ?? 16 * 1024, 1, 1024 * 1024), weight: 1, idempotent: undefined, refuses: [], tags: [], shapes: {},
    // The schemas above are what makes the input of this type; mount passes nothing that they have not parsed.
    handle: definition.handle as unknown as Route['handle'],
  })
}
