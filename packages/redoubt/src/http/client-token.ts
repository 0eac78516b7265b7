import type { IncomingHttpHeaders } from 'node:http'
import { z } from 'zod'
import { Refusal } from '../errors.ts'
import { clientToken } from '../tokens/clients.ts'
import type { Clients } from '../tokens/clients.ts'
import { formType } from './body.ts'
import { parseForm } from './form.ts'
import { parse } from './parse.ts'
import { route } from './route.ts'
import type { Route } from './route.ts'

// RFC 6749 §3.2: what a server does not know it ignores; this one refuses, as every route here does.
const asked = z.strictObject({ grant_type: z.string(), scope: z.string().max(1_000).optional(), client_id: z.string().max(100).optional(), client_secret: z.string().max(200).optional() })
const answer = z.object({ access_token: z.string(), token_type: z.literal('Bearer'), expires_in: z.int(), scope: z.string() })

/**
 * `POST /api/auth/token`: an access token for a client's credentials (RFC 6749 §4.4), given as client_secret_basic or
 * client_secret_post, never both and never in the query. Programs call it: no cookie counts and no CSRF is asked.
 */
export function clientTokenRoute(clients: Clients, path: `/${string}` = '/api/auth/token'): Route {
  return route({
    method: 'POST', path, tags: ['auth'], summary: 'An access token for an API client: client credentials, by Authorization: Basic or in the form', access: 'public',
    raw: { limit: 4_096, type: formType }, answer, refuses: ['invalid_client', 'invalid_scope', 'unsupported_grant_type'],
    handle: async ({ body, headers, visitor }) => {
      const { grant_type, scope, client_id, client_secret } = parse(asked, { ...parseForm(body) }, 'malformed_request')
      if (grant_type !== 'client_credentials') throw new Refusal('unsupported_grant_type')
      const basic = basicOf(headers)
      if (basic !== undefined && (client_id !== undefined || client_secret !== undefined)) throw new Refusal('malformed_request', { fields: [{ field: 'client_secret', rule: 'duplicate' }] })
      const { id, secret } = basic ?? { id: client_id ?? '', secret: client_secret ?? '' }
      const scopes = scope === undefined || scope === '' ? undefined : [...new Set(scope.split(' '))]
      const made = await clientToken(clients, visitor, { id, secret, scopes })
      return { access_token: made.token, token_type: 'Bearer' as const, expires_in: made.expiresIn, scope: made.scopes.join(' ') }
    },
  })
}

/** RFC 6749 §2.3.1: id and secret are form-encoded inside; ours need no escape, so nothing is decoded twice. */
function basicOf(headers: IncomingHttpHeaders): { readonly id: string; readonly secret: string } | undefined {
  if (headers.authorization === undefined) return undefined
  const [, coded = ''] = /^basic ([A-Za-z0-9+/]+={0,2})$/i.exec(headers.authorization) ?? []
  const text = Buffer.from(coded, 'base64').toString('latin1')
  const colon = text.indexOf(':')
  return { id: text.slice(0, Math.max(colon, 0)), secret: text.slice(colon + 1) }
}
