import type { KeyObject } from 'node:crypto'
import { keyId, secretKey } from '../aead.ts'
import { ofTheService, type KeyUser } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { KeyContext, KeyService } from '../kms.ts'
import { openCache, type Clock } from './cache.ts'
import { recordedService } from './recorded.ts'
import type { KeyUsage } from './usage.ts'

/** The keyring's view of its pool (pg.ts: `openPool` with the keys role's url). */
export type KeysPool = {
  query<R>(statement: { readonly text: string; readonly values: readonly unknown[]; readonly name?: string; readonly rows?: R }): Promise<readonly R[]>
}

/** What a key-encryption key wraps. Kept apart so that a row cannot be re-assigned to another use. */
export type KekPurpose = 'data' | 'index' | 'purpose'

/** An opened key-encryption key. */
export type Kek = { readonly id: Buffer; readonly purpose: KekPurpose; readonly key: KeyObject }

/** A row of keys.key_encryption_keys under the names that every joining statement gives it. */
export type KekRow = {
  readonly kek_id: Buffer
  readonly kek_purpose: KekPurpose
  readonly kek_version: number
  readonly kek_provider: string
  readonly kek_ref: string
  readonly kek_wrapped: Buffer | null
}

/** Select list for KekRow, of the table under the alias k. */
export const kekColumns =
  'k.id as kek_id, k.purpose as kek_purpose, k.version as kek_version, k.provider as kek_provider, k.key_ref as kek_ref, k.wrapped as kek_wrapped'

/** For the record of who used which key: an operator's command. */
export const operator: KeyUser = Object.freeze({ actor: 'operator', purpose: 'key rotation' })

/** What is asked for, and by whom: by whoever asks first, where many ask for the same. */
type Opening = { readonly row: KekRow; readonly by: KeyUser }
type Wanted = { readonly purpose: KekPurpose; readonly by: KeyUser }

/** What the wrapping of a key-encryption key is bound to. Derivable from its row: a move to another service needs it. */
export function kekContext(realm: string, purpose: KekPurpose, version: number): KeyContext {
  return { realm, use: 'redoubt key-encryption key', purpose, version: String(version) }
}

export type KekSettings = {
  readonly pool: KeysPool
  readonly service: KeyService
  readonly realm: string
  readonly emit: Emit
  readonly usage: KeyUsage
  /** Who asks where a call does not say. Default: the process itself. */
  readonly by?: KeyUser
  /** Milliseconds an opened key-encryption key may be used. */
  readonly lifetime: number
  /** Milliseconds for which "the active one" is believed. */
  readonly activeLifetime: number
  readonly uses: number
  readonly clock: Clock
}

export type Keks = {
  /** Opens a stored key-encryption key and checks that it is for this purpose. @param by who needs it @throws Refusal key_refused */
  of(row: KekRow, purpose: KekPurpose, by?: KeyUser): Promise<Kek>
  /**
   * Does work that wraps keys under the active one, which is made when the service has none yet. Where the database says
   * that it is not the active one any more (RD409 of keys.under_active_key), the work is done again under the new one.
   */
  underActive<T>(purpose: KekPurpose, work: (kek: Kek) => Promise<T>, by?: KeyUser): Promise<T>
  /** Makes the next version of a purpose the active one. @returns null where somebody else was faster */
  rotate(purpose: KekPurpose): Promise<Kek | null>
  /** Opens every stored key-encryption key. @throws Refusal, with what to do */
  check(): Promise<void>
  /** The same without asking the key service for what is in memory. */
  openAll(): Promise<void>
  clear(): void
}

const selectActive = {
  name: 'redoubt_keys_active_kek',
  text: `select ${kekColumns}, k.state as kek_state from keys.key_encryption_keys k order by k.version desc`,
}
const rotateKek = { name: 'redoubt_keys_rotate_kek', text: 'select keys.rotate_kek($1, $2, $3, $4, $5, $6) as done' }
const insertKek = {
  name: 'redoubt_keys_insert_kek',
  text: `insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped)
    values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning id`,
}

/**
 * The key-encryption keys: wrapped by the key service, with realm, purpose and version bound to the wrapping, so that
 * an administrator of the database alone can neither plant one nor pass one off as another.
 */
