import { createHash, createPrivateKey, createPublicKey, createSecretKey, generateKeyPairSync, hkdfSync } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { unwrapKey, wrapKey } from '../aead.ts'
import { framed } from '../bytes.ts'
import type { KeyUser } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { openCache, usedFrom, type Clock } from './cache.ts'
import { kekColumns, type Kek, type KekRow, type Keks, type KeysPool } from './keks.ts'
import type { KeyUsage } from './usage.ts'

/** What the service signs. One key pair each, so that a signature for one is never one for another. */
export type Purpose = 'limits' | 'known-device' | 'csrf' | 'token-sign' | 'token-sign-admin' | 'audit-anchor' | 'erasure-ledger' | 'backup-manifest'

/** The Ed25519 key pair of a purpose, and the public keys of all its versions. */
export type PurposeKey = {
  /** RFC 7638 thumbprint of the public key. */
  readonly kid: string
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
  /** By kid: this version and those that only verify by now. All authenticated, none merely read from a table. */
  readonly verifiers: ReadonlyMap<string, KeyObject>
  /** HMAC-SHA-256 keys derived from the private keys, the active version's first: what one instance signed, every other one verifies. */
  readonly secrets: readonly KeyObject[]
}

type PairRow = KekRow & { readonly kid: string; readonly wrapped: Buffer; readonly public_key: Buffer; readonly holds: string; readonly wait: number }
/** A version; without a private half it only verifies. `from`: the time of our clock from which it signs. */
type Pair = { readonly kid: string; readonly privateKey: KeyObject | null; readonly publicKey: KeyObject; readonly from: number }
/** All versions, newest first, and what was made of them for each that has been the signing one. */
type Versions = { readonly pairs: readonly Pair[]; readonly made: Map<string, PurposeKey> }

