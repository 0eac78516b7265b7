import { readFile } from 'node:fs/promises'
import { performance } from 'node:perf_hooks'
import { Refusal } from '../errors.ts'
import type { KeyContext, KeyService, KeyServiceOptions } from '../kms.ts'
import { contextBytes, remoteKeyService, type Wrapping } from './remote.ts'
import { KeyServiceTrouble } from './trouble.ts'
import { connectVault, vaultTrouble, type VaultReply } from './vault-http.ts'
import { openVaultToken, type VaultSignIn, type VaultTimers } from './vault-token.ts'

/** What Vault needs beside the setting. */
export type VaultOptions = {
  /** VAULT_ADDR; left out when the setting names the address. */
  readonly address?: string
  readonly namespace?: string
  /** VAULT_CACERT: authorities trusted instead of the system's, a PEM file. */
  readonly caFile?: string
  readonly signIn: VaultSignIn
  readonly timers?: Partial<VaultTimers>
}

type Where = { readonly address: URL; readonly mount: string; readonly name: string }

const loopback = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/

/** @throws TypeError naming what is wrong with the setting */
function whereOf(where: string, options: VaultOptions, production: boolean): Where {
  const inSetting = /^https?:\/\//.test(where)
  const address = inSetting ? where : options.address
  if (address === undefined || !URL.canParse(address)) throw new TypeError('openVault: the address is missing or no URL: set VAULT_ADDR, or write vault:https://<host>/<mount>/<key>')
  const url = new URL(address)
  const path = inSetting ? url.pathname.slice(1) : where
  const [, mount, name] = /^([\w.-]+(?:\/[\w.-]+)*)\/([\w.-]{1,128})$/.exec(path) ?? []
  if (mount === undefined || name === undefined || /(?:^|\/)\.\.?(?:\/|$)/.test(path)) throw new TypeError('openVault: the setting must be vault:<mount>/<key>, for example vault:transit/redoubt')
  if (!/^https?:$/.test(url.protocol) || url.username !== '' || url.search !== '' || url.hash !== '' || (!inSetting && url.pathname !== '/')) {
    throw new TypeError('openVault: the address must be https://<host>[:<port>] and nothing more')
  }
  // An agent on this machine takes http and speaks https itself.
  if (production && url.protocol === 'http:' && !loopback.test(url.hostname)) throw new TypeError('openVault: the address must be https: in production, unless it is an agent on this machine')
  return { address: new URL(url.origin), mount, name }
}

function checkSignIn(signIn: VaultSignIn, production: boolean): void {
  if (production && signIn.method === 'token') throw new TypeError('openVault: a token in the environment is refused in production; use token-file, approle or kubernetes')
  const mount = 'mount' in signIn ? signIn.mount : undefined
  if (mount !== undefined && (!/^[\w.-]+(?:\/[\w.-]+)*$/.test(mount) || mount.includes('..'))) throw new TypeError('openVault: signIn.mount must be the path of an auth method')
}

function plainTimers(given: Partial<VaultTimers> = {}): VaultTimers {
  return {
    clock: given.clock ?? (() => performance.now()),
    random: given.random ?? Math.random,
    after:
      given.after ??
      ((milliseconds, then) => {
        const timer = setTimeout(then, Math.min(milliseconds, 2 ** 31 - 1)).unref()
        return () => clearTimeout(timer)
      }),
  }
}

