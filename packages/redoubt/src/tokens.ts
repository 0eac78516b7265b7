import { sign, verify } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { saltBytes } from './bytes.ts'
import { Refusal } from './errors.ts'
import { twoGenerations } from './tokens/cache.ts'
import { algorithm, headerOf, readClaims } from './tokens/claims.ts'
import type { Claims } from './tokens/claims.ts'

/** domain.md, numbers to pin: seconds an access token lives. */
export const accessTokenSeconds = 600
/** Seconds two clocks may differ. */
export const allowedSkewSeconds = 30
/** Characters of the longest token that is looked at. */
const longestToken = 4096
// 64 bytes; the last character carries two bits, so that one signature has one text.
const signatureForm = /^[A-Za-z0-9_-]{85}[AQgw]$/

export type TokenKey = {
  /** Exact name of the key in the token's header; letters, digits, dashes. */
  readonly kid: string
  readonly publicKey: KeyObject
  /** Left out for keys that only verify: the previous one, or another service's. */
  readonly privateKey?: KeyObject
}

export type Tokens = {
  /** A new access token for a person, or an API client, whose session stands, and the seconds it lives. */
  issue(person: {
    readonly actor: string
    readonly session: string
    readonly role: string
    readonly tenant: string
    readonly client?: { readonly scopes: readonly string[]; readonly networks: readonly string[] }
  }): { readonly token: string; readonly expiresIn: number }
  /** @throws Refusal unauthenticated, whatever is wrong: the sender learns no more than that */
  verify(token: string): Claims
  /**
   * Works with other keys from now on, without a restart (tokens/keys: `followKeys`). Tokens of a key that is not among
   * them are refused at once.
   */
  use(keys: readonly TokenKey[]): void
  /**
   * The session a token was issued for, though its time is over; undefined where it is not ours. It opens nothing: the
   * CSRF token of a refresh is bound to this session.
   */
  sessionOf(token: string): string | undefined
  /** The JSON Web Key Set for /.well-known/jwks.json (RFC 7517, RFC 8037): public parts only. */
  jwks(): { readonly keys: readonly Readonly<Record<string, string>>[] }
}

/**
 * Access tokens: RFC 9068 claims in a JWS with Ed25519 (RFC 8037). One algorithm, which the key decides and never
 * the header; `none`, HS256 over the public key, embedded keys (jwk, jku, x5u) and critical extensions do not exist
 * here. Signed and verified by node:crypto: jose reaches 0.6 of its speed through WebCrypto's promises. A verified token
 * is remembered until it expires; its times are checked at each use, and whether its session is revoked is checked inside
 * the gate.
 * @param options issuer and audience: exact texts; keys: the first with a private key signs; now: milliseconds
 * @throws TypeError when a key is not Ed25519, two have one name, or none is given
 */
