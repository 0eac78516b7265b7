import type { IncomingHttpHeaders } from 'node:http'
import type { Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Tokens } from '../tokens.ts'
import type { SessionCookies } from './cookies.ts'
import type { Csrf } from './csrf.ts'

/** How the sessions of one realm live in browsers. */
export type Browser = { readonly cookies: SessionCookies; readonly csrf: Csrf }

/** What a handler has of a request beside what its route declares. */
type Asked = { readonly headers: IncomingHttpHeaders; readonly visitor: Visitor }

/**
 * Before a session is opened by cookie: a foreign page must not sign its visitor in as somebody else (login CSRF).
 * @throws Refusal csrf_refused
 */
export function mayOpen(browser: Browser, { headers, visitor }: Asked): void {
  browser.csrf.fromOurPage(headers, visitor.requestId)
}

/**
 * The refresh token of a browser that asks for the next pair itself. Its route is public, since the access token may be
 * over, so CSRF is asked here: the token belongs to the session that the access cookie names, expired or not.
 * @param tokens of the same realm
 * @throws Refusal caller_refused where there is no refresh cookie; csrf_refused
 */
export async function refreshCookie({ cookies, csrf }: Browser, tokens: Tokens, { headers, visitor }: Asked): Promise<string> {
  const { access, refresh } = cookies.read(headers)
  if (refresh === undefined || refresh === '') throw new Refusal('caller_refused')
  csrf.fromOurPage(headers, visitor.requestId)
  const given = headers['x-csrf-token']
  await csrf.check((access === undefined ? undefined : tokens.sessionOf(access)) ?? '', typeof given === 'string' ? given : undefined, visitor.requestId)
  return refresh
}
