import { posix } from 'node:path'
import type { Source } from './source.ts'

/** What embedders of the library are offered and nothing in this repository but a test calls, with the reason. */
const offered: Readonly<Record<string, string>> = {
  'packages/redoubt/src/cli/embedded.ts removeEmbedded': 'for the tests of services on the embedded server',
  'packages/redoubt/src/http/download.ts download': 'a kind of route; Therapy has no files yet',
  'packages/redoubt/src/tables.ts legacy': 'for services with columns that an older system wrote; Therapy has none',
  'packages/redoubt/src/http.ts listener': 'for services on bare node:http; Therapy stands on Express',
  'packages/redoubt/src/audit/entry.ts personalHolds': 'for auditors: holds what a disclosure shows against the chain',
}

const declaration = /^export (?:async )?(function\*?|const|class|type) ([A-Za-z_$][\w$]*)/gm
const imported = /\b(?:import|export)\s+(?:type\s+)?\{([^}]*)\}\s*from\s*'([^']+)'/g

function target(importer: string, from: string): string {
  if (from.startsWith('redoubt/')) return `packages/redoubt/src/${from.slice('redoubt/'.length)}.ts`
  return posix.normalize(posix.join(posix.dirname(importer), from))
}

/** How often a word stands in a text. */
function count(text: string, name: string): number {
  return [...text.matchAll(/[A-Za-z_$][\w$]*/g)].filter(([word]) => word === name).length
}

/**
 * Exports that do nothing: a value nobody imports, a value that only tests know, a type that is not even part of its own
 * file's signatures. A file that is loaded by `import(…)` is let off, since the importer picks by name.
 * @param shipped the files whose exports are looked at
 * @param modules all files that may import them, tests and benches included
 */
export function exportFindings(shipped: readonly Source[], modules: readonly Source[]): readonly string[] {
  const importers = new Map<string, string[]>()
  for (const { path, text } of modules) {
    for (const [, names = '', from = ''] of text.matchAll(imported)) {
      for (const each of names.split(',')) {
        const name = each.trim().replace(/^type\s+/, '').split(/\s+as\s+/)[0] ?? ''
        const key = `${target(path, from)} ${name}`
        importers.set(key, [...(importers.get(key) ?? []), path])
      }
    }
  }
  const loaded = new Set(modules.flatMap(({ path, imports }) => imports.filter(({ dynamic }) => dynamic).map(({ from }) => target(path, from))))
  return shipped.filter(({ path }) => !loaded.has(path)).flatMap(({ path, code }) =>
    [...code.matchAll(declaration)].flatMap(([, kind, name = '']) => {
      const key = `${path} ${name}`
      const by = importers.get(key) ?? []
      if (by.some((each) => each.includes('/src/')) || offered[key] !== undefined) return []
      const usedHere = count(code, name) > 1
      if (kind === 'type') return usedHere || by.length > 0 ? [] : [`${key}: a type that nobody uses`]
      if (by.length === 0) return [`${key}: exported, and nobody imports it`]
      return usedHere ? [] : [`${key}: only tests use it`]
    }))
}
