import { randomUUID } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { bodyOf, jsonOf, listen, type Certificate } from './http-server.ts'
import { transit, VaultError } from './vault-transit.ts'

type Body = Readonly<Record<string, unknown>>
type Token = { readonly policies: readonly string[]; readonly explicitMax: number; readonly created: number; readonly period: number; expires: number; readonly renewable: boolean }

export type FakeVault = {
  readonly origin: string
  /** Method and path of every request, with the token it came with. */
  readonly requests: { readonly method: string; readonly path: string; readonly token: string | undefined }[]
  /** Milliseconds that the server's clock is ahead: lets leases run out. */
  advance(milliseconds: number): void
  /** Lifetime of tokens made from now on, in seconds. */
  lease(ttl: number, max: number): void
  /** Paths below /v1/ (a trailing * is open) with capabilities, for tokens of sign-ins made from now on. */
  policy(rules: Readonly<Record<string, readonly string[]>>): void
  seal(sealed: boolean): void
  /** A rate limit quota that is used up. */
  throttle(on: boolean): void
  /** A token made by an operator. ttl 0 never ends. */
  token(options: { readonly policies?: readonly string[]; readonly ttl?: number; readonly max?: number }): string
  /** Takes all tokens away. */
  revokeAll(): void
  /** A wrapping token for the secret id, for one opening. */
  wrapSecretId(): string
  readonly roleId: string
  readonly secretId: string
  /** The service account token that the Kubernetes method accepts for the role `redoubt`. */
  readonly jwt: string
  /** What an operator does with Transit. */
  transit(method: string, path: string, body?: Body): Body | null
  close(): Promise<void>
}

const usual = { 'transit/datakey/plaintext/*': ['update'], 'transit/encrypt/*': ['update'], 'transit/decrypt/*': ['update'], 'transit/rewrap/*': ['update'], 'transit/keys/*': ['read'] }
const denied = (): VaultError => new VaultError(403, '1 error occurred:\n\t* permission denied\n\n')

/**
 * The part of Vault's HTTP API that a Transit client meets, as documented: envelope of answers, error bodies, status
 * codes, policies, token lives, AppRole and Kubernetes sign-in, namespaces, seal, quota.
 */
