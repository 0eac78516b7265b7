import { newId } from '../bytes.ts'
import { systemCaller, type Caller } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Answer, Outcome, Statement } from '../pg.ts'
import type { Gate, Personal, Plan } from './gate.ts'
import { factsOf } from './statement-text.ts'
import { enterStatement, finishStatement, type Entry } from './statements.ts'
import { noteVerified } from './verification.ts'

/** Tags that app statements may have. Everything else (SET, PREPARE, COMMIT, COPY, LISTEN, …) tries to leave the transaction. */
const statementTag = /^(SELECT|INSERT|UPDATE|DELETE|MERGE)\b/

/** The refusal of a statement that is none of an app's. Reports it: no sound code sends one. */
export function refuseStatement(gate: Gate, caller: Caller, action: string, text: string): Refusal | undefined {
  if (factsOf(text).sound) return undefined
  const [command = ''] = /^[A-Za-z]{1,20}/.exec(text.trimStart()) ?? []
  gate.emit({ type: 'security.statement_refused', requestId: caller.requestId, action, command: command.toUpperCase() })
  return new Refusal('statement_refused')
}

/** The sealed personal part of an entry, where the service keeps one and the request has an address. */
export async function personalOf(gate: Gate, caller: Caller, entryId: string): Promise<Personal | null> {
  return gate.personal === undefined || caller.address === null ? null : gate.personal(caller, entryId)
}

/**
 * The same for a call that failed. While the key service is away nothing can be sealed under a key that is not in
 * memory: the entry then stands without the address, and says so, rather than not at all.
 */
async function personalOfFailure(gate: Gate, caller: Caller, entryId: string): Promise<{ readonly personal: Personal | null; readonly lack: Readonly<Record<string, string>> }> {
  try {
    return { personal: await personalOf(gate, caller, entryId), lack: {} }
  } catch (error) {
    if (!(error instanceof Refusal) || (error.code !== 'key_service_unavailable' && error.code !== 'key_refused')) throw error
    return { personal: null, lack: { address_missing: error.code } }
  }
}

/** Looks at what came back and says why the connection may serve nobody else, or undefined. */
export function poisonOf(outcome: Outcome, answers: readonly Answer[]): string | undefined {
  const odd = answers.find((answer) => !statementTag.test(answer.command))
  if (odd !== undefined) return `command ${odd.command.split(' ')[0] ?? ''}`
  return outcome.failure?.unexpected === true ? `SQLSTATE ${outcome.failure.sqlState}` : undefined
}

/**
 * Why the call fails, if it does: a statement that tried to leave the transaction, or what the database refused.
 * Reports what looks like an attack.
 */
export function refusalFor(gate: Gate, caller: Caller, action: string, outcome: Outcome, poison: string | undefined): Refusal | undefined {
  const requestId = caller.requestId
  if (poison?.startsWith('command ') === true) {
    gate.emit({ type: 'security.statement_refused', requestId, action, command: poison.slice(8) })
    return new Refusal('statement_refused')
  }
  if (outcome.failure === undefined) return undefined
  const { refusal, sqlState } = outcome.failure
  if (refusal.code === 'database_error') gate.emit({ type: 'security.injection_suspected', requestId, action, sqlState })
  return refusal
}

/** Behind WITH something may be written. */
const reading = /^\s*select\b/i
/** A function by its qualified name is the guard's or an app's, and may write; a bare name is one of pg_catalog's. */
const calls = /\.\s*(?:"[^"]+"|[a-z_]\w*)\s*\(/i

/** Whether nothing is changed by this statement, wherever it ends: then a lost connection leaves nothing open. */
export function changesNothing({ text, brief }: Statement<unknown>): boolean {
  return brief === 'reads' || (reading.test(text) && !calls.test(text))
}

/**
 * A connection that dies under a COMMIT leaves open whether it was done: the caller must be told just that.
 * @param changing false where there was nothing to do: no entry, and statements that only read
 */
export function lostAnswer(refusal: Refusal, changing: boolean): Refusal {
  return changing && refusal.code === 'database_unavailable' ? new Refusal('outcome_unknown', { retryAfter: 1 }) : refusal
}

/** Whether a call that lost its connection has waited long for that: a server that went away shows at once, one that has gone silent lets the next try wait as long again. */
export function hasWaitedLong(gate: Gate, { since }: Plan): boolean {
  return performance.now() - since >= gate.pool.statementTimeout / 2
}

/** What is told somebody who has asked for what is not theirs; a conflict, or a value that is refused, is none. */
const outOfReach: ReadonlySet<number> = new Set([401, 403, 404])

/** What a call fails with whose connection could not be had, or was lost. */
function isLost(error: unknown): boolean {
  return error instanceof Refusal && (error.code === 'database_unavailable' || error.code === 'outcome_unknown')
}

/** Milliseconds that are left to a database that has gone silent, for the entry of a call that failed of just that. */
const lastWait = 2_000

/** @throws Refusal database_unavailable where it takes longer; what was begun ends by itself, and an entry may come of it */
async function soon(work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Refusal('database_unavailable', { retryAfter: 1 })), lastWait)
  })
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * The entry of a call that was refused or failed, in a transaction of its own and before the answer. A caller whom the
 * database does not accept cannot sign an entry; the gate then writes it in its own name.
 * @param subjects whose sealed columns had been opened when it failed: they were read, whatever came of it
 * @throws Refusal audit_unavailable when the entry cannot be written: then there is no other answer; caller_refused when
 *   that is why
 */
export async function recordFailure(gate: Gate, caller: Caller, plan: Plan, error: unknown, subjects: readonly string[]): Promise<void> {
  if (error instanceof Refusal && outOfReach.has(error.status)) {
    gate.emit({ type: 'security.unauthorized_access', requestId: caller.requestId, action: plan.entry.action, code: error.code, ...(caller.actor === null ? {} : { actor: caller.actor }) })
  }
  if (!plan.audited) return
  const refused = error instanceof Refusal && error.status < 500
  const outcome = `${refused ? 'refused' : 'failed'}:${error instanceof Refusal ? error.code : 'internal'}`
  const unknown = error instanceof Refusal && error.code === 'caller_refused'
  const writer = unknown ? systemCaller('gate', caller.tenant, caller) : caller
  const write = async (): Promise<void> => {
    const id = newId()
    const { personal, lack } = await personalOfFailure(gate, writer, id)
    const entry: Entry = {
      ...plan.entry, id, outcome, personal, subjects,
      metadata: { ...plan.entry.metadata, ...lack, ...(unknown && caller.actor !== null ? { claimed_actor: caller.actor } : {}) },
    }
    const connection = await gate.pool.connect()
    let poison: string | undefined
    try {
      const { failure } = await connection.send([enterStatement(gate, writer, { ...entry, audited: true }, false).alone, finishStatement(entry, true).durable])
      poison = failure?.unexpected === true ? `SQLSTATE ${failure.sqlState}` : undefined
      if (failure !== undefined) throw failure.refusal
    } finally {
      connection.release(poison)
    }
    if (!unknown) noteVerified(caller)
  }
  try {
    // Seen: a call on a database that accepts connections and answers nothing was answered after 34 seconds.
    await (isLost(error) && hasWaitedLong(gate, plan) ? soon(write()) : write())
  } catch (cause) {
    // Seen: a session that had ended asked for a row that is not there; no policy was asked, so "not found" came first.
    if (!unknown && cause instanceof Refusal && cause.code === 'caller_refused') {
      await recordFailure(gate, caller, plan, cause, subjects)
      throw cause
    }
    throw new Refusal('audit_unavailable', { cause })
  }
}
