import { createHmac, randomBytes } from 'node:crypto'
import pg from 'pg'
import type { Caller } from '../../src/context.ts'
import { callerText, hmacPads } from '../../src/transaction/signer.ts'
import type { Login } from '../../src/cli/roles.ts'
import type { TestDatabase } from './database.ts'

/** A caller key whose bytes the test knows: what an attacker would have who stole one. */
export type KnownKey = { readonly kid: string; readonly secret: Buffer }

/** Installs a key through the keys role, as a process of the service does at its start. */
export async function installKnownKey(database: TestDatabase): Promise<KnownKey> {
  const key = { kid: randomBytes(12).toString('base64url'), secret: randomBytes(32) }
  const { inner, outer } = hmacPads(key.secret)
  await loggedIn(database.url('keys'), (client) => client.query('select guard.install_caller_key($1, $2, $3, 1)', [key.kid, inner, outer]))
  return key
}

/** Appends the MAC to a text. */
export function signText({ secret }: KnownKey, text: string): string {
  return `${text}|${createHmac('sha256', secret).update(text).digest('hex')}`
}

/** A claim as the gate signs it, or with what `more` changes before it is signed. */
export function claimOf(key: KnownKey, database: TestDatabase, caller: Caller, more: { readonly now?: number; readonly audience?: string; readonly action?: string; readonly entry?: string } = {}): string {
  return signText(key, callerText(key.kid, more.audience ?? `${database.service}/${database.name}`, caller, more.action ?? 'test.read', more.entry ?? null, more.now ?? Date.now()))
}

/**
 * Runs `work` on a plain connection of its own: SQL as an attacker types it, with the driver's own protocol choice.
 * @param more.pipeline queries that are not waited for follow each other without a trip between them
 */
export async function loggedIn<T>(url: string, work: (client: pg.Client) => Promise<T>, more: { readonly pipeline?: boolean } = {}): Promise<T> {
  const client = new pg.Client({ connectionString: url, application_name: 'attacker', ...more })
  client.on('error', () => undefined)
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

/** The SQLSTATE with which `work` fails, or undefined when it succeeds. */
export async function sqlStateOf(work: Promise<unknown>): Promise<string | undefined> {
  return work.then(() => undefined, (error: unknown) => (error as { readonly code?: string }).code ?? 'none')
}

/**
 * Whom the database takes the bearer of this claim for, in a transaction of its own.
 * @returns role and id, or the SQLSTATE of the refusal
 */
export async function believedBy(client: pg.Client, claim: string): Promise<string> {
  await client.query('begin')
  await client.query(`select set_config('redoubt.caller', $1, true)`, [claim])
  const answer = await client.query<{ actor: string | null; role: string }>('select * from guard.caller()').then(
    ({ rows }) => `${rows[0]?.role ?? ''} ${rows[0]?.actor ?? ''}`.trim(),
    (error: unknown) => (error as { readonly code: string }).code,
  )
  await client.query('rollback')
  return answer
}

/** The same on a connection of its own. */
export async function believed(database: TestDatabase, claim: string, login: Login = 'app'): Promise<string> {
  return loggedIn(database.url(login), (client) => believedBy(client, claim))
}
