import { Refusal } from '../errors.ts'

/** What can go wrong with a key service, in the words of none of them. */
export type Trouble = keyof typeof troubles

/**
 * One table for every provider: what the caller sees, whether trying again can help, and whether it counts against
 * the service. A detail never carries a value: the words of the service name accounts, keys and addresses.
 */
export const troubles = {
  away: {
    code: 'key_service_unavailable', again: true, counts: true,
    detail: 'the key service did not answer in time or could not be reached: look at network, DNS and the state of the service',
  },
  garbled: {
    code: 'key_service_unavailable', again: true, counts: true,
    detail: 'what answered is not the key service, or was cut short: look at proxies and gateways on the way to it',
  },
  throttled: {
    code: 'key_service_unavailable', again: true, counts: true,
    detail: 'the key service throttles: raise its quota or find what else uses it up',
  },
  sealed: {
    code: 'key_service_unavailable', again: true, counts: true,
    detail: 'the key service is sealed: unseal it',
  },
  untrusted: {
    code: 'key_service_unavailable', again: false, counts: true,
    detail: 'the certificate of the key service is not trusted: name the right authority, or find out who answers in its place',
  },
  redirected: {
    code: 'key_service_unavailable', again: false, counts: true,
    detail: 'the key service answers by a redirect, which is not followed with credentials: name the address that serves',
  },
  identity: {
    code: 'key_service_unavailable', again: false, counts: false,
    detail: 'the key service does not accept who we are, or the platform gave no identity: look at role, managed identity or sign-in, and at the clock',
  },
  denied: {
    code: 'key_refused', again: false, counts: false,
    detail: 'the key service denies this identity or this network the use of the key: allow what the runbook of this key service lists, no more',
  },
  disabled: {
    code: 'key_refused', again: false, counts: false,
    detail: 'the key is disabled in the key service: enable it, or move to another key while it can still be enabled',
  },
  deleted: {
    code: 'key_refused', again: false, counts: false,
    detail: 'the key is deleted, pending deletion or not there: cancel the deletion or recover it before it is purged; without it nothing sealed can be opened',
  },
  retired: {
    code: 'key_refused', again: false, counts: false,
    detail: 'this version of the key is expired, not yet valid or below the oldest version allowed: allow it, rewrap the keys under a new version, then retire it',
  },
  unusable: {
    code: 'key_refused', again: false, counts: false,
    detail: 'the key cannot be used this way: its kind or settings are not those that the runbook of this key service asks for',
  },
  refused: {
    code: 'key_refused', again: false, counts: false,
    // One and the same for every reason: which part did not fit is what an attacker with rights to the table would ask.
    detail: 'a wrapped key does not open here: altered, moved, or wrapped for another use or under another key',
  },
} as const

/** Thrown by a provider where it knows what happened without an error of its SDK. */
export class KeyServiceTrouble extends Error {
  override readonly name = 'KeyServiceTrouble'
  readonly trouble: Trouble

  constructor(trouble: Trouble) {
    super(trouble)
    this.trouble = trouble
  }
}

/**
 * The refusal of a trouble.
 * @param retryAfter seconds, for what passes by itself
 * @param word name of the error as the service gave it; kept as the cause when it is a plain identifier, so that no
 * message, request or response of an SDK travels with the refusal
 */
export function refusalOf(trouble: Trouble, retryAfter = 1, word?: string): Refusal {
  const { code, detail } = troubles[trouble]
  const cause = word !== undefined && /^[A-Za-z][A-Za-z0-9_.]{0,63}$/.test(word) ? { cause: new Error(`key service: ${word}`) } : {}
  return new Refusal(code, { detail, ...cause, ...(code === 'key_service_unavailable' ? { retryAfter } : {}) })
}

const untrusted = /^(?:CERT_|ERR_TLS_CERT|ERR_SSL|SELF_SIGNED|DEPTH_ZERO_SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH)/
const broken = /^(?:E[A-Z]+|UND_ERR_[A-Z_]+|REQUEST_SEND_ERROR)$/

/** A field of an error that may be anything at all. */
export function textIn(error: unknown, field: string): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined
  const value: unknown = Reflect.get(error, field)
  return typeof value === 'string' ? value : undefined
}

/** What the network or the parser reports, whoever passed it on; undefined when it is neither. */
export function networkTrouble(error: unknown): Trouble | undefined {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if (at instanceof KeyServiceTrouble) return at.trouble
    const code = textIn(at, 'code') ?? ''
    if (untrusted.test(code)) return 'untrusted'
    if (at instanceof SyntaxError || code === 'PARSE_ERROR') return 'garbled'
    if (broken.test(code) || at.name === 'TimeoutError' || at.name === 'AbortError') return 'away'
  }
  return undefined
}