const select = {
  name: 'redoubt_keys_select_purpose',
  text: `select p.kid, p.wrapped, p.public_key, p.holds, greatest(0, extract(epoch from p.use_from - now()) * 1000)::float8 as wait, ${kekColumns}
    from keys.purpose_keys p join keys.key_encryption_keys k on k.id = p.kek_id where p.purpose = $1 order by p.version desc`,
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

/** RFC 5869 over the private key: a purpose that needs a shared secret needs no second kind of row for it. */
function secretOf(purpose: Purpose, privateKey: KeyObject): KeyObject {
  const der = privateKey.export({ format: 'der', type: 'pkcs8' })
  const bytes = Buffer.from(hkdfSync('sha256', der, '', `redoubt ${purpose} secret`, 32))
  const secret = createSecretKey(bytes)
  for (const used of [der, bytes]) used.fill(0)
  return secret
}

/** What the wrapping of a signing key is bound to; of a retired pair only the public half is wrapped. */
export function purposeKeyAad(kek: Kek, purpose: Purpose, kid: string, holds: 'private' | 'public'): Buffer {
  return framed([holds === 'private' ? 'redoubt purpose key' : 'redoubt public key', kek.id, purpose, kid])
}

/** A new pair: its name, its private half wrapped, its public half as SPKI DER. */
export function newPurposeKey(kek: Kek, purpose: Purpose): { readonly kid: string; readonly wrapped: Buffer; readonly spki: Buffer } {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const kid = kidOf(publicKey)
  const der = privateKey.export({ format: 'der', type: 'pkcs8' })
  const wrapped = wrapKey(kek.key, purposeKeyAad(kek, purpose, kid, 'private'), der)
  der.fill(0)
  return { kid, wrapped, spki: publicKey.export({ format: 'der', type: 'spki' }) }
}

export type PurposeKeys = { of(purpose: Purpose): Promise<PurposeKey>; clear(): void }

export function openPurposeKeys(settings: {
  readonly pool: KeysPool
  readonly keks: Keks
  readonly emit: Emit
  readonly usage: KeyUsage
  readonly by: KeyUser
  readonly lifetime: number
  readonly uses: number
  readonly clock: Clock
}): PurposeKeys {
  const { pool, keks, emit, usage, by, clock } = settings

  /** The public key comes out of an authenticated wrapping: one planted in the table verifies nothing. */
  async function unwrap(row: PairRow, purpose: Purpose): Promise<Omit<Pair, 'from'>> {
    const refusal = new Refusal('key_refused', { detail: 'a signing key is not the one its row names' })
    const holds = row.holds === 'public' ? 'public' : 'private'
    const kek = await keks.of(row, 'purpose')
    usage.used(kek.id, purpose, 'unwrap', by)
    const der = unwrapKey(kek.key, purposeKeyAad(kek, purpose, row.kid, holds), row.wrapped)
    if (der === null) throw refusal
    const privateKey = holds === 'private' ? createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }) : null
    const publicKey = privateKey === null ? createPublicKey({ key: der, format: 'der', type: 'spki' }) : createPublicKey(privateKey)
    der.fill(0)
    const published = publicKey.export({ format: 'der', type: 'spki' })
    if (publicKey.asymmetricKeyType !== 'ed25519' || kidOf(publicKey) !== row.kid || !published.equals(row.public_key)) throw refusal
    return { kid: row.kid, privateKey, publicKey }
  }

  function make(purpose: Purpose): Promise<void> {
    return keks.underActive('purpose', async (kek) => {
      usage.used(kek.id, purpose, 'wrap', by)
      const { kid, wrapped, spki } = newPurposeKey(kek, purpose)
      const made = await pool.query({ ...insert, values: [purpose, kid, 1, kek.id, wrapped, spki] })
      if (made.length > 0) emit({ type: 'key.created', key: kid, purpose })
    })
  }

  async function load(purpose: Purpose): Promise<Versions> {
    for (let attempt = 0; attempt < 2; attempt++) {
      const rows = await pool.query<PairRow>({ ...select, values: [purpose] })
      // Taken after the answer: our clock says that the time has come no sooner than the database's does.
      const read = clock()
      if (rows.length > 0) {
        const pairs = rows.map(async (row, at) => ({ ...(await unwrap(row, purpose)), from: usedFrom(read, row.wait, at === rows.length - 1) }))
        return { pairs: await Promise.all(pairs), made: new Map() }
      }
      await make(purpose)
    }
    throw new Refusal('key_refused', { detail: `the signing key for ${purpose} could not be stored` })
  }

  /** The pair that signs now: the newest that can and whose time has come. */
  function current({ pairs, made }: Versions, purpose: Purpose): PurposeKey {
    const now = clock()
    const pair = pairs.find(({ privateKey, from }) => privateKey !== null && from <= now)
    if (pair === undefined || pair.privateKey === null) throw new Refusal('key_refused', { detail: `no signing key for ${purpose} is in use` })
    const known = made.get(pair.kid)
    if (known !== undefined) return known
    const { kid, privateKey, publicKey } = pair
    // A version that is to sign later verifies already: another instance's clock may be ahead.
    const halves = [privateKey, ...pairs.flatMap((other) => (other.privateKey === null || other === pair ? [] : [other.privateKey]))]
    const secrets = halves.map((half) => secretOf(purpose, half))
    const key = Object.freeze({ kid, privateKey, publicKey, verifiers: new Map(pairs.map((other) => [other.kid, other.publicKey])), secrets })
    made.set(kid, key)
    return key
  }

  const cache = openCache<Purpose, Versions>({
    name: (purpose) => purpose,
    load: (purposes) => Promise.all(purposes.map((purpose) => load(purpose).catch((error: Error) => error))),
    lifetime: settings.lifetime,
    uses: settings.uses,
    entries: 64,
    clock: settings.clock,
  })

  return {
    async of(purpose) {
      const [versions] = await cache.find([purpose])
      if (versions === undefined) throw new Refusal('key_refused')
      const key = current(versions, purpose)
      usage.used(key.kid, purpose, 'open', by)
      return key
    },
    clear: () => cache.clear(),
  }
}
