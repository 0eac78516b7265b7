import { keyId, secretKey } from '../aead.ts'
import type { KeyUser } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { KeyService, WrappedKey } from '../kms.ts'
import { kekColumns, kekContext, type KekRow, type KeysPool } from './keks.ts'
import { recordedService } from './recorded.ts'
import type { KeyUsage } from './usage.ts'

/** How the key-encryption keys ended: each in exactly one of them. */
export type Moved = {
  readonly moved: number
  /** Opened under the new service before we came. */
  readonly already: number
  /** Destroyed before or while we worked. */
  readonly destroyed: number
}

export type MoveSettings = {
  /** A pool of the keys role. */
  readonly pool: KeysPool
  /** The service that wrapped them. */
  readonly from: KeyService
  /** The one that wraps them from now on. The same as `from` rewraps under the newest version of its key. */
  readonly to: KeyService
  readonly realm: string
  readonly emit: Emit
  readonly usage: KeyUsage
}

const mover: KeyUser = { actor: 'operator', purpose: 'key move' }

const selectAll = { name: 'redoubt_keys_move_all', text: `select ${kekColumns} from keys.key_encryption_keys k order by k.purpose, k.version` }
const selectOne = { name: 'redoubt_keys_move_one', text: `select ${kekColumns} from keys.key_encryption_keys k where k.id = $1` }
// On all that was read: whoever else moved or destroyed it meanwhile wins, and we look again.
const replace = {
  name: 'redoubt_keys_move_replace',
  text: `with done as (update keys.key_encryption_keys set provider = $5, key_ref = $6, wrapped = $7
      where id = $1 and provider = $2 and key_ref = $3 and wrapped = $4 returning id, purpose)
    select guard.note_key($8, 'kek:' || done.purpose, encode(done.id, 'hex'), jsonb_build_object('from', $2::text, 'to', $5::text)) from done`,
}

/** A wrapped key, opened and checked to be the one its row names. The bytes are zeroed by whoever asked. */
async function openedBy(service: KeyService, row: KekRow, wrapped: WrappedKey, realm: string): Promise<Buffer> {
  const bytes = await service.unwrap(wrapped, kekContext(realm, row.kek_purpose, row.kek_version))
  if (keyId(secretKey(Buffer.from(bytes))).equals(row.kek_id)) return bytes
  bytes.fill(0)
  throw new Refusal('key_refused', { detail: 'a key-encryption key is not the one its row names' })
}

/** Whether the new service opens what is stored: then somebody moved it before. */
async function opens(service: KeyService, row: KekRow, wrapped: WrappedKey, realm: string): Promise<boolean> {
  if (wrapped.provider !== service.provider) return false
  try {
    const bytes = await openedBy(service, row, wrapped, realm)
    bytes.fill(0)
    return true
  } catch (error) {
    if (error instanceof Refusal && error.code === 'key_refused') return false
    throw error
  }
}

/** The same key wrapped by the new service, opened once more by it before anything is replaced. */
async function wrappedAnew(settings: MoveSettings, row: KekRow, old: WrappedKey): Promise<WrappedKey> {
  const { from, to, realm } = settings
  const context = kekContext(realm, row.kek_purpose, row.kek_version)
  if (from === to && to.rewrap !== undefined) {
    const wrapped = await to.rewrap(old, context)
    const bytes = await openedBy(to, row, wrapped, realm)
    bytes.fill(0)
    return wrapped
  }
  const bytes = await openedBy(from, row, old, realm)
  try {
    const wrapped = await to.wrap(bytes, context)
    const again = await openedBy(to, row, wrapped, realm)
    again.fill(0)
    return wrapped
  } finally {
    bytes.fill(0)
  }
}

async function moveOne(settings: MoveSettings, first: KekRow): Promise<keyof Moved> {
  const { pool, from, to, realm, emit } = settings
  let row: KekRow | undefined = first
  for (let attempt = 0; attempt < 5; attempt++) {
    if (row === undefined || row.kek_wrapped === null) return 'destroyed'
    const old = { provider: row.kek_provider, keyRef: row.kek_ref, blob: row.kek_wrapped }
    if (from !== to && (await opens(to, row, old, realm))) return 'already'
    const fresh = await wrappedAnew(settings, row, old)
    const done = await pool.query({ ...replace, values: [row.kek_id, old.provider, old.keyRef, old.blob, fresh.provider, fresh.keyRef, fresh.blob, from === to ? 'key.rewrapped' : 'key.moved'] })
    if (done.length > 0) {
      emit({ type: 'key.rotated', key: row.kek_id.toString('hex'), purpose: `kek-${row.kek_purpose}` })
      return 'moved'
    }
    ;[row] = await pool.query<KekRow>({ ...selectOne, values: [row.kek_id] })
  }
  throw new Refusal('busy', { detail: 'a key-encryption key was changed by others each time; try again' })
}

/**
 * Moves all key-encryption keys to another key service, or rewraps them under the newest version of the same one.
 * Nothing sealed changes: what is replaced is how a handful of rows is wrapped. Each row by itself, by compare-and-set,
 * and only after the new wrapping was opened again; it may be interrupted and repeated at any point. Processes that run
 * meanwhile need both services (kms: `previous`), since they read rows of either kind.
 * @throws Refusal when one of the services refuses; rows moved so far stay moved
 */
export async function moveKeks(settings: MoveSettings): Promise<Moved> {
  const to = recordedService(settings.to, settings.usage, mover)
  const from = settings.from === settings.to ? to : recordedService(settings.from, settings.usage, mover)
  const count = { moved: 0, already: 0, destroyed: 0 }
  for (const row of await settings.pool.query<KekRow>({ ...selectAll, values: [] })) count[await moveOne({ ...settings, from, to }, row)]++
  return count
}
