import { createHash, verify, type KeyObject } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import type { KeyService, KeyServiceOptions } from '../kms.ts'
import { blobOf, partsOf, signedBytes, SIGN_ALGORITHM, WRAP_ALGORITHM } from './azure-blob.ts'
import { openAzureVault, verifierOf } from './azure-vault.ts'
import { remoteKeyService } from './remote.ts'
import { KeyServiceTrouble, networkTrouble, textIn, type Trouble } from './trouble.ts'

/** How long "the newest version" and a public key are believed. */
const believed = 10 * 60_000
const mostBelieved = 64

type Where = { readonly url: string; readonly name: string; readonly version: string | undefined; readonly signName: string; readonly signVersion: string | undefined }

const keyName = '[0-9A-Za-z-]{1,127}'
const keyVersion = '[0-9a-f]{32}'

/** @throws TypeError naming what is wrong with the setting */
function whereOf(where: string): Where {
  const malformed = 'openAzure: the setting must be azure:https://<vault>/keys/<name>[/<version>]?sign=<name of the signing key>[/<version>]'
  if (!URL.canParse(where)) throw new TypeError(malformed)
  const url = new URL(where)
  const key = new RegExp(`^/keys/(${keyName})(?:/(${keyVersion}))?$`).exec(url.pathname)
  if (url.protocol !== 'https:' || url.username !== '' || url.password !== '' || url.hash !== '' || key?.[1] === undefined) throw new TypeError(malformed)
  for (const name of url.searchParams.keys()) if (name !== 'sign') throw new TypeError(`openAzure: unknown parameter ${name} in the setting; only sign is known`)
  const sign = new RegExp(`^(${keyName})(?:/(${keyVersion}))?$`).exec(url.searchParams.get('sign') ?? '')
  if (sign?.[1] === undefined) {
    throw new TypeError('openAzure: name the signing key, as in ?sign=redoubt-sign: RSA wraps with a public key, so without a signature anybody could plant a key')
  }
  if (sign[1].toLowerCase() === key[1].toLowerCase()) throw new TypeError('openAzure: the signing key must be another key than the wrapping key')
  return { url: url.origin, name: key[1], version: key[2], signName: sign[1], signVersion: sign[2] }
}

/** The body of an error: `{"error":{"code","message","innererror":{"code"}}}`; a message may be absent. */
function wordsOf(error: unknown): string {
  const details: unknown = typeof error === 'object' && error !== null ? Reflect.get(error, 'details') : undefined
  const body: unknown = typeof details === 'object' && details !== null ? Reflect.get(details, 'error') : undefined
  const inner: unknown = typeof body === 'object' && body !== null ? Reflect.get(body, 'innererror') : undefined
  return [textIn(error, 'code'), textIn(body, 'code'), textIn(inner, 'code'), textIn(body, 'message') ?? textIn(error, 'message')].join(' ')
}

const credentialErrors = /^(?:CredentialUnavailableError|AuthenticationError|AuthenticationRequiredError|AggregateAuthenticationError)$/

function classify(error: unknown): Trouble {
  if (credentialErrors.test(textIn(error, 'name') ?? '')) return 'identity'
  const status: unknown = typeof error === 'object' && error !== null ? Reflect.get(error, 'statusCode') : undefined
  const words = wordsOf(error)
  if (typeof status !== 'number') {
    return networkTrouble(error) ?? (/challenge/i.test(words) ? 'identity' : 'garbled')
  }
  if (status === 401) return 'identity'
  if (status === 404) return 'deleted'
  if (status === 409) return /deleted/i.test(words) ? 'deleted' : 'away'
  if (status === 403) {
    if (/disabled/i.test(words)) return 'disabled'
    if (/expired|not yet valid|nbf|before/i.test(words)) return 'retired'
    return 'denied'
  }
  if (status === 429) return 'throttled'
  if (status >= 500 || status === 408) return 'away'
  if (status >= 300 && status < 400) return 'redirected'
  if (status === 400) return /BadParameter/i.test(words) ? 'refused' : 'unusable'
  return networkTrouble(error) ?? 'garbled'
}

