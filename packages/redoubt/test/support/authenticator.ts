import { createHash, generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto'
import type { AuthenticationResponseJSON, PublicKeyCredentialCreationOptionsJSON, PublicKeyCredentialRequestOptionsJSON, RegistrationResponseJSON } from '../../src/tokens/factors/passkey.ts'

const sha256 = (data: Buffer | string): Buffer => createHash('sha256').update(data).digest()
const text = (bytes: Buffer): string => bytes.toString('base64url')

/** CBOR (RFC 8949), as much of it as an attestation needs. */
function cbor(value: number | string | Buffer | ReadonlyMap<number | string, unknown>): Buffer {
  const head = (major: number, size: number): Buffer =>
    size < 24 ? Buffer.from([(major << 5) | size]) : size < 256 ? Buffer.from([(major << 5) | 24, size]) : Buffer.from([(major << 5) | 25, size >> 8, size & 255])
  if (typeof value === 'number') return value >= 0 ? head(0, value) : head(1, -1 - value)
  if (typeof value === 'string') return Buffer.concat([head(3, Buffer.byteLength(value)), Buffer.from(value)])
  if (Buffer.isBuffer(value)) return Buffer.concat([head(2, value.length), value])
  return Buffer.concat([head(5, value.size), ...[...value].flatMap(([key, each]) => [cbor(key), cbor(each as string)])])
}

export type Ceremony = {
  /** The page's origin as the browser says it. */
  readonly origin: string
  /** Whose site the authenticator signs for; by default what it was asked. */
  readonly rpId?: string
  /** False: nobody was asked for PIN or finger. */
  readonly verified?: boolean
  readonly challenge?: string
  readonly crossOrigin?: boolean
}

/**
 * A software authenticator with ES256 keys and no attestation, which does what it is told: also what a browser or an
 * honest authenticator would refuse.
 */
export type Authenticator = {
  create(options: PublicKeyCredentialCreationOptionsJSON, ceremony: Ceremony): RegistrationResponseJSON
  get(options: PublicKeyCredentialRequestOptionsJSON, ceremony: Ceremony): AuthenticationResponseJSON
  /** One that counts on from here under the same keys, as a copied one would. */
  copy(): Authenticator
}

type Held = { readonly id: Buffer; readonly rpId: string; readonly privateKey: KeyObject; readonly userHandle: string; count: number }

/** @param settings.counts false: the counter stays 0, as that of synchronised passkeys does */
export function softwareAuthenticator(settings: { readonly counts?: boolean; readonly held?: readonly Held[] } = {}): Authenticator {
  const { counts = true } = settings
  const held: Held[] = (settings.held ?? []).map((each) => ({ ...each }))

  function authenticatorData(rpId: string, flags: number, count: number, credential: Buffer = Buffer.alloc(0)): Buffer {
    const rest = Buffer.alloc(5)
    rest.writeUInt8(flags)
    rest.writeUInt32BE(count, 1)
    return Buffer.concat([sha256(rpId), rest, credential])
  }
  const clientData = (type: string, challenge: string, { origin, crossOrigin = false }: Ceremony): Buffer =>
    Buffer.from(JSON.stringify({ type, challenge, origin, crossOrigin }))
  // User present, user verified.
  const flagsOf = ({ verified = true }: Ceremony): number => 0x01 | (verified ? 0x04 : 0)

  return {
    create(options, ceremony) {
      const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
      const { x = '', y = '' } = publicKey.export({ format: 'jwk' })
      const id = randomBytes(32)
      const rpId = ceremony.rpId ?? options.rp.id ?? ''
      held.push({ id, rpId: options.rp.id ?? '', privateKey, userHandle: options.user.id, count: 0 })
      const cose = cbor(new Map<number, unknown>([[1, 2], [3, -7], [-1, 1], [-2, Buffer.from(x, 'base64url')], [-3, Buffer.from(y, 'base64url')]]))
      const credential = Buffer.concat([Buffer.alloc(16), Buffer.from([0, id.length]), id, cose])
      const attestation = cbor(new Map<string, unknown>([['fmt', 'none'], ['attStmt', new Map()], ['authData', authenticatorData(rpId, flagsOf(ceremony) | 0x40, 0, credential)]]))
      return {
        id: text(id), rawId: text(id), type: 'public-key', clientExtensionResults: {},
        response: { clientDataJSON: text(clientData('webauthn.create', ceremony.challenge ?? options.challenge, ceremony)), attestationObject: text(attestation), transports: ['internal'] },
      }
    },
    get(options, ceremony) {
      const wanted = options.allowCredentials?.map(({ id }) => id) ?? []
      const credential = held.find(({ id, rpId }) => rpId === options.rpId && (wanted.length === 0 || wanted.includes(text(id)))) ?? held[0]
      if (credential === undefined) throw new Error('the authenticator has no credential')
      if (counts) credential.count++
      const data = authenticatorData(ceremony.rpId ?? options.rpId ?? '', flagsOf(ceremony), credential.count)
      const client = clientData('webauthn.get', ceremony.challenge ?? options.challenge, ceremony)
      const signature = sign('sha256', Buffer.concat([data, sha256(client)]), credential.privateKey)
      return {
        id: text(credential.id), rawId: text(credential.id), type: 'public-key', clientExtensionResults: {},
        response: { clientDataJSON: text(client), authenticatorData: text(data), signature: text(signature), userHandle: credential.userHandle },
      }
    },
    copy: () => softwareAuthenticator({ counts, held }),
  }
}
