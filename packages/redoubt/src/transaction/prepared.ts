import type { Compilable, Statement } from '../pg.ts'

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
 * The same SELECT, failing with RD404 where it gives no row.
 * @throws TypeError for any other statement
 */
export function mustBeFound<R>({ name, text, values }: Statement<R>): Statement<R> {
  if (!/^\s*select\b/i.test(text)) throw new TypeError('transaction.found: the query must be a SELECT')
  // The line end keeps a comment in the text from swallowing what follows.
  const wrapped = `with q as materialized (${text}\n) select q.* from (select case when exists (select from q) then true else guard.absent() end as there offset 0) one left join q on one.there`
  return name === undefined ? { text: wrapped, values } : { name: `${name}_found`, text: wrapped, values }
}
