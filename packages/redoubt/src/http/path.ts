import { Refusal } from '../errors.ts'
import { isForbiddenKey } from './json.ts'

const longestTarget = 4096
const plainPath = /^\/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*$/
const oddPath = /\/\/|\/\.{1,2}(?:\/|$)/
const plainQuery = /^[\x21\x23-\x7e]*$/
const oddSegment = /[\u0000-\u001f\u007f/\\%]|^\.{1,2}$/

function malformed(rule: string): Refusal {
  return new Refusal('malformed_request', { fields: [{ field: 'path', rule }] })
}

/**
 * The path and query of a request target, as sent. Refuses what proxies and routers read differently: other forms
 * than the origin form (http/absolute-form makes it of what is sound), `//`, dot segments, fragments, raw bytes outside RFC 3986.
 * @throws Refusal malformed_request
 */
export function splitTarget(target: string): { readonly path: string; readonly query: string } {
  if (target.length > longestTarget) throw malformed('length')
  const mark = target.indexOf('?')
  const path = mark < 0 ? target : target.slice(0, mark)
  const query = mark < 0 ? '' : target.slice(mark + 1)
  if (!plainPath.test(path) || oddPath.test(path)) throw malformed('form')
  if (!plainQuery.test(query)) throw new Refusal('malformed_request', { fields: [{ field: 'query', rule: 'form' }] })
  return { path, query }
}

/**
 * A path parameter, decoded once. What would still mean something after that (another %, a slash, a dot segment,
 * a control character) is refused, so that no second decoder further on sees another path.
 * @throws Refusal malformed_request
 */
export function decodeSegment(segment: string): string {
  if (!segment.includes('%')) return segment
  const text = decode(segment, 'path')
  if (oddSegment.test(text)) throw malformed('encoding')
  return text
}

/**
 * The query as a record of strings. A name given twice is refused: which of the two counts differs between a proxy,
 * this process and the one behind it.
 * @throws Refusal malformed_request
 */
export function parseQuery(query: string): Record<string, string> {
  const out: Record<string, string> = Object.create(null) as Record<string, string>
  if (query === '') return out
  const pairs = query.split('&')
  if (pairs.length > 64) throw new Refusal('malformed_request', { fields: [{ field: 'query', rule: 'length' }] })
  for (const pair of pairs) {
    const equals = pair.indexOf('=')
    const name = decode(equals < 0 ? pair : pair.slice(0, equals), 'query')
    const value = equals < 0 ? '' : decode(pair.slice(equals + 1).replaceAll('+', ' '), 'query')
    if (name === '' || isForbiddenKey(name)) throw new Refusal('malformed_request', { fields: [{ field: 'query', rule: 'forbidden_key' }] })
    if (name in out) throw new Refusal('malformed_request', { fields: [{ field: 'query', rule: 'duplicate_key' }] })
    if (/[\u0000-\u0008\u000b-\u001f\u007f]/.test(value)) throw new Refusal('malformed_request', { fields: [{ field: 'query', rule: 'text' }] })
    out[name] = value
  }
  return out
}

function decode(text: string, field: string): string {
  if (!text.includes('%')) return text
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Refusal('malformed_request', { fields: [{ field, rule: 'encoding' }] })
  }
}

/** `/api/patients/{id}` or `/api/patients/:id`, as its segments; a parameter stands as its name in braces. */
export function pathSegments(path: string): readonly string[] {
  if (typeof path !== 'string' || !path.startsWith('/')) throw new TypeError('route: path must begin with /')
  if (path === '/') return ['']
  return path.slice(1).split('/').map((segment) => {
    const name = /^(?:\{([a-z][A-Za-z0-9_]*)\}|:([a-z][A-Za-z0-9_]*))$/.exec(segment)
    if (name !== null) return `{${name[1] ?? name[2]}}`
    if (!/^[A-Za-z0-9._~-]+$/.test(segment) || /^\.+$/.test(segment)) {
      throw new TypeError(`route: ${path} has a segment that is neither plain text nor a parameter`)
    }
    return segment
  })
}

/** A parameter's name, or undefined for plain text. */
export function parameterName(segment: string): string | undefined {
  return segment.startsWith('{') ? segment.slice(1, -1) : undefined
}

type Node<T> = { readonly fixed: Map<string, Node<T>>; any: Node<T> | undefined; leaf: T | undefined }
export type Match<T> = { readonly leaf: T; readonly values: readonly string[] }

/**
 * Matches paths by exact bytes: case, trailing slashes and dots count, and an encoded letter is not that letter.
 * Plain text wins over a parameter.
 * @param make builds what stands at a path when it is first named
 */
export function pathTree<T>(): {
  at(segments: readonly string[], make: () => T): T
  match(path: string): Match<T> | undefined
} {
  const root: Node<T> = { fixed: new Map(), any: undefined, leaf: undefined }
  const whole = new Map<string, Match<T>>()
  const find = (node: Node<T>, segments: readonly string[], at: number, values: string[]): T | undefined => {
    const segment = segments[at]
    if (segment === undefined) return node.leaf
    const next = node.fixed.get(segment)
    const found = next === undefined ? undefined : find(next, segments, at + 1, values)
    if (found !== undefined || node.any === undefined || segment === '') return found
    values.push(segment)
    const below = find(node.any, segments, at + 1, values)
    if (below === undefined) values.pop()
    return below
  }
  return {
    at(segments, make) {
      let node = root
      for (const segment of segments) {
        if (parameterName(segment) === undefined) {
          const next: Node<T> = node.fixed.get(segment) ?? { fixed: new Map(), any: undefined, leaf: undefined }
          node.fixed.set(segment, next)
          node = next
        } else {
          node = node.any ??= { fixed: new Map(), any: undefined, leaf: undefined }
        }
      }
      node.leaf ??= make()
      if (!segments.some((segment) => parameterName(segment) !== undefined)) {
        whole.set(`/${segments.join('/')}`, { leaf: node.leaf, values: [] })
      }
      return node.leaf
    },
    match(path) {
      const exact = whole.get(path)
      if (exact !== undefined) return exact
      const segments = path.slice(1).split('/')
      if (segments.length > 24) return undefined
      const values: string[] = []
      const leaf = find(root, segments, 0, values)
      return leaf === undefined ? undefined : { leaf, values }
    },
  }
}
