import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { Pool } from '../pg.ts'
import type { Anchors } from './anchor.ts'
import type { ChainPoint } from './form.ts'

export type Sequencer = {
  /** Ends after the turn that is running: what is sealed is anchored, the lease is given back. Safe to call twice. */
  stop(): Promise<void>
  /** For health and metrics. `holding` is false on a worker that stands by for another one. */
  gauge(): { readonly holding: boolean; readonly sealed: bigint; readonly anchored: bigint; readonly oldestUnsealed: number; readonly failures: number }
}

export type SequencerSettings = {
  /** Pool of the worker role. */
  readonly pool: Pick<Pool, 'query'>
  readonly anchors: Anchors
  /** Milliseconds between two looks for new entries. Default 250. */
  readonly intervalMs?: number
  /** Least milliseconds between two anchors. With the interval it bounds what can be cut unseen: below one second. Default 500. */
  readonly anchorMs?: number
  /** Entries sealed in one transaction. Default 5000, about 100 ms. */
  readonly batch?: number
  /** Seconds an entry may stay unsealed before `audit.lagging`. Default 10. */
  readonly lagSeconds?: number
  /** Seconds the lease outlives a worker that died. Default 5. */
  readonly leaseSeconds?: number
  readonly emit: Emit
}

type Sealed = { readonly sealed: number; readonly seq: bigint; readonly link: Buffer; readonly oldest_unsealed: number }
type HeadRow = { readonly seq: bigint; readonly link: Buffer; readonly known: Buffer | null }

const longestWait = 30_000
const lagEvery = 30_000

function whole(name: string, value: number, least: number, most: number): number {
  if (!Number.isInteger(value) || value < least || value > most) throw new TypeError(`startSequencer: ${name} must be a whole number from ${least} to ${most}`)
  return value
}

/**
 * Starts the loop that seals entries into the chain and anchors its head. Any number of workers may run one: a lease in
 * the database lets one at a time work, so that one anchor file has one writer.
 *
 * Before it seals anything, and again after every error, it holds the chain against its last anchor. A database that
 * was restored to an earlier state is refused until somebody resumes the chain (`redoubt audit resume`): sealing on
 * would bury the cut. Errors are reported (`audit.failed`) and retried with growing pauses up to 30 s.
 * @throws TypeError when a setting is not usable
 */
