import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { framed } from '../bytes.ts'
import { Refusal } from '../errors.ts'
import type { Controls } from './controls.ts'
import { isOrigin } from './cors.ts'
import { twoGenerations } from '../tokens/cache.ts'

/** The field of a form that carries the token; a script sends the header X-CSRF-Token instead. */
export const csrfField = 'csrf_token'
const tokenForm = /^([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})$/

export type Csrf = {
  /** A token for forms and scripts of this session; each differs, so that compression tells nothing of it (BREACH). */
  token(session: string): Promise<string>
  /**
   * That a browser sends this from a page of ours: Sec-Fetch-Site, and Origin where an old browser sends no such header.
   * For unsafe requests by cookie, and for those that open a session by cookie (login CSRF).
   * @throws Refusal csrf_refused
   */
  fromOurPage(headers: IncomingHttpHeaders, requestId: string): void
  /**
   * That another site does not load this with our visitor's cookies, to embed it or to time it. Links to it are fine.
   * @throws Refusal csrf_refused
   */
  notEmbedded(headers: IncomingHttpHeaders, requestId: string): void
  /**
   * That the token belongs to this session.
   * @param given what came in the header or the form, undefined where nothing did
   * @throws Refusal csrf_refused
   */
  check(session: string, given: string | undefined, requestId: string): Promise<void>
}

/**
 * Protection against cross-site request forgery in three layers (OWASP cheat sheet): SameSite=Lax on the cookies,
 * Fetch-Metadata with Origin, and a signed double-submit token, HMAC-SHA-256 over the session and a nonce. Bound to the
 * session, a token is worth nothing in another one: signing in changes it, and no cookie of a sibling host can plant it.
 * @param options secrets: HMAC keys, the one that signs first, the same on every instance; origins: the service's own,
 *   then those of other pages that may call it
 * @throws TypeError when no origin is given or one is none
 */
export function openCsrf(options: { readonly secrets: () => Promise<readonly KeyObject[]>; readonly origins: readonly string[]; readonly controls: Controls }): Csrf {
  const { secrets, controls } = options
  if (typeof secrets !== 'function') throw new TypeError('openCsrf: secrets must be a function')
  if (!Array.isArray(options.origins) || options.origins.length === 0 || !options.origins.every(isOrigin)) throw new TypeError('openCsrf: origins must be exact origins')
  const [own] = options.origins
  const origins = new Set(options.origins)
  const { modes } = controls
  // A page sends its one token with all its requests, and the HMAC would be the dearest part of each.
  const held = twoGenerations<{ readonly session: string; readonly secret: KeyObject }>()
  const refuse = (control: 'csrf' | 'fetch-metadata', requestId: string, rule: string): void => {
    if (controls.refuses(control, requestId, rule)) throw new Refusal('csrf_refused')
  }
  const listed = (headers: IncomingHttpHeaders): boolean => headers.origin !== undefined && origins.has(headers.origin)

  const missing = async (requestId: string): Promise<void> => refuse('csrf', requestId, 'missing')

  function checkAgainst(current: readonly KeyObject[], session: string, given: string, requestId: string): void {
    const known = held.get(given)
    if (known !== undefined && known.session === session && current.includes(known.secret)) return
    const parts = tokenForm.exec(given)
    if (parts === null) return refuse('csrf', requestId, 'form')
    const nonce = Buffer.from(parts[1] ?? '', 'base64url')
    const mac = Buffer.from(parts[2] ?? '', 'base64url')
    for (const secret of current) if (timingSafeEqual(macOf(secret, session, nonce), mac)) return held.set(given, { session, secret })
    refuse('csrf', requestId, 'signature')
  }

  return Object.freeze<Csrf>({
    async token(session) {
      const nonce = randomBytes(16)
      const [secret] = await secrets()
      if (secret === undefined) throw new TypeError('openCsrf: secrets gave no key')
      return `${nonce.toString('base64url')}.${macOf(secret, session, nonce).toString('base64url')}`
    },
    fromOurPage(headers, requestId) {
      if (modes['fetch-metadata'] === 'off') return
      const site = headers['sec-fetch-site']
      const { origin } = headers
      // A page on our list, but of another origin, is told from a foreign one by its Origin alone.
      const fits = origin === undefined || origin === own ? site === 'same-origin' || (site === undefined && origin !== undefined) : listed(headers) && site !== 'none'
      if (!fits) refuse('fetch-metadata', requestId, site === undefined && origin === undefined ? 'missing' : 'foreign')
    },
    notEmbedded(headers, requestId) {
      if (modes['fetch-metadata'] === 'off') return
      const site = headers['sec-fetch-site']
      if (site === undefined || site === 'same-origin' || site === 'none' || listed(headers)) return
      if (headers['sec-fetch-mode'] === 'navigate' && headers['sec-fetch-dest'] === 'document') return
      refuse('fetch-metadata', requestId, 'embedded')
    },
    check(session, given, requestId) {
      if (modes.csrf === 'off') return Promise.resolve()
      if (given === undefined) return missing(requestId)
      return secrets().then((current) => checkAgainst(current, session, given, requestId))
    },
  })
}

function macOf(secret: KeyObject, session: string, nonce: Buffer): Buffer {
  return createHmac('sha256', secret).update(framed(['redoubt csrf', session, nonce])).digest()
}
