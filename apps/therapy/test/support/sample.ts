import type { Route } from 'redoubt/http/route'
import { z } from 'zod'

type Shape = { readonly [key: string]: unknown }

/** What a schema says with a function of its own, by the name of the field. */
const known: Readonly<Record<string, unknown>> = { code: '12345678', email: 'somebody@example.org', phone: '+49 30 901820', time_zone: 'Europe/Berlin', currency: 'EUR' }
const candidates = ['x', '123456', '12345678', 'abcdefgh', 'ABC', 'A'.repeat(22), 'a'.repeat(43)]

function text(name: string, shape: Shape): unknown {
  if (shape['format'] === 'uuid') return '0190a8f0-0000-7000-8000-0000000000ff'
  if (shape['format'] === 'date') return '1990-05-01'
  if (shape['format'] === 'date-time') return '2026-01-01T10:00:00Z'
  const { pattern, minLength } = shape
  if (typeof pattern === 'string') return candidates.find((each) => new RegExp(pattern).test(each))
  return known[name] ?? 'x'.repeat(typeof minLength === 'number' ? minLength : 12)
}

function valueOf(name: string, shape: Shape): unknown {
  if ('const' in shape) return shape['const']
  if (Array.isArray(shape['enum'])) return shape['enum'][0]
  const variants = (shape['anyOf'] ?? shape['oneOf']) as readonly Shape[] | undefined
  if (variants !== undefined) return valueOf(name, variants[0] ?? {})
  switch (shape['type']) {
    case 'object': {
      const fields = (shape['properties'] ?? {}) as Readonly<Record<string, Shape>>
      return Object.fromEntries(((shape['required'] ?? []) as readonly string[]).map((field) => [field, valueOf(field, fields[field] ?? {})]))
    }
    case 'array':
      return shape['minItems'] === undefined ? [] : [valueOf(name, (shape['items'] ?? {}) as Shape)]
    case 'integer':
    case 'number':
      return Math.max(1, Number(shape['minimum'] ?? 1))
    case 'boolean':
      return true
    default:
      return text(name, shape)
  }
}

function sampleOf(where: string, schema: z.ZodType): unknown {
  const value = valueOf('', z.toJSONSchema(schema, { io: 'input' }))
  const { error } = schema.safeParse(value)
  if (error !== undefined) throw new TypeError(`${where}: no sample fits: ${z.prettifyError(error)}`)
  return value
}

/** A request that a route's schemas take: its required fields alone. @throws TypeError where none was found */
export function sampleRequest(route: Route): { readonly path: string; readonly headers: Record<string, string>; readonly body?: string } {
  const where = `${route.method} ${route.path}`
  const params = route.params === undefined ? {} : (sampleOf(where, route.params) as Record<string, string>)
  const query = route.query === undefined ? {} : (sampleOf(where, route.query) as Record<string, string>)
  const search = new URLSearchParams(query).toString()
  const path = route.path.replaceAll(/\{(\w+)\}/g, (_, name: string) => params[name] ?? '') + (search === '' ? '' : `?${search}`)
  const headers: Record<string, string> = route.idempotent === undefined ? {} : { 'idempotency-key': '0123456789abcdef' }
  if (route.form !== undefined) return { path, headers: { ...headers, 'content-type': 'application/x-www-form-urlencoded' }, body: new URLSearchParams(sampleOf(where, route.form) as Record<string, string>).toString() }
  if (route.body !== undefined) return { path, headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify(sampleOf(where, route.body)) }
  return { path, headers }
}
