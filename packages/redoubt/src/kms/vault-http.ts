import { Agent as HttpAgent, request as httpRequest } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import { KeyServiceTrouble, networkTrouble, type Trouble } from './trouble.ts'

/** Vault said no: status and texts of `{"errors":[…]}`. The texts decide what it means and go no further. */
export class VaultAnswer extends Error {
  override readonly name = 'VaultAnswer'
  readonly status: number
  readonly texts: readonly string[]

  constructor(status: number, texts: readonly string[]) {
    super(`status ${status}`)
    this.status = status
    this.texts = texts
  }
}

export type VaultRequest = {
  readonly method: 'GET' | 'POST'
  /** Below /v1/. */
  readonly path: string
  readonly token?: string
  readonly body?: Readonly<Record<string, unknown>>
  readonly signal: AbortSignal
}

/** `data` and `auth` of an answer; {} where it has none (204 has no body). */
export type VaultReply = { readonly data: Readonly<Record<string, unknown>>; readonly auth: Readonly<Record<string, unknown>> }

/** Answers of the routes we use have a few KiB. */
const mostBytes = 1024 * 1024

function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.fromEntries(Object.entries(value)) : {}
}

/** The whole body, or an error: a connection cut in the middle ends the stream with one. */
async function bodyOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of response) {
    if (!Buffer.isBuffer(chunk)) throw new KeyServiceTrouble('garbled')
    length += chunk.length
    if (length > mostBytes) throw new KeyServiceTrouble('garbled')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parsed(response: IncomingMessage, text: string): Readonly<Record<string, unknown>> {
  if (text === '') return {}
  // A page of a proxy or of a sign-in in front is no answer of Vault, whatever its status.
  if (!/^application\/json\b/i.test(response.headers['content-type'] ?? '')) throw new KeyServiceTrouble('garbled')
  return recordOf(JSON.parse(text))
}

export type VaultConnection = { send(request: VaultRequest): Promise<VaultReply>; close(): void }

/**
 * Vault's HTTP API, version 1 (OpenBao's is the same, header names included).
 * @param address scheme, host and port
 * @param ca authorities trusted instead of the system's, as PEM
 */
export function connectVault(address: URL, namespace: string | undefined, ca: string | undefined): VaultConnection {
  const secure = address.protocol === 'https:'
  const agent = secure ? new HttpsAgent({ keepAlive: true, minVersion: 'TLSv1.2', ...(ca === undefined ? {} : { ca }) }) : new HttpAgent({ keepAlive: true })

  function exchange(request: VaultRequest): Promise<IncomingMessage> {
    const { method, path, token, body, signal } = request
    const text = body === undefined ? undefined : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const outgoing = (secure ? httpsRequest : httpRequest)(
        new URL(`/v1/${path}`, address),
        {
          method,
          agent,
          signal,
          headers: {
            accept: 'application/json',
            // Asked for by agents and proxies of Vault: a page that only makes a browser send requests cannot set it.
            'x-vault-request': 'true',
            ...(token === undefined ? {} : { 'x-vault-token': token }),
            ...(namespace === undefined ? {} : { 'x-vault-namespace': namespace }),
            ...(text === undefined ? {} : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) }),
          },
        },
        resolve,
      )
      outgoing.once('error', reject)
      outgoing.end(text)
    })
  }

  return {
    async send(request) {
      const response = await exchange(request)
      const status = response.statusCode ?? 0
      const text = await bodyOf(response)
      if (status >= 300 && status < 400) throw new KeyServiceTrouble('redirected')
      if (status >= 200 && status < 300) {
        const answer = parsed(response, text)
        return { data: recordOf(answer['data']), auth: recordOf(answer['auth']) }
      }
      // The status alone says enough where a gateway answered in Vault's place.
      const errors = status >= 500 && !/json/i.test(response.headers['content-type'] ?? '') ? [] : parsed(response, text)['errors']
      throw new VaultAnswer(status, Array.isArray(errors) ? errors.filter((one) => typeof one === 'string') : [])
    },
    close: () => agent.destroy(),
  }
}

/** What Vault's answer means (kms.md §2; texts from builtin/logical/transit). */
export function vaultTrouble(error: unknown): Trouble {
  if (!(error instanceof VaultAnswer)) return networkTrouble(error) ?? 'garbled'
  const words = error.texts.join(' ')
  switch (error.status) {
    case 400:
      if (/encryption key not found|no existing key named/i.test(words)) return 'deleted'
      if (/disallowed by policy/i.test(words)) return 'retired'
      if (/message authentication failed|invalid ciphertext|could not decode|unable to decrypt|failed to decrypt|invalid key version/i.test(words)) return 'refused'
      return 'unusable'
    case 403:
      return 'denied'
    case 404:
      return 'deleted'
    case 429:
      return 'throttled'
    case 503:
      return /sealed/i.test(words) ? 'sealed' : 'away'
    default:
      // 412: not yet replicated. 472, 473: a standby of Vault Enterprise.
      return error.status >= 500 || [408, 412, 472, 473].includes(error.status) ? 'away' : 'unusable'
  }
}
