import { newId } from './bytes.ts'
import { systemCaller, type Caller } from './context.ts'
import { Refusal } from './errors.ts'
import type { Emit } from './events.ts'
import type { Answer, Compilable, Connection, Outcome, Pool, Statement, Tx } from './pg.ts'
import type { Retention } from './tables.ts'
import { beginStatement, commitStatement, enterStatement, finishStatement, holdKeysStatement, rollbackStatement, type Entry } from './transaction/statements.ts'
import type { Signer } from './transaction/signer.ts'

/** What the app may do. Audited actions leave an entry; the others touch no person's data. */
export type Actions = Readonly<Record<string, { readonly audited: boolean; readonly keep?: string; readonly purpose?: string }>>

/** An action, and what it is about where that is known before it runs. */
export type Deed<A extends Actions> =
  | (keyof A & string)
  | {
      readonly action: keyof A & string
      readonly resource?: { readonly type: string; readonly id: string }
      readonly purpose?: string
      /** For transaction.one: the data subjects whose sealed columns the caller of it will open. */
      readonly subjects?: readonly string[]
      /** Plain facts for the entry: names of fields, counts. Never personal data. */
      readonly metadata?: Readonly<Record<string, string | number | boolean | readonly string[]>>
    }

/** Personal data of an audit entry: sealed under the actor's key, in the chain only as a commitment. */
export type Personal = { readonly sealed: Buffer; readonly commitment: Buffer }

export type Gate<A extends Actions = Actions> = {
  readonly pool: Pool
  readonly signer: Signer
  readonly actions: A
  readonly retention: Readonly<Record<string, Retention>>
  readonly personal: ((caller: Caller, entryId: string) => Promise<Personal | null>) | undefined
  readonly emit: Emit
}

type Plan = { readonly entry: Entry; readonly audited: boolean }

/** Tags that app statements may have. Everything else (SET, PREPARE, COMMIT, COPY, LISTEN, …) tries to leave the transaction. */
const statementTag = /^(SELECT|INSERT|UPDATE|DELETE|MERGE)\b/

function planOf<A extends Actions>(gate: Gate<A>, deed: Deed<A>): Plan {
  const { action, resource, purpose, subjects, metadata } = typeof deed === 'string' ? { action: deed } as Exclude<Deed<A>, string> : deed
  const rule = gate.actions[action]
  if (rule === undefined) throw new TypeError(`transaction: action ${action} is not in the table of actions`)
  const keep = rule.keep ?? 'access'
  const days = gate.retention[keep]?.days
  if (rule.audited && days === undefined) throw new TypeError(`transaction: action ${action} names the unknown retention class ${keep}`)
  return {
    audited: rule.audited,
    entry: {
      id: newId(), action, resource: resource ?? null, purpose: purpose ?? rule.purpose ?? null, outcome: 'done',
      metadata: metadata ?? {}, personal: null, keep, days: days ?? 0, subjects: subjects ?? [],
    },
  }
}

async function personalOf(gate: Gate, caller: Caller, entryId: string): Promise<Personal | null> {
  return gate.personal === undefined || caller.address === null ? null : gate.personal(caller, entryId)
}

/** Looks at what came back and says why the connection may serve nobody else, or undefined. */
function poisonOf(outcome: Outcome, answers: readonly Answer[]): string | undefined {
  const odd = answers.find((answer) => !statementTag.test(answer.command))
  if (odd !== undefined) return `command ${odd.command.split(' ')[0] ?? ''}`
  return outcome.failure?.unexpected === true ? `SQLSTATE ${outcome.failure.sqlState}` : undefined
}

function reportFailure(gate: Gate, caller: Caller, action: string, outcome: Outcome, poison: string | undefined): void {
  const requestId = caller.requestId
  if (poison?.startsWith('command ') === true) {
    gate.emit({ type: 'security.statement_refused', requestId, action, command: poison.slice(8) })
  } else if (outcome.failure?.refusal.code === 'database_error') {
    gate.emit({ type: 'security.injection_suspected', requestId, action, sqlState: outcome.failure.sqlState })
  }
}

