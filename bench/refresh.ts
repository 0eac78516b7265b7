import { createSecretKey, generateKeyPairSync, randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import pg from 'pg'
import { newId } from 'redoubt/bytes'
import { roleName } from 'redoubt/cli/roles'
import { systemCaller } from 'redoubt/context'
import { openPool } from 'redoubt/pg'
import { kernelRetention } from 'redoubt/tables/kernel'
import { openTokens } from 'redoubt/tokens'
import { sessionBinding } from 'redoubt/tokens/binding'
import { familyHash, tokenHash } from 'redoubt/tokens/refresh-token'
import { refreshSession } from 'redoubt/tokens/refresh'
import { lifetimes, sessionActions, type Identity } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import { openSigner } from 'redoubt/transaction/signer'
import { benchDatabase, benchService, type BenchDatabase } from './database.ts'
import { rate } from './gate.ts'
import { rounds } from './rounds.ts'

/**
 * Refreshes a second against one bare UPDATE … RETURNING of the same rows at the same concurrency: the least that any
 * rotation of a stored token costs. Ours derives the successor, signs the caller and the access token, and the database
 * verifies the caller; the rival is a named statement without row security. All wait for the same commit.
 *
 * Two lines more say where the difference goes. `by hand`: the same UPDATE with what whoever sends it does besides: a hash of
 * the token that came and of the next one, and an access token. `in the gate`: the same UPDATE by a verified caller, in a
 * function of the guard, with nothing of a refresh: what no refresh through the gate can be faster than.
 */
const agent = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
const nothing = (): void => undefined

const bareText = 'update redoubt.sessions set refresh_hash = $2, last_used_at = now() where id = $1 returning id, user_id, tenant'
const gated = `create function guard.bench_rotate(p_id uuid, p_hash bytea, out id uuid, out actor uuid, out tenant text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if (guard.caller()).role <> 'system.refresh' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.sessions s set refresh_hash = p_hash, last_used_at = pg_catalog.now() where s.id = p_id returning s.id, s.user_id, s.tenant into id, actor, tenant;
end $$`

type Row = { readonly session: string; token: string }
type Updated = { readonly id: string; readonly user_id: string; readonly tenant: string }

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
    const [rows, rivals, hands, gates] = [await plant(database, key, clients), await plant(database, key, clients), await plant(database, key, clients), await plant(database, key, clients)]
    const rowOf = (list: readonly Row[], client: number): Row => list[client] ?? list[0] ?? { session: '', token: '' }
    const rotate = (row: Row, hash: Buffer): Promise<pg.QueryResult<Updated>> => bare.query<Updated>({ name: 'rotate', text: bareText, values: [row.session, hash] })
    const caller = systemCaller('refresh', benchService, { requestId: 'bench', address: null })
    await rounds({
      title: `refresh, ${clients} connection${clients === 1 ? '' : 's'}`,
      rounds: 7,
      variants: {
        'refresh': () => rate(clients, 700, async (client) => {
          const row = rowOf(rows, client)
          row.token = (await refreshSession(identity, { requestId: 'bench', address: '192.0.2.7' }, { token: row.token, agent })).refresh
        }),
        'bare UPDATE … RETURNING': () => rate(clients, 700, (client) => rotate(rowOf(rivals, client), randomBytes(32))),
        'the same by hand': () => rate(clients, 700, async (client) => {
          const row = rowOf(hands, client)
          const next = randomBytes(48)
          tokenHash(Buffer.from(row.token, 'base64url'))
          const { rows: [found] } = await rotate(row, tokenHash(next))
          if (found === undefined) throw new Error('bench: no row')
          identity.tokens.issue({ actor: found.user_id, session: found.id, role: 'patient', tenant: found.tenant })
          row.token = next.toString('base64url')
        }),
        'the same in the gate': () => rate(clients, 700, (client) => transaction.one(gate, caller, 'auth.refreshed', {
          name: 'bench.rotate', text: 'select id, actor, tenant from guard.bench_rotate($1, $2)', values: [rowOf(gates, client).session, randomBytes(32)],
        })),
      },
      ratios: [['refresh', 'bare UPDATE … RETURNING'], ['refresh', 'the same by hand'], ['the same in the gate', 'bare UPDATE … RETURNING']],
    })
    await signer.close()
  } finally {
    await Promise.all([pool.close(), keys.close(), bare.end()])
  }
}

export async function run(): Promise<void> {
  const database = await benchDatabase()
  try {
    await database.admin(`${gated}; alter function guard.bench_rotate(uuid, bytea) owner to ${roleName(benchService, 'guard')}; grant execute on function guard.bench_rotate(uuid, bytea) to ${roleName(benchService, 'app')}`)
    for (const clients of [1, 8, 32]) await measure(database, clients)
  } finally {
    await database.close()
  }
}
