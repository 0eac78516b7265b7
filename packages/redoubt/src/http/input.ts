import type { IncomingMessage } from 'node:http'
import { Refusal } from '../errors.ts'
import { announcesBody, checkContentType, checkMediaType, formType, isWhole, readBody } from './body.ts'
import { csrfField } from './csrf.ts'
import { parseForm } from './form.ts'
import { parseJson } from './json.ts'
import { parse } from './parse.ts'
import { decodeSegment, parseQuery } from './path.ts'
import { limitOf, typesOf } from './route.ts'
import type { Route } from './route.ts'

export type Limits = { readonly limit: number; readonly timeout: number }

/** The parameters of the path, decoded once and parsed. @throws Refusal malformed_request */
export function readParams(route: Route, values: readonly string[]): unknown {
  if (route.params === undefined) return {}
  const given: Record<string, string> = {}
  for (const [i, name] of route.names.entries()) given[name] = decodeSegment(values[i] ?? '')
  return parse(route.params, given, 'malformed_request')
}

/** The query, parsed; where none is declared, none is taken. @throws Refusal malformed_request, invalid_input */
export function readQuery(route: Route, text: string): unknown {
  if (route.query === undefined && text === '') return {}
  const given = parseQuery(text)
  if (route.query !== undefined) return parse(route.query, given, 'invalid_input')
  const fields = Object.keys(given).slice(0, 32).map((key) => ({ field: /^[A-Za-z_][A-Za-z0-9_-]{0,63}$/.test(key) ? key : '?', rule: 'unknown' }))
  throw new Refusal('invalid_input', { fields })
}

/** @throws Refusal malformed_request when the key is out of form, or absent where it must be there */
export function readIdempotencyKey(route: Route, req: IncomingMessage): string | undefined {
  if (route.idempotent === undefined) return undefined
  const key = req.headers['idempotency-key']
  if (key === undefined && route.idempotent === true) return undefined
  if (typeof key === 'string' && /^[\x21-\x2b\x2d-\x7e]{8,128}$/.test(key)) return key
  throw new Refusal('malformed_request', { fields: [{ field: 'idempotency-key', rule: key === undefined ? 'required' : 'form' }] })
}

/** The body as the route declares it: parsed JSON, bytes, or undefined; at once where it is here already. @throws Refusal */
export function readInput(route: Route, req: IncomingMessage, limits: Limits): unknown {
  if (route.body !== undefined || route.raw !== undefined) {
    if (route.raw === undefined) checkContentType(req, 'application/json')
    else checkMediaType(req, typesOf(route.raw))
    return isWhole(req) ? readDeclared(route, req, limits) : readSoon(route, req, limits)
  }
  if (announcesBody(req)) throw new Refusal('malformed_request', { fields: [{ field: 'body', rule: 'unexpected' }] })
  return undefined
}

function readDeclared(route: Route, req: IncomingMessage, limits: Limits): unknown {
  const bytes = readBody(req, limitOf(route, limits.limit), limits.timeout)
  return bytes instanceof Promise ? bytes.then((late) => parseBody(route, late)) : parseBody(route, bytes)
}

/** What arrived with the head is parsed before anything that is put off: then most bodies are there. */
async function readSoon(route: Route, req: IncomingMessage, limits: Limits): Promise<unknown> {
  await Promise.resolve()
  return readDeclared(route, req, limits)
}

function parseBody({ body }: Route, bytes: Buffer): unknown {
  return body === undefined ? bytes : parse(body, parseJson(bytes), 'invalid_input')
}

/**
 * The form of a page, parsed once its CSRF token was asked; a page without one takes no body.
 * @param askToken given the token that stood in the form
 * @throws Refusal
 */
export async function readForm(route: Route, req: IncomingMessage, limits: Limits, askToken: (token: string | undefined) => Promise<void> | undefined): Promise<unknown> {
  if (route.form === undefined) return readInput(route, req, limits)
  checkContentType(req, formType)
  const { [csrfField]: token, ...fields } = parseForm(await readBody(req, limitOf(route, limits.limit), limits.timeout))
  await askToken(token)
  return parse(route.form, fields, 'invalid_input')
}