export function openKeks(settings: KekSettings): Keks {
  const { pool, service, realm, emit, usage, by: mine = ofTheService, clock } = settings
  const askedBy = (by: KeyUser): KeyService => recordedService(service, usage, by)

  /** Asks the key service; whatever it throws becomes a Refusal and an event. */
  async function asked<T>(work: Promise<T>): Promise<T> {
    try {
      return await work
    } catch (error) {
      const refusal = error instanceof Refusal ? error : new Refusal('key_service_unavailable', { retryAfter: 1, cause: error })
      emit({ type: 'key.service_failed', provider: service.provider, code: refusal.code })
      throw refusal
    }
  }

  async function unwrap({ row, by }: Opening): Promise<Kek> {
    if (row.kek_wrapped === null) throw new Refusal('key_destroyed', { detail: 'this key-encryption key was destroyed' })
    const wrapped = { provider: row.kek_provider, keyRef: row.kek_ref, blob: row.kek_wrapped }
    const key = secretKey(await asked(askedBy(by).unwrap(wrapped, kekContext(realm, row.kek_purpose, row.kek_version))))
    if (!keyId(key).equals(row.kek_id)) throw new Refusal('key_refused', { detail: 'a key-encryption key is not the one its row names' })
    return Object.freeze({ id: row.kek_id, purpose: row.kek_purpose, key })
  }

  const opened = openCache<Opening, Kek>({
    name: ({ row }) => row.kek_id.toString('hex'),
    load: (openings) => Promise.all(openings.map((opening) => unwrap(opening).catch((error: Error) => error))),
    lifetime: settings.lifetime,
    // A key service that is away for less than a quarter of the lifetime is missed by nobody who had the key.
    ahead: Math.floor(settings.lifetime / 4),
    uses: settings.uses,
    entries: 64,
    clock,
  })

  async function open(row: KekRow, by: KeyUser): Promise<Kek> {
    const [kek] = await opened.find([{ row, by }])
    if (kek === undefined) throw new Refusal('key_refused')
    return kek
  }

  async function of(row: KekRow, purpose: KekPurpose, by: KeyUser = mine): Promise<Kek> {
    const kek = await open(row, by)
    if (kek.purpose !== purpose) throw new Refusal('key_refused', { detail: 'a key is wrapped under a key-encryption key of another purpose' })
    return kek
  }

  function stored(): Promise<readonly (KekRow & { readonly kek_state: string })[]> {
    return pool.query({ ...selectActive, values: [] })
  }

  async function make(purpose: KekPurpose, by: KeyUser): Promise<void> {
    const version = 1
    const since = clock()
    const epoch = opened.epoch()
    const { key: bytes, wrapped } = await asked(askedBy(by).generate(kekContext(realm, purpose, version)))
    const key = secretKey(bytes)
    const id = keyId(key)
    const made = await pool.query({ ...insertKek, values: [id, purpose, version, wrapped.provider, wrapped.keyRef, wrapped.blob] })
    if (made.length === 0) return
    emit({ type: 'key.created', key: id.toString('hex'), purpose: `kek-${purpose}` })
    const row = { kek_id: id, kek_purpose: purpose, kek_version: version, kek_provider: wrapped.provider, kek_ref: wrapped.keyRef, kek_wrapped: wrapped.blob }
    // Opened already: reading it back costs no second call of the key service.
    opened.put({ row, by }, Object.freeze({ id, purpose, key }), since, epoch)
  }

  async function findActive({ purpose, by }: Wanted): Promise<Kek> {
    for (let attempt = 0; attempt < 2; attempt++) {
      const rows = await stored()
      const row = rows.find((other) => other.kek_purpose === purpose && other.kek_state === 'active')
      if (row !== undefined) return of(row, purpose, by)
      // Retired is not absent: a silent new key would hide that somebody took the active one away.
      if (rows.some((other) => other.kek_purpose === purpose)) throw new Refusal('key_refused', { detail: `no key-encryption key for ${purpose} is active` })
      // Under a root that opens none of the stored keys, nothing new is begun.
      const witness = rows.find((other) => other.kek_wrapped !== null)
      if (witness !== undefined) await open(witness, by)
      await make(purpose, by)
    }
    throw new Refusal('key_refused', { detail: `the key-encryption key for ${purpose} could not be stored` })
  }

  async function openAll(): Promise<void> {
    for (const row of await stored()) if (row.kek_wrapped !== null) await of(row, row.kek_purpose)
  }

  const active = openCache<Wanted, Kek>({
    name: ({ purpose }) => purpose,
    load: (wanted) => Promise.all(wanted.map((one) => findActive(one).catch((error: Error) => error))),
    lifetime: settings.activeLifetime,
    uses: settings.uses,
    entries: 8,
    clock,
  })

  return {
    of,
    async underActive(purpose, work, by = mine) {
      for (let attempt = 1; ; attempt++) {
        const [kek] = await active.find([{ purpose, by }])
        if (kek === undefined) throw new Refusal('key_refused')
        try {
          return await work(kek)
        } catch (error) {
          if (attempt === 3 || !(error instanceof Refusal && error.code === 'conflict')) throw error
          active.drop(({ id }) => id.equals(kek.id))
        }
      }
    },
    async rotate(purpose) {
      const present = (await stored()).find((row) => row.kek_purpose === purpose && row.kek_state === 'active')
      if (present === undefined) throw new Refusal('key_refused', { detail: `no key-encryption key for ${purpose} is active` })
      // Under a root that does not open the present one, nothing new is begun.
      await of(present, purpose)
      const version = present.kek_version + 1
      const { key: bytes, wrapped } = await asked(askedBy(mine).generate(kekContext(realm, purpose, version)))
      const key = secretKey(bytes)
      const id = keyId(key)
      const [answer] = await pool.query<{ readonly done: boolean }>({ ...rotateKek, values: [id, purpose, version, wrapped.provider, wrapped.keyRef, wrapped.blob] })
      active.clear()
      if (answer?.done !== true) return null
      emit({ type: 'key.rotated', key: id.toString('hex'), purpose: `kek-${purpose}` })
      return Object.freeze({ id, purpose, key })
    },
    async check() {
      await asked(askedBy(mine).check())
      await openAll()
    },
    openAll,
    clear() {
      opened.clear()
      active.clear()
    },
  }
}
