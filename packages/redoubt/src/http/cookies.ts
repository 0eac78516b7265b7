import type { IncomingHttpHeaders } from 'node:http'
import { stringifySetCookie } from 'cookie'
import { Refusal } from '../errors.ts'
import { whole } from './options.ts'

/** Characters of the longest Cookie line that is read. */
const longestLine = 8_192
const safeValue = /^[A-Za-z0-9_.~-]{1,4096}$/

/** Our cookies as they came; they carry nothing that would have to be decoded. */
type Sent = { readonly access?: string; readonly refresh?: string }
type OurName = { readonly of: 'access' | 'refresh'; readonly exact: string; readonly small: string }
const ourName = (of: OurName['of'], exact: string): OurName => ({ of, exact, small: exact.toLowerCase() })

/** The two cookies of a browser's session. */
export type SessionCookies = {
  /** `__Host-<service>-access` and `__Host-<service>-refresh`. */
  readonly names: { readonly access: string; readonly refresh: string }
  /**
   * The Set-Cookie lines of a session. Both live as long as the refresh token: the access token inside is refused after
   * its own ten minutes, and says until then and beyond which session the CSRF token of the refresh belongs to.
   * @param seconds how long the browser keeps them
   * @throws TypeError for a token with characters a cookie cannot carry
   */
  set(tokens: { readonly access: string; readonly refresh: string }, seconds: number): readonly string[]
  /** The Set-Cookie lines that end it in the browser. */
  clear(): readonly string[]
  /**
   * What the browser sent.
   * @throws Refusal malformed_request when one of our names comes twice, in whatever case: one of them was tossed in
   *   from elsewhere, and which of them counts differs from server to server
   */
  read(headers: IncomingHttpHeaders): Sent
}

/**
 * Session cookies with the prefix `__Host-` (RFC 6265bis §4.1.3.2): browsers take them only with Secure, Path=/ and
 * without Domain, so that no sibling host can set them. HttpOnly: no script reads them. SameSite=Lax: no foreign page
 * sends them with anything but a plain navigation. Over http on localhost Chromium and Firefox keep Secure cookies as
 * well; Safari does not: develop with another browser, or behind TLS.
 * @param service letters, digits and dashes
 */
export function sessionCookies(service: string): SessionCookies {
  if (!/^[a-z][a-z0-9-]{0,31}$/.test(service)) throw new TypeError('sessionCookies: service must be small letters, digits and dashes')
  const names = Object.freeze({ access: `__Host-${service}-access`, refresh: `__Host-${service}-refresh` })
  const ours = [ourName('access', names.access), ourName('refresh', names.refresh)] as const
  /** The last line and what was in it: whether a cookie is there and which is asked one after the other. */
  let last: { readonly text: string; readonly found: Sent } = { text: '', found: {} }
  const line = (name: string, value: string, maxAge: number): string =>
    stringifySetCookie({ name, value, maxAge, path: '/', httpOnly: true, secure: true, sameSite: 'lax' })
  return Object.freeze<SessionCookies>({
    names,
    set({ access, refresh }, seconds) {
      whole('sessionCookies: seconds', seconds, 1, 30 * 24 * 3600)
      if (!safeValue.test(access) || !safeValue.test(refresh)) throw new TypeError('sessionCookies: a token has characters a cookie cannot carry')
      return [line(names.access, access, seconds), line(names.refresh, refresh, seconds)]
    },
    clear: () => [line(names.access, '', 0), line(names.refresh, '', 0)],
    read(headers) {
      const text = headers.cookie
      if (text === undefined || text === '') return {}
      if (text === last.text) return last.found
      if (text.length > longestLine) throw malformed('max')
      last = { text, found: pick(text, ours) }
      return last.found
    },
  })
}

function malformed(rule: string): Refusal {
  return new Refusal('malformed_request', { fields: [{ field: 'cookie', rule }] })
}

/** Browsers compare the prefix without case; a name in another case is somebody's try at a second cookie of ours. */
function pick(text: string, ours: readonly [OurName, OurName]): Sent {
  const found: { access?: string; refresh?: string } = {}
  for (let from = 0; from < text.length; ) {
    const semicolon = text.indexOf(';', from)
    const end = semicolon < 0 ? text.length : semicolon
    const equals = text.indexOf('=', from)
    const middle = equals < 0 || equals > end ? end : equals
    const given = text.slice(from, middle)
    from = end + 1
    const name = given.trim()
    for (const { of, exact, small } of ours) {
      if (name.length !== small.length || name.toLowerCase() !== small) continue
      // trim() also takes away what is no space between cookies, and then it is another name.
      if (name !== exact || !/^[\t\x20-\x7e]*$/.test(given)) throw malformed('form')
      if (found[of] !== undefined) throw malformed('duplicate')
      found[of] = text.slice(middle + 1, end).trim()
    }
  }
  return found
}
