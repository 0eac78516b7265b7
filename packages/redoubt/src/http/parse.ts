import { z } from 'zod'
import { Refusal } from '../errors.ts'
import type { FieldProblem, RefusalCode } from '../errors.ts'

/** The id of a row in a path or a body: a UUID in small letters, as PostgreSQL prints it. */
export const rowId = z.uuid().lowercase().meta({ format: 'uuid' })

/**
 * A whole number in a query. Not z.coerce.number(), which reads '' as 0, '0x10' as 16 and '1e3' as 1000.
 * @param least smallest value accepted, 0 or more
 * @param greatest largest value accepted
 */
export function queryInteger(least: number, greatest: number): z.ZodType<number, string> {
  if (!Number.isSafeInteger(least) || least < 0) throw new TypeError('queryInteger: least must be a whole number, 0 or more')
  if (!Number.isSafeInteger(greatest) || greatest < least) throw new TypeError('queryInteger: greatest must not be below least')
  return z.string().regex(/^(?:0|[1-9]\d{0,14})$/).transform(Number).pipe(z.int().min(least).max(greatest))
}

/**
 * Parses what came from outside.
 * @param code the refusal when it does not fit: malformed_request for a path, invalid_input for query and body
 * @throws Refusal with each field and the rule it broke; never the value
 */
export function parse<S extends z.ZodType>(schema: S, value: unknown, code: RefusalCode): z.output<S> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  throw new Refusal(code, { fields: fieldProblems(result.error.issues, value) })
}

/** At most this many fields are named in one answer. */
const mostProblems = 32

/** zod's issues as field and rule. Keys chosen by the sender are shown only when they look like a field's name. */
export function fieldProblems(issues: readonly z.core.$ZodIssue[], value: unknown): readonly FieldProblem[] {
  const out: FieldProblem[] = []
  for (const issue of issues.flatMap((each) => unfold(each))) {
    if (out.length >= mostProblems) break
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys.slice(0, mostProblems - out.length)) out.push({ field: fieldName([...issue.path, key]), rule: 'unknown' })
    } else {
      out.push({ field: fieldName(issue.path), rule: ruleOf(issue, value) })
    }
  }
  return out
}

/** In place of "none of the variants fits": what is wrong with the one that fits best. */
function unfold(issue: z.core.$ZodIssue): readonly z.core.$ZodIssue[] {
  if (issue.code !== 'invalid_union') return [issue]
  const variants = issue.errors.map((errors) => errors.flatMap((each) => unfold({ ...each, path: [...issue.path, ...each.path] })))
  const [best] = variants.sort((a, b) => misfit(a) - misfit(b))
  return best ?? [issue]
}

/** A word that names another variant weighs more than any number of fields. */
function misfit(issues: readonly z.core.$ZodIssue[]): number {
  return issues.reduce((sum, issue) => {
    if (issue.code === 'unrecognized_keys') return sum + issue.keys.length
    return sum + (issue.code === 'invalid_value' && issue.values.length === 1 ? 1_000 : 1)
  }, 0)
}

function ruleOf(issue: z.core.$ZodIssue, value: unknown): string {
  switch (issue.code) {
    case 'invalid_type':
      return at(value, issue.path) === undefined ? 'required' : 'type'
    case 'too_small':
      return 'min'
    case 'too_big':
      return 'max'
    case 'invalid_format':
      return issue.format === 'regex' ? 'pattern' : issue.format
    case 'invalid_value':
    case 'invalid_union':
      return at(value, issue.path) === undefined ? 'required' : 'enum'
    case 'custom': {
      const rule: unknown = issue.params?.['rule']
      return typeof rule === 'string' ? rule : 'custom'
    }
    default:
      return issue.code.replace('invalid_', '')
  }
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  let here = value
  for (const key of path) {
    if (typeof here !== 'object' || here === null || !Object.hasOwn(here, key)) return undefined
    here = (here as Record<PropertyKey, unknown>)[key]
  }
  return here
}

function fieldName(path: readonly PropertyKey[]): string {
  if (path.length === 0) return 'body'
  const parts: string[] = []
  for (const key of path) {
    if (typeof key !== 'number' && !/^[A-Za-z_][A-Za-z0-9_-]{0,63}$/.test(String(key))) {
      parts.push('?')
      break
    }
    parts.push(String(key))
  }
  return parts.join('.')
}
