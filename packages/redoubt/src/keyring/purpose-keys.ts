import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { unwrapKey, wrapKey } from '../aead.ts'
import { framed } from '../bytes.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { openCache, type Clock } from './cache.ts'
import { kekColumns, type Kek, type KekRow, type Keks, type KeysPool } from './keks.ts'

/** What the service signs. One key pair each, so that a signature for one is never one for another. */
export type Purpose = 'token-sign' | 'audit-anchor' | 'erasure-ledger' | 'backup-manifest'

/** The Ed25519 key pair of a purpose, and the public keys of all its versions. */
export type PurposeKey = {
  /** RFC 7638 thumbprint of the public key. */
  readonly kid: string
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
  /** By kid: this version and those that only verify by now. All authenticated, none merely read from a table. */
  readonly verifiers: ReadonlyMap<string, KeyObject>
}

type PairRow = KekRow & { readonly kid: string; readonly wrapped: Buffer; readonly public_key: Buffer; readonly state: string }
type Pair = { readonly kid: string; readonly privateKey: KeyObject; readonly publicKey: KeyObject }

const select = {
  name: 'redoubt_keys_select_purpose',
  text: `select p.kid, p.wrapped, p.public_key, p.state, ${kekColumns} from keys.purpose_keys p
    join keys.key_encryption_keys k on k.id = p.kek_id where p.purpose = $1 order by p.version desc`,
}
const insert = {
  name: 'redoubt_keys_insert_purpose',
  text: `insert into keys.purpose_keys (purpose, kid, version, kek_id, wrapped, public_key)
    values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning kid`,
}

/** The name of a signing key: RFC 7638 §3 with the members RFC 8037 §2 requires, in their lexicographic order. */
export function kidOf(publicKey: KeyObject): string {
  const { x } = publicKey.export({ format: 'jwk' })
  return createHash('sha256').update(JSON.stringify({ crv: 'Ed25519', kty: 'OKP', x })).digest('base64url')
}

function aadOf(kek: Kek, purpose: Purpose, kid: string): Buffer {
  return framed(['redoubt purpose key', kek.id, purpose, kid])
}

export type PurposeKeys = { of(purpose: Purpose): Promise<PurposeKey>; clear(): void }

export function openPurposeKeys(settings: {
  readonly pool: KeysPool
  readonly keks: Keks
  readonly emit: Emit
  readonly lifetime: number
  readonly uses: number
  readonly clock: Clock
}): PurposeKeys {
  const { pool, keks, emit } = settings

  /** The public key is derived from the unwrapped private one: a public key planted in the table verifies nothing. */
  async function unwrap(row: PairRow, purpose: Purpose): Promise<Pair> {
    const refusal = new Refusal('key_refused', { detail: 'a signing key is not the one its row names' })
    const kek = await keks.of(row, 'purpose')
    const der = unwrapKey(kek.key, aadOf(kek, purpose, row.kid), row.wrapped)
    if (der === null) throw refusal
    const privateKey = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
    der.fill(0)
    const publicKey = createPublicKey(privateKey)
    const published = publicKey.export({ format: 'der', type: 'spki' })
    if (privateKey.asymmetricKeyType !== 'ed25519' || kidOf(publicKey) !== row.kid || !published.equals(row.public_key)) throw refusal
    return { kid: row.kid, privateKey, publicKey }
  }

  async function make(purpose: Purpose): Promise<void> {
    const kek = await keks.active('purpose')
    const { privateKey, publicKey } = generateKeyPairSync('ed25519')
    const kid = kidOf(publicKey)
    const der = privateKey.export({ format: 'der', type: 'pkcs8' })
    const wrapped = wrapKey(kek.key, aadOf(kek, purpose, kid), der)
    der.fill(0)
    const made = await pool.query({ ...insert, values: [purpose, kid, 1, kek.id, wrapped, publicKey.export({ format: 'der', type: 'spki' })] })
    if (made.length > 0) emit({ type: 'key.created', key: kid, purpose })
  }

  async function load(purpose: Purpose): Promise<PurposeKey> {
    for (let attempt = 0; attempt < 2; attempt++) {
      const rows = await pool.query<PairRow>({ ...select, values: [purpose] })
      const active = rows.findIndex(({ state }) => state === 'active')
      const pairs = await Promise.all(rows.map((row) => unwrap(row, purpose)))
      const pair = pairs[active]
      if (pair !== undefined) return Object.freeze({ ...pair, verifiers: new Map(pairs.map(({ kid, publicKey }) => [kid, publicKey])) })
      if (rows.length > 0) break
      await make(purpose)
    }
    throw new Refusal('key_refused', { detail: `no signing key for ${purpose} is active` })
  }

  const cache = openCache<Purpose, PurposeKey>({
    name: (purpose) => purpose,
    load: (purposes) => Promise.all(purposes.map((purpose) => load(purpose).catch((error: Error) => error))),
    lifetime: settings.lifetime,
    uses: settings.uses,
    entries: 64,
    clock: settings.clock,
  })

  return {
    async of(purpose) {
      const [key] = await cache.find([purpose])
      if (key === undefined) throw new Refusal('key_refused')
      return key
    },
    clear: () => cache.clear(),
  }
}
