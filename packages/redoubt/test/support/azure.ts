import { randomUUID } from 'node:crypto'
import { AzureError, described, newVersion, operate, type Key, type Version } from './azure-keys.ts'
import { bodyOf, jsonOf, listen, type Certificate } from './http-server.ts'

export type FakeAzure = {
  readonly origin: string
  /** What a platform sets for an app with a managed identity. */
  readonly identity: { readonly IDENTITY_ENDPOINT: string; readonly IDENTITY_HEADER: string }
  readonly requests: { readonly method: string; readonly path: string; readonly authorized: boolean; readonly length: number }[]
  tokens(): number
  create(name: string, kind: 'RSA' | 'EC'): void
  /** A new version, as a rotation makes it; the older ones stay. */
  rotate(name: string): void
  newest(name: string): Version
  delete(name: string, deleted: boolean): void
  close(): Promise<void>
}

const challenge = 'Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-000000000001", resource="https://vault.azure.net"'

/**
 * A Key Vault with the keys API as documented, and beside it the endpoint that gives tokens to a managed identity:
 * challenge authentication, versioned key ids, base64url, error bodies. It stands in where Lowkey Vault is missing.
 */
export async function startAzure(certificate: Certificate): Promise<FakeAzure> {
  const keys = new Map<string, Key>()
  const requests: FakeAzure['requests'] = []
  /** When each token given out ends, in milliseconds. */
  const valid = new Map<string, number>()
  const header = randomUUID()
  let given = 0

  const found = (name: string): Key => {
    const key = keys.get(name.toLowerCase())
    if (key === undefined || key.deleted) {
      throw new AzureError(404, 'KeyNotFound', `A key with (name/id) ${name} was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command.`)
    }
    return key
  }
  const versionOf = (key: Key, version: string): Version => {
    const one = version === '' ? key.versions.at(-1) : key.versions.find((other) => other.version === version)
    if (one === undefined) throw new AzureError(404, 'KeyNotFound', `A key with (name/id) ${key.name}/${version} was not found in this key vault.`)
    return one
  }

  const stub = await listen(async (request, response) => {
    const url = new URL(request.url ?? '/', 'http://127.0.0.1')
    await bodyOf(request)
    if (request.headers['x-identity-header'] !== header || url.searchParams.get('resource')?.replace(/\/$/, '') !== 'https://vault.azure.net') {
      response.writeHead(400, { 'content-type': 'application/json' }).end('{"error":"invalid_request"}')
      return
    }
    given++
    const token = `ey.${randomUUID()}`
    const ends = Math.floor(Date.now() / 1000) + 3600
    valid.set(token, ends * 1000)
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ access_token: token, client_id: randomUUID(), expires_on: String(ends), resource: 'https://vault.azure.net', token_type: 'Bearer' }))
  })

  const server = await listen(async (request, response) => {
    const body = await bodyOf(request)
    const url = new URL(request.url ?? '/', 'https://localhost')
    const method = request.method ?? ''
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1] ?? ''
    const authorized = (valid.get(token) ?? 0) > Date.now()
    requests.push({ method, path: url.pathname, authorized, length: body.length })
    const say = (status: number, answer: unknown, headers: Readonly<Record<string, string>> = {}): void => {
      response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'x-ms-request-id': randomUUID(), ...headers }).end(JSON.stringify(answer))
    }
    try {
      if (!authorized) {
        return say(401, { error: { code: 'Unauthorized', message: 'AKV10000: Request is missing a Bearer or PoP token.' } }, { 'www-authenticate': challenge })
      }
      if (url.searchParams.get('api-version') === null) throw new AzureError(400, 'BadParameter', 'api-version must be specified')
      const [, collection, name = '', version = '', operation] = url.pathname.split('/')
      if (collection !== 'keys') throw new AzureError(404, 'NotFound', 'No such route')
      const key = found(name)
      if (method === 'GET' && operation === undefined) return say(200, described(server.origin, key, versionOf(key, version)))
      const parsed = jsonOf(body)
      if (method !== 'POST' || operation === undefined || parsed === null) throw new AzureError(400, 'BadParameter', 'The request is malformed')
      return say(200, operate(server.origin, key, versionOf(key, version), operation.toLowerCase(), parsed))
    } catch (error) {
      if (!(error instanceof AzureError)) throw error
      say(error.status, { error: { code: error.code, message: error.message, ...(error.inner === undefined ? {} : { innererror: { code: error.inner } }) } })
    }
  }, certificate)

  return {
    origin: server.origin,
    identity: { IDENTITY_ENDPOINT: `${stub.origin}/metadata/identity/oauth2/token`, IDENTITY_HEADER: header },
    requests,
    tokens: () => given,
    create: (name, kind) => void keys.set(name, { name, kind, versions: [newVersion(kind)], deleted: false }),
    rotate(name) {
      const key = found(name)
      key.versions.push(newVersion(key.kind))
    },
    newest: (name) => versionOf(found(name), ''),
    delete(name, deleted) {
      const key = keys.get(name)
      if (key !== undefined) key.deleted = deleted
    },
    async close() {
      await server.close()
      await stub.close()
    },
  }
}