export async function startVault(options: { readonly namespace?: string; readonly certificate?: Certificate } = {}): Promise<FakeVault> {
  let ahead = 0
  const now = (): number => Date.now() + ahead
  const engine = transit(now)
  const tokens = new Map<string, Token>()
  const wrapped = new Map<string, string>()
  const requests: FakeVault['requests'] = []
  const [roleId, secretId, jwt] = [randomUUID(), randomUUID(), `header.${randomUUID()}.signature`]
  let [ttl, max, sealed, throttled] = [3600, 86_400, false, false]
  let rules: Readonly<Record<string, readonly string[]>> = usual

  function made(policies: readonly string[], seconds: number, most: number, renewable: boolean): { readonly id: string; readonly token: Token } {
    const id = `hvs.${randomUUID()}`
    const token = { policies, created: now(), explicitMax: most * 1000, period: seconds, expires: seconds === 0 ? Number.POSITIVE_INFINITY : now() + seconds * 1000, renewable }
    tokens.set(id, token)
    return { id, token }
  }

  function authOf(policies: readonly string[]): Body {
    const { id } = made(policies, ttl, max, true)
    return { client_token: id, accessor: randomUUID(), policies: ['default', ...policies], token_policies: ['default', ...policies], metadata: {}, lease_duration: ttl, renewable: true, entity_id: randomUUID(), token_type: 'service', orphan: true, num_uses: 0 }
  }

  function capabilities(path: string, policies: readonly string[]): readonly string[] {
    if (policies.includes('root')) return ['create', 'read', 'update', 'delete', 'sudo']
    return Object.entries(rules).find(([rule]) => (rule.endsWith('*') ? path.startsWith(rule.slice(0, -1)) : path === rule))?.[1] ?? []
  }

  function signIn(path: string, body: Body): { readonly auth: Body } | undefined {
    if (path === 'auth/approle/login') {
      if (typeof body['role_id'] !== 'string') throw new VaultError(400, 'missing role_id')
      if (body['role_id'] !== roleId || body['secret_id'] !== secretId) throw new VaultError(400, 'invalid role or secret ID')
      return { auth: authOf(['redoubt']) }
    }
    if (path === 'auth/kubernetes/login') {
      if (body['role'] !== 'redoubt') throw new VaultError(400, `invalid role name ${JSON.stringify(body['role'])}`)
      if (body['jwt'] !== jwt) throw new VaultError(403, 'permission denied')
      return { auth: authOf(['redoubt']) }
    }
    return undefined
  }

  function ofToken(method: string, path: string, id: string, token: Token): Body | undefined {
    if (`${method} ${path}` === 'GET auth/token/lookup-self') {
      const left = token.expires === Number.POSITIVE_INFINITY ? 0 : Math.floor((token.expires - now()) / 1000)
      return { data: { id, ttl: left, creation_ttl: token.period, policies: token.policies, renewable: token.renewable, explicit_max_ttl: token.explicitMax / 1000, expire_time: left === 0 ? null : new Date(token.expires).toISOString(), num_uses: 0, type: 'service' } }
    }
    if (`${method} ${path}` === 'POST auth/token/renew-self') {
      if (!token.renewable) throw new VaultError(400, 'lease is not renewable')
      const left = Math.min(token.period * 1000, token.created + token.explicitMax - now())
      token.expires = now() + left
      return { auth: { client_token: id, accessor: randomUUID(), policies: token.policies, token_policies: token.policies, metadata: {}, lease_duration: Math.floor(left / 1000), renewable: true, entity_id: '', token_type: 'service', orphan: true, num_uses: 0 } }
    }
    return undefined
  }

  function routed(method: string, path: string, headers: IncomingHttpHeaders, body: Body): Body | null {
    if (sealed) throw new VaultError(503, 'Vault is sealed')
    if (throttled) throw new VaultError(429, `request path "${path}": rate limit quota exceeded`)
    const signedIn = method === 'POST' ? signIn(path, body) : undefined
    if (signedIn !== undefined) return signedIn
    const bearer = /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1]
    const id = headers['x-vault-token']?.toString() ?? bearer
    if (path === 'sys/wrapping/unwrap' && method === 'POST') {
      const secret = wrapped.get(id ?? '')
      if (secret === undefined) throw new VaultError(400, 'wrapping token is not valid or does not exist')
      wrapped.delete(id ?? '')
      return { data: { secret_id: secret, secret_id_accessor: randomUUID(), secret_id_ttl: 0, secret_id_num_uses: 0 } }
    }
    const token = id === undefined ? undefined : tokens.get(id)
    if (id === undefined || token === undefined || token.expires <= now()) throw new VaultError(403, '2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n')
    const own = ofToken(method, path, id, token)
    if (own !== undefined) return own
    const may = capabilities(path, token.policies)
    const needed = method === 'GET' ? 'read' : method === 'DELETE' ? 'delete' : 'update'
    if (!may.includes(needed)) throw denied()
    if (!path.startsWith('transit/')) throw new VaultError(404, `no handler for route "${path}". route entry not found.`)
    const data = engine.handle(method, path.slice('transit/'.length), body, may.includes('create'))
    return data === null ? null : { data }
  }

  const server = await listen(async (request, response) => {
    const body = jsonOf(await bodyOf(request))
    // PUT and POST are one.
    const method = request.method === 'PUT' ? 'POST' : (request.method ?? '')
    let path = decodeURIComponent((request.url ?? '').replace(/^\/v1\//, '').replace(/\?.*$/, ''))
    requests.push({ method, path, token: request.headers['x-vault-token']?.toString() })
    const say = (status: number, answer: Body | null): void => {
      const text = answer === null ? '' : `${JSON.stringify(answer)}\n`
      response.writeHead(status, { 'cache-control': 'no-store', ...(text === '' ? {} : { 'content-type': 'application/json' }) })
      response.end(text)
    }
    try {
      if (body === null) throw new VaultError(400, 'error parsing JSON')
      const given = `${request.headers['x-vault-namespace']?.toString() ?? ''}/`.replace(/^\/|\/\/$/g, '').replace(/\/*$/, '/')
      if (options.namespace !== undefined) {
        const wanted = `${options.namespace}/`
        if (path.startsWith(wanted)) path = path.slice(wanted.length)
        else if (given !== wanted) throw denied()
      } else if (given !== '/' && given !== '') throw new VaultError(404, `no handler for route "${path}". route entry not found.`)
      const answer = routed(method, path, request.headers, body)
      const envelope = { request_id: randomUUID(), lease_id: '', renewable: false, lease_duration: 0, data: null, wrap_info: null, warnings: null, auth: null }
      say(answer === null ? 204 : 200, answer === null ? null : { ...envelope, ...answer })
    } catch (error) {
      if (!(error instanceof VaultError)) throw error
      say(error.status, { errors: error.errors })
    }
  }, options.certificate)

  return {
    origin: server.origin,
    requests,
    roleId,
    secretId,
    jwt,
    advance: (milliseconds) => void (ahead += milliseconds),
    lease: (seconds, most) => void ([ttl, max] = [seconds, most]),
    policy: (given) => void (rules = given),
    seal: (to) => void (sealed = to),
    throttle: (to) => void (throttled = to),
    token: ({ policies = ['redoubt'], ttl: seconds = 3600, max: most = 86_400 }) => made(policies, seconds, most, seconds > 0).id,
    revokeAll: () => tokens.clear(),
    wrapSecretId() {
      const id = `hvs.wrap.${randomUUID()}`
      wrapped.set(id, secretId)
      return id
    },
    transit: (method, path, body = {}) => engine.handle(method, path, body, true),
    close: () => server.close(),
  }
}
