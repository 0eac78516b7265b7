import { z } from 'zod'
import type { Emit } from '../events.ts'
import { parseJson } from './json.ts'
import { parse } from './parse.ts'
import { route } from './route.ts'
import type { Route } from './route.ts'

/** Bytes of one report; a browser may send several in one body. */
const longestReport = 16 * 1024
const mostReports = 20

const directives = new Set([
  'default-src', 'script-src', 'script-src-elem', 'script-src-attr', 'style-src', 'style-src-elem', 'style-src-attr', 'img-src', 'font-src', 'connect-src', 'frame-src', 'child-src', 'worker-src',
  'manifest-src', 'media-src', 'object-src', 'base-uri', 'form-action', 'frame-ancestors', 'require-trusted-types-for', 'trusted-types', 'upgrade-insecure-requests',
])
const sources = new Set(['inline', 'eval', 'wasm-eval', 'data', 'blob', 'self', 'trusted-types-policy', 'trusted-types-sink', 'about', 'filesystem'])

// Browsers add members as they please: what is not read here is not kept, and refusing it would lose the report.
const classic = z.object({ 'csp-report': z.object({ 'effective-directive': z.string().optional(), 'violated-directive': z.string().optional(), 'blocked-uri': z.string().optional(), disposition: z.string().optional() }) })
const current = z.array(z.object({ type: z.string(), body: z.object({ effectiveDirective: z.string().optional(), blockedURL: z.string().optional(), disposition: z.string().optional() }).nullish() })).max(mostReports)

/**
 * Takes what browsers report of the Content-Security-Policy: by report-uri (CSP level 2) and by the Reporting API.
 * Public, since a browser sends it without credentials; anybody can send one, so it is an event to count and nothing
 * else, told in words of ours: the directive, and what kind of thing was stopped. Addresses and samples are not kept.
 * @param path as pageHeaders names it
 */
export function cspReports(path: `/${string}`, emit: Emit): Route {
  return route({
    method: 'POST', path, summary: 'Takes reports of the content security policy', tags: ['browser'], access: 'public',
    raw: { limit: longestReport, type: ['application/csp-report', 'application/reports+json'] }, answer: null,
    handle: ({ body, visitor }) => {
      const value = parseJson(body)
      for (const { directive, blocked, disposition } of reportsOf(value)) {
        emit({
          type: 'security.csp_violation', requestId: visitor.requestId,
          directive: directives.has(directive) ? directive : 'other', blocked: sources.has(blocked) ? blocked : blocked.includes(':') ? 'address' : 'other',
          disposition: disposition === 'enforce' || disposition === 'report' ? disposition : 'other',
        })
      }
    },
  })
}

function reportsOf(value: unknown): readonly { readonly directive: string; readonly blocked: string; readonly disposition: string }[] {
  if (!Array.isArray(value)) {
    const { 'csp-report': report } = parse(classic, value, 'invalid_input')
    // Level 2 puts the sources behind the name of the directive.
    const directive = report['effective-directive'] ?? report['violated-directive']?.split(' ')[0] ?? ''
    return [{ directive, blocked: report['blocked-uri'] ?? '', disposition: report.disposition ?? '' }]
  }
  return parse(current, value, 'invalid_input').filter(({ type }) => type === 'csp-violation').map(({ body }) =>
    ({ directive: body?.effectiveDirective ?? '', blocked: body?.blockedURL ?? '', disposition: body?.disposition ?? '' }))
}
