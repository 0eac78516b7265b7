import { wrapKey } from '../aead.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { KeyService } from '../kms.ts'
import type { IndexedColumn } from './index-keys.ts'
import { openKeks, operator, type KekPurpose, type KeysPool } from './keks.ts'
import { purposeKeyAad, type Purpose } from './purpose-keys.ts'
import { noticedAfter } from './rotate.ts'
import type { KeyUsage } from './usage.ts'

export type RetirementSettings = {
  /** A pool of the keys role. */
  readonly pool: KeysPool
  readonly service: KeyService
  readonly realm: string
  readonly emit: Emit
  readonly usage: KeyUsage
  /** Milliseconds in which all running processes know of a new version: as for the rotation. Default: noticedAfter */
  readonly overlap?: number
}

/** How superseded data keys ended: each in exactly one of them. */
export type RetiredDataKeys = {
  readonly retired: number
  /** A value still names them: they open it as before. */
  readonly used: number
  /** Replaced so recently that a process may still seal under them. */
  readonly waiting: number
}

export type Retirement = {
  /** Destroys every older version of a key-encryption key. @throws Refusal conflict, saying what still depends on it */
  keyEncryptionKeys(purpose: KekPurpose): Promise<number>
  /**
   * Deletes superseded data keys that no value names. First they are closed: nothing is committed under them any more.
   * Then the proof is asked for, so that it sees all there ever will be. May be interrupted at any point and done again.
   * @param usedOf the proof: of these key ids, those that a value of any sealed column of any table still names
   */
  dataKeys(usedOf: (ids: readonly Buffer[]) => Promise<readonly Buffer[]>): Promise<RetiredDataKeys>
  /**
   * Deletes the old version of a column's blind-index key.
   * @param rowsLeft the proof: how many rows have an index value of this version
   * @throws Refusal conflict, saying what still depends on it; not_found where there is no old version
   */
  indexKey(column: IndexedColumn, rowsLeft: (version: number) => Promise<number>): Promise<{ readonly version: number }>
  /**
   * Takes older signing keys away.
   * @param verifies milliseconds after its last signature for which something signed may be held against us; null: for
   * ever, and only what signs is destroyed, the public half stays
   * @param atOnce true does not wait, because the key is known to others; what it signed is refused from then on
   * @throws Refusal conflict, saying how long it is needed; not_found where there is no older one
   */
  purposeKeys(purpose: Purpose, verifies: number | null, atOnce?: boolean): Promise<number>
  close(): void
}

/** Ids per proof: one look at all tables for each. */
const proofSize = 20_000
/** How long a transaction that was open already is waited for before the proof of an index key, in milliseconds. */
const patience = 120_000

const oldKeks = `select k.id, k.version, d.data_keys::int8 as data, d.index_keys::int8 as index, d.purpose_keys::int8 as purpose
  from keys.key_encryption_keys k cross join lateral keys.kek_dependants(k.id) d where k.purpose = $1 and k.state = 'decrypt_only' order by k.version`
const superseded = `select d.key_id from keys.data_keys d where d.state in ('decrypt_only', 'retiring') and d.key_id > $1 order by d.key_id limit $2`
const oldPurposeKeys = `select p.kid, p.public_key, greatest(0, extract(epoch from n.use_from + make_interval(secs => $2) - now()))::float8 as wait
  from keys.purpose_keys p cross join lateral (select min(o.use_from) as use_from from keys.purpose_keys o where o.purpose = p.purpose and o.version > p.version) n
  where p.purpose = $1 and p.holds = 'private' and n.use_from is not null order by p.version`
const oldIndexKeys = `select i.version, greatest(0, extract(epoch from n.use_from + make_interval(secs => $3) - now()))::float8 as wait
  from keys.index_keys i cross join lateral (select min(o.use_from) as use_from from keys.index_keys o where o.table_id = i.table_id and o.column_id = i.column_id and o.version > i.version) n
  where i.table_id = $1 and i.column_id = $2 and n.use_from is not null order by i.version`

function needed(detail: string): Refusal {
  return new Refusal('conflict', { detail })
}

function inWords(seconds: number): string {
  return seconds < 120 ? `${Math.ceil(seconds)} seconds` : seconds < 7200 ? `${Math.ceil(seconds / 60)} minutes` : `${Math.ceil(seconds / 3600)} hours`
}

/**
 * Waits until every transaction that has written something by now is over: what comes after sees what it wrote.
 * @throws Refusal busy when one stays open for too long
 */
async function settled(pool: KeysPool): Promise<void> {
  const [begin] = await pool.query<{ readonly next: string }>({ text: 'select pg_snapshot_xmax(pg_current_snapshot())::text as next', values: [] })
  for (const end = performance.now() + patience; ; await new Promise((resolve) => setTimeout(resolve, 200))) {
    const [row] = await pool.query<{ readonly over: boolean }>({ text: 'select pg_snapshot_xmin(pg_current_snapshot()) >= $1::xid8 as over', values: [begin?.next] })
    if (row?.over === true) return
    if (performance.now() > end) throw new Refusal('busy', { detail: 'a transaction has been open for two minutes: end it, then retire again' })
  }
}

