import type { Emit } from './events.ts'
import type { AwsOptions } from './kms/aws.ts'
import type { AzureOptions } from './kms/azure-vault.ts'
import type { Patience } from './kms/resilience.ts'
import type { VaultOptions } from './kms/vault.ts'

/**
 * What a key is for, as pairs of text; bound to the wrapping by authentication. Not secret (a provider may log it
 * in clear), so never a person's id.
 */
export type KeyContext = Readonly<Record<string, string>>

/** A wrapped key as it is stored: which provider, which of its keys, and its blob. */
export type WrappedKey = {
  readonly provider: string
  /** The provider's own name of the wrapping key and its version (ARN, key URL); opaque. */
  readonly keyRef: string
  readonly blob: Buffer
}

/** Holder of the root key. Wraps keys of 32 bytes; the root itself never leaves it. */
export type KeyService = {
  readonly provider: 'local' | 'aws' | 'azure' | 'vault'
  /** A new key of 32 bytes and its wrapping. The caller zeroes `key`. */
  generate(context: KeyContext): Promise<{ readonly key: Buffer; readonly wrapped: WrappedKey }>
  wrap(key: Buffer, context: KeyContext): Promise<WrappedKey>
  /** @throws Refusal key_refused (wrong context, provider, root or bytes), key_service_unavailable */
  unwrap(wrapped: WrappedKey, context: KeyContext): Promise<Buffer>
  /** The same key under the newest version of the wrapping key, where the service does that without showing it. */
  rewrap?(wrapped: WrappedKey, context: KeyContext): Promise<WrappedKey>
  /** @throws Refusal when the service could not wrap or unwrap now */
  check(): Promise<void>
  close(): void
}

export type KeyServiceOptions = {
  /** True refuses the local provider: its root key lies next to the data. */
  readonly production: boolean
  /** Allows the local provider to make its root key on the very first start. */
  readonly create?: boolean
  /**
   * Asked only when the root key file is missing and `create` is set: true when anything was ever sealed
   * (keyring.ts: `keysExist`). A lost root key is then refused, never replaced.
   */
  readonly dataExists?: () => Promise<boolean>
  readonly aws?: AwsOptions
  readonly azure?: AzureOptions
  /** Needed for `vault:`. */
  readonly vault?: VaultOptions
  /** Setting of the service that wrapped what is stored until it has moved to this one (keyring/move). */
  readonly previous?: string
  /** How long and how often a remote service is asked. */
  readonly patience?: Patience
  readonly emit?: Emit
}

/**
 * Opens the key service that the setting names.
 * @param setting `local:<path of the root key file>` · `aws:<key id, ARN or alias>?region=<region>` ·
 * `azure:https://<vault>/keys/<name>[/<version>]?sign=<signing key>` · `vault:<mount>/<key>` or `vault:https://<host>/<mount>/<key>`
 * @throws TypeError when the setting or an option is malformed, or local is asked for in production
 * @throws Refusal key_refused when the root key is missing, unsafe or not the one of the data
 */
export async function openKeyService(setting: string, options: KeyServiceOptions): Promise<KeyService> {
  const { previous, ...own } = options
  const current = await openOne(setting, own)
  if (previous === undefined) return current
  try {
    // Of the service that is left nothing new is made.
    const left = await openOne(previous, { ...own, create: false })
    return (await import('./kms/previous.ts')).withPrevious(current, left)
  } catch (error) {
    current.close()
    throw error
  }
}

async function openOne(setting: string, options: KeyServiceOptions): Promise<KeyService> {
  const [, provider, rest] = /^([a-z]+):(.+)$/.exec(setting) ?? []
  if (provider === undefined || rest === undefined) {
    throw new TypeError('openKeyService: setting must be <provider>:<where>, for example local:.redoubt/keys/root.key')
  }
  // Loaded when asked for: a process carries only the code, and the SDK, of the provider it uses.
  switch (provider) {
    case 'local':
      return (await import('./kms/local.ts')).openLocal(rest, options)
    case 'aws':
      return (await import('./kms/aws.ts')).openAws(rest, options)
    case 'azure':
      return (await import('./kms/azure.ts')).openAzure(rest, options)
    case 'vault':
      return (await import('./kms/vault.ts')).openVault(rest, options)
    default:
      throw new TypeError('openKeyService: setting must begin with local:, aws:, azure: or vault:')
  }
}
