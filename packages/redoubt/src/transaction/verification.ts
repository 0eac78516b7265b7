import type { Caller } from '../context.ts'
import type { Answer } from '../pg.ts'

/** Columns alone, of a relation by its full name: each row of the answer is a row of that relation, which its policy let through. */
const ofRelation = /^\s*select\s(?:[\w\s.,*:]|"\w+")*?\bfrom\s+"?([a-z_]\w*)"?\."?([a-z_]\w*)"?(?!\w|"|\s*\()/i
/** Words by which a row can come without one of that relation. */
const otherwise = /\b(?:union|intersect|except|group|grouping|having|left|right|full)\b/i
/** What everybody may read, and no policy asks who they are. */
const ofEverybody = /^(?:pg_\w*\.|information_schema\.|redoubt\.schema_migrations$)/i
/** Nothing but one call of a function of the guard that asks for the caller itself; the three that know nobody are for policies. */
const guarded = /^select [a-z_, ]+ from guard\.(?!(?:actor|role|tenant|caller)\()[a-z_]+\([$0-9, ]*\)$/

/**
 * Whether a row in the answer shows that the database has verified the caller: the policy of its table lets nobody's
 * rows through (migrate/check.ts). No row may mean that no policy was asked: then that is made up for. System callers
 * have no policies to speak of; theirs are functions of the guard.
 */
export function verifiedByRows(caller: Caller, text: string): boolean {
  if (guarded.test(text)) return true
  const [, schema, name] = (caller.kind === 'user' && ofRelation.exec(text)) || []
  return schema !== undefined && !ofEverybody.test(`${schema}.${name ?? ''}`) && !otherwise.test(text)
}

/** Whether this answer, of a transaction that is still open, shows it. */
export function showsVerified(caller: Caller, text: string, answer: Answer): boolean {
  return answer.rows.length > 0 && verifiedByRows(caller, text)
}

/*
 * On the caller itself, of whom authentication makes one for each request: a WeakSet costs a microsecond for an object that is
 * gone with its request. The mark names its bearer, so that a copy of a verified caller under another session has none.
 */
const mark = Symbol('redoubt verified')
type Marked = Caller & { [mark]?: Caller }

/** Notes that the database verified this caller: in a call that held, or in the entry of one that was refused. */
export function noteVerified(caller: Caller): void {
  if (Object.isExtensible(caller)) (caller as Marked)[mark] = caller
}

/** True where it is known that the session of this request's caller stood: the edge then need not ask. */
export function isVerified(caller: Caller): boolean {
  return (caller as Marked)[mark] === caller
}
