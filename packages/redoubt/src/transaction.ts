import { newId } from './bytes.ts'
import type { Caller, KeyUser } from './context.ts'
import { Refusal } from './errors.ts'
import type { Connection, Outcome, Shared, SharedOutcome, Statement, Tx } from './pg.ts'
import { changesNothing, hasWaitedLong, lostAnswer, personalOf, poisonOf, recordFailure, refusalFor, refuseStatement } from './transaction/failure.ts'
import type { Actions, Gate, Plan } from './transaction/gate.ts'
import { mustBeFound } from './transaction/prepared.ts'
import { keepsSettings } from './transaction/statement-text.ts'
import { enterStatement, finishStatement, resetStatement } from './transaction/statements.ts'
import { checkCaller } from './transaction/signer.ts'
import { noteVerified, verifiedByAnswer, verifiedByRows } from './transaction/verification.ts'
import { openWork } from './transaction/work.ts'

export type { Actions, Gate, Personal } from './transaction/gate.ts'

/** An action, and what it is about where that is known before it runs. */
export type Operation<A extends Actions> =
  | (keyof A & string)
  | {
      readonly action: keyof A & string
      readonly resource?: { readonly type: string; readonly id: string }
      readonly purpose?: string
      /** The data subjects whose sealed columns will be opened: all of them for transaction.one, which cannot notice them. */
      readonly subjects?: readonly string[]
      /** Plain facts for the entry: names of fields, counts. Never personal data. */
      readonly metadata?: Readonly<Record<string, string | number | boolean | readonly string[]>>
    }

function planOf<A extends Actions>(gate: Gate<A>, caller: Caller, operation: Operation<A>): Plan {
  const { action, resource, purpose, subjects, metadata } = typeof operation === 'string' ? { action: operation } as Exclude<Operation<A>, string> : operation
  const rule = gate.actions[action]
  if (rule === undefined) throw new TypeError(`transaction: action ${action} is not in the table of actions`)
  checkCaller(caller, action)
  const keep = rule.keep ?? 'access'
  const days = gate.retention[keep]?.days
  if (rule.audited && days === undefined) throw new TypeError(`transaction: action ${action} names the unknown retention class ${keep}`)
  return {
    audited: rule.audited,
    since: performance.now(),
    entry: {
      id: newId(), action, resource: resource ?? null, purpose: purpose ?? rule.purpose ?? null, outcome: 'done',
      metadata: metadata ?? {}, personal: null, keep, days: days ?? 0, subjects: subjects ?? [],
    },
  }
}

/** As whose use a key is counted that an action of this caller needs outside a Tx: for `declared` of columns.ts. */
export function keyUserOf<A extends Actions>(gate: Gate<A>, caller: Caller, action: keyof A & string): KeyUser {
  return { actor: caller.role, purpose: gate.actions[action]?.purpose ?? null }
}

/**
 * Runs `fn` as `caller` in one transaction: signed caller set for it alone, audit entry inside it, answer only after
 * COMMIT was acknowledged as COMMIT. An error of any statement fails the whole, also when `fn` swallowed it.
 * @param gate pool, signer and table of actions, as the service wired them
 * @param caller who asks; an anonymous visitor does not compile
 * @param operation the action by its name in the table of actions, with what it is about where known
 * @param fn works on `tx` and may not keep it
 * @throws Refusal as the world refused; TypeError when `tx` is used after the end
 */
export async function transaction<A extends Actions, T>(gate: Gate<A>, caller: Caller, operation: Operation<A>, fn: (tx: Tx) => Promise<T>): Promise<T> {
  const plan = planOf(gate, caller, operation)
  const work = openWork(gate, caller, plan)
  try {
    const result = await fn(work.tx)
    await work.commit()
    return result
  } catch (error) {
    const ending = await work.rollback(error)
    await recordFailure(gate, caller, plan, ending.error, ending.subjects)
    throw ending.error
  }
}

