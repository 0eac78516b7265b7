import type { Caller } from '../context.ts'
import type { Answer } from '../pg.ts'

/** A SELECT writes nothing unless a function in it does, and those verify by themselves. */
const reading = /^\s*select\b/i
/** A relation by its full name is what it reads; behind WITH nobody knows. */
const ofRelation = /^\s*select\b[^;]*?\bfrom\s+"?[a-z_]+"?\."?[a-z_]/i
/** Nothing but one call of a function of the guard: each that brings rows to the app asks for the caller itself. */
const guarded = /^select [a-z_, ]+ from guard\.[a-z_]+\([$0-9, ]*\)$/
/**
 * Whether a reading without an entry needs no verification beside that of the rows it brings, so that it is half as
 * dear. No row may mean that no policy was asked: then that is made up for. System callers have no policies to speak of;
 * theirs are functions of the guard.
 */
export function verifiedByRows(caller: Caller, text: string): boolean {
  return (caller.kind === 'user' ? reading : guarded).test(text)
}

/**
 * Whether this answer, of a transaction that is still open, shows that the database has verified the caller: of each row
 * the policy of its table was asked, and none answers without asking who is calling (migrate/check.ts).
 */
export function showsVerified(caller: Caller, text: string, answer: Answer): boolean {
  return answer.rows.length > 0 && (caller.kind === 'user' ? ofRelation : guarded).test(text)
}
