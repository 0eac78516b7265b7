/** Monotonic milliseconds; the wall clock would let a clock step prolong a key's life. */
export type Clock = () => number

/** What a load gives for one query: a value, an error for this query alone, or undefined where there is no such thing. */
export type Loaded<V> = V | Error | undefined

export type CacheSettings<Q, V> = {
  /** The same name means the same thing. */
  readonly name: (query: Q) => string
  /** Answers in the order of the queries. A rejection fails them all and is not remembered. */
  readonly load: (queries: readonly Q[]) => Promise<readonly Loaded<V>[]>
  /** Milliseconds a value may be used, counted from before it was loaded. */
  readonly lifetime: number
  /**
   * Milliseconds before its end at which a value that is asked for is loaded anew, beside the answer: a source that is
   * away for less than that is not missed. Default 0: at its end.
   */
  readonly ahead?: number
  /** How often one load of a value may be handed out. */
  readonly uses: number
  /** Most values held; the least recently used go first. */
  readonly entries: number
  readonly clock: Clock
}

export type Cache<Q, V> = {
  /** One value per query; undefined where there is none. @throws what the load said of the first that failed */
  find(queries: readonly Q[]): Promise<readonly (V | undefined)[]>
  /** Keeps a value that was come by otherwise. @param since clock time from before it was read */
  put(query: Q, value: V, since: number, epoch: number): void
  /** Grows with every drop: a value read before a drop is not kept after it. */
  epoch(): number
  drop(gone: (value: V) => boolean): void
  clear(): void
  /** Values in memory now. */
  size(): number
}

/**
 * The time of our clock from which a version is used that the database wants to wait for. The oldest one is in use
 * whatever that says: a row may look some microseconds younger than the transaction that reads it.
 * @param read clock time from after the answer: never sooner than in the database
 * @param wait milliseconds
 */
export function usedFrom(read: number, wait: number, oldest: boolean): number {
  return oldest || wait === 0 ? -Infinity : read + wait
}

/** A value past its time is handed out to nobody, and leaves memory within this many milliseconds. */
const sweepEvery = 60_000
/** Milliseconds between two tries to load a value ahead of its end. */
const tryAgain = 30_000
/** Statements stay of a bounded size. */
const batchSize = 4096
/**
 * Statements at a time for what one turn asked for: all at once, those behind the first of a small pool waited for a
 * connection until its time was up, from some 16,000 keys on.
 */
const batchesAtOnce = 2

/**
 * A bounded cache in which N askers of the same thing share one load, and those of different things share one
 * statement: what is asked for within one turn of the event loop is loaded together.
 */
export function openCache<Q, V>(settings: CacheSettings<Q, V>): Cache<Q, V> {
  const { name, load, lifetime, ahead = 0, uses, entries, clock } = settings
  /** `anew`: when it is next tried to load it ahead of its end; `moved`: how many had been asked for when it was put last. */
  type Held = { readonly value: V; readonly until: number; left: number; anew: number; moved: number }
  type Waiting = { readonly id: string; readonly query: Q; resolve(value: V | undefined): void; reject(reason: unknown): void }
  const held = new Map<string, Held>()
  let flights = new Map<string, Promise<V | undefined>>()
  let waiting: Waiting[] = []
  let epoch = 0
  let asked = 0
  let sweeping: NodeJS.Timeout | undefined

  /** What nobody asks for any more would stay until it is pushed out. Node clears the bytes of a KeyObject when it is collected. */
  function sweep(): void {
    sweeping = undefined
    for (const [id, { until }] of held) if (clock() >= until) held.delete(id)
    plan()
  }

  function plan(): void {
    if (sweeping !== undefined || held.size === 0) return
    sweeping = setTimeout(sweep, Math.min(lifetime, sweepEvery))
    sweeping.unref()
  }

  function keep(id: string, value: V, since: number): void {
    held.delete(id)
    if (held.size >= entries) {
      // A few more than one: each walk from the front steps over all that was deleted there before.
      let room = 1 + Math.floor(entries / 128)
      for (const oldest of held.keys()) {
        held.delete(oldest)
        if (--room === 0) break
      }
    }
    held.set(id, { value, until: since + lifetime, left: uses, anew: ahead === 0 ? Infinity : since + lifetime - ahead, moved: asked })
    plan()
  }

  function take(id: string, query: Q): V | undefined {
    const entry = held.get(id)
    if (entry === undefined) return undefined
    asked++
    const now = clock()
    if (now >= entry.until || entry.left <= 0) {
      held.delete(id)
      return undefined
    }
    entry.left--
    // To the end, unless it stands among the last already: moving what is asked for every time costs more than finding it.
    if (asked - entry.moved >= entries / 8) {
      held.delete(id)
      held.set(id, entry)
      entry.moved = asked
    }
    if (now >= entry.anew) {
      entry.anew = now + tryAgain
      // Who asks is answered from memory; that it failed is told by whoever loads.
      board(id, query).catch(() => undefined)
    }
    return entry.value
  }

  async function flush(batch: readonly Waiting[], ours: Map<string, Promise<V | undefined>>): Promise<void> {
    const since = clock()
    const begun = epoch
    try {
      const loaded = await load(batch.map(({ query }) => query))
      batch.forEach(({ id, resolve, reject }, index) => {
        const value = loaded[index]
        if (value instanceof Error) return reject(value)
        // Dropped while it was on its way: it may be used by those who asked before, and by nobody after.
        if (value !== undefined && begun === epoch) keep(id, value, since)
        resolve(value)
      })
    } catch (error) {
      for (const { reject } of batch) reject(error)
    } finally {
      for (const { id } of batch) ours.delete(id)
    }
  }

  function flushAll(): void {
    const [all, ours] = [waiting, flights]
    waiting = []
    let at = 0
    async function lane(): Promise<void> {
      while (at < all.length) await flush(all.slice(at, (at += batchSize)), ours)
    }
    for (let n = 0; n < batchesAtOnce; n++) void lane()
  }

  function board(id: string, query: Q): Promise<V | undefined> {
    const known = flights.get(id)
    if (known !== undefined) return known
    const flight = new Promise<V | undefined>((resolve, reject) => {
      if (waiting.length === 0) setImmediate(flushAll)
      waiting.push({ id, query, resolve, reject })
    })
    flights.set(id, flight)
    return flight
  }

  return {
    async find(queries) {
      const found: (V | undefined)[] = []
      const boarded: Promise<void>[] = []
      for (const [n, query] of queries.entries()) {
        const id = name(query)
        const kept = take(id, query)
        found.push(kept)
        if (kept === undefined) boarded.push(board(id, query).then((value) => void (found[n] = value)))
      }
      if (boarded.length > 0) await Promise.all(boarded)
      return found
    },
    put(query, value, since, begun) {
      if (begun === epoch) keep(name(query), value, since)
    },
    epoch: () => epoch,
    drop(gone) {
      epoch++
      // Who asks from now on must not join a load that began before.
      flights = new Map()
      for (const [id, { value }] of held) if (gone(value)) held.delete(id)
    },
    clear() {
      epoch++
      flights = new Map()
      held.clear()
      clearTimeout(sweeping)
      sweeping = undefined
    },
    size: () => held.size,
  }
}
