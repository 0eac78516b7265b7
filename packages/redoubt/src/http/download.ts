import type { Readable } from 'node:stream'
import type { z } from 'zod'
import type { Person, Visitor } from '../context.ts'
import { onlyKnown } from './options.ts'
import { route } from './route.ts'
import type { Access, Nothing, Route } from './route.ts'

/** A file that leaves. */
export type Download = {
  /** The name it is saved under; any text, it is made harmless here. */
  readonly name: string
  /** Its media type; what is not on the list leaves as application/octet-stream. */
  readonly type: string
  /** A stream is cut off when the client goes, and its failure cuts the answer. */
  readonly content: Buffer | Readable
}

/** Types that no browser runs, should one ever show a file instead of saving it. */
const harmless = new Set(['application/pdf', 'application/zip', 'application/json', 'text/csv', 'text/plain', 'image/png', 'image/jpeg', 'image/webp', 'audio/mpeg', 'video/mp4'])

export function safeType(type: string): string {
  return harmless.has(type) ? (type.startsWith('text/') ? `${type}; charset=utf-8` : type) : 'application/octet-stream'
}

/**
 * Content-Disposition for a file of any name (RFC 6266 §4.3, RFC 8187): no path, no control or direction character that
 * makes exe.pdf of fdp.exe, and a plain form for clients that read only that.
 */
export function disposition(name: string): string {
  const clean = name.normalize('NFC').replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff/\\:*?"<>|]/gu, '_').replace(/^\.+/, '_').slice(0, 150).toWellFormed() || 'download'
  const plain = clean.replace(/[^\x20-\x7e]|[%;]/g, '_')
  const encoded = encodeURIComponent(clean).replace(/['()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
  return `attachment; filename="${plain}"; filename*=UTF-8''${encoded}`
}

/**
 * Declares a route that answers with a file to save: Content-Disposition attachment, nosniff, a type that no browser
 * runs, and a sandbox around it all the same. Parameters, access and refusals are those of any route.
 * @throws TypeError as route does
 */
export function download<const C extends Access, P extends z.ZodObject = Nothing, Q extends z.ZodObject = Nothing>(definition: {
  readonly path: `/${string}`
  readonly summary: string
  readonly access: C
  readonly params?: P
  readonly query?: Q
  readonly tags?: readonly string[]
  handle(input: { readonly caller: C extends 'public' ? null : Person; readonly visitor: Visitor; readonly params: z.output<P>; readonly query: z.output<Q> }): Download | Promise<Download>
}): Route {
  const { handle, ...rest } = definition
  onlyKnown(`download ${String(definition.path)}`, rest, ['path', 'summary', 'access', 'params', 'query', 'tags'])
  if (typeof handle !== 'function') throw new TypeError(`download ${String(definition.path)}: handle is missing`)
  const made = route({ ...rest, method: 'GET', answer: null, handle: () => undefined })
  // What route() checks is the same; only what leaves is a file and not the answer of a schema.
  return Object.freeze<Route>({ ...made, kind: 'download', status: 200, handle: handle as unknown as Route['handle'] })
}
