import type { Caller } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Answer, Connection, Outcome, Statement, Tx } from '../pg.ts'
import { changesNothing, lostAnswer, personalOf, poisonOf, refusalFor, refuseStatement } from './failure.ts'
import type { Gate, Plan } from './gate.ts'
import { preparedStatement } from './prepared.ts'
import { keepsSettings } from './statement-text.ts'
import { beginStatement, commitStatement, enterStatement, finishStatement, holdKeysStatement, resetStatement, rollbackStatement, verifyStatement } from './statements.ts'
import { noteVerified, showsVerified } from './verification.ts'

type Waiting = { readonly statement: Statement<unknown>; resolve(rows: readonly Record<string, unknown>[]): void; reject(error: unknown): void }

/** How a call that failed ended: the first thing that went wrong, and whose sealed columns had been opened before. */
export type Ending = { readonly error: unknown; readonly subjects: readonly string[] }

/** One transaction's state between the first statement and the end. */
export function openWork(gate: Gate, caller: Caller, plan: Plan): { readonly tx: Tx; commit(): Promise<void>; rollback(error: unknown): Promise<Ending> } {
  const subjects = new Set<string>(plan.entry.subjects)
  const keyIds = new Map<string, Buffer>()
  let resource = plan.entry.resource
  let waiting: Waiting[] = []
  let connection: Connection | undefined
  let sending: Promise<void> = Promise.resolve()
  let failure: unknown
  let poison: string | undefined
  let ended = false
  // Where nothing shows it before the end, COMMIT goes behind a look at the caller; guard.finish() has one of its own.
  let verified = plan.audited
  let changing = plan.audited
  let settingsKept = true

  /** Sends `statements`, the first time behind BEGIN and the signed caller; gives the answers to `statements` alone. */
  async function send(statements: readonly Statement<unknown>[]): Promise<{ readonly outcome: Outcome; readonly answers: readonly Answer[] }> {
    let lead: readonly Statement<unknown>[] = []
    if (connection === undefined) {
      connection = await gate.pool.connect()
      // Signed here, after the wait for a connection: the signature holds for seconds.
      lead = [beginStatement, enterStatement(gate, caller, { ...plan.entry, audited: plan.audited }, false).alone]
    }
    const outcome = await connection.send([...lead, ...statements])
    return { outcome, answers: outcome.answers.slice(lead.length) }
  }

  async function flush(): Promise<void> {
    const batch = waiting
    waiting = []
    if (batch.length === 0) return
    for (const { statement } of batch) failure ??= refuseStatement(gate, caller, plan.entry.action, statement.text)
    if (failure !== undefined) {
      for (const item of batch) item.reject(failure)
      return
    }
    changing ||= !batch.every(({ statement }) => changesNothing(statement))
    settingsKept &&= batch.every(({ statement }) => keepsSettings(statement.text))
    try {
      const { outcome, answers } = await send(batch.map((item) => item.statement))
      poison ??= poisonOf(outcome, answers)
      failure = refusalFor(gate, caller, plan.entry.action, outcome, poison)
      batch.forEach((item, index) => {
        const answer = answers[index]
        verified ||= answer !== undefined && showsVerified(caller, item.statement.text, answer)
        if (failure === undefined && answer !== undefined) item.resolve(answer.rows)
        else item.reject(failure)
      })
    } catch (error) {
      failure = error
      for (const item of batch) item.reject(error)
    }
  }

  /** Nothing more is taken, once all that was is answered: what was asked for behind an answer of the last moment too. */
  async function end(): Promise<void> {
    for (let last: Promise<void> | undefined; last !== sending;) await (last = sending)
    ended = true
  }

  /** Who is refused something learns first that their session has ended: "not found" would be news. */
  function askedLate(error: unknown): readonly Statement<unknown>[] {
    if (verified || !(error instanceof Refusal) || error.code === 'caller_refused') return []
    return [enterStatement(gate, caller, { ...plan.entry, audited: false }, true).alone, ...(settingsKept ? [] : [resetStatement])]
  }

  function query<R>(statement: Statement<R>): Promise<readonly R[]> {
    if (ended) throw new TypeError('transaction: tx was used after its transaction ended')
    const rows = new Promise<readonly Record<string, unknown>[]>((resolve, reject) => {
      waiting.push({ statement, resolve, reject })
    })
    // The first of a group schedules the flush; whatever is issued before it runs shares the round trip.
    if (waiting.length === 1) sending = sending.then(flush)
    return rows as Promise<readonly R[]>
  }

  const tx: Tx = {
    caller,
    keyUser: { actor: caller.role, purpose: plan.entry.purpose },
    query,
    run: (compilable) => query(preparedStatement(compilable)),
    about: (type, id) => {
      resource = { type, id }
    },
    opened: (subject) => {
      subjects.add(subject)
    },
    sealedUnder: (keyId) => {
      keyIds.set(keyId.toString('latin1'), keyId)
    },
  }

  return {
    tx,
    async commit() {
      await end()
      if (failure !== undefined) throw failure as Error
      const touched = connection !== undefined
      if (!touched && !plan.audited) return
      const last: Statement<unknown>[] = []
      if (keyIds.size > 0) last.push(holdKeysStatement([...keyIds.values()]))
      if (plan.audited) {
        const personal = await personalOf(gate, caller, plan.entry.id)
        last.push(finishStatement({ ...plan.entry, resource, personal, subjects: [...subjects] }, settingsKept).durable, commitStatement)
      } else last.push(...(verified ? [] : [verifyStatement]), commitStatement, ...(settingsKept ? [] : [resetStatement]))
      const { outcome, answers } = await send(last)
      const committed = answers[last.indexOf(commitStatement)]?.command === 'COMMIT'
      if (outcome.failure !== undefined) {
        poison ??= committed || outcome.failure.unexpected ? `SQLSTATE ${outcome.failure.sqlState}` : undefined
        // What fails behind it, the giving back of settings, takes nothing back.
        if (!committed) throw lostAnswer(outcome.failure.refusal, changing)
      } else if (!committed) {
        // COMMIT of a failed transaction answers ROLLBACK and throws nothing.
        poison ??= 'COMMIT did not commit'
        throw new Refusal('database_error')
      }
      connection?.release(poison)
      connection = undefined
      noteVerified(caller)
    },
    async rollback(error) {
      await end()
      if (connection !== undefined) {
        if (poison === undefined) {
          const { answers, failure: broken } = await connection.send([rollbackStatement, ...askedLate(failure ?? error)])
          if (broken !== undefined && (answers.length === 0 || broken.unexpected)) poison = `ROLLBACK failed, SQLSTATE ${broken.sqlState}`
          else failure = broken?.refusal ?? failure
        }
        connection.release(poison)
        connection = undefined
      }
      return { error: failure ?? error, subjects: [...subjects] }
    },
  }
}