export function openTokens(options: {
  readonly issuer: string
  readonly audience: string
  readonly keys: readonly TokenKey[]
  readonly now?: () => number
}): Tokens {
  const { issuer, audience, keys, now = Date.now } = options
  for (const [name, value] of [['issuer', issuer], ['audience', audience]] as const) {
    if (typeof value !== 'string' || value === '') throw new TypeError(`openTokens: ${name} is missing`)
  }
  let ring = ringOf(keys)
  let cache = twoGenerations<Claims>()

  const verifyUnknown = (token: string): Claims => {
    const first = token.indexOf('.')
    const second = token.indexOf('.', first + 1)
    // The header as a whole is the name of the key: nothing in it is parsed, so nothing in it can say how to verify.
    const key = ring.byHeader.get(token.slice(0, Math.max(first, 0)))
    const signature = token.slice(second + 1)
    if (key === undefined || second < 0 || !signatureForm.test(signature)) throw refused()
    if (!verify(null, Buffer.from(token.slice(0, second), 'latin1'), key, Buffer.from(signature, 'base64url'))) throw refused()
    return readClaims(token.slice(first + 1, second), { issuer, audience, longest: accessTokenSeconds })
  }

  return Object.freeze<Tokens>({
    issue(person) {
      const { signer, header } = ring
      if (signer?.privateKey === undefined) throw new TypeError('issue: these tokens were opened without a private key')
      const iat = Math.floor(now() / 1000)
      const exp = iat + accessTokenSeconds
      const jti = saltBytes(16).toString('base64url')
      const client = person.client === undefined ? undefined : { scope: person.client.scopes.join(' '), networks: person.client.networks }
      const claims = { iss: issuer, aud: audience, sub: person.actor, sid: person.session, role: person.role, tenant: person.tenant, ...client, jti, iat, nbf: iat, exp }
      const body = Buffer.from(JSON.stringify(claims), 'utf8').toString('base64url')
      const signed = `${header}.${body}`
      if (signed.length + 87 > longestToken) throw new TypeError('issue: the claims are too long')
      // What verify would refuse is not issued.
      readClaims(body, { issuer, audience, longest: accessTokenSeconds })
      return { token: `${signed}.${sign(null, Buffer.from(signed, 'latin1'), signer.privateKey).toString('base64url')}`, expiresIn: accessTokenSeconds }
    },
    verify(token) {
      if (typeof token !== 'string' || token.length > longestToken) throw refused()
      const seconds = now() / 1000
      const known = cache.get(token)
      const claims = known ?? verifyUnknown(token)
      if (seconds >= claims.expiresAt + allowedSkewSeconds || seconds < claims.notBefore - allowedSkewSeconds) throw refused()
      if (known === undefined) cache.set(token, claims)
      return claims
    },
    sessionOf(token) {
      if (typeof token !== 'string' || token.length > longestToken) return undefined
      try {
        return (cache.get(token) ?? verifyUnknown(token)).session
      } catch {
        return undefined
      }
    },
    use(next) {
      ring = ringOf(next)
      // What was verified before may have been signed by a key that is gone.
      cache = twoGenerations<Claims>()
    },
    jwks: () => ({ keys: ring.published }),
  })
}

/** Keys by the header that names them, the first that signs, and the published set. */
type Ring = {
  readonly byHeader: ReadonlyMap<string, KeyObject>
  readonly signer: TokenKey | undefined
  readonly header: string
  readonly published: readonly Readonly<Record<string, string>>[]
}

function ringOf(keys: readonly TokenKey[]): Ring {
  const byHeader = new Map<string, KeyObject>()
  for (const key of keys) {
    checkKey(key)
    const header = headerOf(key.kid)
    if (byHeader.has(header)) throw new TypeError('openTokens: two keys have one kid')
    byHeader.set(header, key.publicKey)
  }
  if (byHeader.size === 0) throw new TypeError('openTokens: keys must have at least one key')
  const signer = keys.find((key) => key.privateKey !== undefined)
  const published = keys.map(({ kid, publicKey }) => {
    const { kty, crv, x } = publicKey.export({ format: 'jwk' })
    return { kty: String(kty), crv: String(crv), x: String(x), kid, alg: algorithm, use: 'sig' }
  })
  return { byHeader, signer, header: signer === undefined ? '' : headerOf(signer.kid), published }
}

function refused(): Refusal {
  return new Refusal('unauthenticated')
}

function checkKey(key: TokenKey): void {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(key.kid)) throw new TypeError('openTokens: kid must be letters, digits and dashes')
  if (key.publicKey?.type !== 'public' || key.publicKey.asymmetricKeyType !== 'ed25519') throw new TypeError('openTokens: publicKey must be an Ed25519 public KeyObject')
  if (key.privateKey === undefined) return
  if (key.privateKey.type !== 'private' || key.privateKey.asymmetricKeyType !== 'ed25519') throw new TypeError('openTokens: privateKey must be an Ed25519 private KeyObject')
  const probe = Buffer.from('redoubt key pair')
  if (!verify(null, probe, key.publicKey, sign(null, probe, key.privateKey))) throw new TypeError('openTokens: privateKey and publicKey are not a pair')
}
