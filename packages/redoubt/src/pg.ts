import pg from 'pg'
import type { CompiledQuery } from 'kysely'
import type { Caller, KeyUser } from './context.ts'
import { Refusal } from './errors.ts'
import type { Emit } from './events.ts'
import { Batch, type Statement, type Wire, type WireState } from './pg/batch.ts'
import type { Outcome, PipelineClient, Shared, SharedOutcome } from './pg/pipeline.ts'
import { refusalOf } from './pg/refusal.ts'
import { openSharing } from './pg/sharing.ts'

export type { Answer, Statement } from './pg/batch.ts'
export type { Outcome, Shared, SharedOutcome } from './pg/pipeline.ts'

/** Any Kysely builder made by queryBuilder(). */
export type Compilable<R> = { compile(): CompiledQuery<R> }

/** What a function inside a transaction can do. Only the gate makes one. */
export type Tx = {
  readonly caller: Caller
  /** For columns.ts: as whose use a key is counted. */
  readonly keyUser: KeyUser
  /** Runs a query builder. Queries issued without awaiting in between share one round trip. */
  run<R>(query: Compilable<R>): Promise<readonly R[]>
  /** Runs a prepared or hand-written statement. */
  query<R>(statement: Statement<R>): Promise<readonly R[]>
  /** Names the resource of this call's audit entry, for things made inside. */
  about(resourceType: string, resourceId: string): void
  /** A sealed column of this data subject was opened (columns.ts), or a row about them is answered. */
  opened(subject: string): void
  /** For columns.ts: a value was sealed under this key; the gate locks the key's row before COMMIT. */
  sealedUnder(keyId: Buffer): void
}

export type Connection = {
  /** Sends the statements with one Sync. Never rejects. */
  send(statements: readonly Statement<unknown>[]): Promise<Outcome>
  /** Back to the pool, or out of the world when `poisoned` says why. */
  release(poisoned?: string): void
}

export type Pool = {
  /** A connection of one's own; must be released. @throws Refusal database_unavailable */
  connect(): Promise<Connection>
  /** A brief call on a connection that others use too (pg/pipeline.ts); undefined where it must take one of its own. */
  share(shared: Shared): Promise<SharedOutcome> | undefined
  /** One statement in a transaction of its own, for doors, worker and operator. @throws Refusal */
  query<R = Record<string, unknown>>(statement: Statement<R>): Promise<readonly R[]>
  /** Connections open, idle, and callers waiting for one. */
  gauge(): { readonly open: number; readonly idle: number; readonly waiting: number }
  readonly statementTimeout: number
  close(): Promise<void>
}

export type PoolSettings = {
  readonly url: string
  /**
   * Reads the connection string anew after a sign-in was refused: a password that was replaced meanwhile is taken up, and
   * the rest of it is not looked at. The new one is stored before the server is told, so that no connection is refused.
   */
  readonly urlAgain?: (() => Promise<string>) | undefined
  /** Most connections this process opens; sized so that all processes together stay under the server's limit. */
  readonly max: number
  /** False behind a transaction pooler that knows no named statements (PgBouncer before 1.21). Default true. */
  readonly namedStatements?: boolean
  /** Milliseconds a statement may run on the server. Default 10 000. */
  readonly statementTimeout?: number
  /** Milliseconds to wait for a connection. Default 5 000. */
  readonly connectTimeout?: number
  readonly emit: Emit
}

type WireClient = pg.PoolClient & { readonly connection: Wire & { on(event: 'parseComplete' | 'readyForQuery' | 'end', listener: () => void): void } }
type Pid = { readonly processID: number }

const states = new WeakMap<pg.PoolClient, WireState>()

function stateOf(client: pg.PoolClient): WireState {
  const known = states.get(client)
  if (known !== undefined) return known
  const state: WireState = { prepared: new Map(), active: undefined }
  const { connection } = client as WireClient
  connection.on('parseComplete', () => state.active?.handleParseComplete())
  // A batch that failed is known to nobody but us: the driver has let go of it.
  connection.on('readyForQuery', () => {
    if (state.active?.failure !== undefined) state.active.handleReadyForQuery()
  })
  connection.on('end', () => state.active?.handleError(new Refusal('database_unavailable', { retryAfter: 1 })))
  states.set(client, state)
  return state
}

function positive(name: string, value: number): number {
  if (!Number.isInteger(value) || value < 1) throw new TypeError(`openPool: ${name} must be a positive whole number`)
  return value
}

/** Takes the socket down when a sign-in fails on our side (no password): the driver leaves it to the server's patience, a minute. */
class Client extends pg.Client {
  constructor(config?: string | pg.ClientConfig) {
    super(config)
    const { connection } = this as unknown as { readonly connection: { readonly stream: { destroy(): void }; on(event: 'error', listener: () => void): void } }
    connection.on('error', () => connection.stream.destroy())
  }
}

