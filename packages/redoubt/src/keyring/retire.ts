import { wrapKey } from '../aead.ts'
import { Refusal } from '../errors.ts'
import type { IndexedColumn } from './index-keys.ts'
import { openKeks, operator, type KekPurpose } from './keks.ts'
import { purposeKeyAad, type Purpose } from './purpose-keys.ts'
import { noticedAfter, type RotationSettings } from './rotate.ts'

/** Where the superseded data keys are after a retirement: each in exactly one of them. */
export type RetiredDataKeys = {
  readonly retired: number
  /** Closed, so that nothing new comes under them; a proof must begin from now on, then they can be retired. */
  readonly closed: number
  /** Replaced so recently that a process may still seal under them. */
  readonly waiting: number
}

/**
 * The proof that nothing depends on older versions: a moment from which on every row was looked at, and none was found
 * under one; null where there is no such proof. Whoever gives it has to take the moment before the first look.
 */
export type ProvenFrom = () => Promise<Date | null>

export type Retirement = {
  /** Destroys every older version of a key-encryption key. @throws Refusal conflict, saying what still depends on it */
  keyEncryptionKeys(purpose: KekPurpose): Promise<number>
  /**
   * Closes superseded data keys, and deletes those that were closed before a proof over all sealed columns began. So
   * it takes two calls, with the re-encryption between them. May be interrupted at any point and done again.
   */
  dataKeys(provenFrom: ProvenFrom): Promise<RetiredDataKeys>
  /**
   * Deletes the old version of a column's blind-index key.
   * @param provenFrom the proof for a version, over the table of this column; it may refuse with what it found
   * @throws Refusal conflict, saying what still depends on it; not_found where there is no old version
   */
  indexKey(column: IndexedColumn, provenFrom: (version: number) => Promise<Date | null>): Promise<{ readonly version: number }>
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

/** Keys per statement. */
const batchSize = 5000

const oldKeks = `select k.id, k.version, d.data_keys::int8 as data, d.index_keys::int8 as index, d.purpose_keys::int8 as purpose
  from keys.key_encryption_keys k cross join lateral keys.kek_dependants(k.id) d where k.purpose = $1 and k.state = 'decrypt_only' order by k.version`
const superseded = `select d.key_id from keys.data_keys d where d.state = 'decrypt_only' and d.key_id > $1 order by d.key_id limit $2`
const standing = `select count(*) filter (where d.state = 'retiring')::int4 as closed, count(*) filter (where d.state = 'decrypt_only')::int4 as waiting from keys.data_keys d where d.state <> 'active'`
const oldPurposeKeys = `select p.kid, p.public_key, greatest(0, extract(epoch from n.use_from + make_interval(secs => $2) - now()))::float8 as wait
  from keys.purpose_keys p cross join lateral (select min(o.use_from) as use_from from keys.purpose_keys o where o.purpose = p.purpose and o.version > p.version) n
  where p.purpose = $1 and p.holds = 'private' and n.use_from is not null order by p.version`
const oldIndexKeys = `select i.version, n.use_from + make_interval(secs => $3) as proof_from, greatest(0, extract(epoch from n.use_from + make_interval(secs => $3) - now()))::float8 as wait
  from keys.index_keys i cross join lateral (select min(o.use_from) as use_from from keys.index_keys o where o.table_id = i.table_id and o.column_id = i.column_id and o.version > i.version) n
  where i.table_id = $1 and i.column_id = $2 and n.use_from is not null order by i.version`

function needed(detail: string): Refusal {
  return new Refusal('conflict', { detail })
}

function inWords(seconds: number): string {
  return seconds <= 1 ? '1 second' : seconds < 120 ? `${Math.ceil(seconds)} seconds` : seconds < 7200 ? `${Math.ceil(seconds / 60)} minutes` : `${Math.ceil(seconds / 3600)} hours`
}

/** Takes old versions away, one level at a time, and refuses what is still needed. @param settings those of the rotation */
export function openRetirement(settings: RotationSettings): Retirement {
  const { pool, service, realm, emit, usage, overlap = noticedAfter } = settings
  const seconds = Math.ceil(overlap / 1000)
  const keks = openKeks({ pool, service, realm, emit, usage, by: operator, lifetime: 60 * 60_000, activeLifetime: 1, uses: 2 ** 20, clock: () => performance.now() })

  return {
    async keyEncryptionKeys(purpose) {
      const rows = await pool.query<{ readonly id: Buffer; readonly version: number; readonly data: bigint; readonly index: bigint; readonly purpose: bigint }>({ text: oldKeks, values: [purpose] })
      if (rows.length === 0) throw new Refusal('not_found', { detail: `there is no older key-encryption key for ${purpose}` })
      let retired = 0
      for (const { id, version, ...left } of rows) {
        const count = BigInt(left.data) + BigInt(left.index) + BigInt(left.purpose)
        if (count > 0n) throw needed(`version ${version} still wraps ${count === 1n ? '1 key' : `${count} keys`}: finish its rotation with \`redoubt keys rotate kek:${purpose}\``)
        const [answer] = await pool.query<{ readonly done: boolean }>({ text: 'select keys.retire_kek($1) as done', values: [id] })
        if (answer?.done !== true) throw needed(`version ${version} came into use again meanwhile: look at \`redoubt keys status\``)
        emit({ type: 'key.retired', purpose: `kek-${purpose}`, keys: 1 })
        retired++
      }
      return retired
    },
    async dataKeys(provenFrom) {
      let after: Buffer = Buffer.alloc(0)
      for (;;) {
        const ids = (await pool.query<{ readonly key_id: Buffer }>({ text: superseded, values: [after, batchSize] })).map(({ key_id }) => key_id)
        const last = ids.at(-1)
        if (last === undefined) break
        await pool.query({ text: 'select keys.close_data_keys($1, $2)', values: [ids, seconds] })
        after = last
      }
      const proven = await provenFrom()
      let retired = 0
      while (proven !== null) {
        const [answer] = await pool.query<{ readonly gone: number }>({ text: 'select keys.retire_data_keys($1, $2) as gone', values: [proven, batchSize] })
        if (answer === undefined || answer.gone === 0) break
        retired += answer.gone
      }
      const [left] = await pool.query<{ readonly closed: number; readonly waiting: number }>({ text: standing, values: [] })
      if (left === undefined) throw new Refusal('database_error')
      if (retired > 0) emit({ type: 'key.retired', purpose: 'data', keys: retired })
      return { retired, ...left }
    },
    async indexKey({ table, column }, provenFrom) {
      const [old] = await pool.query<{ readonly version: number; readonly wait: number; readonly proof_from: Date }>({ text: oldIndexKeys, values: [table, column, seconds] })
      if (old === undefined) throw new Refusal('not_found', { detail: 'this index key has no older version' })
      if (old.wait > 0) throw needed(`processes may still write version ${old.version}: it can be retired in ${inWords(old.wait)}`)
      const proven = await provenFrom(old.version)
      if (proven === null) throw needed(`rows may have an index value of version ${old.version}: recompute them first (redoubt reencrypt)`)
      const [answer] = await pool.query<{ readonly done: boolean }>({ text: 'select keys.retire_index_key($1, $2, $3, $4, $5) as done', values: [table, column, old.version, seconds, proven] })
      if (answer?.done !== true) throw needed(`the rows were recomputed before every process wrote the new version: run redoubt reencrypt once more, after ${old.proof_from.toISOString()}`)
      emit({ type: 'key.retired', purpose: 'index', keys: 1 })
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
        emit({ type: 'key.retired', purpose, keys: 1 })
        retired++
      }
      return retired
    },
    close: () => keks.clear(),
  }
}
