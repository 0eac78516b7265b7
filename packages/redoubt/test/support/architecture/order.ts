import { posix } from 'node:path'
import type { Source } from './source.ts'

/**
 * The one import order. A file imports from the lines above its own, and on its own line from the names before its
 * own; on the line of the services from none. Parts in a folder stand where the file of the folder's name stands.
 */
export const lines: readonly (readonly [line: string, heads: readonly string[]])[] = [
  ['facts', ['context', 'errors', 'events', 'bytes', 'tables', 'config']],
  ['doors', ['folder', 'aead', 'pg', 'redis', 'kms', 'mail', 'rounds']],
  ['keys', ['keyring']],
  ['secrecy', ['seal']],
  ['rows', ['columns']],
  ['record', ['audit', 'migrate']],
  ['gate', ['transaction']],
  ['services', ['tokens', 'limits', 'cache', 'inbox', 'incidents', 'privacy', 'backup', 'idempotency', 'outbox', 'reencrypt', 'controls']],
  ['edge', ['http', 'log', 'metrics', 'health', 'verify']],
  ['hands', ['cli']],
]

export const libraryFolder = 'packages/redoubt/src/'

/** Name of the head of a library file: `http` for http.ts and for http/cors.ts; undefined outside the library. */
export function headOf(path: string): string | undefined {
  if (!path.startsWith(libraryFolder)) return undefined
  return path.slice(libraryFolder.length).split('/')[0]?.replace(/\.ts$/, '')
}

function placeOf(head: string): { readonly line: number; readonly at: number } | undefined {
  const line = lines.findIndex(([, heads]) => heads.includes(head))
  const at = lines[line]?.[1].indexOf(head)
  return at === undefined ? undefined : { line, at }
}

function mayImport(from: string, to: string): boolean {
  const importer = placeOf(from)
  const imported = placeOf(to)
  if (importer === undefined || imported === undefined) return false
  if (importer.line !== imported.line) return imported.line < importer.line
  return lines[importer.line]?.[0] !== 'services' && imported.at < importer.at
}

/** Imports against the order, heads that have no line, and library files that reach into apps, tests or bench. */
export function orderFindings(sources: readonly Source[]): readonly string[] {
  return sources.flatMap((source) => {
    const head = headOf(source.path)
    if (head === undefined) return []
    if (placeOf(head) === undefined) return [`${source.path}: ${head} has no line in the import order`]
    return source.imports.flatMap(({ from }) => {
      if (from === 'redoubt' || from.startsWith('redoubt/')) return [`${source.path}: imports itself by its public name (${from}); use the relative path`]
      if (!from.startsWith('.')) return []
      const target = posix.join(posix.dirname(source.path), from)
      const to = headOf(target)
      if (to === undefined) return [`${source.path}: imports ${target}, outside the library`]
      return to === head || mayImport(head, to) ? [] : [`${source.path}: ${head} imports ${to}, which does not stand above it`]
    })
  })
}

/** Apps reach the library by its public subpaths alone, and one app never another. */
export function appFindings(sources: readonly Source[]): readonly string[] {
  return sources.flatMap((source) => {
    const app = /^apps\/[^/]+\/src\//.exec(source.path)?.[0]
    if (app === undefined) return []
    return source.imports.flatMap(({ from }) => {
      if (!from.startsWith('.')) return []
      const target = posix.join(posix.dirname(source.path), from)
      return target.startsWith(app) ? [] : [`${source.path}: imports ${target} by path; the library is reached as redoubt/<name>`]
    })
  })
}
