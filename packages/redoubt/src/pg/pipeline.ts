import { Refusal } from '../errors.ts'
import { Batch, type Answer, type Statement, type WireState } from './batch.ts'
import { Outgoing } from './outgoing.ts'
import { refusalOf, type DatabaseRefusal } from './refusal.ts'

/** What came back of one round trip: the answers up to the first failure, and that failure. */
export type Outcome = { readonly answers: readonly Answer[]; readonly failure: DatabaseRefusal | undefined }

/** How a call that shares a connection ended; `lost` when the connection did under it, `unsent` when it had not gone out. */
export type SharedOutcome = Outcome & { readonly lost?: 'sent' | 'unsent' }

/** One call: statements of one implicit transaction. */
export type Shared = {
  /** The first of them: says who calls, and sets all that the others rely on. */
  readonly enter: Statement
  /** Where none of them can change a setting: what suffices on a session where `session` has set the rest, and nothing else since. */
  readonly settled?: { readonly session: Statement; readonly enter: Statement } | undefined
  readonly statements: readonly Statement<unknown>[]
  /** The last statement of a call that writes: its commit waits for the disk, or leaves that to a later commit. */
  readonly commit?: { readonly durable: Statement; readonly deferred: Statement }
  /** Why nobody may be served behind this outcome. Asked before anything that follows is looked at. */
  poison(outcome: Outcome): string | undefined
}

/** What the pipeline needs of the driver's client. */
export type PipelineClient = {
  query(batch: Batch): unknown
  readonly connection: {
    readonly stream: { write(bytes: Buffer): unknown; destroy(): void }
    on(event: 'readyForQuery' | 'end', listener: () => void): unknown
    removeListener(event: 'readyForQuery' | 'end', listener: () => void): unknown
  }
}

type Ride = {
  readonly shared: Shared
  readonly resolve: (outcome: SharedOutcome) => void
  /** `durable`: once it has committed, so has everything before it; `deferred`: waits for the next of these. */
  kind: 'reads' | 'durable' | 'deferred'
}
type Flying = Ride & { readonly batch: Batch }

export type Pipeline = {
  /** Calls without an answer. */
  depth(): number
  /** Calls there ever were. */
  sent(): number
  /** Whether the first of them has been under way for longer than so many milliseconds: nobody should queue behind it. */
  stuck(milliseconds: number): boolean
  send(shared: Shared): Promise<SharedOutcome>
  /** Nothing more comes out of it; calls under way end as lost. */
  end(): void
}

/** After so many commits that left the disk to others the next one waits for it: answers are held back until then. */
const mostDeferred = 8
/** With fewer under way each commit waits by itself: a flush of its own would be one more call. */
const fewUnderWay = 3

const commit: Statement = { name: 'redoubt_flush_waits', text: `select pg_catalog.set_config('synchronous_commit', 'on', true)`, values: [] }
/**
 * A record in the log and a commit that waits for the disk: then every commit before it is there. A transaction
 * that wrote nothing would not wait.
 */
const flush = {
  enter: { name: 'redoubt_flush', text: `select pg_catalog.pg_logical_emit_message(true, 'redoubt.flush', '')`, values: [] },
  commit: { durable: commit, deferred: commit },
}

/** What the pipeline sends for itself: when it fails, nobody may be served behind it. */
function ofItsOwn(enter: Statement, why: string, last?: typeof flush.commit): Ride {
  const poison = ({ failure }: Outcome): string | undefined => (failure === undefined ? undefined : why)
  return { shared: { enter, statements: [], poison, ...(last === undefined ? {} : { commit: last }) }, resolve: () => undefined, kind: 'reads' }
}

const lost: DatabaseRefusal = { refusal: new Refusal('database_unavailable', { retryAfter: 1 }), sqlState: '', unexpected: true }

/**
 * One connection on which many calls are under way at once (libpq calls it pipeline mode): each has its own Sync, so
 * each is a transaction of its own, refused or done by itself. A server process that is never idle answered a look-up
 * with its entry in 195 us of processor time, where one woken for each took 460.
 * Commits of a pipeline share the wait for the disk (group commit): a commit that leaves it to a later one is answered
 * only when that later one, of the same session and so of the same log, has been acknowledged. A crash between them
 * ends the session, and the answer is never given: an answer whose entry dies with the machine is a read without a trace.
 * Only for a connection to a server process of our own: behind a pooler two calls may be two sessions.
 * @param silence milliseconds after which a server that says nothing counts as away
 * @param ended called once when it serves nobody any more: with a reason, or without one after end()
 */
