import { constants, createECDH, generateKeyPairSync, privateDecrypt, publicEncrypt, randomBytes, type KeyObject } from 'node:crypto'

/** A refusal in the form `{"error":{"code","message","innererror":{"code"}}}`. */
export class AzureError extends Error {
  readonly status: number
  readonly code: string
  readonly inner: string | undefined

  constructor(status: number, code: string, message: string, inner?: string) {
    super(message)
    this.status = status
    this.code = code
    this.inner = inner
  }
}

export type Version = { readonly version: string; readonly privateKey: KeyObject; readonly publicKey: KeyObject; readonly created: number; enabled: boolean; expires: number | undefined }
export type Key = { readonly name: string; readonly kind: 'RSA' | 'EC'; readonly versions: Version[]; deleted: boolean }
type Body = Readonly<Record<string, unknown>>

const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n

function numberOf(bytes: Buffer): bigint {
  return BigInt(`0x${bytes.toString('hex')}`)
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n
  for (let b = base % order, e = exponent; e > 0n; b = (b * b) % order, e >>= 1n) if (e & 1n) result = (result * b) % order
  return result
}

/** ECDSA over a digest that is given (FIPS 186-5 §6.4.1): node:crypto would hash it once more. */
function ecdsa(key: KeyObject, digest: Buffer): Buffer {
  const { d } = key.export({ format: 'jwk' })
  const secret = numberOf(Buffer.from(d ?? '', 'base64url'))
  for (;;) {
    const nonce = (numberOf(randomBytes(40)) % (order - 1n)) + 1n
    const point = createECDH('prime256v1')
    point.setPrivateKey(Buffer.from(nonce.toString(16).padStart(64, '0'), 'hex'))
    const r = numberOf(point.getPublicKey().subarray(1, 33)) % order
    const s = (power(nonce, order - 2n) * (numberOf(digest) + r * secret)) % order
    if (r !== 0n && s !== 0n) return Buffer.from(r.toString(16).padStart(64, '0') + s.toString(16).padStart(64, '0'), 'hex')
  }
}

export function newVersion(kind: Key['kind']): Version {
  const pair = kind === 'RSA' ? generateKeyPairSync('rsa', { modulusLength: 2048 }) : generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return { version: randomBytes(16).toString('hex'), ...pair, created: Math.floor(Date.now() / 1000), enabled: true, expires: undefined }
}

export function described(origin: string, key: Key, version: Version): Body {
  const { n, e, x, y, crv } = version.publicKey.export({ format: 'jwk' })
  return {
    key: {
      kid: `${origin}/keys/${key.name}/${version.version}`,
      kty: key.kind,
      key_ops: key.kind === 'RSA' ? ['encrypt', 'decrypt', 'sign', 'verify', 'wrapKey', 'unwrapKey'] : ['sign', 'verify'],
      ...(key.kind === 'RSA' ? { n, e } : { crv, x, y }),
    },
    attributes: { enabled: version.enabled, created: version.created, updated: version.created, ...(version.expires === undefined ? {} : { exp: version.expires }), recoveryLevel: 'Recoverable+Purgeable', recoverableDays: 90, exportable: false },
    tags: {},
  }
}

/** base64url without padding, and nothing else. */
function bytesOf(value: unknown, field: string): Buffer {
  if (typeof value !== 'string' || !/^[A-Za-z0-9_-]*$/.test(value)) throw new AzureError(400, 'BadParameter', `Property ${field} has invalid value`)
  return Buffer.from(value, 'base64url')
}

/** One operation with one version: what an expired version may still do, and what a disabled one may not. */
export function operate(origin: string, key: Key, version: Version, operation: string, body: Body): Body {
  const making = operation === 'wrapkey' || operation === 'sign'
  if (!version.enabled) throw new AzureError(403, 'Forbidden', `Operation ${operation} is not allowed on a disabled key.`, 'KeyDisabled')
  if (making && version.expires !== undefined && version.expires < Date.now() / 1000) throw new AzureError(403, 'Forbidden', `Operation ${operation} is not allowed on an expired key.`, 'KeyExpired')
  const value = bytesOf(body['value'], 'value')
  const kid = `${origin}/keys/${key.name}/${version.version}`
  const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }
  const algorithm = body['alg']
  if (algorithm !== (operation.endsWith('wrapkey') ? 'RSA-OAEP-256' : 'ES256') || (key.kind === 'EC') !== (algorithm === 'ES256')) {
    throw new AzureError(400, 'BadParameter', `Key and signing algorithm are incompatible. Key ${kid} is of type '${key.kind}'.`)
  }
  switch (operation) {
    case 'wrapkey':
      return { kid, value: publicEncrypt({ key: version.publicKey, ...oaep }, value).toString('base64url') }
    case 'unwrapkey':
      try {
        return { kid, value: privateDecrypt({ key: version.privateKey, ...oaep }, value).toString('base64url') }
      } catch {
        throw new AzureError(400, 'BadParameter', 'The parameter is incorrect.')
      }
    case 'sign':
      if (value.length !== 32) throw new AzureError(400, 'BadParameter', 'Invalid length of digest: the algorithm ES256 needs 32 bytes')
      return { kid, value: ecdsa(version.privateKey, value).toString('base64url') }
    default:
      throw new AzureError(400, 'BadParameter', `Method ${operation} is not known here`)
  }
}