/**
 * Opens a pool. Connects at the first use; a server that is away is a Refusal then, not a crash here.
 * @throws TypeError when a setting is not usable
 */
export function openPool(settings: PoolSettings): Pool {
  const statementTimeout = positive('statementTimeout', settings.statementTimeout ?? 10_000)
  const namedStatements = settings.namedStatements ?? true
  // The server's own statement_timeout comes first; this is for a server or network that has gone silent.
  const silence = statementTimeout + 2_000
  let password: string | undefined
  class WithPassword extends Client {
    constructor(config?: string | pg.ClientConfig) {
      super(config)
      if (password !== undefined) (this as { password?: string }).password = password
    }
  }
  const driver = new pg.Pool({
    Client: WithPassword,
    connectionString: settings.url,
    max: positive('max', settings.max),
    connectionTimeoutMillis: positive('connectTimeout', settings.connectTimeout ?? 5_000),
    idleTimeoutMillis: 60_000,
    keepAlive: true,
  })
  // The server's last words (57P01) can come between two turns of the pool: in the bytes that end the handshake, or
  // after a connection was thrown away. A client without a listener at that moment ends the process; batches learn of
  // a broken connection by themselves.
  driver.on('connect', (client) => client.on('error', () => undefined))
  // An idle connection that dies is replaced at the next use.
  driver.on('error', () => settings.emit({ type: 'database.connection_destroyed', reason: 'idle connection lost' }))

  /** Once more with the password that is stored now, where that is another one than was refused. */
  async function afresh(error: unknown, tried: string | undefined): Promise<pg.PoolClient> {
    if (settings.urlAgain === undefined || !refusalOf(error).sqlState.startsWith('28')) throw error
    const stored = decodeURIComponent(new URL(await settings.urlAgain().catch(() => settings.url)).password)
    if (stored === (tried ?? decodeURIComponent(new URL(settings.url).password))) throw error
    password = stored
    return driver.connect()
  }

  async function connect(): Promise<Connection & { readonly client: PipelineClient & Pid; readonly state: WireState }> {
    const tried = password
    const client = await driver.connect().catch((error: unknown) => afresh(error, tried)).catch((error: unknown) => {
      throw refusalOf(error).refusal
    })
    const state = stateOf(client)
    let gone = false
    function release(poisoned?: string): void {
      if (gone) return
      gone = true
      if (poisoned !== undefined) settings.emit({ type: 'database.connection_destroyed', reason: poisoned })
      client.release(poisoned !== undefined)
    }
    return {
      client: client as unknown as PipelineClient & Pid,
      state,
      release,
      send: (statements) => new Promise((resolve) => {
        const batch = new Batch(namedStatements ? statements : statements.map(({ text, values }) => ({ text, values })), state, ({ answers, failure }) => {
          clearTimeout(silent)
          resolve({ answers, failure: failure === undefined ? undefined : refusalOf(failure) })
        })
        const silent = setTimeout(() => {
          batch.handleError(new Refusal('database_unavailable', { retryAfter: 1 }))
          release('no answer in time')
        }, silence)
        client.query(batch as unknown as pg.Submittable)
      }),
    }
  }

  const sharing = openSharing(
    connect,
    namedStatements && settings.max > 1 ? Math.max(1, Math.floor(settings.max / 4)) : 0,
    silence,
  )

  return {
    connect,
    share: sharing.share,
    statementTimeout,
    async query<R>(statement: Statement<R>) {
      const connection = await connect()
      const { answers, failure } = await connection.send([statement])
      connection.release(failure?.unexpected === true ? `SQLSTATE ${failure.sqlState}` : undefined)
      if (failure !== undefined) throw failure.refusal
      return (answers[0]?.rows ?? []) as unknown as readonly R[]
    },
    gauge: () => ({ open: driver.totalCount, idle: driver.idleCount, waiting: driver.waitingCount }),
    close() {
      sharing.close()
      return driver.end()
    },
  }
}

/** A connection for migrations alone: scripts of many statements, and errors as the server words them. */
export type ScriptConnection = {
  script(sql: string): Promise<void>
  query<R = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<readonly R[]>
  close(): Promise<void>
}

/** Opens the migrator's connection; the runtime never calls this. */
export async function openScriptConnection(url: string): Promise<ScriptConnection> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 10_000 })
  client.on('error', () => undefined)
  await client.connect()
  return {
    async script(sql) {
      await client.query(sql)
    },
    async query<R>(text: string, values: readonly unknown[] = []) {
      const result = await client.query<Record<string, unknown>>({ text, values: [...values] })
      return result.rows as unknown as readonly R[]
    },
    close: () => client.end(),
  }
}
