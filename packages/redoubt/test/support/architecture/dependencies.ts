import { builtinModules } from 'node:module'
import type { Source } from './source.ts'

/** A package.json of the workspace; `folder` is '' for the root. */
export type Package = {
  readonly folder: string
  readonly name: string
  /** All of them. */
  readonly dependencies: Readonly<Record<string, string>>
  /** Those that come with the shipped code. */
  readonly runtime: readonly string[]
}

const exact = /^\d+\.\d+\.\d+(?:-[0-9a-z.-]+)?$/i

/** Reads the parts of a package.json the rules are about. */
export function packageOf(folder: string, text: string): Package {
  const json = JSON.parse(text) as Readonly<Record<'dependencies' | 'devDependencies' | 'optionalDependencies' | 'peerDependencies', Readonly<Record<string, string>> | undefined>> & { readonly name: string }
  return { folder, name: json.name, runtime: Object.keys(json.dependencies ?? {}), dependencies: { ...json.dependencies, ...json.devDependencies, ...json.optionalDependencies, ...json.peerDependencies } }
}

/** Reasons as ARCHITECTURE.md gives them: rows of a table whose first cell is the package in code marks; `*` stands for the rest of a name. */
export function reasonsIn(markdown: string): readonly (readonly [name: string, reason: string])[] {
  return [...markdown.matchAll(/^\|([^|]+)\|(.+)\|\s*$/gm)].flatMap((row) =>
    [...(row[1] ?? '').matchAll(/`([^`]+)`/g)].map((name) => [name[1] ?? '', (row[2] ?? '').trim()] as const))
}

/** Dependencies that float, that nobody gave a reason for, and reasons for what is not there. */
export function dependencyFindings(packages: readonly Package[], markdown: string): readonly string[] {
  const reasons = reasonsIn(markdown)
  const explains = (pattern: string, name: string): boolean => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : pattern === name)
  const own = new Set(packages.map(({ name }) => name))
  return packages.flatMap(({ folder, dependencies }) =>
    Object.entries(dependencies).flatMap(([name, version]) => [
      ...(exact.test(version) ? [] : [`${folder}package.json: ${name} ${version} is not one exact version`]),
      ...(own.has(name) || reasons.some(([pattern, reason]) => explains(pattern, name) && reason.length >= 20) ? [] : [`ARCHITECTURE.md: no reason for ${name}`]),
    ]))
}

/** The package a specifier belongs to, or undefined for files and built-in modules. */
function packageIn(from: string): string | undefined {
  if (from.startsWith('.') || from.startsWith('node:') || builtinModules.includes(from)) return undefined
  return from.split('/').slice(0, from.startsWith('@') ? 2 : 1).join('/')
}

/** Imports of packages that the workspace of the file does not declare: they work by chance. */
export function phantomFindings(sources: readonly Source[], packages: readonly Package[]): readonly string[] {
  const root = packages.find(({ folder }) => folder === '')
  return sources.flatMap((source) => {
    const home = packages.find(({ folder }) => folder !== '' && source.path.startsWith(folder))
    return source.imports.flatMap(({ from }) => {
      const name = packageIn(from)
      if (name === undefined || home === undefined || name === home.name || name in home.dependencies || (root !== undefined && name in root.dependencies)) return []
      return [`${source.path}: imports ${name}, which ${home.folder}package.json does not declare`]
    })
  })
}

/** Runtime dependencies that no shipped module imports: whoever installs us would trust them for nothing. */
export function unusedFindings(shipped: readonly Source[], packages: readonly Package[]): readonly string[] {
  return packages.flatMap(({ folder, runtime }) => {
    const imported = new Set(shipped.filter(({ path }) => path.startsWith(folder)).flatMap(({ imports }) => imports.map(({ from }) => packageIn(from))))
    return runtime.filter((name) => !imported.has(name)).map((name) => `${folder}package.json: no shipped module imports ${name}`)
  })
}
