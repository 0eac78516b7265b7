/**
 * How app statements may begin. A command that leaves the transaction or the session behind (COMMIT, SET, PREPARE,
 * EXECUTE, DECLARE … WITH HOLD, LISTEN, COPY, DO) begins otherwise and is not even sent: in transaction.one it would
 * have happened before its tag comes back, and behind a pooler it stays in the server's session.
 */
const opening = /^[\s(]*(?:select|insert|update|delete|merge|with|values|table)\b/i
/**
 * Ways to change a setting in the middle of a query: by name, by a name in Unicode escapes, and by functions that execute a
 * text. With the signed caller taken away and put back between two looks, the lazy evaluation of a policy told whether a row
 * of somebody else exists: what was found out at the first look is kept for the second.
 */
const setting = /\b(?:set_config|pg_settings|query_to_xml\w*|cursor_to_xml\w*|ts_stat|ts_rewrite)\b|\bu&"/i

/**
 * Names, parameters, comparisons and casts to what PostgreSQL brings: no comment, no constant in quotes, no operator that
 * could hide either. Letters and spaces of ASCII alone: what is a space here may be a letter there. A cast to a domain runs
 * its CHECK, so to any other type there is none. Here and below a word or number is taken whole or not at all: taken in parts,
 * a text that fails at its end is tried in as many ways as its words can be cut, and two columns stopped the process for seconds.
 */
const plain = /^(?!.*--)(?:[\w \t\r\n.,*=<>()-]|"[a-z_]\w*"|\$\d+(?!\d)|::(?:text|uuid|int4|int8|integer|bigint|boolean|date|timestamptz)\b(?!\s*\.))+$/is
/** A word before a parenthesis is a function, but for these. */
const call = /(?:^|[^\w"])(?!(?:where|and|or|not|on|in|any)\b)[\w"]+\s*\(/i
/**
 * Columns alone, of one relation by its full name. There is no other dot: n.count calls a function with the row, where n has
 * no such column. And no other FROM: the one of `is distinct from` is not followed by a relation.
 */
const ofRelation = /^\s*select\s(?:(?!from\b)[\w*:]+(?![\w*:])|"\w+"|[\s,])*?from\s+"?([a-z_]\w*)"?\."?([a-z_]\w*)"?(?![\w"])(?!.*(?:\.|\bfrom\b|\bselect\b))/is
/** Words by which a row can come without one of that relation. */
const otherwise = /\b(?:union|intersect|except|group|grouping|having|left|right|full|with|returning)\b/i
/** Words by which something is written; a row may be locked for it. */
const writing = /\b(?:insert|delete|merge|into)\b|(?<!\bfor\s+(?:no\s+key\s+)?)\bupdate\b/i
/** What everybody may read, and no policy asks who they are. */
const ofEverybody = /^(?:pg_\w*\.|information_schema\.|redoubt\.schema_migrations$)/i
/** Nothing but one call of a function of the guard. */
const ofGuard = /^select (?:(?:[a-z_]+(?:, [a-z_]+)* )?from )?guard\.(?!finish\()[a-z_]+\([$0-9, ]*\)$/
/** Those of them that refuse nobody: policies ask them, and hold_keys locks rows without a caller. */
const unasking = /guard\.(?:actor|role|tenant|caller|hold_keys)\(/

/** What the text of a statement shows before it is sent. */
export type TextFacts = {
  /** Of a kind that a sound app sends. */
  readonly sound: boolean
  /** Each row of its answer is a row of a table, which its policy let through. */
  readonly rows: boolean
  /** The guard alone answers it, by a function that asks for the caller itself, whatever it is given. */
  readonly guarded: boolean
  /** No setting of the session can come out of it: it calls nothing, or the guard alone. */
  readonly keeps: boolean
}

/** How transaction.found asks: none is as good as a refusal. The line end keeps a comment in the text from swallowing what follows. */
const lead = 'with q as materialized ('
const tail = '\n) select q.* from (select case when exists (select from q) then true else guard.absent() end as there offset 0) one left join q on one.there'

/** The query as transaction.found sends it. */
export function mustGiveRow(text: string): string {
  return lead + text + tail
}

function read(text: string): TextFacts {
  const mustGive = text.startsWith(lead) && text.endsWith(tail)
  const query = mustGive ? text.slice(lead.length, -tail.length) : text
  const [, schema, name] = (plain.test(query) && !call.test(query) && !otherwise.test(query) && !writing.test(query) && ofRelation.exec(query)) || []
  const rows = schema !== undefined && !ofEverybody.test(`${schema}.${name ?? ''}`)
  const alone = ofGuard.test(text)
  // What a query that must be found wrote would be committed by the time that it is told not to be there.
  return { sound: opening.test(text) && !setting.test(text) && !(mustGive && writing.test(query)), rows, guarded: alone && text.includes(' from ') && !unasking.test(text), keeps: rows || alone }
}

/** Texts are the app's own and few; those of an attacker are many. */
const most = 1_000
const known = new Map<string, TextFacts>()

/** Reads a text once. */
export function factsOf(text: string): TextFacts {
  let facts = known.get(text)
  if (facts === undefined) {
    if (known.size >= most) known.clear()
    known.set(text, (facts = read(text)))
  }
  return facts
}

/** Whether no setting of the session can come out of it. Then none is given back behind it, and none is set for each such call on a session that others use too. */
export function keepsSettings(text: string): boolean {
  return factsOf(text).keeps
}
