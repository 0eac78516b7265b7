import { DecryptCommand, EncryptCommand, GenerateDataKeyCommand, KMSClient, ReEncryptCommand } from '@aws-sdk/client-kms'
import type { KMSClientConfig } from '@aws-sdk/client-kms'
import type { KeyContext, KeyService, KeyServiceOptions } from '../kms.ts'
import { remoteKeyService, type Wrapping } from './remote.ts'
import { openRenewal } from './resilience.ts'
import { KeyServiceTrouble, networkTrouble, textIn, type Trouble } from './trouble.ts'

/** What AWS needs beside the setting. Without credentials the SDK's own chain finds the role of the platform. */
export type AwsOptions = {
  /** Another address than that of the region: a VPC endpoint, or a double in tests. */
  readonly endpoint?: string
  readonly credentials?: NonNullable<KMSClientConfig['credentials']>
}

/** Names decide, never the status: it is 400 for nearly everything (kms.md §1; model of the API 2014-11-01). */
const byName: Readonly<Record<string, Trouble>> = {
  InvalidCiphertextException: 'refused',
  IncorrectKeyException: 'refused',
  DisabledException: 'disabled',
  KMSInvalidStateException: 'deleted',
  NotFoundException: 'deleted',
  AccessDeniedException: 'denied',
  AccessDenied: 'denied',
  InvalidGrantTokenException: 'denied',
  InvalidKeyUsageException: 'unusable',
  ValidationException: 'unusable',
  InvalidArnException: 'unusable',
  UnsupportedOperationException: 'unusable',
  ExpiredTokenException: 'identity',
  ExpiredToken: 'identity',
  RequestExpired: 'identity',
  UnrecognizedClientException: 'identity',
  InvalidClientTokenId: 'identity',
  InvalidSignatureException: 'identity',
  SignatureDoesNotMatch: 'identity',
  IncompleteSignature: 'identity',
  MissingAuthenticationToken: 'identity',
  MissingAuthenticationTokenException: 'identity',
  OptInRequired: 'identity',
  CredentialsProviderError: 'identity',
  TokenProviderError: 'identity',
  ThrottlingException: 'throttled',
  Throttling: 'throttled',
  ThrottledException: 'throttled',
  TooManyRequestsException: 'throttled',
  RequestLimitExceeded: 'throttled',
  LimitExceededException: 'throttled',
  KMSInternalException: 'away',
  KeyUnavailableException: 'away',
  DependencyTimeoutException: 'away',
  InternalFailure: 'away',
  ServiceUnavailable: 'away',
  ServiceUnavailableException: 'away',
}
const expired = new Set(['ExpiredTokenException', 'ExpiredToken', 'RequestExpired'])

