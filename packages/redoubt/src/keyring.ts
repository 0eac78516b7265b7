import { performance } from 'node:perf_hooks'
import { ofTheService, type KeyUser } from './context.ts'
import { Refusal } from './errors.ts'
import type { Emit } from './events.ts'
import type { Clock } from './keyring/cache.ts'
import { openDataKeys, type DataKey, type KeyScope } from './keyring/data-keys.ts'
import { openIndexKeys, type IndexKey } from './keyring/index-keys.ts'
import { openKeks, type KeysPool } from './keyring/keks.ts'
import { openPurposeKeys, type Purpose, type PurposeKey } from './keyring/purpose-keys.ts'
import type { KeyUsage } from './keyring/usage.ts'
import type { KeyService } from './kms.ts'

export type { DataKey, KeyScope } from './keyring/data-keys.ts'
export type { IndexKey } from './keyring/index-keys.ts'
export type { KeysPool } from './keyring/keks.ts'
export type { Purpose, PurposeKey } from './keyring/purpose-keys.ts'

/** The only holder of opened keys. Everything it gives out is frozen and a KeyObject; rows are never believed. */
export type Keyring = {
  /**
   * The key to seal this subject's data of this retention class with; made when there is none.
   * @param by who uses it and for what, for the record; by default that of the settings
   * @throws Refusal key_destroyed for an erased subject
   */
  keyFor(scope: KeyScope, by?: KeyUser): Promise<DataKey>
  /** Several at once, in the order asked for: one statement for all that are not cached. */
  keysFor(scopes: readonly KeyScope[], by?: KeyUser): Promise<readonly DataKey[]>
  /** The keys that opened values name, by hex id. A destroyed one is absent from the map. */
  byId(ids: readonly Buffer[], by?: KeyUser): Promise<ReadonlyMap<string, DataKey>>
  /** Whether this retention class of this subject was erased: tells an erased value from one whose key id was tampered with. */
  erased(scope: KeyScope): Promise<boolean>
  /** Blind-index keys of a column: first the one that values are written with, then those that are only looked up. */
  indexKeys(tableId: number, columnId: number, by?: KeyUser): Promise<readonly IndexKey[]>
  /** The signing key pair of a purpose: the newest that is in use, and what verifies. Asked for again by whoever keeps running. */
  purposeKey(purpose: Purpose): Promise<PurposeKey>
  /**
   * Deletes the wrapped keys of a scope, in every version, and refuses a new one for ever. Waits for transactions
   * that are about to commit a value sealed under them. This process forgets the key at once; another one may still
   * open values with its cached copy for the data key lifetime, but commits nothing under it (guard.hold_keys).
   */
  destroy(scope: KeyScope): Promise<void>
  /** For the start and for health: the key service answers and opens every stored key-encryption key. @throws Refusal, with what to do */
  check(): Promise<void>
  /** For health: every stored key-encryption key is in memory, or opens now. The key service is asked only for those that are not. @throws Refusal */
  opened(): Promise<void>
  /** Forgets all keys; every later call is refused. The key service is closed by whoever opened it. */
  close(): void
}

export type KeyringSettings = {
  /** A pool of the keys role. */
  readonly pool: KeysPool
  readonly service: KeyService
  /** Name of the service; bound to the wrapping of its key-encryption keys. */
  readonly realm: string
  readonly emit: Emit
  /** Where it is noted who used which key (keyring/usage.ts: `startKeyUsage`); stopped by whoever started it. */
  readonly usage: KeyUsage
  /** Who uses keys where a call does not say. Default: the process itself. */
  readonly by?: KeyUser
  readonly lifetimes?: {
    /** Milliseconds an opened key-encryption key is used before it is opened again. Default and most: 60 minutes. */
    readonly keyEncryptionKey?: number
    /**
     * The same for data, index and signing keys, and for which version is the active one: how long an opened copy may
     * outlive its destruction elsewhere, and how soon this process knows of a rotation. Default and most: 5 minutes.
     */
    readonly dataKey?: number
    /** How often one opening of a key is handed out. Default and most: 2^20. */
    readonly uses?: number
    /** Data keys held at a time. Default 10 000. */
    readonly entries?: number
  }
  /** Monotonic milliseconds. */
  readonly clock?: Clock
}

function bounded(name: string, value: number | undefined, most: number): number {
  if (value === undefined) return most
  if (!Number.isInteger(value) || value < 1 || value > most) throw new TypeError(`openKeyring: ${name} must be a whole number from 1 to ${most}`)
  return value
}

/**
 * Opens the keyring: root (key service) → key-encryption keys → data, index and signing keys. Reads and unwraps at
 * the first use; N cold requests cost one call of the key service and one statement.
 * @throws TypeError when a setting is not usable
 */
export function openKeyring(settings: KeyringSettings): Keyring {
  const { pool, service, realm, emit, usage, by: mine = ofTheService, lifetimes = {}, clock = () => performance.now() } = settings
  if (realm === '') throw new TypeError('openKeyring: realm must not be empty')
  const lifetime = bounded('lifetimes.keyEncryptionKey', lifetimes.keyEncryptionKey, 60 * 60_000)
  const dataLifetime = bounded('lifetimes.dataKey', lifetimes.dataKey, 5 * 60_000)
  const uses = bounded('lifetimes.uses', lifetimes.uses, 2 ** 20)
  const entries = lifetimes.entries === undefined ? 10_000 : bounded('lifetimes.entries', lifetimes.entries, 1_000_000)

  const keks = openKeks({ pool, service, realm, emit, usage, by: mine, lifetime, activeLifetime: dataLifetime, uses, clock })
  const dataKeys = openDataKeys({ pool, keks, emit, usage, lifetime: dataLifetime, uses, entries, clock })
  // By the shorter lifetime: it is how soon a process knows the versions that a rotation made.
  const indexKeys = openIndexKeys({ pool, keks, emit, usage, lifetime: dataLifetime, uses, clock })
  const purposeKeys = openPurposeKeys({ pool, keks, emit, usage, by: mine, lifetime: dataLifetime, uses, clock })
  let closed = false

  function live(): void {
    if (closed) throw new Refusal('stopping')
  }

  return {
    async keyFor(scope, by = mine) {
      live()
      const [key] = await dataKeys.keysFor([scope], by)
      if (key === undefined) throw new Refusal('key_refused')
      return key
    },
    async keysFor(scopes, by = mine) {
      live()
      return dataKeys.keysFor(scopes, by)
    },
    async byId(ids, by = mine) {
      live()
      return dataKeys.byId(ids, by)
    },
    async indexKeys(tableId, columnId, by = mine) {
      live()
      return indexKeys.of({ table: tableId, column: columnId }, by)
    },
    async purposeKey(purpose) {
      live()
      return purposeKeys.of(purpose)
    },
    async erased(scope) {
      live()
      return dataKeys.erased(scope)
    },
    async destroy(scope) {
      live()
      await dataKeys.destroy(scope)
    },
    async check() {
      live()
      await keks.check()
    },
    async opened() {
      live()
      await keks.openAll()
    },
    close() {
      closed = true
      dataKeys.clear()
      indexKeys.clear()
      purposeKeys.clear()
      keks.clear()
    },
  }
}

/** True when the database holds any wrapped key: from then on a missing root key is a loss, not a first start. */
export async function keysExist(pool: KeysPool): Promise<boolean> {
  const rows = await pool.query({ text: 'select 1 as one from keys.key_encryption_keys limit 1', values: [] })
  return rows.length > 0
}