function bytesOf(value: Uint8Array | undefined): Buffer {
  if (value === undefined || value.length === 0) throw new KeyServiceTrouble('garbled')
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
}

/**
 * Azure Key Vault: RSA-OAEP-256 with a versioned key. An ordinary vault has no associated data and its public key
 * wraps for everybody, so each wrapped key is signed by a second key over its context, key, algorithm and bytes, and
 * the signature is verified before anything is unwrapped.
 * @param where `https://<vault>/keys/<name>[/<version>]?sign=<name>[/<version>]`; without a version the newest one wraps
 * @throws TypeError when the setting is not usable
 */
export function openAzure(where: string, options: KeyServiceOptions): KeyService {
  const { url, name, version, signName, signVersion } = whereOf(where)
  const clock = options.patience?.clock ?? (() => performance.now())
  const vault = openAzureVault(url, options.azure ?? {}, options.production)
  const believedUntil = new Map<string, { readonly until: number; readonly version: string; readonly publicKey: KeyObject | null }>()
  const ownKid = new RegExp(`^${url.replaceAll('.', '\\.')}/keys/${name}/(${keyVersion})$`)

  async function looked(key: string, wanted: string | undefined, signing: boolean, signal: AbortSignal) {
    const at = `${key}/${wanted ?? ''}`
    const known = believedUntil.get(at)
    if (known !== undefined && known.until > clock()) return known
    const found = await vault.find(key, wanted, signal)
    const newest = textIn(found.properties, 'version')
    if (newest === undefined || (wanted !== undefined && newest !== wanted)) throw new KeyServiceTrouble('garbled')
    const entry = { until: clock() + believed, version: newest, publicKey: signing ? verifierOf(found).publicKey : null }
    if (believedUntil.size >= mostBelieved) believedUntil.clear()
    believedUntil.set(at, entry)
    return entry
  }

  async function newestOf(key: string, pinned: string | undefined, signal: AbortSignal): Promise<string> {
    return pinned ?? (await looked(key, undefined, false, signal)).version
  }

  return remoteKeyService(
    {
      provider: 'azure',
      classify,
      async wrap(key, context, abortSignal) {
        try {
          const under = await newestOf(name, version, abortSignal)
          const signer = await newestOf(signName, signVersion, abortSignal)
          const keyRef = `${url}/keys/${name}/${under}`
          const wrapped = bytesOf((await vault.using(name, under).wrapKey(WRAP_ALGORITHM, key, { abortSignal })).result)
          const digest = createHash('sha256').update(signedBytes(context, keyRef, WRAP_ALGORITHM, wrapped)).digest()
          const signature = bytesOf((await vault.using(signName, signer).sign(SIGN_ALGORITHM, digest, { abortSignal })).result)
          return { keyRef, blob: blobOf({ algorithm: WRAP_ALGORITHM, wrapped, signAlgorithm: SIGN_ALGORITHM, signVersion: signer, signature }) }
        } catch (error) {
          // What was believed to be the newest version may have been disabled or replaced meanwhile.
          believedUntil.clear()
          throw error
        }
      },
      async unwrap({ keyRef, blob }, context, abortSignal) {
        const [, under] = ownKid.exec(keyRef) ?? []
        const parts = partsOf(blob)
        if (under === undefined || parts === null) throw new KeyServiceTrouble('refused')
        const { publicKey } = await looked(signName, parts.signVersion, true, abortSignal)
        if (publicKey === null) throw new KeyServiceTrouble('garbled')
        const signed = signedBytes(context, keyRef, parts.algorithm, parts.wrapped)
        if (!verify('sha256', signed, { key: publicKey, dsaEncoding: 'ieee-p1363' }, parts.signature)) throw new KeyServiceTrouble('refused')
        return bytesOf((await vault.using(name, under).unwrapKey(WRAP_ALGORITHM, parts.wrapped, { abortSignal })).result)
      },
      close: () => believedUntil.clear(),
    },
    options,
  )
}