/**
 * The entry of a call that was refused or failed, in a transaction of its own and before the answer. A caller whom the
 * database does not accept cannot sign an entry; the gate then writes it in its own name.
 * @throws Refusal audit_unavailable when the entry cannot be written: then there is no other answer
 */
async function recordFailure(gate: Gate, caller: Caller, plan: Plan, error: unknown): Promise<void> {
  if (error instanceof Refusal && error.status < 500) {
    gate.emit({ type: 'security.unauthorized_access', requestId: caller.requestId, action: plan.entry.action, code: error.code, ...(caller.actor === null ? {} : { actor: caller.actor }) })
  }
  if (!plan.audited) return
  const refused = error instanceof Refusal && error.status < 500
  const outcome = `${refused ? 'refused' : 'failed'}:${error instanceof Refusal ? error.code : 'internal'}`
  const unknown = error instanceof Refusal && error.code === 'caller_refused'
  const writer = unknown ? systemCaller('gate', caller.tenant, caller) : caller
  try {
    const entry: Entry = {
      ...plan.entry, id: newId(), outcome, personal: await personalOf(gate, writer, plan.entry.id), subjects: [],
      metadata: unknown && caller.actor !== null ? { ...plan.entry.metadata, claimed_actor: caller.actor } : plan.entry.metadata,
    }
    const connection = await gate.pool.connect()
    const { failure } = await connection.send([enterStatement(gate, writer, entry.action), finishStatement(entry)])
    connection.release(failure?.unexpected === true ? `SQLSTATE ${failure.sqlState}` : undefined)
    if (failure !== undefined) throw failure.refusal
  } catch (cause) {
    throw new Refusal('audit_unavailable', { cause })
  }
}

/**
 * Runs `fn` as `caller` in one transaction: signed caller set for it alone, audit entry inside it, answer only after
 * COMMIT was acknowledged as COMMIT. An error of any statement fails the whole, also when `fn` swallowed it.
 * @param gate from openGate
 * @param caller who asks; an anonymous visitor does not compile
 * @param deed the action by its name in the table of actions, with what it is about where known
 * @param fn works on `tx` and may not keep it
 * @throws Refusal as the world refused; TypeError when `tx` is used after the end
 */
export async function transaction<A extends Actions, T>(gate: Gate<A>, caller: Caller, deed: Deed<A>, fn: (tx: Tx) => Promise<T>): Promise<T> {
  const plan = planOf(gate, deed)
  const work = openWork(gate, caller, plan)
  try {
    const result = await fn(work.tx)
    await work.commit()
    return result
  } catch (error) {
    const first = await work.rollback(error)
    await recordFailure(gate, caller, plan, first)
    throw first
  }
}

type Waiting = { readonly statement: Statement<unknown>; resolve(rows: readonly Record<string, unknown>[]): void; reject(error: unknown): void }

