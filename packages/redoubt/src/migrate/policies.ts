import type { Finding } from './check.ts'

/** A policy of the app's role, its expressions as the catalogue prints them; empty where it has none. */
export type PolicyRow = { readonly table: string; readonly name: string; readonly seen: string; readonly written: string }

const operand = String.raw`(?:[\w."]+|'(?:[^']|'')*'::[\w ]+)`
/** `guard.actor()`, or `( SELECT guard.actor() AS actor)`: one value for the statement. */
const value = String.raw`(?:([a-z_]\w*\.[a-z_]\w*)\(\)|\( SELECT ([a-z_]\w*\.[a-z_]\w*)\(\) AS \w+\))`
const equal = new RegExp(`^${operand} = ${value}$`)
const equals = new RegExp(`^${value} = (?:${operand}|ANY \\(ARRAY\\[.*\\]\\))$`, 's')
const present = new RegExp(`^${value} IS NOT NULL$`)
/** One of a set of the caller's, or of what the caller sees of another table. */
const ofSet = new RegExp(String.raw`^${operand} = ANY \(ARRAY\( SELECT ([a-z_]\w*\.[a-z_]\w*)\(\) AS \w+\)\)$`)
const ofTable = new RegExp(String.raw`^${operand} = ANY \(ARRAY\( SELECT [\w."]+\s+FROM ([a-z_]\w*\.[a-z_]\w*)(?: \w+)?\s*(?:WHERE .*)?\)\)$`, 's')

/** Where a word stands outside all parentheses and quotes. */
function split(text: string, word: string): readonly string[] {
  const parts: string[] = []
  let [depth, quoted, from] = [0, false, 0]
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at]
    if (char === `'`) quoted = !quoted
    else if (!quoted && char === '(') depth += 1
    else if (!quoted && char === ')') depth -= 1
    else if (!quoted && depth === 0 && text.startsWith(word, at)) {
      parts.push(text.slice(from, at))
      from = at + word.length
    }
  }
  return [...parts, text.slice(from)]
}

/** Without the parentheses around the whole of it. */
function bare(text: string): string {
  const inner = text.trim()
  if (!inner.startsWith('(') || !inner.endsWith(')')) return inner
  let [depth, quoted] = [0, false]
  for (let at = 0; at < inner.length - 1; at += 1) {
    if (inner[at] === `'`) quoted = !quoted
    else if (!quoted) depth += inner[at] === '(' ? 1 : inner[at] === ')' ? -1 : 0
    if (depth === 0) return inner
  }
  return bare(inner.slice(1, -1))
}

/**
 * Whether a condition can be true of verified callers alone. Whoever is not verified is null to a policy, and has empty
 * sets: each alternative has to equate something with a value or a set of the caller, which null never is. What else is
 * asked beside that can only narrow it. No list of dangerous shapes instead: there is always one more.
 */
function letsInVerified(condition: string, verifiers: ReadonlySet<string>, tables: ReadonlySet<string>): boolean {
  const text = bare(condition)
  const alternatives = split(text, ' OR ')
  if (alternatives.length > 1) return alternatives.every((each) => letsInVerified(each, verifiers, tables))
  const parts = split(text, ' AND ')
  if (parts.length > 1) return parts.some((each) => letsInVerified(each, verifiers, tables))
  if (text === 'false') return true
  const called = [equal, equals, present, ofSet].map((form) => form.exec(text)).find((found) => found !== null)
  if (called !== undefined) return verifiers.has(called[1] ?? called[2] ?? '')
  return tables.has(ofTable.exec(text)?.[1] ?? '')
}

/**
 * Findings about policies that let in somebody whom nobody verified: sessions that have ended, and callers whose
 * claim was taken away.
 * @param verifiers functions that are null or empty for whoever is not verified, as schema.name
 * @param tables whose policies are looked at as well: a sub-select over them shows the caller's rows
 */
export function policyFindings(rows: readonly PolicyRow[], verifiers: ReadonlySet<string>, tables: ReadonlySet<string>): readonly Finding[] {
  return rows
    .filter(({ table, seen, written }) => tables.has(table) && ![seen, written].every((each) => each === '' || letsInVerified(each, verifiers, tables)))
    .map(({ table, name }) => ({
      what: `policy ${name} of ${table} can be true of somebody whom nobody verified`,
      todo: 'let each alternative (OR) demand `column = (select guard.actor())`, `(select guard.role()) = …` or `column = any (array(select a set of the caller’s()))`',
    }))
}