/** Takes old versions away, one level at a time, and refuses what is still needed. */
export function openRetirement(settings: RetirementSettings): Retirement {
  const { pool, service, realm, emit, usage, overlap = noticedAfter } = settings
  const seconds = Math.ceil(overlap / 1000)
  const keks = openKeks({ pool, service, realm, emit, usage, by: operator, lifetime: 60 * 60_000, activeLifetime: 1, uses: 2 ** 20, clock: () => performance.now() })

  async function retireBatch(ids: readonly Buffer[], usedOf: (ids: readonly Buffer[]) => Promise<readonly Buffer[]>): Promise<RetiredDataKeys> {
    const closed = (await pool.query<{ readonly id: Buffer }>({ text: 'select keys.begin_retiring($1, $2) as id', values: [ids, seconds] })).map(({ id }) => id)
    if (closed.length === 0) return { retired: 0, used: 0, waiting: ids.length }
    let used: ReadonlySet<string>
    try {
      used = new Set((await usedOf(closed)).map((id) => id.toString('hex')))
    } catch (error) {
      // Without a proof they serve on; where even this fails, the next retirement finds them.
      await pool.query({ text: 'select keys.end_retiring($1, $2)', values: [[], closed] })
      throw error
    }
    const isUsed = (id: Buffer): boolean => used.has(id.toString('hex'))
    const gone = closed.filter((id) => !isUsed(id))
    const [answer] = await pool.query<{ readonly gone: number }>({ text: 'select keys.end_retiring($1, $2) as gone', values: [gone, closed.filter(isUsed)] })
    for (const id of gone) emit({ type: 'key.destroyed', key: id.toString('hex'), purpose: 'data' })
    return { retired: answer?.gone ?? 0, used: closed.length - gone.length, waiting: ids.length - closed.length }
  }

  return {
    async keyEncryptionKeys(purpose) {
      const rows = await pool.query<{ readonly id: Buffer; readonly version: number; readonly data: bigint; readonly index: bigint; readonly purpose: bigint }>({ text: oldKeks, values: [purpose] })
      if (rows.length === 0) throw new Refusal('not_found', { detail: `there is no older key-encryption key for ${purpose}` })
      let retired = 0
      for (const { id, version, ...left } of rows) {
        const count = BigInt(left.data) + BigInt(left.index) + BigInt(left.purpose)
        if (count > 0n) throw needed(`version ${version} still wraps ${count} keys: finish its rotation with \`redoubt keys rotate kek:${purpose}\``)
        const [answer] = await pool.query<{ readonly done: boolean }>({ text: 'select keys.retire_kek($1) as done', values: [id] })
        if (answer?.done !== true) throw needed(`version ${version} came into use again meanwhile: look at \`redoubt keys status\``)
        emit({ type: 'key.destroyed', key: id.toString('hex'), purpose: `kek-${purpose}` })
        retired++
      }
      return retired
    },
    async dataKeys(usedOf) {
      const total = { retired: 0, used: 0, waiting: 0 }
      let after: Buffer = Buffer.alloc(0)
      for (;;) {
        const ids = (await pool.query<{ readonly key_id: Buffer }>({ text: superseded, values: [after, proofSize] })).map(({ key_id }) => key_id)
        const last = ids.at(-1)
        if (last === undefined) return total
        const batch = await retireBatch(ids, usedOf)
        total.retired += batch.retired
        total.used += batch.used
        total.waiting += batch.waiting
        after = last
      }
    },
    async indexKey({ table, column }, rowsLeft) {
      const [old] = await pool.query<{ readonly version: number; readonly wait: number }>({ text: oldIndexKeys, values: [table, column, seconds] })
      if (old === undefined) throw new Refusal('not_found', { detail: 'this index key has no older version' })
      if (old.wait > 0) throw needed(`processes may still write version ${old.version}: it can be retired in ${inWords(old.wait)}`)
      // Who computed a value with it and had not written it yet has written it by now; who had is waited for.
      await settled(pool)
      const rows = await rowsLeft(old.version)
      if (rows > 0) throw needed(`${rows} rows still have an index value of version ${old.version}: recompute them first`)
      const [answer] = await pool.query<{ readonly done: boolean }>({ text: 'select keys.retire_index_key($1, $2, $3, $4) as done', values: [table, column, old.version, seconds] })
      if (answer?.done !== true) throw needed('somebody else changed this index key at the same time')
      emit({ type: 'key.destroyed', key: `${table}.${column}:${old.version}`, purpose: 'index' })
      return { version: old.version }
    },
    async purposeKeys(purpose, verifies, atOnce = false) {
      // The clock that counts is the moment the next one began to sign; verifiers learn of a retirement later still.
      const needs = atOnce ? 0 : seconds + Math.ceil((verifies ?? 0) / 1000)
      const rows = await pool.query<{ readonly kid: string; readonly public_key: Buffer; readonly wait: number }>({ text: oldPurposeKeys, values: [purpose, needs] })
      const [first] = rows
      if (first === undefined) throw new Refusal('not_found', { detail: `there is no older signing key for ${purpose}` })
      if (first.wait > 0) throw needed(`what ${first.kid} signed is still valid: it can be retired in ${inWords(first.wait)}`)
      let retired = 0
      for (const { kid, public_key } of rows.filter(({ wait }) => wait === 0)) {
        const done = await keks.underActive('purpose', async (kek) => {
          const half = verifies === null ? wrapKey(kek.key, purposeKeyAad(kek, purpose, kid, 'public'), public_key) : null
          const [answer] = await pool.query<{ readonly done: boolean }>({ text: 'select keys.retire_purpose_key($1, $2, $3, $4, $5) as done', values: [purpose, kid, kek.id, half, needs] })
          return answer?.done === true
        })
        if (!done) continue
        emit({ type: 'key.destroyed', key: kid, purpose })
        retired++
      }
      return retired
    },
    close: () => keks.clear(),
  }
}
