import { createPublicKey, generateKeyPairSync, randomUUID, verify } from 'node:crypto'
import { createVerifier } from 'fast-jwt'
import { jwtVerify } from 'jose'
import { openTokens } from 'redoubt/tokens'
import { rounds } from './rounds.ts'

/**
 * Verifying an access token: remembered and not, against fast-jwt with its cache, raw node:crypto and jose. Every variant
 * gets the token as a new string each time, as a header brings it; all check signature, issuer, audience and expiry.
 */
const pair = generateKeyPairSync('ed25519')
const [issuer, audience] = ['https://bench.test', 'bench']
const open = () => openTokens({ issuer, audience, keys: [{ kid: 'k1', ...pair }] })
const signer = open()
const person = { actor: randomUUID(), session: randomUUID(), role: 'patient', tenant: 'clinic' }

/** Tokens in use at one time, in one buffer each: what the network brings. */
const many = 500
const wires = Array.from({ length: many }, () => Buffer.from(`Bearer ${signer.issue(person).token}`, 'latin1'))

function run1(count: number, once: (token: string) => unknown): Promise<number> {
  const started = performance.now()
  for (let i = 0; i < count; i += 1) once((wires[i % many] ?? Buffer.alloc(0)).toString('latin1').slice(7))
  return Promise.resolve((count * 1000) / (performance.now() - started))
}

/** Tokens that no cache has seen. */
function runFresh(count: number, once: (token: string) => unknown): Promise<number> {
  const fresh = Array.from({ length: count }, () => signer.issue(person).token)
  const started = performance.now()
  for (const token of fresh) once(token)
  return Promise.resolve((count * 1000) / (performance.now() - started))
}

async function runJose(count: number): Promise<number> {
  const fresh = Array.from({ length: count }, () => signer.issue(person).token)
  const started = performance.now()
  for (const token of fresh) await jwtVerify(token, pair.publicKey, { issuer, audience, algorithms: ['EdDSA'], typ: 'at+jwt' })
  return (count * 1000) / (performance.now() - started)
}

function raw(token: string): void {
  const second = token.lastIndexOf('.')
  if (!verify(null, Buffer.from(token.slice(0, second), 'latin1'), pair.publicKey, Buffer.from(token.slice(second + 1), 'base64url'))) throw new TypeError('token: raw did not verify')
  const claims = JSON.parse(Buffer.from(token.slice(token.indexOf('.') + 1, second), 'base64url').toString()) as { readonly iss: string; readonly aud: string; readonly exp: number }
  if (claims.iss !== issuer || claims.aud !== audience || claims.exp * 1000 < Date.now()) throw new TypeError('token: raw did not hold')
}

export async function run(): Promise<void> {
  const tokens = open()
  const pem = createPublicKey(pair.privateKey).export({ format: 'pem', type: 'spki' }).toString()
  const options = { key: pem, allowedIss: issuer, allowedAud: audience, algorithms: ['EdDSA' as const] }
  const cached = createVerifier({ ...options, cache: 1000 })
  const uncached = createVerifier({ ...options, cache: false })
  await run1(many, (token) => tokens.verify(token))
  await rounds({
    title: `remembered, ${many} tokens in turn`,
    rounds: 7,
    variants: {
      'redoubt': () => run1(200_000, (token) => tokens.verify(token)),
      'fast-jwt, cache': () => run1(50_000, (token) => cached(token) as unknown),
    },
    ratios: [['redoubt', 'fast-jwt, cache']],
  })
  await rounds({
    title: 'not remembered',
    rounds: 7,
    variants: {
      'redoubt': () => runFresh(3000, (token) => tokens.verify(token)),
      'raw node:crypto': () => runFresh(3000, raw),
      'fast-jwt': () => runFresh(3000, (token) => uncached(token) as unknown),
      'jose': () => runJose(3000),
    },
    ratios: [['redoubt', 'raw node:crypto'], ['redoubt', 'fast-jwt'], ['redoubt', 'jose']],
  })
}
