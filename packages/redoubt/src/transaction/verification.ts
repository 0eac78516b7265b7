import type { Caller } from '../context.ts'
import type { Answer } from '../pg.ts'
import { factsOf } from './statement-text.ts'

/**
 * Whether any answer, an empty one too, shows that the database has verified the caller: all of it is a function of the
 * guard, which asks before it looks. So a sign-in makes one trip, whether or not anybody has the address.
 */
export function verifiedByAnswer(text: string): boolean {
  return factsOf(text).guarded
}

/**
 * Whether a row in the answer shows it: the policy of its table lets nobody's rows through (migrate/check.ts). No row may
 * mean that no policy was asked: then that is made up for. System callers have no policies to speak of.
 */
export function verifiedByRows(caller: Caller, text: string): boolean {
  return caller.kind === 'user' && factsOf(text).rows
}

/** Whether this answer, of a transaction that is still open, shows it. */
export function showsVerified(caller: Caller, text: string, answer: Answer): boolean {
  return verifiedByAnswer(text) || (answer.rows.length > 0 && verifiedByRows(caller, text))
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