export function openPipeline(client: PipelineClient, state: WireState, silence: number, ended: (reason?: string) => void): Pipeline {
  const { connection } = client
  const waiting: Ride[] = []
  const flying: Flying[] = []
  const outgoing = new Outgoing()
  /** Committed, and not known to be on disk. */
  let unflushed: { readonly ride: Ride; readonly outcome: Outcome }[] = []
  /** Calls on the wire that will flush what is before them, and deferred ones sent behind the last of them. */
  let flushes = 0
  let since = 0
  /** Whether all that calls rely on is set for the whole session. */
  let settled = false
  let headSince = 0
  let sent = 0
  let scheduled = false
  let over = false
  let timer: NodeJS.Timeout | undefined

  function kindOf({ commit }: Shared): Ride['kind'] {
    if (commit === undefined) return 'reads'
    return flushes === 0 || since >= mostDeferred || flying.length < fewUnderWay ? 'durable' : 'deferred'
  }

  /** @returns false when nobody may follow before the server has answered */
  function write(ride: Ride): boolean {
    const { enter, settled: short, statements, commit } = ride.shared
    ride.kind = kindOf(ride.shared)
    const last = ride.kind === 'reads' ? undefined : ride.kind === 'durable' ? commit?.durable : commit?.deferred
    const batch = new Batch([short?.enter ?? enter, ...statements, ...(last === undefined ? [] : [last])], state, settle)
    batch.appendTo(outgoing)
    if (ride.kind === 'durable') {
      flushes += 1
      since = 0
    } else if (ride.kind === 'deferred') since += 1
    flying.push({ ...ride, batch })
    if (flying.length === 1) lead()
    return !batch.introduces
  }

  /** The first of those under way is the one the driver hands answers to. */
  function lead(): void {
    const first = flying[0]
    if (first === undefined) {
      clearTimeout(timer)
      timer = undefined
      return
    }
    headSince = performance.now()
    if (timer === undefined) timer = setTimeout(() => condemn('no answer in time'), silence)
    else timer.refresh()
    client.query(first.batch)
  }

  /** Sends what was asked for in this turn of the event loop, in one write. */
  function pump(): void {
    scheduled = false
    if (over || flying.at(-1)?.batch.introduces === true) return
    let open = true
    while (open) {
      const [ride] = waiting
      if (ride === undefined) break
      const { settled: short } = ride.shared
      if (short !== undefined && !settled) {
        settled = true
        open = write(ofItsOwn(short.session, 'its settings were not taken'))
      } else {
        settled &&= short !== undefined
        waiting.shift()
        open = write(ride)
      }
    }
    if (open && flushes === 0 && (unflushed.length > 0 || since > 0)) {
      write(ofItsOwn(flush.enter, 'a flush failed', flush.commit))
    }
    if (outgoing.length > 0) connection.stream.write(outgoing.take())
  }

  function schedule(): void {
    if (scheduled || over) return
    scheduled = true
    setImmediate(pump)
  }

  /** Answers come in the order of the calls, so the one that is settled is the first. */
  function settle(batch: Batch): void {
    const ride = flying[0]
    if (over || ride?.batch !== batch) return
    flying.shift()
    const outcome: Outcome = { answers: batch.answers, failure: batch.failure === undefined ? undefined : refusalOf(batch.failure) }
    if (ride.kind === 'durable') flushes -= 1
    const poison = ride.shared.poison(outcome)
    if (poison !== undefined) {
      // The connection ended under it: what became of it nobody knows. Any other failure is its own.
      const { failure } = outcome
      if (failure !== undefined && failure.unexpected && failure.refusal.code === 'database_unavailable') ride.resolve({ ...outcome, lost: 'sent' })
      else ride.resolve(outcome)
      return condemn(poison)
    }
    if (outcome.failure !== undefined || ride.kind === 'reads') ride.resolve(outcome)
    else if (ride.kind === 'deferred') unflushed.push({ ride, outcome })
    else {
      ride.resolve(outcome)
      for (const before of unflushed) before.ride.resolve(before.outcome)
      unflushed = []
    }
    if (waiting.length > 0 || (flushes === 0 && (unflushed.length > 0 || since > 0))) schedule()
  }

  function condemn(reason?: string): void {
    if (over) return
    over = true
    const why = reason ?? (flying.length > 0 ? 'closed under its calls' : undefined)
    clearTimeout(timer)
    connection.removeListener('readyForQuery', onReady)
    connection.removeListener('end', onEnd)
    for (const { resolve } of flying.splice(0)) resolve({ answers: [], failure: lost, lost: 'sent' })
    for (const { ride } of unflushed.splice(0)) ride.resolve({ answers: [], failure: lost, lost: 'sent' })
    for (const { resolve } of waiting.splice(0)) resolve({ answers: [], failure: lost, lost: 'unsent' })
    ended(why)
  }

  // Behind the driver's own listener, which has let go of the call that was answered.
  const onReady = (): void => lead()
  const onEnd = (): void => condemn('connection lost')
  connection.on('readyForQuery', onReady)
  connection.on('end', onEnd)

  return {
    depth: () => waiting.length + flying.length,
    sent: () => sent,
    stuck: (milliseconds) => flying.length > 0 && performance.now() - headSince > milliseconds,
    send(shared) {
      return new Promise((resolve) => {
        if (over) return resolve({ answers: [], failure: lost, lost: 'unsent' })
        sent += 1
        waiting.push({ shared, resolve, kind: 'reads' })
        schedule()
      })
    },
    end: () => condemn(),
  }
}
