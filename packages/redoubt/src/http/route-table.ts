import type { IncomingMessage, ServerResponse } from 'node:http'
import { Refusal } from '../errors.ts'
import { setField } from './head.ts'
import { pathTree } from './path.ts'
import type { Route } from './route.ts'

/** A JSON text served to everybody. */
export type Document = { readonly path: string; readonly text: string }
type Leaf = { readonly byMethod: Map<string, Route>; allow: string; document: Document | undefined }

/** What stands at a path: a route and the undecoded values of its parameters, or the OpenAPI document. */
export type Found = { readonly route: Route; readonly values: readonly string[] } | { readonly document: Document }

export type RouteTable = {
  /** @throws Refusal not_found; method_not_allowed, with Allow on the answer */
  find(req: IncomingMessage, res: ServerResponse, path: string): Found
}

/**
 * The routes of one mount by path and method; HEAD finds what GET does.
 * @param roles every role a route may name
 * @param document the OpenAPI document; undefined: not served
 * @throws TypeError when two routes are the same, a role is unknown, or the document's path is a route already
 */
export function routeTable(routes: readonly Route[], roles: readonly string[], document: Document | undefined): RouteTable {
  const tree = pathTree<Leaf>()
  const leafAt = (segments: readonly string[]): Leaf => tree.at(segments, () => ({ byMethod: new Map(), allow: '', document: undefined }))
  for (const route of routes) {
    const leaf = leafAt(route.segments)
    if (leaf.byMethod.has(route.method)) throw new TypeError(`mount: ${route.method} ${route.path} is declared twice`)
    for (const role of route.access === 'public' ? [] : route.access) {
      if (!roles.includes(role)) throw new TypeError(`mount: ${route.method} ${route.path} names the unknown role ${role}`)
    }
    leaf.byMethod.set(route.method, route)
    leaf.allow = [...leaf.byMethod.keys()].flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method])).join(', ')
  }
  if (document !== undefined) {
    const leaf = leafAt(document.path.slice(1).split('/'))
    if (leaf.byMethod.size > 0) throw new TypeError(`mount: ${document.path} is a route already`)
    leaf.allow = 'GET, HEAD'
    leaf.document = document
  }
  return {
    find(req, res, path) {
      const match = tree.match(path)
      if (match === undefined) throw new Refusal('not_found')
      const { leaf, values } = match
      const method = req.method === 'HEAD' ? 'GET' : (req.method ?? '')
      const route = leaf.byMethod.get(method)
      if (route !== undefined) return { route, values }
      if (method === 'GET' && leaf.document !== undefined) return { document: leaf.document }
      setField(res, 'Allow', leaf.allow)
      throw new Refusal('method_not_allowed')
    },
  }
}
