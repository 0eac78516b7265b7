import { Refusal } from '../errors.ts'
import type { Connection, Outcome as Sent } from '../pg.ts'
import { uuidArray } from './arrays.ts'
import type { Range } from './jobs.ts'
import { keyIdText, scopeText, type KeyFacts } from './key-facts.ts'
import type { Outcome, Reason, Work } from './outcome.ts'
import { pageText, parsePage, type Page } from './page.ts'
import type { Kind, Shape } from './shape.ts'
import type { writer, Progress } from './statements.ts'
import type { Throttle } from './throttle.ts'

/** How the work on a range ended: `lost` when its lease had run out and another worker has it. */
export type Ended = 'done' | 'lost' | 'stopped'

export type RangeWork = {
  readonly shape: Shape
  readonly kind: Kind
  readonly work: Work
  readonly facts: KeyFacts
  readonly connection: Connection
  readonly write: ReturnType<typeof writer>
  readonly throttle: Throttle
  readonly leaseSeconds: number
  readonly stopped: () => boolean
  /** Told after each batch. */
  readonly moved: (rows: number) => void
}

type Judged = { readonly page: Page; readonly outcome: Outcome }
type PageRowAnswer = { readonly page: Buffer | null }
type WriteAnswer = { readonly missed: readonly string[] }

/** Somebody edits a row again and again: after these many tries it waits for the next round, among the failures. */
const tries = 4
const retried = new Set(['40P01', '40001', '57014', '55P03'])
/** What the table itself said to a batch; alone, the row that caused it becomes a failure with this reason. */
const refusedRows: Readonly<Record<string, Reason>> = { '23505': 'duplicate', '23P01': 'duplicate', '23514': 'refused_by_table', '23503': 'refused_by_table', '23502': 'refused_by_table' }

const nothing: Outcome = { changes: [], renewed: null, failures: [], already: 0, absent: 0, erased: 0, failed: 0, held: [] }

/**
 * Works a range to its end. One connection, four pages on their way: while the server writes one and reads another, one
 * of the two between is computed and the other made ready for it, so that none of the three waits for the others. A batch that the table refuses is read again in halves, until the row
 * that is to blame stands alone.
 * @throws Refusal when database or keys refuse; what was written stays, and the range is free when its lease is over
 */
