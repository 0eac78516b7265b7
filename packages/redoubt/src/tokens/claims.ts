import { Refusal } from '../errors.ts'

/** The one algorithm (RFC 8037; `Ed25519` of RFC 9864 is the same signature under a newer name). */
export const algorithm = 'EdDSA'
/** RFC 9068 §2.1: says that this is an access token, so that no other JWT of the issuer passes for one. */
export const tokenType = 'at+jwt'

/** What a verified access token says. */
export type Claims = {
  readonly actor: string
  readonly role: string
  readonly tenant: string
  readonly session: string
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
  return Object.freeze({ actor: sub, role, tenant, session: sid, tokenId: jti, notBefore: nbf, expiresAt: exp })
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
  if (Object.keys(value).join() !== claimKeys || JSON.stringify(value) !== text) throw refused()
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