/** One transaction's state between the first statement and the end. */
function openWork(gate: Gate, caller: Caller, plan: Plan): { readonly tx: Tx; commit(): Promise<void>; rollback(error: unknown): Promise<unknown> } {
  const subjects = new Set<string>(plan.entry.subjects)
  const keyIds = new Map<string, Buffer>()
  let resource = plan.entry.resource
  let waiting: Waiting[] = []
  let connection: Connection | undefined
  let sending: Promise<void> = Promise.resolve()
  let failure: unknown
  let poison: string | undefined
  let ended = false

  /** Sends `statements`, the first time behind BEGIN and the signed caller; gives the answers to `statements` alone. */
  async function send(statements: readonly Statement<unknown>[]): Promise<{ readonly outcome: Outcome; readonly answers: readonly Answer[] }> {
    let lead: readonly Statement<unknown>[] = []
    if (connection === undefined) {
      connection = await gate.pool.connect()
      // Signed here, after the wait for a connection: the signature holds for seconds.
      lead = [beginStatement, enterStatement(gate, caller, plan.entry.action)]
    }
    const outcome = await connection.send([...lead, ...statements])
    return { outcome, answers: outcome.answers.slice(lead.length) }
  }

  async function flush(): Promise<void> {
    const batch = waiting
    waiting = []
    if (batch.length === 0) return
    if (failure !== undefined) {
      for (const item of batch) item.reject(failure)
      return
    }
    try {
      const { outcome, answers } = await send(batch.map((item) => item.statement))
      poison ??= poisonOf(outcome, answers)
      if (outcome.failure !== undefined || poison !== undefined) {
        reportFailure(gate, caller, plan.entry.action, outcome, poison)
        failure = poison?.startsWith('command ') === true ? new Refusal('statement_refused') : outcome.failure?.refusal
      }
      batch.forEach((item, index) => {
        const answer = answers[index]
        if (failure === undefined && answer !== undefined) item.resolve(answer.rows)
        else item.reject(failure)
      })
    } catch (error) {
      failure = error
      for (const item of batch) item.reject(error)
    }
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
    query,
    run: <R>(compilable: Compilable<R>) => {
      const { sql, parameters } = compilable.compile()
      return query<R>({ text: sql, values: parameters })
    },
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
      await sending
      if (failure !== undefined) throw failure as Error
      ended = true
      const touched = connection !== undefined
      if (!touched && !plan.audited) return
      const last: Statement<unknown>[] = []
      if (keyIds.size > 0) last.push(holdKeysStatement([...keyIds.values()]))
      if (plan.audited) {
        const personal = await personalOf(gate, caller, plan.entry.id)
        last.push(finishStatement({ ...plan.entry, resource, personal, subjects: [...subjects] }))
      }
      last.push(commitStatement)
      const { outcome, answers } = await send(last)
      if (outcome.failure !== undefined) {
        poison ??= outcome.failure.unexpected ? `SQLSTATE ${outcome.failure.sqlState}` : undefined
        throw outcome.failure.refusal
      }
      // COMMIT of a failed transaction answers ROLLBACK and throws nothing.
      if (answers.at(-1)?.command !== 'COMMIT') {
        poison ??= 'COMMIT did not commit'
        throw new Refusal('database_error')
      }
      connection?.release()
      connection = undefined
    },
    async rollback(error) {
      await sending
      ended = true
      if (connection !== undefined) {
        if (poison === undefined) {
          const { failure: broken } = await connection.send([rollbackStatement])
          if (broken !== undefined) poison = `ROLLBACK failed, SQLSTATE ${broken.sqlState}`
        }
        connection.release(poison)
        connection = undefined
      }
      return failure ?? error
    },
  }
}

/**
 * One statement as `caller` in one round trip: caller, statement and audit entry in one implicit transaction.
 * Data subjects whose sealed columns will be opened are named in the deed beforehand.
 * @throws Refusal as transaction does
 */
async function one<A extends Actions, R>(gate: Gate<A>, caller: Caller, deed: Deed<A>, statement: Statement<R>): Promise<readonly R[]> {
  const plan = planOf(gate, deed)
  try {
    const personal = plan.audited ? await personalOf(gate, caller, plan.entry.id) : null
    const connection = await gate.pool.connect()
    const batch: Statement<unknown>[] = [enterStatement(gate, caller, plan.entry.action), statement]
    if (plan.audited) batch.push(finishStatement({ ...plan.entry, personal }))
    const outcome = await connection.send(batch)
    const answer = outcome.answers[1]
    const poison = poisonOf(outcome, answer === undefined ? [] : [answer])
    connection.release(poison)
    if (outcome.failure !== undefined || poison !== undefined) {
      reportFailure(gate, caller, plan.entry.action, outcome, poison)
      throw poison?.startsWith('command ') === true ? new Refusal('statement_refused') : (outcome.failure?.refusal ?? new Refusal('database_error'))
    }
    return (answer?.rows ?? []) as unknown as readonly R[]
  } catch (error) {
    await recordFailure(gate, caller, plan, error)
    throw error
  }
}

transaction.one = one
