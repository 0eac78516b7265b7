import { readFile } from 'node:fs/promises'
import { openRenewal } from './resilience.ts'
import { KeyServiceTrouble } from './trouble.ts'
import { VaultAnswer, vaultTrouble, type VaultConnection, type VaultReply } from './vault-http.ts'

/** How we sign in to Vault. Files are read anew at each sign-in: agents and clusters replace their content. */
export type VaultSignIn =
  /** A token somebody else made; given itself only outside production. It is renewed, but cannot be replaced. */
  | { readonly method: 'token'; readonly token: string }
  /** The file that an agent keeps a token in. */
  | { readonly method: 'token-file'; readonly file: string }
  /** `wrapped`: the file holds a wrapping token, opened once; a second opening by anybody shows as a refusal. */
  | { readonly method: 'approle'; readonly roleId: string; readonly secretIdFile: string; readonly wrapped?: boolean; readonly mount?: string }
  /** The service account token of a pod; also the JWT method under its own mount. */
  | { readonly method: 'kubernetes'; readonly role: string; readonly jwtFile?: string; readonly mount?: string }

export type VaultToken = {
  /** Runs a request with a token that is valid; after a 403 signs in again and repeats it, once. */
  using<T>(signal: AbortSignal, work: (token: string) => Promise<T>): Promise<T>
  close(): void
}

export type VaultTimers = {
  /** Monotonic milliseconds. */
  readonly clock: () => number
  /** From 0 to 1. */
  readonly random: () => number
  /** Calls back once; gives what takes it back. */
  readonly after: (milliseconds: number, then: () => void) => () => void
}

/** A token refused so soon after sign-in was not too old: the policy denies, and a new token would be denied as well. */
const settling = 10_000
const mostSignIn = 10_000
const kubernetesFile = '/var/run/secrets/kubernetes.io/serviceaccount/token'

type Held = { readonly token: string; readonly since: number; readonly ttl: number; readonly renewable: boolean }

function textOf(value: unknown): string {
  if (typeof value !== 'string' || value === '') throw new KeyServiceTrouble('garbled')
  return value
}

function secondsOf(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value * 1000 : 0
}

async function fileOf(path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '')
  if (text.trim() === '') throw new KeyServiceTrouble('identity')
  return text.trim()
}

/** No 4xx of a sign-in passes by itself; 429 and a sealed Vault do. */
function signInTrouble(error: unknown): unknown {
  return error instanceof VaultAnswer && [400, 403, 404, 405].includes(error.status) ? new KeyServiceTrouble('identity') : error
}

/**
 * Keeps a token of Vault valid: renewed at two thirds of its life, give or take a tenth, so that processes started
 * together do not renew together; at the end of its longest life, or when it is refused, a new sign-in. One sign-in or
 * renewal at a time, and one for all calls that wait for it.
 * @param production refuses the root token
 */
export function openVaultToken(connection: VaultConnection, signIn: VaultSignIn, production: boolean, timers: VaultTimers): VaultToken {
  const { clock, random, after } = timers
  const closing = new AbortController()
  let held: Held | null = null
  let cancel = (): void => undefined
  let secretId: string | null = null

  // Not bound to the patience of one call: others wait for the same sign-in.
  const bounded = (): AbortSignal => AbortSignal.any([closing.signal, AbortSignal.timeout(mostSignIn)])
  const post = (path: string, body: Readonly<Record<string, unknown>>, token?: string): Promise<VaultReply> =>
    connection.send({ method: 'POST', path, body, signal: bounded(), ...(token === undefined ? {} : { token }) })

  async function secretOf(file: string, wrapped: boolean): Promise<string> {
    if (!wrapped) return fileOf(file)
    secretId ??= textOf((await post('sys/wrapping/unwrap', {}, await fileOf(file))).data['secret_id'])
    return secretId
  }

  async function login(): Promise<Held> {
    const since = clock()
    if (signIn.method === 'token' || signIn.method === 'token-file') {
      const token = signIn.method === 'token' ? signIn.token : await fileOf(signIn.file)
      const { data } = await connection.send({ method: 'GET', path: 'auth/token/lookup-self', token, signal: bounded() })
      const policies = data['policies']
      if (production && Array.isArray(policies) && policies.includes('root')) throw new KeyServiceTrouble('identity')
      return { token, since, ttl: secondsOf(data['ttl']), renewable: data['renewable'] === true }
    }
    const { auth } =
      signIn.method === 'approle'
        ? await post(`auth/${signIn.mount ?? 'approle'}/login`, { role_id: signIn.roleId, secret_id: await secretOf(signIn.secretIdFile, signIn.wrapped ?? false) })
        : await post(`auth/${signIn.mount ?? 'kubernetes'}/login`, { role: signIn.role, jwt: await fileOf(signIn.jwtFile ?? kubernetesFile) })
    return { token: textOf(auth['client_token']), since, ttl: secondsOf(auth['lease_duration']), renewable: auth['renewable'] === true }
  }

  async function signedIn(): Promise<void> {
    cancel()
    try {
      held = await login()
    } catch (error) {
      held = null
      throw signInTrouble(error)
    }
    plan(held, held.ttl)
  }

  /** A ttl of 0 never ends. */
  function plan(of: Held, granted: number): void {
    if (of.ttl === 0 || closing.signal.aborted) return
    cancel = after(of.ttl * (2 / 3 + (random() - 0.5) / 5), () => void renew(of, granted).catch(() => undefined))
  }

  /** @param granted what the sign-in gave; a renewal that gives clearly less has met the longest life of the token */
  async function renew(of: Held, granted: number): Promise<void> {
    if (of !== held) return
    if (!of.renewable || of.ttl < granted * 0.9) return renewal.renewed(renewal.round())
    const since = clock()
    try {
      const { auth } = await post('auth/token/renew-self', { increment: `${Math.round(granted / 1000)}s` }, of.token)
      if (of !== held) return
      held = { ...of, since, ttl: secondsOf(auth['lease_duration']), renewable: auth['renewable'] === true }
      plan(held, granted)
    } catch (error) {
      if (of !== held) return
      if (vaultTrouble(error) === 'denied') return renewal.renewed(renewal.round())
      // Vault is away: what is left of the life is for trying again; after that the next call signs in.
      const left = of.since + of.ttl - clock()
      if (left > 1_000) cancel = after(left * (0.2 + random() / 5), () => void renew(of, granted).catch(() => undefined))
    }
  }

  const renewal = openRenewal(signedIn)
  const alive = (): Held | null => (held !== null && (held.ttl === 0 || clock() < held.since + held.ttl) ? held : null)

  /** Waits for the common sign-in no longer than its own call may take. */
  async function tokenNow(signal: AbortSignal): Promise<Held> {
    const known = alive()
    if (known !== null) return known
    const over = Promise.withResolvers<never>()
    const end = (): void => over.reject(signal.reason)
    signal.addEventListener('abort', end, { once: true })
    try {
      await Promise.race([renewal.renewed(renewal.round()), over.promise])
    } finally {
      signal.removeEventListener('abort', end)
    }
    if (held === null) throw new KeyServiceTrouble('identity')
    return held
  }

  return {
    async using(signal, work) {
      const with_ = await tokenNow(signal)
      try {
        return await work(with_.token)
      } catch (error) {
        if (!(error instanceof VaultAnswer) || error.status !== 403) throw error
        if (held === with_) {
          if (clock() - with_.since < settling) throw error
          held = null
        }
        return work((await tokenNow(signal)).token)
      }
    },
    close() {
      cancel()
      held = null
      closing.abort(new DOMException('closed', 'AbortError'))
    },
  }
}