/** `com.amazonaws.kms#DisabledException:http://…` and `DisabledException` are one. */
function nameOf(error: unknown): string {
  return (textIn(error, 'name') ?? '').replace(/^.*#/, '').replace(/:.*$/, '')
}

function classify(error: unknown): Trouble {
  const known = byName[nameOf(error)] ?? networkTrouble(error)
  if (known !== undefined) return known
  // An error of the service that is not in the list: its own word on whose fault it is. Anything else came of no answer of KMS.
  return textIn(error, '$fault') === 'client' ? 'unusable' : 'garbled'
}

type Where = { readonly key: string; readonly region: string }

/** @throws TypeError naming what is wrong with the setting */
function whereOf(where: string): Where {
  const [key = '', query = ''] = where.split('?', 2)
  const parameters = new URLSearchParams(query)
  for (const name of parameters.keys()) if (name !== 'region') throw new TypeError(`openAws: unknown parameter ${name} in the setting; only region is known`)
  const arn = /^arn:aws[a-z-]*:kms:([a-z0-9-]+):\d{12}:(?:key|alias)\/[A-Za-z0-9/_-]{1,250}$/.exec(key)
  if (arn === null && !/^(?:alias\/[A-Za-z0-9/_-]{1,250}|(?:mrk-)?[A-Fa-f0-9-]{32,36})$/.test(key)) {
    throw new TypeError('openAws: the setting must be aws:<key id, key ARN, alias/name or alias ARN>?region=<region>')
  }
  const region = parameters.get('region') ?? arn?.[1]
  if (region === undefined || !/^[a-z]{2}(?:-[a-z]+)+-\d+$/.test(region)) throw new TypeError('openAws: name the region, as in aws:alias/redoubt?region=eu-central-1')
  if (arn !== null && arn[1] !== region) throw new TypeError('openAws: the region of the ARN and ?region= differ')
  return { key, region }
}

/** Same key, or the same multi-region key in another region: its replicas open each other's wrapped keys. */
function sameKey(one: string, other: string): boolean {
  if (one === other) return true
  const multiRegion = /^(arn:aws[a-z-]*:kms:)[a-z0-9-]+(:\d{12}:key\/mrk-[0-9a-f]+)$/
  const [a, b] = [multiRegion.exec(one), multiRegion.exec(other)]
  return a !== null && b !== null && a[1] === b[1] && a[2] === b[2]
}

function bytesOf(value: Uint8Array | undefined): Buffer {
  if (value === undefined || value.length === 0) throw new KeyServiceTrouble('garbled')
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
}

function refOf(value: string | undefined): string {
  if (value === undefined || !value.startsWith('arn:')) throw new KeyServiceTrouble('garbled')
  return value
}

/**
 * AWS KMS: GenerateDataKey, Encrypt, Decrypt and ReEncrypt with the context as encryption context (it is in CloudTrail
 * in clear). KeyId is always given, so that a wrapped key of another KMS key is refused by the service, and the ARN in
 * the answer must be the one stored with the wrapped key.
 * @param where `<key id, ARN or alias>?region=<region>`; the region may be left out beside an ARN
 * @throws TypeError when the setting is not usable
 */
export function openAws(where: string, options: KeyServiceOptions): KeyService {
  const { key: KeyId, region } = whereOf(where)
  const { endpoint, credentials } = options.aws ?? {}
  if (options.production && endpoint !== undefined && !endpoint.startsWith('https:')) throw new TypeError('openAws: endpoint must be https: in production')
  const client = new KMSClient({
    region,
    maxAttempts: 1,
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(credentials === undefined ? {} : { credentials }),
  })
  const renewal = openRenewal(async () => void (await client.config.credentials({ forceRefresh: true })))

  /** Credentials that ran out are fetched again once for all calls; KMS has then done nothing yet. */
  async function sent<T>(work: () => Promise<T>): Promise<T> {
    if (options.production && (await client.config.credentials()).sessionToken === undefined) {
      // A role gives session credentials; without a token it is a key that lies somewhere for years.
      throw new KeyServiceTrouble('identity')
    }
    const round = renewal.round()
    try {
      return await work()
    } catch (error) {
      if (!expired.has(nameOf(error))) throw error
      await renewal.renewed(round)
      return work()
    }
  }

  const contextOf = (context: KeyContext): Record<string, string> => ({ ...context })

  async function wrap(key: Buffer, context: KeyContext, abortSignal: AbortSignal): Promise<Wrapping> {
    const answer = await sent(() => client.send(new EncryptCommand({ KeyId, Plaintext: key, EncryptionContext: contextOf(context) }), { abortSignal }))
    return { keyRef: refOf(answer.KeyId), blob: bytesOf(answer.CiphertextBlob) }
  }

  return remoteKeyService(
    {
      provider: 'aws',
      classify,
      wrap,
      async generate(context, abortSignal) {
        const answer = await sent(() => client.send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256', EncryptionContext: contextOf(context) }), { abortSignal }))
        return { key: bytesOf(answer.Plaintext), keyRef: refOf(answer.KeyId), blob: bytesOf(answer.CiphertextBlob) }
      },
      async unwrap({ keyRef, blob }, context, abortSignal) {
        const answer = await sent(() => client.send(new DecryptCommand({ KeyId, CiphertextBlob: blob, EncryptionContext: contextOf(context) }), { abortSignal }))
        const key = bytesOf(answer.Plaintext)
        if (sameKey(refOf(answer.KeyId), keyRef)) return key
        key.fill(0)
        throw new KeyServiceTrouble('refused')
      },
      async rewrap({ keyRef, blob }, context, abortSignal) {
        const answer = await sent(() =>
          client.send(
            new ReEncryptCommand({
              CiphertextBlob: blob,
              SourceKeyId: KeyId,
              SourceEncryptionContext: contextOf(context),
              DestinationKeyId: KeyId,
              DestinationEncryptionContext: contextOf(context),
            }),
            { abortSignal },
          ),
        )
        if (!sameKey(refOf(answer.SourceKeyId), keyRef)) throw new KeyServiceTrouble('refused')
        return { keyRef: refOf(answer.KeyId), blob: bytesOf(answer.CiphertextBlob) }
      },
      close: () => client.destroy(),
    },
    options,
  )
}
