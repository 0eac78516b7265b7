import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto'

/** A refusal with a status and the texts of Vault. */
export class VaultError extends Error {
  readonly status: number
  readonly errors: readonly string[]

  constructor(status: number, ...errors: readonly string[]) {
    super(errors.join('; '))
    this.status = status
    this.errors = errors
  }
}

type Body = Readonly<Record<string, unknown>>
type TransitKey = {
  readonly derived: boolean
  readonly exportable: boolean
  readonly versions: { readonly key: Buffer; readonly created: number }[]
  minDecryption: number
  minEncryption: number
  deletable: boolean
}

const noContext =
  "missing 'context' for key derivation; the key was created using a derived key, which means additional, per-request information must be included in order to perform operations with the key"

function base64Of(value: unknown, failed: string): Buffer {
  if (value === undefined || value === '') return Buffer.alloc(0)
  // Go's decoder is strict where Node's is not.
  if (typeof value !== 'string' || !/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(value)) throw new VaultError(400, failed)
  return Buffer.from(value, 'base64')
}

/** Vault's Transit engine as its documentation and builtin/logical/transit describe it: aes256-gcm96, derived or not. */
export function transit(now: () => number) {
  const keys = new Map<string, TransitKey>()

  const found = (name: string): TransitKey => {
    const key = keys.get(name)
    if (key === undefined) throw new VaultError(400, 'encryption key not found')
    return key
  }
  const fresh = () => ({ key: randomBytes(32), created: Math.floor(now() / 1000) })

  /** sdk/helper/keysutil/policy.go: HKDF-SHA-256 with the context as info; a key that is not derived ignores the context. */
  function derived(key: TransitKey, version: number, context: Buffer): Buffer {
    const base = key.versions[version - 1]?.key ?? Buffer.alloc(32)
    if (!key.derived) return base
    if (context.length === 0) throw new VaultError(400, noContext)
    // By hand: node:crypto's takes an info of 1024 bytes at most, Go's any.
    const extracted = createHmac('sha256', Buffer.alloc(32)).update(base).digest()
    return createHmac('sha256', extracted).update(context).update(Buffer.from([1])).digest()
  }

  function encrypt(key: TransitKey, body: Body, plaintext: Buffer): { readonly ciphertext: string; readonly key_version: number } {
    const context = base64Of(body['context'], 'failed to base64-decode context')
    const wanted = typeof body['key_version'] === 'number' && body['key_version'] > 0 ? body['key_version'] : key.versions.length
    if (wanted > key.versions.length) throw new VaultError(400, 'requested version for encryption is higher than the latest key version')
    if (wanted < key.minEncryption) throw new VaultError(400, 'requested version for encryption is less than the minimum encryption key version')
    const nonce = randomBytes(12)
    const cipher = createCipheriv('aes-256-gcm', derived(key, wanted, context), nonce)
    cipher.setAAD(base64Of(body['associated_data'], 'failed to base64-decode associated_data'))
    const sealed = Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()])
    return { ciphertext: `vault:v${wanted}:${sealed.toString('base64')}`, key_version: wanted }
  }

  function decrypt(key: TransitKey, body: Body, withData: boolean): Buffer {
    const text = body['ciphertext']
    if (typeof text !== 'string' || text === '') throw new VaultError(400, 'missing ciphertext to decrypt')
    const context = base64Of(body['context'], 'failed to base64-decode context')
    if (!text.startsWith('vault:v')) throw new VaultError(400, 'invalid ciphertext: no prefix')
    const [number, data, ...more] = text.slice('vault:v'.length).split(':')
    if (number === undefined || data === undefined || more.length > 0) throw new VaultError(400, 'invalid ciphertext: wrong number of fields')
    if (!/^[+-]?\d+$/.test(number)) throw new VaultError(400, 'invalid ciphertext: version number could not be decoded')
    // Compatibility with the first implementation, where versions began at zero.
    const version = Number(number) === 0 ? 1 : Number(number)
    if (version > key.versions.length) throw new VaultError(400, 'invalid ciphertext: version is too new')
    if (key.minDecryption > 0 && version < key.minDecryption) throw new VaultError(400, 'ciphertext or signature version is disallowed by policy (too old)')
    const sealed = base64Of(data, 'invalid ciphertext: could not decode base64')
    if (sealed.length < 28) throw new VaultError(400, 'invalid ciphertext length')
    const decipher = createDecipheriv('aes-256-gcm', derived(key, version, context), sealed.subarray(0, 12), { authTagLength: 16 })
    decipher.setAuthTag(sealed.subarray(-16))
    decipher.setAAD(withData ? base64Of(body['associated_data'], 'failed to base64-decode associated_data') : Buffer.alloc(0))
    try {
      return Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()])
    } catch {
      throw new VaultError(400, 'cipher: message authentication failed')
    }
  }

  function described(name: string): Body {
    const key = keys.get(name)
    if (key === undefined) throw new VaultError(404)
    return {
      name, type: 'aes256-gcm96', derived: key.derived, kdf: 'hkdf_sha256', convergent_encryption: false, exportable: key.exportable,
      allow_plaintext_backup: false, deletion_allowed: key.deletable, supports_encryption: true, supports_decryption: true, supports_derivation: true,
      supports_signing: false, latest_version: key.versions.length, min_available_version: 0, min_decryption_version: key.minDecryption,
      min_encryption_version: key.minEncryption, auto_rotate_period: 0, imported_key: false,
      keys: Object.fromEntries(key.versions.map(({ created }, at) => [String(at + 1), created])),
    }
  }

  function configure(name: string, body: Body): void {
    const key = found(name)
    if (typeof body['min_decryption_version'] === 'number') key.minDecryption = body['min_decryption_version']
    if (typeof body['min_encryption_version'] === 'number') key.minEncryption = body['min_encryption_version']
    if (typeof body['deletion_allowed'] === 'boolean') key.deletable = body['deletion_allowed']
  }

  /**
   * One request below the mount. null is 204.
   * @param upsert the token may create: an unknown key is then made by encrypt, silently
   */
  function handle(method: string, path: string, body: Body, upsert: boolean): Body | null {
    const [operation = '', ...rest] = path.split('/')
    const name = rest.at(operation === 'datakey' ? 1 : 0) ?? ''
    switch (`${method} ${operation}`) {
      case 'GET keys':
        return described(name)
      case 'POST keys':
        if (rest[1] === 'rotate') found(name).versions.push(fresh())
        else if (rest[1] === 'config') configure(name, body)
        else if (!keys.has(name)) {
          keys.set(name, { derived: body['derived'] === true, exportable: body['exportable'] === true, versions: [fresh()], minDecryption: 1, minEncryption: 0, deletable: false })
        }
        return described(name)
      case 'DELETE keys':
        if (!found(name).deletable) throw new VaultError(400, 'error deleting policy ' + name + ': deletion is not allowed for this key')
        keys.delete(name)
        return null
      case 'POST datakey': {
        const key = found(name)
        const bits = body['bits'] ?? 256
        if (bits !== 128 && bits !== 256 && bits !== 512) throw new VaultError(400, 'invalid bit length')
        if (rest[0] !== 'plaintext' && rest[0] !== 'wrapped') throw new VaultError(400, 'Invalid path, must be \'plaintext\' or \'wrapped\'')
        const plaintext = randomBytes(bits / 8)
        return { ...encrypt(key, body, plaintext), ...(rest[0] === 'plaintext' ? { plaintext: plaintext.toString('base64') } : {}) }
      }
      case 'POST encrypt': {
        if (!keys.has(name) && upsert) keys.set(name, { derived: body['context'] !== undefined, exportable: false, versions: [fresh()], minDecryption: 1, minEncryption: 0, deletable: false })
        if (typeof body['plaintext'] !== 'string') throw new VaultError(400, 'missing plaintext to encrypt')
        return encrypt(found(name), body, base64Of(body['plaintext'], 'failed to base64-decode plaintext'))
      }
      case 'POST decrypt':
        return { plaintext: decrypt(found(name), body, true).toString('base64') }
      case 'POST rewrap': {
        // path_rewrap.go: decrypts without associated data.
        const key = found(name)
        const { associated_data: _ignored, ...without } = body
        return encrypt(key, without, decrypt(key, body, false))
      }
      default:
        throw new VaultError(404)
    }
  }

  return { handle, keys: () => [...keys.keys()] }
}
