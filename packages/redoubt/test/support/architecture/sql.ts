import { lineAt, type Source } from './source.ts'

const statement = /^\s*(?:select|insert\s+into|update|delete\s+from|with|merge\s+into|truncate|lock\s+table)\b/i
/** A word behind one of these names a relation; `from (`, `from unnest(` and `is distinct from` do not. */
const read = /(?<!\bdistinct\s)\b(?:from|join)\s+(?:only\s+)?(?!lateral\b|select\b|only\b)("?[a-z_$][\w${}]*"?(?:\."?[\w${}]+"?)*)(?!\s*\(|[\w.])/gi
const written = /\b(?:insert\s+into|merge\s+into|truncate|lock\s+table|(?<!\bfor\s(?:no\s+key\s+)?|\bdo\s)update)\s+(?:only\s+)?(?!set\b|of\b|skip\b|nowait\b|only\b)("?[a-z_$][\w${}]*"?(?:\."?[\w${}]+"?)*)/gi
/** Functions whose arguments have a FROM: extract(epoch from x), trim(… from …), substring(… from …). */
const fromInside = /\b(?:extract|trim|substring|overlay|position)\s*\((?:[^()]|\([^()]*\))*\)/gi

/** Names a statement gives to its own parts. */
function ownNames(text: string): ReadonlySet<string> {
  const names = [...text.matchAll(/(?:\bwith\s+(?:recursive\s+)?|,\s*)("?\w+"?)\s*(?:\([^()]*\)\s*)?as\s+(?:(?:not\s+)?materialized\s+)?\(/gi)]
  return new Set(names.map((match) => (match[1] ?? '').toLowerCase()))
}

/** Relations of a statement that are found by search_path instead of by name: a temporary table could stand in for them. */
export function unqualified(text: string): readonly string[] {
  const bare = text.replaceAll(/--[^\n]*|\/\*[\s\S]*?\*\//g, ' ').replaceAll(/'(?:[^']|'')*'/g, "''").replaceAll(fromInside, ' ')
  const own = ownNames(bare)
  return [read, written].flatMap((pattern) => [...bare.matchAll(pattern)]).map((match) => match[1] ?? '').filter((name) => !name.includes('.') && !name.includes('${') && !own.has(name.toLowerCase()))
}

/** Hand-written statements in modules. */
export function statementFindings(sources: readonly Source[]): readonly string[] {
  return sources.flatMap((source) =>
    source.literals
      .filter(({ text }) => statement.test(text) && /\s/.test(text.trim()))
      .flatMap((literal) => unqualified(literal.text).map((name) => `${source.path}:${lineAt(source, literal.at)}: relation ${name} without its schema`)))
}

const created = /\b(?:create\s+(?:or\s+replace\s+)?(?:unlogged\s+)?(?:table|view|function|procedure|sequence|type|domain)\s+(?:if\s+not\s+exists\s+)?|alter\s+table\s+(?:only\s+)?|create\s+(?:unique\s+)?index\s+(?:concurrently\s+)?(?:if\s+not\s+exists\s+)?(?:\w+\s+)?on\s+|create\s+policy\s+\w+\s+on\s+|create\s+(?:constraint\s+)?trigger\s+\w+\s+[^;]*?\son\s+|references\s+)("?[a-z_]\w*"?(?:\."?[\w%]+"?)?)/gi
const definer = /create\s+(?:or\s+replace\s+)?function\s+([\w.]+)(?:(?!\$[a-z_]*\$).)*?\bsecurity\s+definer\b(?:(?!\$[a-z_]*\$).)*/gis

/** Migrations: every name with its schema, every definer function with a fixed search_path. */
export function migrationFindings(files: readonly { readonly path: string; readonly text: string }[]): readonly string[] {
  return files.flatMap(({ path, text }) => {
    const bare = text.replaceAll(/--[^\n]*/g, ' ')
    const names = [...bare.matchAll(created)].map((match) => match[1] ?? '').filter((name) => !name.includes('.'))
    const loose = [...bare.matchAll(definer)].filter((match) => !/set\s+search_path\s*(?:=|to)\s*pg_catalog\s*,\s*pg_temp/i.test(match[0])).map((match) => match[1] ?? '')
    return [
      ...names.map((name) => `${path}: ${name} without its schema`),
      ...loose.map((name) => `${path}: definer function ${name} without set search_path = pg_catalog, pg_temp`),
    ]
  })
}
