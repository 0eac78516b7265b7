import { createSecretKey, generateKeyPairSync, randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import pg from 'pg'
import { newId } from 'redoubt/bytes'
import { openPool } from 'redoubt/pg'
import { kernelRetention } from 'redoubt/tables/kernel'
import { openTokens } from 'redoubt/tokens'
import { sessionBinding } from 'redoubt/tokens/binding'
import { familyHash, tokenHash } from 'redoubt/tokens/refresh-token'
import { refreshSession } from 'redoubt/tokens/refresh'
import { lifetimes, sessionActions, type Identity } from 'redoubt/tokens/sessions'
import { openSigner } from 'redoubt/transaction/signer'
import { benchDatabase, benchService, type BenchDatabase } from './database.ts'
import { rate } from './gate.ts'
import { rounds } from './rounds.ts'

/**
 * Refreshes a second against one bare UPDATE … RETURNING of the same rows at the same concurrency: the least that any
 * rotation of a stored token costs. Ours derives the successor, signs the caller and the access token, and the database
 * verifies the caller; the rival is a named statement without row security. Both wait for the same commit.
 */
const agent = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
const nothing = (): void => undefined

type Row = { readonly session: string; token: string }

async function plant(database: BenchDatabase, key: KeyObject, many: number): Promise<readonly Row[]> {
  const rows: Row[] = []
  for (let i = 0; i < many; i += 1) {
    const token = randomBytes(48)
    const [user, session] = [newId(), newId()]
    await database.admin('insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role) values ($1, $2, $3, $4, $5, $6)', [user, benchService, randomBytes(61), randomBytes(17), 'x', 'patient'])
    const family = familyHash(token)
    const binding = sessionBinding({ version: 1, key }, { session, user, tenant: benchService, realm: 'tenant', enrolling: false, family })
    await database.admin(
      `insert into redoubt.sessions (id, user_id, tenant, idle_expires_at, absolute_expires_at, refresh_family, refresh_hash, binding)
       values ($1, $2, $3, now() + interval '1 day', now() + interval '1 day', $4, $5, $6)`,
      [session, user, benchService, family, tokenHash(token), binding],
    )
    rows.push({ session, token: token.toString('base64url') })
  }
  return rows
}

async function measure(database: BenchDatabase, clients: number): Promise<void> {
  const pool = openPool({ url: database.url('app'), max: clients, emit: nothing })
  const keys = openPool({ url: database.url('keys'), max: 1, emit: nothing })
  const bare = new pg.Pool({ connectionString: database.adminUrl, max: clients })
  // The database is dropped while its last connections close.
  bare.on('error', nothing)
  try {
    const signer = await openSigner(keys, benchService)
    const gate = { pool, signer, actions: sessionActions, retention: kernelRetention, personal: undefined, emit: nothing }
    const key = createSecretKey(randomBytes(32))
    const identity = {
      gate, tokens: openTokens({ issuer: 'https://bench.test', audience: 'bench', keys: [{ kid: 'k1', ...generateKeyPairSync('ed25519') }] }),
      keyring: { indexKeys: () => Promise.resolve([{ version: 1, key }]) }, realm: 'tenant', tenant: benchService, lifetimes: lifetimes.tenant, emit: nothing,
    } as unknown as Identity
    const rows = await plant(database, key, clients)
    const rivals = await plant(database, key, clients)
    const rowOf = (list: readonly Row[], client: number): Row => list[client] ?? list[0] ?? { session: '', token: '' }
    await rounds({
      title: `refresh, ${clients} connection${clients === 1 ? '' : 's'}`,
      rounds: 7,
      variants: {
        'refresh': () => rate(clients, 700, async (client) => {
          const row = rowOf(rows, client)
          row.token = (await refreshSession(identity, { requestId: 'bench', address: '192.0.2.7' }, { token: row.token, agent })).refresh
        }),
        'bare UPDATE … RETURNING': () => rate(clients, 700, (client) => bare.query({
          name: 'rotate', text: 'update redoubt.sessions set refresh_hash = $2, last_used_at = now() where id = $1 returning id, user_id, tenant', values: [rowOf(rivals, client).session, randomBytes(32)],
        })),
      },
      ratios: [['refresh', 'bare UPDATE … RETURNING']],
    })
    await signer.close()
  } finally {
    await Promise.all([pool.close(), keys.close(), bare.end()])
  }
}

export async function run(): Promise<void> {
  const database = await benchDatabase()
  try {
    for (const clients of [1, 8, 32]) await measure(database, clients)
  } finally {
    await database.close()
  }
}