export async function workRange(settings: RangeWork, range: Range): Promise<Ended> {
  const { shape, kind, work, connection, write, throttle, leaseSeconds, stopped } = settings
  const readText = pageText(shape, work.read, 'range')
  const againText = pageText(shape, work.read, 'ids')
  const label = `${kind}_${shape.table.id}`
  let cap = Infinity

  function reading(from: string, limit: number) {
    return { name: `redoubt_reencrypt_read_${label}`, text: readText, values: [from, range.last, limit] }
  }

  async function carefully(page: Page): Promise<Judged> {
    return { page, outcome: (await work.prepare(page))() }
  }

  async function judge(page: Page): Promise<Judged> {
    return work.quick === undefined ? carefully(page) : { page, outcome: await work.quick(page) }
  }

  async function ask(statements: readonly { readonly text: string; readonly values: readonly unknown[]; readonly name?: string }[]): Promise<Sent> {
    const sent = await connection.send(statements)
    if (sent.failure !== undefined && sent.failure.unexpected) throw sent.failure.refusal
    return sent
  }

  async function read(from: string): Promise<Page> {
    const limit = Math.min(cap, throttle.rows())
    const { answers, failure } = await ask([reading(from, limit)])
    if (failure !== undefined) throw failure.refusal
    return parsePage(shape, work.read.length, (answers[0]?.rows[0] as PageRowAnswer | undefined)?.page ?? null, from, limit)
  }

  /** Rows that others changed between our reading and writing: read again, by themselves. */
  async function again(missed: readonly string[]): Promise<void> {
    let left = missed
    for (let attempt = 1; left.length > 0 && attempt < tries; attempt++) {
      const ids = left.map((id) => Buffer.from(id.replaceAll('-', ''), 'hex'))
      const { answers, failure } = await ask([{ name: `redoubt_reencrypt_again_${label}`, text: againText, values: [uuidArray(ids)] }])
      if (failure !== undefined) throw failure.refusal
      const { outcome } = await judge(parsePage(shape, work.read.length, (answers[0]?.rows[0] as PageRowAnswer | undefined)?.page ?? null, '', Infinity))
      const sent = await ask(write(range, outcome, { next: null, done: false, settled: ids }, leaseSeconds))
      // Whatever the table has against one of them: they stand among the failures already.
      if (sent.failure !== undefined) return
      left = (sent.answers.at(-1)?.rows[0] as WriteAnswer | undefined)?.missed ?? []
    }
  }

  /** Rows whose key was destroyed between our asking and writing have nothing left to be sealed with. */
  async function withoutErased(outcome: Outcome, page: Page): Promise<Outcome> {
    work.forget()
    settings.facts.forget()
    const rows = new Map(page.rows().map((row) => [row.id, row]))
    const news = outcome.changes.flatMap(({ news: values }) => values.filter((value) => value !== null && value.length > 17))
    const facts = await settings.facts.of(news)
    const alive = new Set(news.flatMap((value, n) => (value === null || facts[n] === undefined ? [] : [keyIdText(value)])))
    const keeps = new Set(shape.sealed.map(({ keep }) => keep))
    const gone = outcome.changes.filter(({ news: values }) => values.some((value) => Buffer.isBuffer(value) && value.length > 17 && !alive.has(keyIdText(value))))
    const scopes = gone.flatMap(({ id }) => { const row = rows.get(id); return row === undefined || row.subject === null ? [] : [...keeps].map((keep) => ({ tenant: row.tenant, subject: row.subject ?? '', keep })) })
    const erased = await settings.facts.erased(scopes)
    const left = gone.filter(({ id }) => { const row = rows.get(id); return row !== undefined && [...keeps].some((keep) => erased.has(scopeText({ tenant: row.tenant, subject: row.subject ?? '', keep }))) })
    if (left.length === 0) throw new Refusal('key_destroyed', { detail: 'a data key vanished that nobody erased' })
    const out = new Set(left)
    const changes = outcome.changes.filter((change) => !out.has(change))
    const used = new Set(changes.flatMap(({ news: values }) => values.filter((value) => Buffer.isBuffer(value) && value.length > 17).map((value) => keyIdText(value as Buffer))))
    return { ...outcome, changes, erased: outcome.erased + left.length, held: outcome.held.filter((id) => used.has(id.toString('latin1', 0, 16))) }
  }

  /** What to do after a batch failed: write it in another form, or read its rows again. Null: the range is lost. */
  async function recover(sent: Judged, failure: NonNullable<Sent['failure']>, attempt: number): Promise<Judged | 'read again' | null> {
    if (failure.sqlState === 'RD409') return null
    if (attempt >= 20) throw failure.refusal
    if (retried.has(failure.sqlState)) return 'read again'
    // Which row it was cannot be seen from what is ready to be sent.
    const now = sent.outcome.renewed === null ? sent : await carefully(sent.page)
    if (failure.sqlState === 'RD410') return { page: now.page, outcome: await withoutErased(now.outcome, now.page) }
    const reason = refusedRows[failure.sqlState]
    if (reason === undefined) throw failure.refusal
    const [only, more] = now.outcome.changes
    if (more === undefined && only !== undefined) {
      return { page: now.page, outcome: { ...now.outcome, changes: [], held: [], failures: [...now.outcome.failures, { idBytes: only.idBytes, column: '', reason }], failed: now.outcome.failed + 1 } }
    }
    cap = Math.max(1, Math.floor(now.page.count / 2))
    return 'read again'
  }

  /** A page that is being judged; what goes wrong with it is told when its turn comes. */
  function judging(page: Page | null): Promise<Judged | Error> | null {
    return page === null ? null : judge(page).catch((error: unknown) => (error instanceof Error ? error : new Error('reencrypt', { cause: error })))
  }

  async function readAhead(page: Page): Promise<Page | null> {
    return page.end ? null : read(page.next)
  }

  let from = range.next
  let now = await judge(await read(from))
  let page = await readAhead(now.page)
  let ahead = judging(page)
  let next = page === null ? null : await readAhead(page)
  for (let attempt = 0; ; ) {
    if (stopped()) return 'stopped'
    const started = performance.now()
    const beyond = next === null || next.end ? null : { from: next.next, limit: Math.min(cap, throttle.rows()) }
    const progress: Progress = { next: now.page.next, done: false, settled: [] }
    const sending = connection.send([...write(range, now.outcome, progress, leaseSeconds), ...(beyond === null ? [] : [reading(beyond.from, beyond.limit)])])
    const after = judging(next)
    const { answers, failure } = await sending
    if (failure !== undefined) {
      if (failure.unexpected) throw failure.refusal
      const other = await recover(now, failure, attempt++)
      if (other === null) return 'lost'
      now = other === 'read again' ? await judge(await read(from)) : other
      page = await readAhead(now.page)
      ahead = judging(page)
      next = page === null ? null : await readAhead(page)
      continue
    }
    attempt = 0
    cap = cap === Infinity ? cap : cap * 2 > throttle.rows() ? Infinity : cap * 2
    const last = answers[answers.length - (beyond === null ? 1 : 2)]?.rows[0] as WriteAnswer | undefined
    if (last !== undefined && last.missed.length > 0) await again(last.missed)
    settings.moved(now.page.count)
    await throttle.settle({ rows: now.page.count, bytes: now.page.bytes, milliseconds: performance.now() - started })
    from = now.page.next
    const later = beyond === null ? null : parsePage(shape, work.read.length, (answers.at(-1)?.rows[0] as PageRowAnswer | undefined)?.page ?? null, beyond.from, beyond.limit)
    const judged = await ahead
    if (judged instanceof Error) throw judged
    if (judged === null) {
      const { failure: late } = await ask(write(range, nothing, { next: null, done: true, settled: [] }, leaseSeconds))
      return late === undefined ? 'done' : 'lost'
    }
    now = judged
    ahead = after
    next = later
  }
}