/** Where calls go: to a session that others use too while the statement is brief, else all to one of their own. */
function openWay(gate: Gate, { brief }: Statement<unknown>): { send(call: Shared): Promise<SharedOutcome>; release(): void } {
  let connection: Connection | undefined
  let poisoned: string | undefined
  return {
    async send(call) {
      const sharing = brief === undefined || connection !== undefined ? undefined : gate.pool.share(call)
      if (sharing !== undefined) return sharing
      connection ??= await gate.pool.connect()
      const outcome = await connection.send([call.enter, ...call.statements, ...(call.commit === undefined ? [] : [call.commit.durable])])
      poisoned ??= call.poison(outcome)
      return outcome
    },
    release: () => connection?.release(poisoned),
  }
}

/** One try of transaction.one. */
async function attempt<R>(gate: Gate, caller: Caller, { audited, entry }: Plan, statement: Statement<R>): Promise<SharedOutcome> {
  const personal = audited ? await personalOf(gate, caller, entry.id) : null
  const byRows = !audited && verifiedByRows(caller, statement.text)
  const kept = keepsSettings(statement.text)
  const enter = (verified: boolean): Pick<Shared, 'enter' | 'settled'> => {
    const { alone, shared } = enterStatement(gate, caller, { ...entry, audited }, verified)
    return { enter: alone, settled: kept ? shared : undefined }
  }
  const poison = (outcome: Outcome): string | undefined => poisonOf(outcome, outcome.answers.slice(1, 2))
  const way = openWay(gate, statement)
  try {
    const outcome = await way.send({
      ...enter(!audited && !byRows && !verifiedByAnswer(statement.text)), poison,
      ...(audited ? { statements: [statement], commit: finishStatement({ ...entry, personal }, kept) } : { statements: kept ? [statement] : [statement, resetStatement] }),
    })
    const unasked = byRows && outcome.failure === undefined && poison(outcome) === undefined && outcome.answers[1]?.rows.length === 0
    const verified = unasked ? await way.send({ ...enter(true), statements: [], poison: (each) => poisonOf(each, []) }) : undefined
    return verified === undefined ? outcome : { ...verified, answers: outcome.answers }
  } finally {
    way.release()
  }
}

/**
 * One statement as `caller` in one round trip: caller, statement and audit entry in one implicit transaction.
 * Data subjects whose sealed columns will be opened are named in the operation beforehand.
 * @param statement `brief` lets it share a connection; one that only reads, or did not go out, is tried once more when that connection ends
 * @throws Refusal as transaction does
 */
async function one<A extends Actions, R>(gate: Gate<A>, caller: Caller, operation: Operation<A>, statement: Statement<R>): Promise<readonly R[]> {
  const plan = planOf(gate, caller, operation)
  const { action } = plan.entry
  try {
    const odd = refuseStatement(gate, caller, action, statement.text)
    if (odd !== undefined) throw odd
    let outcome = await attempt(gate, caller, plan, statement)
    if ((outcome.lost === 'unsent' || (outcome.lost === 'sent' && statement.brief === 'reads')) && !hasWaitedLong(gate, plan)) {
      // Another entry: the first may have been written, and a signature is good for one.
      const { brief: _, ...alone } = statement
      outcome = await attempt(gate, caller, { ...plan, entry: { ...plan.entry, id: newId() } }, alone)
    }
    const refusal = refusalFor(gate, caller, action, outcome, poisonOf(outcome, outcome.answers.slice(1, 2)))
    // Nothing is open about a call that never went out.
    if (refusal !== undefined) throw lostAnswer(refusal, outcome.lost !== 'unsent' && (plan.audited || !changesNothing(statement)))
    noteVerified(caller)
    return (outcome.answers[1]?.rows ?? []) as unknown as readonly R[]
  } catch (error) {
    await recordFailure(gate, caller, plan, error, [])
    throw error
  }
}

/**
 * The row that a query must give, in one round trip: where there is none the call is refused inside the same
 * transaction, so that no entry says that somebody's data was read who was not seen.
 * @param operation names the data subjects whose sealed columns will be opened
 * @param query a look-up by key (queryById): it shares a connection with other calls
 * @throws Refusal not_found where the caller sees no such row; else as transaction does
 */
async function found<A extends Actions, R>(gate: Gate<A>, caller: Caller, operation: Operation<A>, query: Statement<R>): Promise<R> {
  const [row] = await one(gate, caller, operation, { ...mustBeFound(query), brief: 'reads' })
  if (row === undefined) throw new Refusal('not_found')
  return row
}

transaction.one = one
transaction.found = found
