import { Refusal } from '../errors.ts'

/** The one algorithm (RFC 8037; `Ed25519` of RFC 9864 is the same signature under a newer name). */
export const algorithm = 'EdDSA'
/** RFC 9068 §2.1: says that this is an access token, so that no other JWT of the issuer passes for one. */
const tokenType = 'at+jwt'

/** What a verified access token says. */
export type Claims = {
  readonly actor: string
  readonly role: string
  readonly tenant: string
  readonly session: string
  /** Of an API client's token alone: what it may do, and where it may come from. */
  readonly client: { readonly scopes: readonly string[]; readonly networks: readonly string[] } | undefined
  readonly tokenId: string
  /** Seconds since 1970. */
  readonly notBefore: number
  readonly expiresAt: number
}

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const word = /^[a-z][a-z0-9_.-]{0,63}$/
const scope = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/
const tokenId = /^[A-Za-z0-9_-]{22}$/

const claimKeys = 'iss,aud,sub,sid,role,tenant,jti,iat,nbf,exp'
/** RFC 9068 §2.2.3: scope, its words in one text; networks is ours. */
const clientKeys = 'iss,aud,sub,sid,role,tenant,scope,networks,jti,iat,nbf,exp'
const scopeList = /^[a-z0-9:-]+(?: [a-z0-9:-]+)*$/

/** True for what a scope may be called: a word, or two with a colon between them. */
export function isScope(text: string): boolean {
  return /^[a-z][a-z0-9-]{0,31}(?::[a-z][a-z0-9-]{0,31})?$/.test(text)
}

/**
 * The header of every token under a key: exactly alg, typ and kid. It is compared as a text and never parsed, so that
 * jwk, jku, x5c, x5u, crit, b64 or zip in a header are just another header, which no key has.
 */
export function headerOf(kid: string): string {
  return Buffer.from(JSON.stringify({ alg: algorithm, typ: tokenType, kid }), 'utf8').toString('base64url')
}

/**
 * The claims of a token whose signature holds.
 * @param expected longest: seconds a token may live from iat to exp
 * @throws Refusal unauthenticated
 */
export function readClaims(part: string, expected: { readonly issuer: string; readonly audience: string; readonly longest: number }): Claims {
  const claims = readObject(part)
  const { iss, aud, sub, sid, role, tenant, jti, iat, nbf, exp } = claims
  if (iss !== expected.issuer || aud !== expected.audience) throw refused()
  if (!isText(sub, uuid) || !isText(sid, uuid) || !isText(role, word) || !isText(tenant, scope) || !isText(jti, tokenId)) throw refused()
  if (!isSeconds(iat) || !isSeconds(nbf) || !isSeconds(exp) || nbf < iat || exp <= nbf || exp - iat > expected.longest) throw refused()
  return Object.freeze({ actor: sub, role, tenant, session: sid, client: clientOf(claims, role), tokenId: jti, notBefore: nbf, expiresAt: exp })
}

/** A token is an API client's by its scope and by its role, and by both or neither: no person gets to be one. */
function clientOf({ scope: scopes, networks }: Record<string, unknown>, role: string): Claims['client'] {
  if ((role === 'api_client') !== (scopes !== undefined)) throw refused()
  if (scopes === undefined) return undefined
  if (!isText(scopes, scopeList) || !Array.isArray(networks) || !networks.every((network) => typeof network === 'string')) throw refused()
  return Object.freeze({ scopes: Object.freeze(scopes.split(' ')), networks: Object.freeze(networks) })
}

/*
 * Only our own tokens pass, and they are written by JSON.stringify in this order. A text that does not come back
 * byte for byte has a claim twice (two readers, two answers), spaces, or another spelling of a number or an escape.
 */
function readObject(part: string): Record<string, unknown> {
  const text = Buffer.from(part, 'base64url').toString('utf8')
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw refused()
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refused()
  const keys = Object.keys(value).join()
  if ((keys !== claimKeys && keys !== clientKeys) || JSON.stringify(value) !== text) throw refused()
  return value as Record<string, unknown>
}

function isText(value: unknown, form: RegExp): value is string {
  return typeof value === 'string' && form.test(value)
}

function isSeconds(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function refused(): Refusal {
  return new Refusal('unauthenticated')
}
