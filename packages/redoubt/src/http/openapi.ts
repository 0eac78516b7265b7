import { refusals } from '../errors.ts'
import type { RefusalCode } from '../errors.ts'
import { onlyKnown } from './options.ts'
import { problemType } from './problem.ts'
import { typesOf } from './route.ts'
import type { Route } from './route.ts'
import type { JsonSchema } from './shape.ts'

export type ApiInfo = {
  readonly title: string
  readonly version: string
  readonly description?: string
  /** Base addresses. */
  readonly servers?: readonly string[]
}

/**
 * The OpenAPI 3.1 document of a list of routes, made from the very schemas that parse and shape them, so that it
 * cannot say anything else than the service does.
 * @param cookie name of the access cookie, where callers come by cookie too
 * @throws TypeError when two named schemas differ under one name
 */
export function openApi(routes: readonly Route[], info: ApiInfo, cookie?: string): JsonSchema {
  onlyKnown('openApi', info, ['title', 'version', 'description', 'servers'])
  const named: Record<string, unknown> = { Problem: problemSchema() }
  const paths: Record<string, Record<string, unknown>> = {}
  for (const route of routes.filter(({ kind }) => kind === 'api' || kind === 'download')) (paths[route.path] ??= {})[route.method.toLowerCase()] = operation(route, named, cookie)
  return {
    openapi: '3.1.1',
    info: { title: info.title, version: info.version, ...(info.description === undefined ? undefined : { description: info.description }) },
    ...(info.servers === undefined ? undefined : { servers: info.servers.map((url) => ({ url })) }),
    paths,
    components: {
      schemas: named,
      securitySchemes: { bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' }, ...cookieSchemes(cookie), ...clientScheme(routes) },
    },
  }
}

function operation(route: Route, named: Record<string, unknown>, cookie: string | undefined): JsonSchema {
  const id = operationId(route)
  const place = (shape: JsonSchema): JsonSchema => hoist(shape, id, named)
  const { params, query, body, answer } = route.shapes
  const parameters = [
    ...(params === undefined ? [] : parametersOf(place(params), 'path')),
    ...(query === undefined ? [] : parametersOf(place(query), 'query')),
    ...(route.idempotent === undefined
      ? []
      : [{ name: 'Idempotency-Key', in: 'header', required: route.idempotent === 'required', schema: { type: 'string', minLength: 8, maxLength: 128 } }]),
  ]
  return {
    operationId: id,
    summary: route.summary,
    ...(route.tags.length === 0 ? undefined : { tags: route.tags }),
    security: route.access === 'public' ? [] : [
      { bearer: [] },
      ...(cookie === undefined ? [] : [{ cookie: [], ...(route.method === 'GET' ? undefined : { csrf: [] }) }]),
      ...(route.scope === undefined ? [] : [{ client: [route.scope] }]),
    ],
    ...(route.access === 'public' ? undefined : { 'x-roles': route.access }),
    ...(parameters.length === 0 ? undefined : { parameters }),
    ...(body === undefined && route.raw === undefined
      ? undefined
      : { requestBody: { required: true, content: Object.fromEntries(bodyTypes(route).map((type) => [type, { schema: body === undefined ? {} : place(body) }])) } }),
    responses: {
      [String(route.status)]: {
        description: refusalFree(route.status),
        headers: { 'X-Request-Id': { schema: { type: 'string' } } },
        ...(answer === undefined ? undefined : { content: { 'application/json': { schema: place(answer) } } }),
      },
      ...problemResponses(codesOf(route)),
    },
  }
}

/** Sessions of browsers: the cookie, and beside it, for every unsafe method, the token that belongs to the session. */
function cookieSchemes(name: string | undefined): JsonSchema {
  if (name === undefined) return {}
  return {
    cookie: { type: 'apiKey', in: 'cookie', name, description: 'The session of a browser, set at sign-in' },
    csrf: { type: 'apiKey', in: 'header', name: 'X-CSRF-Token', description: 'The token of the session, asked of callers by cookie alone' },
  }
}

/** Client credentials, where a route has a scope. */
function clientScheme(routes: readonly Route[]): JsonSchema {
  const scopes = [...new Set(routes.flatMap(({ scope }) => (scope === undefined ? [] : [scope])))].sort()
  const tokenUrl = '/api/auth/token'
  return scopes.length === 0 ? {} : { client: { type: 'oauth2', flows: { clientCredentials: { tokenUrl, scopes: Object.fromEntries(scopes.map((scope) => [scope, scope])) } } } }
}

function bodyTypes(route: Route): readonly string[] {
  return route.raw === undefined ? ['application/json'] : typesOf(route.raw)
}

/** Every refusal the edge can give on this route, and those it declares itself. */
function codesOf(route: Route): readonly RefusalCode[] {
  const codes: RefusalCode[] = ['malformed_request', 'origin_refused', 'body_too_large', 'https_required', 'unsupported_media_type', 'too_many_requests', 'internal', 'busy', 'stopping']
  if (route.access !== 'public') codes.push('unauthenticated', 'caller_refused', 'forbidden', 'csrf_refused', 'audit_unavailable', 'database_unavailable')
  if (route.names.length > 0) codes.push('not_found')
  // Any query is refused where none is declared, so invalid_input belongs to every route.
  codes.push('invalid_input')
  if (route.idempotent !== undefined) codes.push('request_in_progress', 'idempotency_key_reused')
  if (route.body !== undefined || route.raw !== undefined) codes.push('request_timeout')
  return [...new Set([...codes, ...route.refuses])]
}

function problemResponses(codes: readonly RefusalCode[]): Record<string, unknown> {
  const byStatus = new Map<number, RefusalCode[]>()
  for (const code of codes) byStatus.set(refusals[code].status, [...(byStatus.get(refusals[code].status) ?? []), code])
  const out: Record<string, unknown> = {}
  for (const [status, list] of [...byStatus].sort(([a], [b]) => a - b)) {
    out[String(status)] = {
      description: list.map((code) => `${code}: ${refusals[code].title}`).join('. '),
      content: {
        'application/problem+json': {
          schema: { allOf: [{ $ref: '#/components/schemas/Problem' }, { type: 'object', properties: { code: { enum: list } } }] },
        },
      },
    }
  }
  return out
}

function problemSchema(): JsonSchema {
  const text = { type: 'string' }
  return {
    type: 'object',
    description: 'RFC 9457 problem details. No member carries a value that was sent.',
    required: ['type', 'title', 'status', 'code', 'request_id'],
    properties: {
      type: { type: 'string', format: 'uri', examples: [problemType('invalid_input')] },
      title: text,
      status: { type: 'integer' },
      code: text,
      request_id: text,
      detail: text,
      errors: { type: 'array', items: { type: 'object', required: ['field', 'rule'], properties: { field: text, rule: text }, additionalProperties: false } },
    },
  }
}

function parametersOf(shape: JsonSchema, place: 'path' | 'query'): readonly JsonSchema[] {
  const required = (shape['required'] as readonly string[] | undefined) ?? []
  return Object.entries((shape['properties'] as JsonSchema | undefined) ?? {}).map(([name, schema]) => ({
    name,
    in: place,
    required: place === 'path' || required.includes(name),
    schema,
  }))
}

/** zod puts named and recursive schemas under $defs of each schema; in the document they stand once, under components. */
function hoist(shape: JsonSchema, id: string, named: Record<string, unknown>): JsonSchema {
  const { $defs, ...rest } = shape
  if ($defs === undefined) return rest
  const nameOf = (name: string): string => (name.startsWith('__') ? `${id}${name}` : name)
  const rewrite = (node: unknown): unknown => {
    if (Array.isArray(node)) return node.map(rewrite)
    if (typeof node !== 'object' || node === null) return node
    return Object.fromEntries(
      Object.entries(node).map(([key, value]) =>
        key === '$ref' && typeof value === 'string' ? [key, value.replace(/^#\/\$defs\/(.*)$/, (_all, name: string) => `#/components/schemas/${nameOf(name)}`)] : [key, rewrite(value)],
      ),
    )
  }
  for (const [name, schema] of Object.entries($defs as JsonSchema)) {
    const { $schema: _dialect, id: _id, ...made } = rewrite(schema) as Record<string, unknown>
    const key = nameOf(name)
    if (named[key] !== undefined && JSON.stringify(named[key]) !== JSON.stringify(made)) throw new TypeError(`openApi: two different schemas are called ${name}`)
    named[key] = made
  }
  return rewrite(rest) as JsonSchema
}

function operationId(route: Route): string {
  const words = route.segments.flatMap((segment) => segment.replace(/^\{(.*)\}$/, 'by-$1').split(/[^A-Za-z0-9]+/))
  return route.method.toLowerCase() + words.filter((word) => word !== '').map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join('')
}

function refusalFree(status: number): string {
  return status === 201 ? 'Created' : status === 202 ? 'Accepted' : status === 204 ? 'Done, nothing to say' : 'Done'
}