export function startSequencer(settings: SequencerSettings): Sequencer {
  const { pool, anchors, emit } = settings
  const interval = whole('intervalMs', settings.intervalMs ?? 250, 1, 60_000)
  const anchorEvery = whole('anchorMs', settings.anchorMs ?? 500, 0, 60_000)
  const batch = whole('batch', settings.batch ?? 5000, 1, 100_000)
  const lag = whole('lagSeconds', settings.lagSeconds ?? 10, 1, 86_400)
  const lease = whole('leaseSeconds', settings.leaseSeconds ?? 5, 2, 60)
  const holder = randomUUID()

  let stopping = false
  let wake: () => void = () => undefined
  let claimedAt = -Infinity
  let anchoredAt = -Infinity
  let lagToldAt = -Infinity
  let checked = false
  let gauge = { holding: false, sealed: 0n, anchored: 0n, oldestUnsealed: 0, failures: 0 }

  /** Asked again early enough that the lease cannot run out between the answer and a write to the file. */
  async function claim(): Promise<boolean> {
    if (performance.now() - claimedAt < (lease * 1000) / 4) return true
    const asked = performance.now()
    const rows = await pool.query<{ readonly held: boolean }>({
      name: 'redoubt_audit_claim', text: 'select guard.claim_audit($1, $2) as held', values: [holder, lease],
    })
    const held = rows[0]?.held === true
    // What another worker did meanwhile is not known here.
    if (held && !gauge.holding) checked = false
    gauge = { ...gauge, holding: held }
    if (held) claimedAt = asked
    return held
  }

  /** The head, after making sure that the chain still contains what was anchored last. */
  async function headBehindAnchor(): Promise<ChainPoint> {
    const last = await anchors.last()
    const rows = await pool.query<HeadRow>({
      name: 'redoubt_audit_head',
      text: 'select h.seq, h.link, (select c.link from redoubt.audit_chain c where c.seq = $1) as known from redoubt.audit_head h',
      values: [last?.seq ?? 0n],
    })
    const head = rows[0]
    if (head === undefined) throw new Refusal('audit_interrupted', { detail: 'the head of the audit chain is missing' })
    if (last !== undefined && (head.known === null || head.seq < last.seq || !head.known.equals(last.link))) {
      emit({ type: 'security.audit_chain_broken', problem: 'anchor_mismatch', seq: String(last.seq) })
      throw new Refusal('audit_interrupted', { detail: 'the audit chain does not contain what was anchored last' })
    }
    gauge = { ...gauge, anchored: last?.seq ?? 0n }
    return { seq: head.seq, link: head.link }
  }

  /**
   * The file must not lack what the database has a copy of: a folder that is not mounted, or was lost, would be begun
   * anew, and nothing would vouch any more for what was sealed before.
   */
  async function fileKnowsCopies(): Promise<void> {
    const last = await anchors.last()
    const rows = await pool.query<{ readonly seq: bigint | null }>({
      name: 'redoubt_audit_copied', text: 'select (select a.seq from redoubt.audit_anchors a order by a.at desc, a.seq desc limit 1) as seq', values: [],
    })
    const copied = rows[0]?.seq ?? 0n
    // A discontinuity that was signed late holds what was anchored before it.
    if ((last?.seq ?? 0n) >= copied || (last?.after ?? 0n) >= copied) return
    emit({ type: 'security.audit_chain_broken', problem: 'anchor_missing', seq: String(copied) })
    throw new Refusal('audit_interrupted', { detail: `${anchors.path} lacks what was anchored last: bring back the folder ANCHOR_DIR names, or resume` })
  }

  async function anchorHead(): Promise<void> {
    if (!(await claim())) return
    const started = performance.now()
    const head = await headBehindAnchor()
    if (head.seq === gauge.anchored) return
    const anchor = await anchors.append(head)
    anchoredAt = performance.now()
    gauge = { ...gauge, anchored: anchor.seq }
    emit({ type: 'audit.anchored', seq: String(anchor.seq), milliseconds: Math.round(anchoredAt - started) })
    await pool.query({
      name: 'redoubt_audit_record_anchor',
      text: 'select guard.record_anchor($1, $2, $3, $4, $5, $6, $7, $8)',
      values: [anchor.seq, anchor.link, anchor.kind, anchor.after, anchor.previous, anchor.at, anchor.kid, anchor.signature],
    })
  }

  function tellLag(seconds: number): void {
    if (seconds <= lag) {
      lagToldAt = -Infinity
    } else if (performance.now() - lagToldAt > lagEvery) {
      lagToldAt = performance.now()
      emit({ type: 'audit.lagging', seconds: Math.round(seconds) })
    }
  }

  /** One look. @returns true when more is waiting than one batch took */
  async function turn(): Promise<boolean> {
    if (!(await claim())) return false
    if (!checked) {
      await fileKnowsCopies()
      await headBehindAnchor()
      checked = true
    }
    const started = performance.now()
    const rows = await pool.query<Sealed>({ name: 'redoubt_audit_seal', text: 'select * from guard.seal_audit($1)', values: [batch] })
    const row = rows[0]
    if (row === undefined) throw new Refusal('database_error')
    gauge = { ...gauge, sealed: row.seq, oldestUnsealed: row.oldest_unsealed }
    if (row.sealed > 0) emit({ type: 'audit.sealed', entries: row.sealed, seq: String(row.seq), milliseconds: Math.round(performance.now() - started) })
    tellLag(row.oldest_unsealed)
    if (row.seq > gauge.anchored && performance.now() - anchoredAt >= anchorEvery) await anchorHead()
    return row.sealed === batch
  }

  function pause(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  async function finish(): Promise<void> {
    try {
      if (gauge.holding && gauge.failures === 0 && gauge.sealed > gauge.anchored) await anchorHead()
      await pool.query({ text: 'select guard.release_audit($1)', values: [holder] })
    } catch (error) {
      emit({ type: 'audit.failed', error })
    }
    gauge = { ...gauge, holding: false }
  }

  async function run(): Promise<void> {
    while (!stopping) {
      let wait = interval
      try {
        if (await turn()) wait = 0
        gauge = { ...gauge, failures: 0 }
      } catch (error) {
        checked = false
        gauge = { ...gauge, failures: gauge.failures + 1 }
        wait = Math.min(longestWait, interval * 2 ** Math.min(gauge.failures, 10))
        emit({ type: 'audit.failed', error })
      }
      // A stop that came during the turn finds no pause to end.
      if (wait > 0 && !stopping) await pause(wait)
    }
    await finish()
  }

  const running = run()
  return {
    stop() {
      stopping = true
      wake()
      return running
    },
    gauge: () => gauge,
  }
}
