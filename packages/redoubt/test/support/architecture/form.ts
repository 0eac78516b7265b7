import { lineAt, type Source } from './source.ts'

/** Longest file; a hard look is due at 300. */
export const mostLines = 400

const forbiddenFile = /(?:^|\/)(?:index|barrel|utils?|helpers?|common|core|types|misc|shared|manager|impl)(?:\.[a-z.]+$|\/)/i
const forbiddenName = /\b(?:class|function|const|let|type|interface)\s+(\w*(?:Manager|Helper|Helpers|Impl|Util|Utils))\b/g
/** Written in parts so that this file does not carry the words it looks for. */
const leftOver = new RegExp(`\\b(?:TO${'DO'}|FIX${'ME'}|HA${'CK'}|XX${'X'})\\b`)
const silenced = new RegExp(`(?:es|ox)lint-dis${'able'}|@ts-ig${'nore'}|@ts-noch${'eck'}`)

/** A file of the repository that is no module: SQL, a script, a document. */
export type TextFile = { readonly path: string; readonly text: string }

/** Length, names and leftovers of any text of ours. */
export function textFindings(files: readonly TextFile[]): readonly string[] {
  return files.flatMap(({ path, text }) => {
    const found: string[] = []
    const count = text.split('\n').length - 1
    if (count > mostLines) found.push(`${path}: ${count} lines, at most ${mostLines}`)
    if (forbiddenFile.test(path)) found.push(`${path}: a name that says nothing about what is inside`)
    text.split('\n').forEach((line, index) => {
      if (leftOver.test(line)) found.push(`${path}:${index + 1}: work left over`)
    })
    return found
  })
}

/** Default exports, barrels, silenced checks and empty names in modules. */
export function moduleFindings(sources: readonly Source[]): readonly string[] {
  return sources.flatMap((source) => {
    const found: string[] = []
    const say = (at: number, what: string): void => void found.push(`${source.path}:${lineAt(source, at)}: ${what}`)
    // A reporter of node:test is found by its default export.
    if (source.path !== 'packages/redoubt/test/support/skipped.ts') {
      for (const match of source.code.matchAll(/\bexport\s+default\b|\bas\s+default\b/g)) say(match.index, 'default export')
    }
    for (const match of source.code.matchAll(/\bexport\s+\*/g)) say(match.index, 'export of everything: a barrel')
    for (const match of source.code.matchAll(forbiddenName)) say(match.index, `the name ${match[1] ?? ''}`)
    for (const match of source.code.matchAll(/^\s*(?:export\s+)?(?:declare\s+)?(?:const\s+)?(?:enum|namespace)\s+\w/gm)) say(match.index, 'enum or namespace: not erasable')
    const silence = silenced.exec(source.comments)
    if (silence !== null) say(silence.index, 'a check is silenced')
    const own = source.code.split('\n').filter((line) => line.trim() !== '')
    if (own.length > 1 && own.every((line) => /^\s*(?:export\b.*\bfrom\b|import\b)/.test(line))) found.push(`${source.path}: only hands on what others export: a barrel`)
    return found
  })
}
