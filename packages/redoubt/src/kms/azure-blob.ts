import { framed } from '../bytes.ts'
import type { KeyContext } from '../kms.ts'
import { contextBytes } from './remote.ts'

/** RSA with SHA-256: with RSA-OAEP and RSA1_5 the SDK wraps locally, and both are legacy. */
export const WRAP_ALGORITHM = 'RSA-OAEP-256'
/** ECDSA on P-256 with SHA-256; the signature is r and s, 32 bytes each (RFC 7518 §3.4). */
export const SIGN_ALGORITHM = 'ES256'

const version = 1
const versionName = /^[0-9a-f]{32}$/

/** A wrapped key of Azure as it is stored; docs/formats.md has the bytes. */
export type AzureParts = {
  readonly algorithm: string
  readonly wrapped: Buffer
  readonly signAlgorithm: string
  /** Version of the signing key; its name and vault come from the setting, never from the table. */
  readonly signVersion: string
  readonly signature: Buffer
}

/**
 * What the signature is over. RSA wraps with a public key, so anybody can make a wrapped key that unwraps: only the
 * signature shows that it was made by somebody who may use the signing key, for this use, under this very key.
 */
export function signedBytes(context: KeyContext, kid: string, algorithm: string, wrapped: Buffer): Buffer {
  return framed(['redoubt azure wrapped key', contextBytes('context', context), kid, algorithm, wrapped])
}

export function blobOf(parts: AzureParts): Buffer {
  const { algorithm, wrapped, signAlgorithm, signVersion, signature } = parts
  return Buffer.concat([Buffer.from([version]), framed([algorithm, wrapped, signAlgorithm, signVersion, signature])])
}

/** The parts, or null when these are not the bytes that blobOf writes. */
export function partsOf(blob: Buffer): AzureParts | null {
  if (blob[0] !== version) return null
  const parts: Buffer[] = []
  for (let at = 1; at < blob.length; ) {
    if (at + 4 > blob.length) return null
    const end = at + 4 + blob.readUInt32BE(at)
    if (end > blob.length) return null
    parts.push(blob.subarray(at + 4, end))
    at = end
  }
  const [algorithm, wrapped, signAlgorithm, signVersion, signature, ...more] = parts
  if (algorithm === undefined || wrapped === undefined || signAlgorithm === undefined || signVersion === undefined || signature === undefined || more.length > 0) return null
  const named = { algorithm: algorithm.toString('latin1'), signAlgorithm: signAlgorithm.toString('latin1'), signVersion: signVersion.toString('latin1') }
  if (named.algorithm !== WRAP_ALGORITHM || named.signAlgorithm !== SIGN_ALGORITHM || !versionName.test(named.signVersion)) return null
  return { ...named, wrapped, signature }
}
