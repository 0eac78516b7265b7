import type { ServerResponse } from 'node:http'
import type { ControlMode } from '../controls.ts'
import { leaveUnnamed, removeField, setField } from './head.ts'
import { onlyKnown, whole } from './options.ts'
import { requestStateOf } from './request-state.ts'
import type { Middleware } from './request-state.ts'

export type Hsts = {
  /** Seconds. Begin small; preload wants a year. */
  readonly maxAge: number
  readonly includeSubDomains?: boolean
  readonly preload?: boolean
}

/** Origins beside the service's own that a page may load from, by directive: `{ script: ['https://js.stripe.com'] }`. */
export type Sources = Readonly<Partial<Record<'script' | 'style' | 'img' | 'font' | 'connect' | 'frame', readonly string[]>>>

export type PageHeaders = {
  /** The mode of the control `csp`; report sends Content-Security-Policy-Report-Only. */
  readonly csp: ControlMode
  /** Sends upgrade-insecure-requests: only where the service is reached over TLS. */
  readonly https: boolean
  /** The path violations are reported to, such as /csp-report. */
  readonly report?: string
  /** Permissions-Policy, default everything off. */
  readonly permissions?: string
}

export type Fields = readonly (readonly [name: string, value: string])[]

const nothingPermitted = [
  'accelerometer', 'camera', 'display-capture', 'fullscreen', 'geolocation', 'gyroscope', 'magnetometer', 'microphone', 'midi', 'payment', 'usb',
].map((feature) => `${feature}=()`).join(', ')

function permissionsOf(where: string, permissions: string = nothingPermitted): string {
  if (typeof permissions !== 'string' || !/^[a-z][\x20-\x7e]*$/.test(permissions)) {
    throw new TypeError(`${where}: permissions must be the text of a Permissions-Policy`)
  }
  return permissions
}

/**
 * The headers of every answer of an API, errors included; pages, downloads and assets replace some of them.
 * X-XSS-Protection is left out: its filter was itself an attack surface, and CSP replaces it (OWASP HTTP Headers).
 * @param options hsts: sent over TLS only (RFC 6797 §7.2); permissions: Permissions-Policy, default everything off
 * @throws TypeError for an option that would do nothing
 */
export function securityHeaders(options: { readonly hsts?: Hsts; readonly permissions?: string } = {}): Middleware {
  onlyKnown('securityHeaders', options, ['hsts', 'permissions'])
  const strict = options.hsts === undefined ? undefined : hstsValue(options.hsts)
  const permissions = permissionsOf('securityHeaders', options.permissions)
  return (req, res, next) => {
    leaveUnnamed(req, res)
    setField(res, 'Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'; base-uri 'none'")
    setField(res, 'X-Content-Type-Options', 'nosniff')
    setField(res, 'X-Frame-Options', 'DENY')
    setField(res, 'Referrer-Policy', 'no-referrer')
    setField(res, 'Cross-Origin-Opener-Policy', 'same-origin')
    setField(res, 'Cross-Origin-Resource-Policy', 'same-origin')
    setField(res, 'Permissions-Policy', permissions)
    setField(res, 'Cache-Control', 'no-store')
    if (strict !== undefined && requestStateOf(req)?.secure === true) setField(res, 'Strict-Transport-Security', strict)
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

/**
 * What a page's headers say instead of an API's: a Content-Security-Policy without inline script or style, Trusted
 * Types, forms and frames of one's own only, and a way to report what it stopped.
 * Referrer-Policy is same-origin and not no-referrer: under that one a browser sends `Origin: null` with the page's own
 * forms (Fetch standard §3.2), which then look like another site's. Other sites learn as little either way.
 * @returns the headers for a page with these further sources
 * @throws TypeError for an option or a source that is out of form
 */
export function pageHeaders(options: PageHeaders): (sources?: Sources) => Fields {
  onlyKnown('pageHeaders', options, ['csp', 'https', 'report', 'permissions'])
  const { csp, https, report } = options
  if (report !== undefined && !/^\/[a-z0-9/-]+$/.test(report)) throw new TypeError('pageHeaders: report must be a path of this service')
  const permissions = permissionsOf('pageHeaders', options.permissions)
  const name = csp === 'report' ? 'Content-Security-Policy-Report-Only' : 'Content-Security-Policy'
  return (sources = {}) => [
    ...(csp === 'off' ? [] : [[name, policyOf(sources, https && csp === 'enforce', report)] as const]),
    ...(report === undefined ? [] : [['Reporting-Endpoints', `csp="${report}"`] as const]),
    ['Referrer-Policy', 'same-origin'],
    ['Permissions-Policy', permissions],
  ]
}

function policyOf(sources: Sources, upgrade: boolean, report: string | undefined): string {
  onlyKnown('sources', sources, ['script', 'style', 'img', 'font', 'connect', 'frame'])
  const from = (kind: keyof Sources, base: string): string => {
    const more = sources[kind] ?? []
    for (const source of more) if (!/^https:\/\/[a-z0-9.-]+(?::\d+)?$/.test(source)) throw new TypeError('sources: each must be an exact https origin')
    return [`${kind}-src`, ...(base === "'none'" && more.length > 0 ? [] : [base]), ...more].join(' ')
  }
  return [
    "default-src 'self'", from('script', "'self'"), from('style', "'self'"), from('img', "'self' data:"), from('font', "'self'"), from('connect', "'self'"), from('frame', "'none'"),
    "object-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
    ...(upgrade ? ['upgrade-insecure-requests'] : []), ...(report === undefined ? [] : [`report-uri ${report}`, 'report-to csp']),
  ].join('; ')
}

/** A download is saved, never shown: whoever uploaded it must not run it in the origin of the service. */
export const downloadHeaders: Fields = [['Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"]]

/** An asset's name carries the hash of its content, so that it never changes under its name. */
export const assetHeaders: Fields = [
  ['Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"], ['Cache-Control', 'public, max-age=31536000, immutable'],
]

/** Puts the headers of a kind of answer in place of what the perimeter set for all. */
export function setHeaders(res: ServerResponse, fields: Fields): void {
  removeField(res, 'Content-Security-Policy')
  for (const [name, value] of fields) setField(res, name, value)
}
