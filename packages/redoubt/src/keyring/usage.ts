import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import type { KeyUser } from '../context.ts'
import type { Emit } from '../events.ts'
import type { Clock } from './cache.ts'
import type { KeysPool } from './keks.ts'

/** `open`: handed out to whoever seals, opens or signs with it. `unwrap`, `wrap`: done in memory under a key-encryption key. */
export type KeyOperation = 'open' | 'unwrap' | 'wrap'

/** One call of the key service, as it ended. */
export type KeyCall = {
  readonly by: KeyUser
  /** What the key that was asked for wraps: data, index, purpose; or check. */
  readonly dataClass: string
  readonly operation: 'generate' | 'wrap' | 'unwrap' | 'rewrap' | 'check'
  readonly provider: string
  /** `done`, or the code of the refusal. */
  readonly outcome: string
  readonly milliseconds: number
}

/** Who used which key: counted in memory, written in one statement now and then. */
export type KeyUsage = {
  /** @param key id or name of the key; a Buffer counts by identity until it is written */
  used(key: Buffer | string, dataClass: string, operation: KeyOperation, by: KeyUser): void
  called(call: KeyCall): void
  /** Writes what was counted so far. Never rejects: what could not be written is kept and reported. */
  flush(): Promise<void>
  /** Writes the rest and ends. Safe to call twice. */
  stop(): Promise<void>
}

export type KeyUsageSettings = {
  /** A pool of the keys role. */
  readonly pool: KeysPool
  readonly emit: Emit
  /** Milliseconds between two writings. Default 10 000. */
  readonly intervalMs?: number
  /** Keys counted one by one between two writings; the rest is counted together as `other`. Default 10 000. */
  readonly most?: number
  /** Monotonic milliseconds. */
  readonly clock?: Clock
}

type Counts = Map<Buffer | string, number>
type Lane = Readonly<Record<KeyOperation, Counts>>
type Row = Readonly<Record<string, string | number | null>>
type Batch = { readonly id: string; readonly taken: number; readonly uses: readonly Row[]; readonly calls: readonly Row[] }

const record = { name: 'redoubt_keys_record_usage', text: 'select guard.record_key_usage($1, $2, $3, $4)' }
/** Calls kept one by one between two writings: there is one per key-encryption key and hour. */
const mostCalls = 1_000

function whole(name: string, value: number, most: number): number {
  if (!Number.isInteger(value) || value < 1 || value > most) throw new TypeError(`startKeyUsage: ${name} must be a whole number from 1 to ${most}`)
  return value
}

/** Counters by actor, purpose and data class, so that one use costs a few look-ups and one addition. */
function openCounters(most: number) {
  const actors = new Map<string, Map<string, Map<string, Lane>>>()
  let cells = 0

  function laneOf(by: KeyUser, dataClass: string): Lane {
    const purpose = by.purpose ?? ''
    let purposes = actors.get(by.actor)
    if (purposes === undefined) actors.set(by.actor, (purposes = new Map<string, Map<string, Lane>>()))
    let classes = purposes.get(purpose)
    if (classes === undefined) purposes.set(purpose, (classes = new Map<string, Lane>()))
    let lane = classes.get(dataClass)
    if (lane === undefined) classes.set(dataClass, (lane = { open: new Map(), unwrap: new Map(), wrap: new Map() }))
    return lane
  }

  return {
    full: () => cells >= most,
    add(key: Buffer | string, dataClass: string, operation: KeyOperation, by: KeyUser): void {
      // Names of actions are few; should they not be, the memory is bounded all the same.
      const lane = cells < 2 * most ? laneOf(by, dataClass) : laneOf({ actor: 'other', purpose: null }, 'other')
      const counts = lane[operation]
      let known = counts.get(key)
      if (known === undefined && cells >= most) known = counts.get((key = 'other'))
      if (known === undefined) cells++
      counts.set(key, (known ?? 0) + 1)
    },
    rows(): readonly Row[] {
      const rows: Row[] = []
      for (const [actor, purposes] of actors) {
        for (const [purpose, classes] of purposes) {
          for (const [data_class, lane] of classes) {
            for (const [operation, counts] of Object.entries(lane)) {
              for (const [key, uses] of counts) rows.push({ actor, purpose: purpose === '' ? null : purpose, data_class, operation, key: typeof key === 'string' ? key : key.toString('hex'), uses })
            }
          }
        }
      }
      return rows
    },
  }
}

/** Calls one by one; those that failed, and checks, by kind: while the service is away there are many, all the same. */
function openCalls() {
  const single: (Row & { readonly since: number })[] = []
  const merged = new Map<string, { times: number; milliseconds: number; readonly since: number; readonly of: Row }>()
  return {
    add({ by, dataClass, operation, provider, outcome, milliseconds }: KeyCall, now: number): void {
      const of = { actor: by.actor, purpose: by.purpose, data_class: dataClass, operation, provider, outcome }
      if (outcome === 'done' && operation !== 'check' && single.length < mostCalls) {
        single.push({ ...of, times: 1, milliseconds: Math.round(milliseconds), since: now })
        return
      }
      const key = JSON.stringify(of)
      let known = merged.get(key)
      if (known === undefined) merged.set(key, (known = { times: 0, milliseconds: 0, since: now, of }))
      known.times++
      known.milliseconds += milliseconds
    },
    rows(now: number): readonly Row[] {
      const all = [...single, ...[...merged.values()].map(({ of, times, milliseconds, since }) => ({ ...of, times, milliseconds: Math.round(milliseconds), since }))]
      return all.map(({ since, ...row }) => ({ ...row, age: Math.round(now - since) }))
    },
  }
}

/**
 * Starts counting. A batch that could not be written is sent again as it is, under its id, so that one whose answer got
 * lost is not counted twice; what is counted meanwhile waits for the next.
 * @throws TypeError when a setting is not usable
 */
export function startKeyUsage(settings: KeyUsageSettings): KeyUsage {
  const { pool, emit, clock = () => performance.now() } = settings
  const interval = whole('intervalMs', settings.intervalMs ?? 10_000, 3_600_000)
  const most = whole('most', settings.most ?? 10_000, 1_000_000)
  let counters = openCounters(most)
  let calls = openCalls()
  let pending: Batch | null = null
  let sending: Promise<void> | null = null

  function taken(): Batch | null {
    const now = clock()
    const batch = { id: randomUUID(), taken: now, uses: counters.rows(), calls: calls.rows(now) }
    if (batch.uses.length === 0 && batch.calls.length === 0) return null
    counters = openCounters(most)
    calls = openCalls()
    return batch
  }

  async function send(): Promise<void> {
    pending ??= taken()
    if (pending === null) return
    const { id, taken: since, uses, calls: made } = pending
    try {
      await pool.query({ ...record, values: [id, Math.round(clock() - since), JSON.stringify(uses), JSON.stringify(made)] })
      pending = null
    } catch (error) {
      emit({ type: 'key.usage_failed', error })
    }
  }

  function flush(): Promise<void> {
    sending ??= send().finally(() => void (sending = null))
    return sending
  }

  const timer = setInterval(() => void flush(), interval)
  timer.unref()

  return {
    used(key, dataClass, operation, by) {
      counters.add(key, dataClass, operation, by)
      // A mass read is what one wants to know key by key.
      if (pending === null && counters.full()) void flush()
    },
    called: (call) => calls.add(call, clock()),
    flush,
    async stop() {
      clearInterval(timer)
      await flush()
      // What was counted while a batch from before was under way.
      if (pending === null) await flush()
    },
  }
}
