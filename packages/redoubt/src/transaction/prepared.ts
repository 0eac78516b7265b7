import { newId } from '../bytes.ts'
import type { Compilable, Statement } from '../pg.ts'
import { mustGiveRow } from './statement-text.ts'

/** Texts of query builders seen so far: a policy's sub-plans cost more to plan than to run, so each text is prepared once. */
const names = new Map<string, string>()
/** Lists of varying length give ever new texts; a connection must not keep them all. */
const mostNames = 250

function nameFor(text: string): string | undefined {
  let name = names.get(text)
  if (name === undefined && names.size < mostNames) {
    name = `redoubt_q${names.size}`
    names.set(text, name)
  }
  return name
}

/** A query builder as a statement that each connection prepares once. */
export function preparedStatement<R>(query: Compilable<R>): Statement<R> {
  const { sql: text, parameters: values } = query.compile()
  const name = nameFor(text)
  return name === undefined ? { text, values } : { name, text, values }
}

/**
 * A query for one row, built and compiled once: doing it for every request took a twentieth of the request's time.
 * @param build called with a stand-in for the id
 * @returns the statement for an id
 * @throws TypeError when the stand-in is not among the parameters of what was built
 */
export function queryById<R>(build: (id: string) => Compilable<R>): (id: string) => Statement<R> {
  const standIn = newId()
  const { values, ...statement } = preparedStatement(build(standIn))
  if (!values.includes(standIn)) throw new TypeError('queryById: build must put the id into a parameter of the query')
  return (id) => ({ ...statement, values: values.map((value) => (value === standIn ? id : value)) })
}

/** What mustBeFound made of texts under a name. */
const found = new Map<string, string>()

/**
 * The same SELECT, failing with RD404 where it gives no row.
 * @throws TypeError for any other statement
 */
export function mustBeFound<R>({ name, text, values }: Statement<R>): Statement<R> {
  if (!/^\s*select\b/i.test(text)) throw new TypeError('transaction.found: the query must be a SELECT')
  if (name === undefined) return { text: mustGiveRow(text), values }
  const known = found.get(text) ?? mustGiveRow(text)
  if (found.size < mostNames) found.set(text, known)
  return { name: `${name}_found`, text: known, values }
}
