import { createHash, randomBytes } from 'node:crypto'
import { BlockList, isIP } from 'node:net'
import { isUuid, newId } from '../bytes.ts'
import { systemCaller } from '../context.ts'
import type { Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { IndexKey, Keyring } from '../keyring.ts'
import type { Tx } from '../pg.ts'
import { accessTokenSeconds } from '../tokens.ts'
import type { Tokens } from '../tokens.ts'
import { transaction } from '../transaction.ts'
import type { Actions, Gate } from '../transaction.ts'
import { bindingKeys, clientBinding, isBound } from './binding.ts'
import { isScope } from './claims.ts'

/** The actions of API clients, to be spread into an app's table of actions. */
export const clientActions = {
  'client.viewed': { audited: true, keep: 'access', purpose: 'account' },
  'client.created': { audited: true, keep: 'change', purpose: 'account' },
  'client.rotated': { audited: true, keep: 'change', purpose: 'account' },
  'client.revoked': { audited: true, keep: 'change', purpose: 'account' },
  'client.signed_in': { audited: true, keep: 'access', purpose: 'account' },
} as const satisfies Actions

/** Seconds for which the secret before the present one still signs in, by default: a day to change it everywhere. */
export const overlapSeconds = 24 * 3600
const secretForm = /^rcs_[A-Za-z0-9_-]{43}$/

/** An API client as those who administer it see it; its secret is not among it. */
export type ClientRow = {
  readonly id: string
  readonly name: string
  readonly scopes: readonly string[]
  readonly networks: readonly string[]
  readonly created_at: Date
  readonly rotated_at: Date | null
  /** Until when the secret before the present one holds. */
  readonly previous_until: Date | null
  readonly last_used_at: Date | null
  readonly revoked_at: Date | null
}

export type Clients = {
  readonly gate: Gate<typeof clientActions & Actions>
  readonly tokens: Tokens
  /** Gives the key by which a client's row is believed. */
  readonly keyring: Pick<Keyring, 'indexKeys'>
  /** The isolation scope of the service before the client is known. */
  readonly tenant: string
  readonly emit: Emit
}

function secretOf(): { readonly secret: string; readonly hash: Buffer } {
  const secret = `rcs_${randomBytes(32).toString('base64url')}`
  return { secret, hash: hashOf(secret) }
}

function hashOf(secret: string): Buffer {
  return createHash('sha256').update(secret).digest()
}

/** True for an address or network in its plain form, not wider than a private range: `0.0.0.0/0` is no list. */
export function isNetwork(text: string): boolean {
  const [address = '', bits, ...rest] = text.split('/')
  const version = isIP(address)
  if (version === 0 || rest.length > 0 || address.includes('%')) return false
  if (bits === undefined) return true
  return /^[1-9]\d{0,2}$/.test(bits) && Number(bits) >= 8 && Number(bits) <= (version === 4 ? 32 : 128)
}

/**
 * Makes a client of the caller's tenant.
 * @param given scopes: 1 to 32, as isScope; networks: at most 16, as isNetwork, empty for any address
 * @returns its id, and its secret, which is shown this once
 * @throws TypeError for scopes or networks out of form
 */
export async function createClient(tx: Tx, keyring: Pick<Keyring, 'indexKeys'>, given: { readonly name: string; readonly scopes: readonly string[]; readonly networks: readonly string[] }): Promise<{ readonly id: string; readonly secret: string }> {
  const { name, scopes, networks } = given
  if (scopes.length === 0 || !scopes.every(isScope)) throw new TypeError('createClient: scopes must be words such as therapists:read')
  if (networks.length > 16 || !networks.every(isNetwork)) throw new TypeError('createClient: networks must be at most 16 addresses or networks')
  const id = newId()
  const { secret, hash } = secretOf()
  const [key] = await bindingKeys(keyring, 'client')
  if (key === undefined) throw new Refusal('key_refused')
  const { tenant } = tx.caller
  await tx.query({
    name: 'redoubt.create_api_client',
    text: 'insert into redoubt.api_clients (id, tenant, name, secret_hash, binding, scopes, networks) values ($1, $2, $3, $4, $5, $6, $7)',
    values: [id, tenant, name, hash, clientBinding(key, { id, tenant, secretHash: hash, scopes, networks }), scopes, networks],
  })
  tx.about('api_client', id)
  return { id, secret }
}

type Stored = { readonly tenant: string; readonly secret_hash: Buffer; readonly scopes: readonly string[]; readonly networks: readonly string[]; readonly binding: Buffer }

/**
 * A new secret for a client. The one before it holds for the overlap, so that its programs change over without a gap.
 * @param overlap seconds, default a day, at most 30 days; 0 when the old secret is known to somebody else
 * @throws Refusal not_found; conflict for a client that was altered in the database: revoke it and make another
 */
export async function rotateClient(tx: Tx, keyring: Pick<Keyring, 'indexKeys'>, id: string, overlap: number = overlapSeconds): Promise<{ readonly id: string; readonly secret: string }> {
  const { secret, hash } = secretOf()
  const keys = await bindingKeys(keyring, 'client')
  const [found] = await tx.query<Stored>({ name: 'redoubt.bound_api_client', text: 'select tenant, secret_hash, scopes, networks, binding from guard.bound_api_client($1)', values: [id] })
  if (found === undefined) throw new Refusal('not_found')
  const { tenant, secret_hash, scopes, networks, binding } = found
  const bound = (secretHash: Buffer) => (key: IndexKey): Buffer => clientBinding(key, { id, tenant, secretHash, scopes, networks })
  if (!isBound(keys, binding, bound(secret_hash))) throw new Refusal('conflict', { detail: 'the client is not the one that was made' })
  const [key] = keys
  if (key === undefined) throw new Refusal('key_refused')
  const [row] = await tx.query<{ readonly done: boolean }>({ name: 'redoubt.rotate_api_client', text: 'select guard.rotate_api_client($1, $2, $3, $4) as done', values: [id, hash, bound(hash)(key), overlap] })
  if (row?.done !== true) throw new Refusal('not_found')
  tx.about('api_client', id)
  return { id, secret }
}

/** Ends a client and every token it has, at once and on every instance. @throws Refusal not_found */
export async function revokeClient(tx: Tx, id: string): Promise<void> {
  const [row] = await tx.query<{ readonly done: boolean }>({ name: 'redoubt.revoke_api_client', text: 'select guard.revoke_api_client($1) as done', values: [id] })
  if (row?.done !== true) throw new Refusal('not_found')
  tx.about('api_client', id)
}

/** The clients of the caller's tenant, oldest first; at most 200. */
export async function listClients(tx: Tx): Promise<readonly ClientRow[]> {
  return tx.query<ClientRow>({
    name: 'redoubt.list_api_clients',
    text: 'select id, name, scopes, networks, created_at, rotated_at, previous_until, last_used_at, revoked_at from redoubt.api_clients order by id limit 200',
    values: [],
  })
}

type Opened = {
  readonly tenant: string
  readonly scopes: readonly string[]
  readonly networks: readonly string[]
  /** All that the client's row allows. */
  readonly allowed: readonly string[]
  readonly binding: Buffer | null
}

/**
 * An access token for a client's id and secret. It carries a session of its own, so that revoking the client ends it at
 * once, the scopes it was asked for, and the networks it may be used from.
 * @param given.scopes those asked for; undefined: all of the client's
 * @throws Refusal invalid_client, whatever is wrong with id, secret or address; invalid_scope
 */
export async function clientToken(
  clients: Clients, visitor: Visitor, given: { readonly id: string; readonly secret: string; readonly scopes: readonly string[] | undefined },
): Promise<{ readonly token: string; readonly expiresIn: number; readonly scopes: readonly string[] }> {
  const { gate, tokens, emit } = clients
  const formed = isUuid(given.id) && secretForm.test(given.secret)
  const session = newId()
  const secretHash = hashOf(given.secret)
  const keys = await bindingKeys(clients.keyring, 'client')
  const values = [formed ? given.id : newId(), secretHash, visitor.address, given.scopes ?? null, session, accessTokenSeconds]
  const opened = await transaction(gate, systemCaller('client-token', clients.tenant, visitor), 'client.signed_in', async (tx) => {
    const [row] = await tx.query<Opened>({ name: 'redoubt.open_client_session', text: 'select tenant, scopes, networks, allowed, binding from guard.open_client_session($1, $2, $3, $4, $5, $6)', values })
    if (row === undefined) throw new Refusal('invalid_client')
    tx.about('api_client', given.id)
    // Scopes, networks or the secret itself written into the row by somebody else. Nothing of this commits.
    const bound = { id: given.id, tenant: row.tenant, secretHash, scopes: row.allowed, networks: row.networks }
    if (!isBound(keys, row.binding, (key) => clientBinding(key, bound))) {
      emit({ type: 'security.client_refused', requestId: visitor.requestId, client: given.id })
      throw new Refusal('invalid_client')
    }
    return row
  }).catch((error: unknown) => {
    if (error instanceof Refusal && error.code === 'invalid_client') emit({ type: 'auth.client_refused', requestId: visitor.requestId })
    throw error
  })
  emit({ type: 'auth.client_signed_in', requestId: visitor.requestId, actor: given.id })
  const { scopes, networks } = opened
  return { ...tokens.issue({ actor: given.id, session, role: 'api_client', tenant: opened.tenant, client: { scopes, networks } }), scopes }
}

const lists = new WeakMap<readonly string[], BlockList>()

/** Whether an address is inside the networks of a verified token; an empty list has no outside. */
export function insideNetworks(networks: readonly string[], address: string | null): boolean {
  if (networks.length === 0) return true
  if (address === null) return false
  let list = lists.get(networks)
  if (list === undefined) {
    list = new BlockList()
    for (const network of networks) {
      const [start = '', bits] = network.split('/')
      const kind = start.includes(':') ? 'ipv6' : 'ipv4'
      if (bits === undefined) list.addAddress(start, kind)
      else list.addSubnet(start, Number(bits), kind)
    }
    lists.set(networks, list)
  }
  return list.check(address, address.includes(':') ? 'ipv6' : 'ipv4')
}
