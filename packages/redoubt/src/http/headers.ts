import { onlyKnown, whole } from './options.ts'
import { visitOf } from './visit.ts'
import type { Step } from './visit.ts'

export type Hsts = {
  /** Seconds. Begin small; preload wants a year. */
  readonly maxAge: number
  readonly includeSubDomains?: boolean
  readonly preload?: boolean
}

const nothingPermitted = [
  'accelerometer', 'camera', 'display-capture', 'fullscreen', 'geolocation', 'gyroscope', 'magnetometer', 'microphone', 'midi', 'payment', 'usb',
].map((feature) => `${feature}=()`).join(', ')

/**
 * The headers of every answer of an API, errors included.
 * X-XSS-Protection is left out: its filter was itself an attack surface, and CSP replaces it (OWASP HTTP Headers).
 * @param options hsts: sent over TLS only (RFC 6797 §7.2); permissions: Permissions-Policy, default everything off
 * @throws TypeError for an option that would do nothing
 */
export function securityHeaders(options: { readonly hsts?: Hsts; readonly permissions?: string } = {}): Step {
  onlyKnown('securityHeaders', options, ['hsts', 'permissions'])
  const strict = options.hsts === undefined ? undefined : hstsValue(options.hsts)
  const permissions = options.permissions ?? nothingPermitted
  if (typeof permissions !== 'string' || !/^[a-z][\x20-\x7e]*$/.test(permissions)) {
    throw new TypeError('securityHeaders: permissions must be the text of a Permissions-Policy')
  }
  return (req, res, next) => {
    res.removeHeader('X-Powered-By')
    res.setHeader('Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'; base-uri 'none'")
    res.setHeader('X-Content-Type-Options', 'nosniff')
    res.setHeader('X-Frame-Options', 'DENY')
    res.setHeader('Referrer-Policy', 'no-referrer')
    res.setHeader('Cross-Origin-Opener-Policy', 'same-origin')
    res.setHeader('Cross-Origin-Resource-Policy', 'same-origin')
    res.setHeader('Permissions-Policy', permissions)
    res.setHeader('Cache-Control', 'no-store')
    if (strict !== undefined && visitOf(req)?.secure === true) res.setHeader('Strict-Transport-Security', strict)
    next()
  }
}

function hstsValue(hsts: Hsts): string {
  onlyKnown('hsts', hsts, ['maxAge', 'includeSubDomains', 'preload'])
  whole('hsts: maxAge', hsts.maxAge, 0, 63_072_000)
  if (hsts.preload === true && (hsts.maxAge < 31_536_000 || hsts.includeSubDomains !== true)) {
    throw new TypeError('hsts: preload needs a maxAge of a year and includeSubDomains (hstspreload.org)')
  }
  return `max-age=${hsts.maxAge}${hsts.includeSubDomains === true ? '; includeSubDomains' : ''}${hsts.preload === true ? '; preload' : ''}`
}
