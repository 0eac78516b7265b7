import { createHash } from 'node:crypto'
import { ErrorReply } from '@redis/client'
import { Refusal } from './errors.ts'
import type { Emit } from './events.ts'
import { connectRedis, probe, reasonOf, within, type Connection } from './redis/connection.ts'

/** A script and the name Redis knows it by. */
export type Script = { readonly text: string; readonly sha: string }

/** What a script is run with. */
export type Words = { readonly keys: readonly string[]; readonly args: readonly string[] }

export type Redis = {
  /** `up`: it answered the last time, in time. While `down`, nothing is sent and nobody waits. */
  readonly state: 'up' | 'down'
  /**
   * Runs a script by EVALSHA, by EVAL where Redis does not know it yet; both within one timeout.
   * @throws Refusal redis_unavailable, at once while it is down, else after the timeout at the latest
   */
  run(script: Script, keys: readonly string[], args: readonly string[]): Promise<unknown>
  /**
   * The same with words that are asked for at the end of this turn of the loop, just before they are written: what is
   * asked in one turn can share a command.
   */
  runLate(script: Script, words: () => Words): Promise<unknown>
  /** Resolves when the first try to connect has ended, well or not. Never rejects. */
  readonly tried: Promise<void>
  /** For health. @throws Refusal redis_unavailable while it is down */
  check(): Promise<void>
  close(): void
}

/**
 * Milliseconds by which the deadline of a command comes before `timeout`, so that nobody waits longer than that: a timer of
 * Node comes up to two late, and the turn of the loop in which it comes takes its time.
 */
const timerSlack = 4

/** @param text Lua; it must touch only the keys it is given */
export function defineScript(text: string): Script {
  return Object.freeze({ text, sha: createHash('sha1').update(text).digest('hex') })
}

function bounded(name: string, value: number, least: number, most: number): number {
  if (!Number.isInteger(value) || value < least || value > most) throw new TypeError(`openRedis: ${name} must be a whole number from ${least} to ${most}`)
  return value
}

/**
 * The one door to Redis or Valkey (6 or newer; a primary, not a cluster). Counters and cache live there, never a fact:
 * its absence is an ordinary state and no error. A command that takes longer than `timeout` closes the door for
 * everybody: until a small write has come back in time, `run` refuses at once. So whoever asks in that moment waits
 * once, nobody waits twice, and nothing queues up for a server that is away.
 * @param options.url redis:// or rediss://, with user, password and database
 * @param options.timeout milliseconds for a command, default 50
 * @param options.connectTimeout milliseconds for a connection with TLS and sign-in, default 1,000
 * @param options.name of the service: its keys and its connection are called so
 * @throws TypeError when an option is not usable
 */
export function openRedis(options: { readonly url: string; readonly name: string; readonly timeout?: number; readonly connectTimeout?: number; readonly emit: Emit }): Redis {
  const { url, name, emit } = options
  if (!/^rediss?:\/\//.test(url) || !URL.canParse(url)) throw new TypeError('openRedis: url must be redis:// or rediss://')
  if (!/^[a-z][a-z0-9-]{0,31}$/.test(name)) throw new TypeError('openRedis: name must be small letters, digits and dashes')
  const timeout = bounded('timeout', options.timeout ?? 50, 1, 10_000)
  const connectTimeout = bounded('connectTimeout', options.connectTimeout ?? 1_000, 10, 60_000)

  const deadline = Math.max(timeout - timerSlack, 1)
  let connection: Connection | undefined
  let state: 'up' | 'down' = 'down'
  let since = performance.now()
  let told = false
  let closed = false
  let mending = false
  let timer: NodeJS.Timeout | undefined
  let wake: (() => void) | undefined
  let firstTry: () => void = () => undefined
  const tried = new Promise<void>((resolve) => (firstTry = resolve))

  function down(error: unknown): void {
    if (closed) return
    if (state === 'up') since = performance.now()
    state = 'down'
    if (!told) emit({ type: 'redis.down', reason: reasonOf(error) })
    told = true
  }

  function forget(): void {
    connection?.end()
    connection = undefined
  }

  /** Connects and probes until a write comes back in time; the pauses grow to two seconds, each with jitter. */
  async function mend(): Promise<void> {
    if (mending) return
    mending = true
    for (let attempt = 0; !closed; attempt++) {
      try {
        connection ??= await connectRedis({ url, name, timeout: connectTimeout, lost: (which, error) => lost(which, error) })
        if (closed) break
        // A late answer keeps the connection and the door closed; none at all means another connection.
        const took = await probe(connection, name, connectTimeout)
        if (took > timeout) throw new Refusal('redis_unavailable', { detail: 'slow' })
        state = 'up'
        told = false
        emit({ type: 'redis.up', milliseconds: Math.round(performance.now() - since) })
        break
      } catch (error) {
        down(error)
        if (!keeps(error)) forget()
      }
      firstTry()
      await new Promise<void>((resolve) => {
        wake = resolve
        timer = setTimeout(resolve, Math.min(100 * 2 ** attempt, 2_000) * (0.5 + Math.random()))
        timer.unref()
      })
    }
    mending = false
    firstTry()
    if (closed) forget()
  }

  function lost(which: Connection, error: unknown): void {
    if (which !== connection) return
    down(error)
    forget()
    void mend()
  }

  /** Waits for an answer, and closes the door to all when there is none in time. */
  function inTime(script: Script, asked: (to: Connection) => Promise<unknown>, rest: () => readonly string[]): Promise<unknown> {
    const to = connection
    if (state !== 'up' || to === undefined) return Promise.reject(new Refusal('redis_unavailable'))
    return within(deadline, asked(to).catch((error: unknown) => {
      if (error instanceof ErrorReply && error.message.startsWith('NOSCRIPT')) return to.send(['EVAL', script.text, ...rest()])
      throw error
    })).catch((error: unknown) => {
      if (to === connection && !closed) {
        down(error)
        if (!keeps(error)) forget()
        void mend()
      }
      throw new Refusal('redis_unavailable', { detail: reasonOf(error) })
    })
  }

  void mend()
  return {
    get state() {
      return state
    },
    tried,
    run(script, keys, args) {
      const rest = [String(keys.length), ...keys, ...args]
      return inTime(script, (to) => to.send(['EVALSHA', script.sha, ...rest]), () => rest)
    },
    runLate(script, words) {
      let rest: readonly string[] = []
      const made = (): readonly string[] => {
        const { keys, args } = words()
        rest = [String(keys.length), ...keys, ...args]
        return ['EVALSHA', script.sha, ...rest]
      }
      return inTime(script, (to) => to.sendLate(made), () => rest)
    },
    async check() {
      await tried
      if (state !== 'up') throw new Refusal('redis_unavailable')
    },
    close() {
      closed = true
      state = 'down'
      clearTimeout(timer)
      wake?.()
      forget()
    },
  }
}

/** Whether the connection may still be good: the server answered, late or with a refusal that passes. */
function keeps(error: unknown): boolean {
  return ['slow', 'timeout', 'LOADING', 'OOM', 'MISCONF', 'BUSY', 'NOREPLICAS'].includes(reasonOf(error))
}
