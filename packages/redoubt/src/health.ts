import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Emit } from './events.ts'
import { announcesBody } from './http/body.ts'

/** One thing that must work before requests are taken. */
export type Check = {
  /** Shown to the public: database, migrations, keys. Small letters and dashes. */
  readonly name: string
  /** Resolves when it works, throws when it does not. The signal is aborted at the timeout. */
  readonly run: (signal: AbortSignal) => Promise<unknown>
  /** Milliseconds after which it counts as failed. */
  readonly timeout: number
  /** Its failure is shown as `degraded` and keeps nobody from being ready: something else does its work meanwhile. */
  readonly degrades?: true
  /** Milliseconds for which it is not asked again while it works, where asking has a price. Default 0. */
  readonly every?: number
}

export type Verdict = 'ok' | 'degraded' | 'failed'
export type HealthReport = { readonly status: 'ok' | 'failed'; readonly checks: Readonly<Record<string, Verdict>> }

export type Health = {
  /** The process can answer: no dependency is asked, or a slow database would have every instance restarted. */
  live(): HealthReport
  /** Everything it needs works, and it is not stopping. */
  ready(): Promise<HealthReport>
  /** It has been ready once (Kubernetes startup probe): later failures are the ready probe's. */
  startup(): Promise<HealthReport>
  /** From now on not ready, so that the proxy sends no new requests while the old ones are finished. */
  stopping(): void
  /** Answers GET and HEAD of /health/live, /health/ready and /health/startup without a body; everything else goes on. */
  handle(request: IncomingMessage, response: ServerResponse, next: () => void): void
}

/** Checks do not run more often than this (ms): anybody may ask, and each asking would cost the database a query. */
const fresh = 1_000

/**
 * A check with its bound. While one run hangs, no second one is started: a probe every few seconds would otherwise
 * take one connection after the other from the pool.
 */
function bounded(check: Check, emit: Emit, now: () => number): () => Promise<Verdict> {
  const { every = 0 } = check
  let hanging = false
  let worked = -Infinity
  let last: Verdict | null = null

  async function verdict(): Promise<Verdict> {
    if (hanging) return check.degrades === true ? 'degraded' : 'failed'
    const asked = now()
    if (last === 'ok' && asked - worked < every) return 'ok'
    hanging = true
    const limit = AbortSignal.timeout(check.timeout)
    const late = new Promise<never>((_, reject) => {
      limit.addEventListener('abort', () => reject(new Error(`health: ${check.name} did not answer in time`)), { once: true })
    })
    const work = (async () => {
      try {
        await check.run(limit)
      } finally {
        hanging = false
      }
    })()
    try {
      await Promise.race([work, late])
      if (last === 'failed') emit({ type: 'health.recovered', check: check.name })
      worked = asked
      return (last = 'ok')
    } catch (error) {
      if (last !== 'failed') emit({ type: 'health.failed', check: check.name, error })
      last = 'failed'
      return check.degrades === true ? 'degraded' : 'failed'
    }
  }
  return verdict
}

function report(checks: Readonly<Record<string, Verdict>>): HealthReport {
  return { status: Object.values(checks).every((verdict) => verdict !== 'failed') ? 'ok' : 'failed', checks }
}

function answer(request: IncomingMessage, response: ServerResponse, found: HealthReport): void {
  const body = JSON.stringify(found)
  response.writeHead(found.status === 'ok' ? 200 : 503, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
  })
  response.end(request.method === 'HEAD' ? undefined : body)
}

/**
 * Health of one instance. The public learns the names of the checks and ok, degraded or failed; why stands in the log.
 * @param options.checks what `ready` asks, all at the same time
 * @param options.now clock in milliseconds
 * @throws TypeError when two checks share a name, a name is not small letters and dashes, a timeout is not 1 to 30000, or every not 0 to 60000
 */
export function openHealth(options: { readonly checks: readonly Check[]; readonly emit: Emit; readonly now?: () => number }): Health {
  const names = new Set<string>()
  for (const { name, timeout, every = 0 } of options.checks) {
    if (!/^[a-z][a-z-]{1,30}$/.test(name) || names.has(name)) throw new TypeError('openHealth: check names must be small letters and dashes, each once')
    if (!(timeout >= 1 && timeout <= 30_000)) throw new TypeError(`openHealth: timeout of ${name} must be 1 to 30000 milliseconds`)
    if (!(every >= 0 && every <= 60_000)) throw new TypeError(`openHealth: every of ${name} must be 0 to 60000 milliseconds`)
    names.add(name)
  }
  const now = options.now ?? ((): number => performance.now())
  const runs = options.checks.map((check) => ({ name: check.name, run: bounded(check, options.emit, now) }))
  let asked: Promise<HealthReport> | null = null
  /** When the last answer came; Infinity while one is awaited, which everybody who asks meanwhile shares. */
  let answered = -Infinity
  let started = false
  let stops = false

  async function runAll(): Promise<HealthReport> {
    const verdicts = await Promise.all(runs.map(async ({ name, run }) => [name, await run()] as const))
    const found = report(Object.fromEntries(verdicts))
    if (found.status === 'ok') started = true
    answered = now()
    return found
  }

  const health: Health = {
    live: () => report({}),
    async ready() {
      if (asked === null || now() - answered >= fresh) {
        answered = Infinity
        asked = runAll()
      }
      const found = await asked
      return stops ? report({ ...found.checks, stopping: 'failed' }) : found
    },
    async startup() {
      if (!started) await health.ready()
      return report({ started: started ? 'ok' : 'failed' })
    },
    stopping() {
      stops = true
    },
    handle(request, response, next) {
      const path = request.url?.split('?', 1)[0]
      // A probe has no body. One that announces it may be a smuggler's: the perimeter looks at its framing, and knows no such path.
      if ((request.method !== 'GET' && request.method !== 'HEAD') || announcesBody(request)) return next()
      if (path === '/health/live') return answer(request, response, health.live())
      if (path === '/health/ready') return void health.ready().then((found) => answer(request, response, found))
      if (path === '/health/startup') return void health.startup().then((found) => answer(request, response, found))
      next()
    },
  }
  return health
}
