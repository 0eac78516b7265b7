import { createHash } from 'node:crypto'
import { pathSegments } from './path.ts'
import type { Route } from './route.ts'

const assetTypes: Readonly<Record<string, string>> = {
  css: 'text/css; charset=utf-8', js: 'text/javascript; charset=utf-8', svg: 'image/svg+xml', png: 'image/png', ico: 'image/x-icon', woff2: 'font/woff2',
}
const contents = new WeakMap<Route, { readonly bytes: Buffer; readonly type: string }>()

/** The bytes of an asset and their type. */
export function assetContent(route: Route): { readonly bytes: Buffer; readonly type: string } {
  const found = contents.get(route)
  if (found === undefined) throw new TypeError('assetContent: not a route of asset()')
  return found
}

/**
 * A file that pages are made of: public, of a known type, under a name with the hash of its content, so that browsers
 * keep it for good and an old page never gets a new file.
 * @param path such as /assets/site.css
 * @returns its route, the url to write into pages, and its integrity (SRI)
 * @throws TypeError for a type that is not on the list
 */
export function asset(path: `/${string}`, content: string | Buffer): { readonly route: Route; readonly url: string; readonly integrity: string } {
  const [, stem, ending] = /^(\/[a-z0-9/_-]+)\.([a-z0-9]+)$/.exec(path) ?? []
  const type = assetTypes[ending ?? '']
  if (stem === undefined || type === undefined) throw new TypeError(`asset: ${path} is no path that ends in ${Object.keys(assetTypes).join(', ')}`)
  const bytes = Buffer.from(content)
  const digest = createHash('sha256').update(bytes).digest()
  const url = `${stem}.${digest.toString('hex').slice(0, 16)}.${ending}`
  const route = Object.freeze<Route>({
    kind: 'asset', method: 'GET', path: url, segments: pathSegments(url), names: [], summary: `The file ${path}`, access: 'public', scope: undefined, params: undefined, query: undefined,
    body: undefined, raw: undefined, form: undefined, sources: undefined, answer: null, status: 200, limit: undefined, weight: 0, idempotent: undefined, refuses: [], tags: [], shapes: {},
    handle: () => undefined,
  })
  contents.set(route, { bytes, type })
  return Object.freeze({ route, url, integrity: `sha256-${digest.toString('base64')}` })
}
