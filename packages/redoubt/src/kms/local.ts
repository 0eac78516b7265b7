import { randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { KEY_BYTES, keyId, secretKey, unwrapKey, wrapKey } from '../aead.ts'
import { framed } from '../bytes.ts'
import { Refusal } from '../errors.ts'
import type { KeyContext, KeyService, KeyServiceOptions, WrappedKey } from '../kms.ts'
import { copyRootFile, createRootFile, readRootFile } from './root-file.ts'

/** Sorted, each part behind its length: {a:'bc'} and {ab:'c'} must not be the same bytes, {a,b} and {b,a} must. */
function aadOf(context: KeyContext): Buffer {
  const pairs = Object.entries(context)
  if (pairs.length === 0) throw new TypeError('key service: context must not be empty')
  pairs.sort(([a], [b]) => (a < b ? -1 : 1))
  return framed(['redoubt local root', ...pairs.flat()])
}

const lost =
  'the root key file is missing, but there is data sealed under it: put back a backup made with `redoubt keys backup`; a new key would open nothing'

async function rootAt(path: string, options: KeyServiceOptions): Promise<KeyObject> {
  const stored = await readRootFile(path)
  if (stored !== null) return secretKey(stored)
  if (options.create !== true) {
    throw new Refusal('key_refused', {
      detail: 'the root key file is missing: put back a backup made with `redoubt keys backup`, or allow the first start to make one',
    })
  }
  if (options.dataExists === undefined) throw new TypeError('openLocal: create needs dataExists')
  if (await options.dataExists()) throw new Refusal('key_refused', { detail: lost })
  return secretKey(await createRootFile(path))
}

/**
 * The key service of development and tests: a root key in a file, AES-256-GCM, the context as AAD.
 * @param path the root key file: owner-only, in an owner-only folder
 * @throws TypeError in production
 * @throws Refusal key_refused
 */
export async function openLocal(path: string, options: KeyServiceOptions): Promise<KeyService> {
  if (options.production) {
    throw new TypeError('openLocal: the local key service is refused in production; name an external key service')
  }
  let root: KeyObject | null = await rootAt(path, options)
  const keyRef = keyId(root).toString('hex')

  function held(): KeyObject {
    if (root === null) throw new Refusal('key_service_unavailable', { detail: 'the key service is closed' })
    return root
  }

  async function wrap(key: Buffer, context: KeyContext): Promise<WrappedKey> {
    if (key.length !== KEY_BYTES) throw new TypeError('wrap: key must be 32 bytes')
    return { provider: 'local', keyRef, blob: wrapKey(held(), aadOf(context), key) }
  }

  return {
    provider: 'local',
    wrap,
    async generate(context) {
      const key = randomBytes(KEY_BYTES)
      return { key, wrapped: await wrap(key, context) }
    },
    async unwrap(wrapped, context) {
      const under = held()
      // Said apart from a forgery, for the operator: the usual cause is a root key file from elsewhere.
      if (wrapped.provider !== 'local' || wrapped.keyRef !== keyRef) {
        throw new Refusal('key_refused', {
          detail: 'the keys in the database were wrapped under another root key: put back the root key file they were made with',
        })
      }
      const key = unwrapKey(under, aadOf(context), wrapped.blob)
      if (key?.length !== KEY_BYTES) throw new Refusal('key_refused')
      return key
    },
    async check() {
      held()
      const stored = await readRootFile(path)
      if (stored === null) {
        throw new Refusal('key_refused', { detail: 'the root key file is gone: put it back before this process stops' })
      }
      if (keyId(secretKey(stored)).toString('hex') !== keyRef) {
        throw new Refusal('key_refused', { detail: 'the root key file was replaced while the service ran' })
      }
    },
    close() {
      root = null
    },
  }
}

/**
 * Copies the root key file, for `redoubt keys backup`.
 * @param to a file that does not exist yet; it gets mode 0600
 * @returns the id of the root key, which the database keeps with every key wrapped under it
 * @throws Refusal key_refused
 */
export async function backupLocal(path: string, to: string): Promise<string> {
  return keyId(secretKey(await copyRootFile(path, to))).toString('hex')
}
