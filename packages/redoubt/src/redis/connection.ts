import { createClient, ErrorReply } from '@redis/client'
import { Refusal } from '../errors.ts'

/** One connection. It never reconnects by itself: redis.ts decides when, and what is told meanwhile. */
export type Connection = {
  /** @throws what the driver throws; never waits for a connection */
  send(command: readonly string[]): Promise<unknown>
  /** The same, with words that are asked for at the end of this turn of the loop, just before they are written. */
  sendLate(words: () => readonly string[]): Promise<unknown>
  end(): void
}

/** Commands under way at a time. */
const mostUnderWay = 20_000

/** Stands in the driver's queue until the words are known. */
const early = 'redoubt: early'
const placeholder = ['EVAL', 'return ARGV[1]', '0', early] as const

/**
 * Opens a connection and signs in.
 * @param options.timeout milliseconds for all of it: a stopped server accepts connections and says nothing
 * @param options.lost called once when the connection ends by itself
 */
export async function connectRedis(options: { readonly url: string; readonly name: string; readonly timeout: number; readonly lost: (which: Connection, error: unknown) => void }): Promise<Connection> {
  const { url, name, timeout, lost } = options
  const client = createClient({
    url,
    name: `redoubt-${name}`,
    // RESP2 is spoken by every version of Redis and Valkey, and by proxies in front of them.
    RESP: 2,
    disableOfflineQueue: true,
    disableClientInfo: true,
    maintNotifications: 'disabled',
    commandsQueueMaxLength: mostUnderWay,
    // Our own deadline covers commands that were written too; theirs makes an AbortSignal for each command.
    commandOptions: { timeout: 0 },
    socket: { connectTimeout: timeout, reconnectStrategy: false },
  })
  let ended = false
  let late: (() => void)[] = []
  let turning = false

  /**
   * The driver writes in a setImmediate of its own, and reads the words of a command only then. This one is asked for
   * before each command and so runs first: words can be made at the last moment, without a turn of the loop more,
   * which cost 7 % of the requests per second of a server that waits for each decision.
   */
  function endOfTurn(): void {
    if (turning) return
    turning = true
    setImmediate(() => {
      turning = false
      const due = late
      late = []
      for (const each of due) each()
    })
  }

  const connection: Connection = {
    send(command) {
      endOfTurn()
      return client.sendCommand([...command])
    },
    sendLate(words) {
      endOfTurn()
      const command: string[] = [...placeholder]
      late.push(() => command.splice(0, command.length, ...words()))
      // After a socket that took no more the driver writes when it drains, and that can be before the words are made.
      return client.sendCommand(command).then((reply: unknown) => (reply === early ? client.sendCommand(command) : reply))
    },
    end() {
      ended = true
      client.destroy()
    },
  }
  client.on('error', (error: unknown) => {
    if (!ended) lost(connection, error)
  })
  try {
    await within(timeout, client.connect())
  } catch (error) {
    connection.end()
    throw error
  }
  return connection
}

/**
 * A small write: a server that is full, loading, or a replica by now answers PING all the same.
 * @returns milliseconds it took
 */
export async function probe(connection: Connection, name: string, timeout: number): Promise<number> {
  const started = performance.now()
  await within(timeout, connection.send(['SET', `${name}:probe`, '1', 'PX', '10000']), 'silent')
  return performance.now() - started
}

/**
 * The result, or a refusal after the time.
 * @param word what the refusal says: `timeout`, or `silent` for a server that is given up
 */
export function within<T>(milliseconds: number, work: Promise<T>, word = 'timeout'): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    // A loop that was held up runs its timers before it reads what has arrived meanwhile: that must not look like an outage.
    const late = setTimeout(() => setImmediate(() => reject(new Refusal('redis_unavailable', { detail: word }))), milliseconds)
    work.then(
      (value) => {
        clearTimeout(late)
        resolve(value)
      },
      (error: unknown) => {
        clearTimeout(late)
        reject(error instanceof Error ? error : new Error('redis: the driver threw something else than an error'))
      },
    )
  })
}

/** Why, in one word: the first of an error reply, the code of a socket error, or ours. Never the message, which may repeat what was sent. */
export function reasonOf(error: unknown): string {
  if (error instanceof Refusal) return error.detail ?? 'away'
  if (error instanceof ErrorReply) return /^[A-Z]{2,20}/.exec(error.message)?.[0] ?? 'refused'
  const code = (error as { readonly code?: unknown } | null)?.code
  if (typeof code === 'string' && /^[A-Z_0-9]{2,50}$/.test(code)) return code
  return 'closed'
}
