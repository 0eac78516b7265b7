import { createHmac } from 'node:crypto'
import { framed } from '../bytes.ts'
import type { IndexKey, Keyring } from '../keyring.ts'
import { kernelTables } from '../tables/kernel.ts'

/*
 * What a session and an API client stand for is bound by an HMAC under a key outside the database. An administrator of
 * the database can write any row, and the hash of a secret of their own choice: without this such a row would sign them
 * in as whomever it names (docs/formats.md, "Refresh token" and "API client").
 */

/** What a session is: whoever holds a token of this family is this user, in this tenant and by this door. */
export type BoundSession = {
  readonly session: string
  readonly user: string
  readonly tenant: string
  readonly realm: string
  /** Good for setting up a second factor alone. */
  readonly enrolling: boolean
  /** SHA-256 of the part that all tokens of the session share. */
  readonly family: Buffer
}

/** What an API client is: whoever holds this secret may do this much, from there. */
export type BoundClient = {
  readonly id: string
  readonly tenant: string
  readonly secretHash: Buffer
  readonly scopes: readonly string[]
  readonly networks: readonly string[]
}

const table = { session: kernelTables['redoubt.sessions'].id, client: kernelTables['redoubt.api_clients'].id } as const

/** The keys of bindings, the one to write with in front; every version that is known still verifies. */
export function bindingKeys(keyring: Pick<Keyring, 'indexKeys'>, what: keyof typeof table): Promise<readonly IndexKey[]> {
  // Column 1 of the sessions is the key of successors. No such columns exist.
  return keyring.indexKeys(table[what], what === 'session' ? 2 : 1)
}

/** Version of the key (1 byte), then HMAC-SHA-256 over the framed parts. */
function mac(key: IndexKey, parts: readonly (Buffer | string)[]): Buffer {
  return Buffer.concat([Buffer.from([key.version]), createHmac('sha256', key.key).update(framed(parts)).digest()])
}

/** The binding of a session's row. */
export function sessionBinding(key: IndexKey, bound: BoundSession): Buffer {
  const { session, user, tenant, realm, enrolling, family } = bound
  return mac(key, ['redoubt session row', session, user, tenant, realm, enrolling ? 'enrolling' : 'full', family])
}

/** The binding of an API client's row and one of its secrets. */
export function clientBinding(key: IndexKey, bound: BoundClient): Buffer {
  const { id, tenant, secretHash, scopes, networks } = bound
  return mac(key, ['redoubt api client row', id, tenant, secretHash, framed(scopes), framed(networks)])
}

/**
 * Whether a binding that was stored is the one of what the row says now; a row without one is not.
 * @param made the binding under a version of the key
 */
export function isBound(keys: readonly IndexKey[], stored: Buffer | null, made: (key: IndexKey) => Buffer): boolean {
  const key = keys.find(({ version }) => version === stored?.[0])
  return key !== undefined && stored !== null && made(key).equals(stored)
}
