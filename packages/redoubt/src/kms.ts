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
}

/**
 * Opens the key service that the setting names.
 * @param setting `local:<path of the root key file>`; `aws:…`, `azure:…` and `vault:…` have their place here
 * @throws TypeError when the setting is malformed, the provider is not built in, or local is asked for in production
 * @throws Refusal key_refused when the root key is missing, unsafe or not the one of the data
 */
export async function openKeyService(setting: string, options: KeyServiceOptions): Promise<KeyService> {
  const [, provider, rest] = /^([a-z]+):(.+)$/.exec(setting) ?? []
  if (provider === undefined || rest === undefined) {
    throw new TypeError('openKeyService: setting must be <provider>:<where>, for example local:.redoubt/keys/root.key')
  }
  switch (provider) {
    case 'local':
      // Loaded when asked for, as every provider: a process carries only the code of the one it uses.
      return (await import('./kms/local.ts')).openLocal(rest, options)
    case 'aws':
    case 'azure':
    case 'vault':
      throw new TypeError(`openKeyService: the provider ${provider} is not built in yet; use local: outside production`)
    default:
      throw new TypeError('openKeyService: setting must begin with local:, aws:, azure: or vault:')
  }
}
