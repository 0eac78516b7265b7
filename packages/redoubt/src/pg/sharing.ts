import type { Statement, WireState } from './batch.ts'
import { openPipeline, type Outcome, type Pipeline, type PipelineClient, type Shared, type SharedOutcome } from './pipeline.ts'

/** A connection taken out of the pool for as long as calls share it. */
export type Borrowed = {
  readonly client: PipelineClient & { /** As the server said at the start; a pooler says something of its own. */ readonly processID: number }
  readonly state: WireState
  /** As Connection of the pool: in bounded time, and never rejects. Only while nobody shares it. */
  send(statements: readonly Statement<unknown>[]): Promise<Outcome>
  release(poisoned?: string): void
}

export type Sharing = {
  /** Undefined where the call must take a connection of its own. */
  share(shared: Shared): Promise<SharedOutcome> | undefined
  close(): void
}

/**
 * As many calls under way on one connection keep its server process busy; the next connection is better for more. With 16,
 * 32 callers at once got a fifth less done, at an eighth more of this process's time for each.
 */
const deep = 32
/** Milliseconds after which the call at the head counts as slow. */
const slow = 10
/** Milliseconds without a call after which a connection goes back to the pool. */
const idle = 10_000

/**
 * Puts brief calls on few connections, the first as long as it is not deep in work. A connection is opened when there is a
 * call for it, and that call does not wait: it takes one of its own.
 * @param borrow takes a connection out of the pool
 * @param most connections at the same time; 0: never share
 * @param silence milliseconds, as openPipeline
 */
export function openSharing(borrow: () => Promise<Borrowed>, most: number, silence: number): Sharing {
  const pipelines = new Set<Pipeline>()
  let opening = false
  let possible = most > 0

  async function open(): Promise<void> {
    opening = true
    try {
      const borrowed = await borrow()
      // A process of the server's own says the number it began with: behind a pooler each transaction may be another session.
      const { answers, failure } = await borrowed.send([{ text: 'select pg_catalog.pg_backend_pid() as pid', values: [] }])
      if (failure !== undefined) return borrowed.release('whose session it is could not be asked')
      if (answers[0]?.rows[0]?.['pid'] !== borrowed.client.processID) {
        possible = false
        return borrowed.release()
      }
      const pipeline = openPipeline(borrowed.client, borrowed.state, silence, (reason) => {
        clearInterval(sweeping)
        pipelines.delete(pipeline)
        // The next who has it sets what they need.
        if (reason === undefined) return void borrowed.send([{ text: 'reset all', values: [] }]).then((given) => borrowed.release(given.failure === undefined ? undefined : 'settings could not be given back'))
        // What is still in the bytes at hand belongs to calls that were given up; the driver would take it for an idle session's.
        borrowed.client.connection.stream.destroy()
        setImmediate(() => borrowed.release(reason))
      })
      let seen = pipeline.sent()
      const sweeping = setInterval(() => {
        if (pipeline.depth() === 0 && pipeline.sent() === seen) pipeline.end()
        seen = pipeline.sent()
      }, idle)
      sweeping.unref()
      if (possible) pipelines.add(pipeline)
      else pipeline.end()
    } catch {
      // Whoever takes a connection of its own meets the same, and says so.
    } finally {
      opening = false
    }
  }

  return {
    share(shared) {
      if (!possible) return undefined
      for (const pipeline of pipelines) {
        if (pipeline.depth() < deep && !pipeline.stuck(slow)) return pipeline.send(shared)
      }
      if (!opening && pipelines.size < most) void open()
      return undefined
    },
    close() {
      possible = false
      for (const pipeline of pipelines) pipeline.end()
    },
  }
}