/** `vault:v<version>:<base64>` with no other way to write the same: the version also stands in the reference. */
const written = /^vault:v([1-9]\d{0,8}):(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

/**
 * HashiCorp Vault or OpenBao, Transit engine: the key never leaves it. The context goes in as `context` of a derived
 * key, not as associated data: a rewrap keeps it, and OpenBao's knows no associated data.
 * @param where `<mount>/<key>`, or `https://<host>/<mount>/<key>`
 * @throws TypeError when a setting is not usable
 * @throws Refusal key_service_unavailable when the CA file cannot be read
 */
export async function openVault(where: string, options: KeyServiceOptions): Promise<KeyService> {
  const given = options.vault
  if (given === undefined) throw new TypeError('openVault: options.vault is missing: say how to sign in')
  const { production } = options
  checkSignIn(given.signIn, production)
  const { address, mount, name } = whereOf(where, given, production)
  const ca = given.caFile === undefined ? undefined : await readFile(given.caFile, 'utf8').catch(() => null)
  if (ca === null || (ca !== undefined && !ca.includes('-----BEGIN CERTIFICATE-----'))) {
    throw new Refusal('key_service_unavailable', { detail: 'the file of trusted authorities (VAULT_CACERT) cannot be read or holds no certificate' })
  }
  const connection = connectVault(address, given.namespace, ca)
  const token = openVaultToken(connection, given.signIn, production, plainTimers(given.timers))
  let looked: Promise<void> | null = null

  function call(method: 'GET' | 'POST', path: string, signal: AbortSignal, body?: Readonly<Record<string, unknown>>): Promise<VaultReply> {
    return token.using(signal, (now) => connection.send({ method, path: `${mount}/${path}`, token: now, signal, ...(body === undefined ? {} : { body }) }))
  }

  /** A key that is not derived takes a context and ignores it: everything would open everywhere, and nobody would notice. */
  async function lookAtKey(signal: AbortSignal): Promise<void> {
    const { data } = await call('GET', `keys/${name}`, signal)
    if (data['derived'] !== true || data['supports_encryption'] === false || data['convergent_encryption'] === true) throw new KeyServiceTrouble('unusable')
    if (production && (data['exportable'] === true || data['allow_plaintext_backup'] === true)) throw new KeyServiceTrouble('unusable')
  }

  async function suitable(signal: AbortSignal): Promise<void> {
    looked ??= lookAtKey(signal)
    try {
      await looked
    } catch (error) {
      looked = null
      throw error
    }
  }

  const contextOf = (context: KeyContext): string => contextBytes('redoubt vault context', context).toString('base64')

  function wrappingOf(ciphertext: unknown): Wrapping {
    const [text, version] = (typeof ciphertext === 'string' ? written.exec(ciphertext) : null) ?? []
    if (text === undefined || version === undefined) throw new KeyServiceTrouble('garbled')
    return { keyRef: `${mount}/${name}:v${version}`, blob: Buffer.from(text, 'latin1') }
  }

  function textOf({ keyRef, blob }: Wrapping): string {
    const [text, version] = written.exec(blob.toString('latin1')) ?? []
    if (text === undefined || version === undefined || keyRef !== `${mount}/${name}:v${version}`) throw new KeyServiceTrouble('refused')
    return text
  }

  function bytesOf(plaintext: unknown): Buffer {
    if (typeof plaintext !== 'string' || plaintext === '') throw new KeyServiceTrouble('garbled')
    return Buffer.from(plaintext, 'base64')
  }

  return remoteKeyService(
    {
      provider: 'vault',
      classify: vaultTrouble,
      async generate(context, signal) {
        await suitable(signal)
        const { data } = await call('POST', `datakey/plaintext/${name}`, signal, { bits: 256, context: contextOf(context) })
        return { key: bytesOf(data['plaintext']), ...wrappingOf(data['ciphertext']) }
      },
      async wrap(key, context, signal) {
        await suitable(signal)
        const { data } = await call('POST', `encrypt/${name}`, signal, { plaintext: key.toString('base64'), context: contextOf(context) })
        return wrappingOf(data['ciphertext'])
      },
      async unwrap(wrapping, context, signal) {
        const ciphertext = textOf(wrapping)
        await suitable(signal)
        const { data } = await call('POST', `decrypt/${name}`, signal, { ciphertext, context: contextOf(context) })
        return bytesOf(data['plaintext'])
      },
      async rewrap(wrapping, context, signal) {
        const ciphertext = textOf(wrapping)
        await suitable(signal)
        const { data } = await call('POST', `rewrap/${name}`, signal, { ciphertext, context: contextOf(context) })
        return wrappingOf(data['ciphertext'])
      },
      close() {
        token.close()
        connection.close()
      },
    },
    options,
  )
}
