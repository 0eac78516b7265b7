import type { IncomingMessage, ServerResponse } from 'node:http'
import { refusals } from '../errors.ts'
import type { RefusalCode } from '../errors.ts'
import type { Emit } from '../events.ts'
import { answerPage } from './answer.ts'
import { pageHeaders } from './headers.ts'
import type { Fields, PageHeaders } from './headers.ts'
import { html, isOwnPath } from './html.ts'
import type { Html } from './html.ts'
import { onlyKnown } from './options.ts'
import { redirect } from './page.ts'
import { answerProblem, noteProblem } from './problem.ts'
import type { Route } from './route.ts'
import { requestStateOf } from './request-state.ts'

/** What a page may say of a refusal: its code, its title, and the request id to quote. */
export type Refused = { readonly code: RefusalCode; readonly status: number; readonly title: string; readonly requestId: string }

export type PagesOptions = {
  readonly headers: PageHeaders
  /** Whoever is not signed in, or no longer, is sent to this path. Left out: told by `refused`. */
  readonly signIn?: string
  /** Where somebody is led who asks for a page that is not for their role; undefined, or left out: told by `refused`. */
  readonly instead?: (role: string, path: string) => string | undefined
  /** The page of a refusal; default a plain one. */
  readonly refused?: (about: Refused) => Html
}

export type Pages = {
  /** The headers of a page's route. */
  fields(route: Route): Fields
  /** Whether a browser asks here for a page, where no route stands. @param target path and query as they came */
  wanted(req: IncomingMessage, target: string): boolean
  /** Answers an error as a page with the status of the refusal, or leads to the sign-in, or to what the role has instead. */
  refuse(req: IncomingMessage, res: ServerResponse, error: unknown): void
}

/**
 * How pages are answered: their headers, computed once per route, and their refusals.
 * @throws TypeError for an option that is out of form
 */
export function openPages(options: PagesOptions, routes: readonly Route[], emit: Emit): Pages {
  onlyKnown('pages', options, ['headers', 'signIn', 'instead', 'refused'])
  const { signIn, instead, refused = plainly } = options
  if (instead !== undefined && typeof instead !== 'function') throw new TypeError('pages: instead must be a function')
  if (signIn !== undefined && !isOwnPath(signIn)) throw new TypeError('pages: signIn must be a path of this service')
  const fieldsFor = pageHeaders(options.headers)
  const known = new Map(routes.filter(({ kind }) => kind === 'page').map((route) => [route, fieldsFor(route.sources)]))
  const usual = fieldsFor()
  const readable = new Map(routes.filter(({ kind, method }) => kind === 'page' && method === 'GET').map((route) => [route.path, route]))
  const leadOf = (req: IncomingMessage): string | undefined => {
    const { unasked: caller, route: path = '' } = requestStateOf(req) ?? {}
    const route = req.method === 'GET' || req.method === 'HEAD' ? readable.get(path) : undefined
    if (instead === undefined || route === undefined || caller?.kind !== 'user' || route.access.includes(caller.role)) return undefined
    const to = instead(caller.role, path)
    return to !== undefined && isOwnPath(to) && to !== path ? to : undefined
  }
  // Below the first word of an API's route, /api say, everything is the API's: its clients get problem documents.
  const ofApi = new Set(routes.filter(({ kind }) => kind === 'api').map(({ segments }) => segments[0]))
  return Object.freeze<Pages>({
    fields: (route) => known.get(route) ?? usual,
    wanted: (req, target) => namesHtml(req.headers.accept) && !ofApi.has(/^\/([^/?]*)/.exec(target)?.[1] ?? ''),
    refuse(req, res, error) {
      const noted = noteProblem(req, res, error, emit)
      if (noted === undefined) return
      const { refusal, requestId } = noted
      const { code, status } = refusal
      // These two close the connection, which answerProblem knows how to do; nobody reads a page then.
      if (status === 413 || status === 408) return answerProblem(req, res, refusal, () => undefined)
      if (signIn !== undefined && (code === 'unauthenticated' || code === 'caller_refused')) return answerPage(res, redirect(signIn), usual)
      const lead = code === 'forbidden' ? leadOf(req) : undefined
      if (lead !== undefined) return answerPage(res, redirect(lead), usual)
      answerPage(res, refused({ code, status, title: refusals[code].title, requestId }), usual, status)
    },
  })
}

/** What browsers send when somebody follows a link or types an address; scripts and clients name JSON, or anything. */
function namesHtml(accept = ''): boolean {
  const types = accept.split(',').map((range) => range.split(';')).filter(([, ...rest]) => !rest.some((parameter) => /^\s*q=0(\.0*)?\s*$/i.test(parameter))).map(([type = '']) => type.trim().toLowerCase())
  return types.includes('text/html') && !types.some((type) => type.endsWith('json'))
}

function plainly({ title, requestId }: Refused): Html {
  return html`<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${title}</title></head><body><main><h1>${title}</h1><p>Request ${requestId}</p></main></body></html>`
}
