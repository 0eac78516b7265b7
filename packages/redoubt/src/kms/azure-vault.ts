import { createPublicKey, type KeyObject } from 'node:crypto'
import { AzureCliCredential, ManagedIdentityCredential, WorkloadIdentityCredential } from '@azure/identity'
import { CryptographyClient, KeyClient } from '@azure/keyvault-keys'
import type { CryptographyClientOptions, KeyVaultKey } from '@azure/keyvault-keys'
import { KeyServiceTrouble, textIn } from './trouble.ts'

type Credential = ConstructorParameters<typeof KeyClient>[1]

/** Who we are to Azure: never a client secret. */
export type AzureIdentity =
  /** The machine's, or with `clientId` one of those assigned to it. */
  | { readonly kind: 'managed'; readonly clientId?: string }
  /** A pod's: the token that the cluster projects into a file. */
  | { readonly kind: 'workload'; readonly clientId: string; readonly tenantId: string; readonly tokenFile: string }
  /** A developer's sign-in with the az command; refused in production. */
  | { readonly kind: 'cli' }

/** What Azure needs beside the setting. */
export type AzureOptions = {
  readonly identity?: AzureIdentity
  /** Authorities that are trusted beside the system's, as PEM. */
  readonly ca?: string
  /** Version of the keys API that the vault knows, where it is behind the SDK's. */
  readonly serviceVersion?: string
  /** Lets any host answer as a vault, for doubles in tests; refused in production. */
  readonly insecureAnyVaultHost?: boolean
}

/** One Key Vault: its keys by name and version. */
export type AzureVault = {
  /** Version, public half and state of a key; of the newest version when none is named. */
  find(name: string, version: string | undefined, signal: AbortSignal): Promise<KeyVaultKey>
  /** Operations with one version of a key, always in the service. */
  using(name: string, version: string): CryptographyClient
}

/** Longest wait of all for one token: the endpoint of a machine that just started takes its time. */
const mostToken = 30_000

/**
 * One request for a token at a time, whoever asks. The SDK shares one only between callers with the same abort signal,
 * and each of our attempts has its own: a token that ran out was fetched once per call.
 */
function shared(credential: Credential): Credential {
  const under = new Map<string, ReturnType<Credential['getToken']>>()
  return {
    getToken(scopes, options = {}) {
      const { abortSignal: _ofOneCall, requestOptions: _timesOfOneCall, ...common } = options
      const name = JSON.stringify([scopes, common.claims, common.tenantId])
      const waiting =
        under.get(name) ?? credential.getToken(scopes, { ...common, abortSignal: AbortSignal.timeout(mostToken) }).finally(() => under.delete(name))
      under.set(name, waiting)
      return waiting
    },
  }
}

function credentialOf(identity: AzureIdentity): Credential {
  switch (identity.kind) {
    case 'managed':
      return identity.clientId === undefined ? new ManagedIdentityCredential() : new ManagedIdentityCredential({ clientId: identity.clientId })
    case 'workload':
      return new WorkloadIdentityCredential({ clientId: identity.clientId, tenantId: identity.tenantId, tokenFilePath: identity.tokenFile })
    case 'cli':
      return new AzureCliCredential()
  }
}

/**
 * Tokens are renewed by the SDK: before they end, and where the vault's challenge asks for it.
 * @throws TypeError when the options are not for production
 */
export function openAzureVault(url: string, options: AzureOptions, production: boolean): AzureVault {
  const { identity = { kind: 'managed' }, ca, serviceVersion, insecureAnyVaultHost = false } = options
  if (production && identity.kind === 'cli') throw new TypeError('openAzure: the sign-in of a developer is refused in production; use a managed or workload identity')
  if (production && insecureAnyVaultHost) throw new TypeError('openAzure: insecureAnyVaultHost is refused in production')
  // Made anew for each client: the SDK writes into what it is given.
  const clientOptions = (): CryptographyClientOptions => ({
    retryOptions: { maxRetries: 0 },
    redirectOptions: { maxRetries: 0 },
    disableChallengeResourceVerification: insecureAnyVaultHost,
    ...(ca === undefined ? {} : { tlsOptions: { ca } }),
    ...(serviceVersion === undefined ? {} : { serviceVersion }),
  })

  const credential = shared(credentialOf(identity))
  const keys = new KeyClient(url, credential, clientOptions())
  const clients = new Map<string, CryptographyClient>()

  return {
    find: (name, version, abortSignal) => keys.getKey(name, { abortSignal, ...(version === undefined ? {} : { version }) }),
    using(name, version) {
      const id = `${url}/keys/${name}/${version}`
      const client =
        clients.get(id) ??
        // Given as a key without its dates: the SDK reads it from the vault otherwise, and refuses by itself to
        // unwrap with a version that has expired, which the service allows and old wrapped keys need.
        new CryptographyClient({ id, name, key: { kid: id }, properties: { vaultUrl: url, name, version } }, credential, clientOptions())
      clients.set(id, client)
      return client
    },
  }
}

/** Version and public key of a signing key. @throws KeyServiceTrouble when it is not an enabled key on P-256 */
export function verifierOf(found: KeyVaultKey): { readonly version: string; readonly publicKey: KeyObject } {
  if (found.properties.enabled === false) throw new KeyServiceTrouble('disabled')
  const { x, y, crv } = found.key ?? {}
  const version = textIn(found.properties, 'version')
  if (version === undefined) throw new KeyServiceTrouble('garbled')
  if (x === undefined || y === undefined || crv !== 'P-256') throw new KeyServiceTrouble('unusable')
  const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')
  return { version, publicKey: createPublicKey({ key: { kty: 'EC', crv, x: text(x), y: text(y) }, format: 'jwk' }) }
}
