import assert from 'node:assert/strict'
import { createHmac, createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { test } from 'node:test'
import { createLocalJWKSet, jwtVerify } from 'jose'
import { Refusal } from '../src/errors.ts'
import { openTokens } from '../src/tokens.ts'
import type { Claims } from '../src/tokens/claims.ts'
import { twoGenerations } from '../src/tokens/cache.ts'

const pair = generateKeyPairSync('ed25519')
const issuer = 'https://auth.example.test'
const audience = 'therapy'
const start = 1_700_000_000_000
let clock = start
const now = (): number => clock
const key = { kid: 'k1', ...pair }
const tokens = openTokens({ issuer, audience, keys: [key], now })
const person = { actor: '0190a8f0-0000-7000-8000-000000000001', session: '0190a8f0-0000-7000-8000-000000000002', role: 'patient', tenant: 'clinic' }
const good = {
  iss: issuer, aud: audience, sub: person.actor, sid: person.session, role: 'patient', tenant: 'clinic', jti: 'AAAAAAAAAAAAAAAAAAAAAA', iat: start / 1000, nbf: start / 1000, exp: start / 1000 + 600,
}
const goodHeader = { alg: 'EdDSA', typ: 'at+jwt', kid: 'k1' }
const text = (value: unknown): string => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
const signed = (header: unknown, claims: unknown, by = pair.privateKey): string => {
  const input = `${text(header)}.${text(claims)}`
  return `${input}.${sign(null, Buffer.from(input), by).toString('base64url')}`
}
const refusedBy = (token: string, of = tokens): void => {
  assert.throws(() => of.verify(token), (error) => error instanceof Refusal && error.code === 'unauthenticated' && error.fields.length === 0 && error.detail === undefined)
}

test('a token that was issued verifies, also by another implementation over the published keys', async () => {
  clock = start
  const { token, expiresIn } = tokens.issue(person)
  assert.equal(expiresIn, 600)
  const claims = tokens.verify(token)
  assert.deepEqual({ ...claims, tokenId: '' }, { ...person, client: undefined, tokenId: '', notBefore: start / 1000, expiresAt: start / 1000 + 600 })
  const { payload, protectedHeader } = await jwtVerify(token, createLocalJWKSet(tokens.jwks() as never), { issuer, audience, typ: 'at+jwt', algorithms: ['EdDSA'], currentDate: new Date(start), requiredClaims: ['sub', 'sid', 'role', 'tenant', 'jti'] })
  assert.equal(payload.sub, person.actor)
  assert.deepEqual(protectedHeader, goodHeader)
  assert.notEqual(tokens.verify(tokens.issue(person).token).tokenId, claims.tokenId)
})

test('the published keys hold nothing private', () => {
  assert.deepEqual(tokens.jwks(), { keys: [{ kty: 'OKP', crv: 'Ed25519', x: pair.publicKey.export({ format: 'jwk' }).x, kid: 'k1', alg: 'EdDSA', use: 'sig' }] })
})

test('the baseline of the forgeries below is accepted', () => {
  clock = start
  assert.equal(tokens.verify(signed(goodHeader, good)).actor, person.actor)
})

test('attack: alg none, in every spelling, with and without signature', () => {
  for (const alg of ['none', 'None', 'NONE', 'nOnE', '']) {
    const input = `${text({ ...goodHeader, alg })}.${text(good)}`
    for (const token of [`${input}.`, input, signed({ ...goodHeader, alg }, good)]) refusedBy(token)
  }
})

test('attack: HS256 with the public key as the secret', () => {
  const secrets = [pair.publicKey.export({ format: 'pem', type: 'spki' }), pair.publicKey.export({ format: 'der', type: 'spki' }), Buffer.from(String(pair.publicKey.export({ format: 'jwk' }).x), 'base64url')]
  for (const secret of secrets) {
    const input = `${text({ ...goodHeader, alg: 'HS256' })}.${text(good)}`
    refusedBy(`${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`)
  }
})

test('attack: another algorithm, type or key in the header', () => {
  for (const change of [
    { alg: 'ES256' }, { alg: 'RS256' }, { alg: 'Ed25519' }, { alg: 'eddsa' }, { typ: 'JWT' }, { typ: 'AT+JWT' }, { typ: 'application/at+jwt' }, { typ: undefined },
    { kid: 'k2' }, { kid: 'K1' }, { kid: '../../etc/passwd' }, { kid: "k1' or '1'='1" }, { kid: '/dev/null' }, { kid: '__proto__' }, { kid: 'constructor' }, { kid: '' }, { kid: ['k1'] }, { kid: null }, { kid: undefined },
    { jwk: pair.publicKey.export({ format: 'jwk' }) }, { jku: 'https://evil.test/jwks.json' }, { x5u: 'https://evil.test/x' }, { x5c: ['AA=='] }, { crit: ['exp'] }, { b64: false, crit: ['b64'] }, { zip: 'DEF' }, { extra: 1 },
  ]) refusedBy(signed({ ...goodHeader, ...change }, good))
})

test('attack: a key of the sender in the header, and the token signed by it', () => {
  const own = generateKeyPairSync('ed25519')
  refusedBy(signed({ ...goodHeader, jwk: own.publicKey.export({ format: 'jwk' }) }, good, own.privateKey))
  refusedBy(signed(goodHeader, good, own.privateKey))
})

test('attack: the token of another environment, which names its keys and its issuer alike', () => {
  const staging = openTokens({ issuer, audience, keys: [{ kid: 'k1', ...generateKeyPairSync('ed25519') }], now })
  clock = start
  refusedBy(staging.issue(person).token)
  // And one that has our key but is somewhere else.
  refusedBy(openTokens({ issuer: 'https://auth.staging.example.test', audience, keys: [key], now }).issue(person).token)
})

test('attack: the token of another issuer, audience or purpose', () => {
  for (const change of [
    { iss: `${issuer}/` }, { iss: 'https://evil.test' }, { iss: [issuer] }, { iss: undefined }, { aud: 'cartevo' }, { aud: [audience] }, { aud: [audience, 'cartevo'] }, { aud: '' }, { aud: undefined },
    { sub: 'someone' }, { sub: '' }, { sub: null }, { sid: undefined }, { sid: 'x' }, { role: '' }, { role: 'Admin' }, { role: ['patient'] }, { role: undefined }, { tenant: '' }, { tenant: undefined }, { tenant: 'a b' }, { jti: undefined }, { jti: '1' }, { scope: 'admin' },
    { role: 'system.sign-in\n' }, { iat: undefined }, { exp: undefined }, { exp: '9999999999' }, { exp: good.exp + 0.5 }, { exp: Number.MAX_SAFE_INTEGER }, { exp: good.iat + 601 }, { nbf: good.iat - 1 }, { nbf: good.exp }, { iat: -1, nbf: -1, exp: 599 },
  ]) refusedBy(signed(goodHeader, { ...good, ...change }))
})

test('attack: a claim twice, so that two readers see two tokens', () => {
  const body = JSON.stringify(good)
  refusedBy(signed(goodHeader, body.replace('"role":"patient"', '"role":"admin","role":"patient"')))
  refusedBy(signed(goodHeader, body.replace('"role":"patient"', '"role":"patient","role":"admin"')))
  refusedBy(signed(goodHeader, body.replace('"role"', '"\\u0072ole"')))
  refusedBy(signed(goodHeader, body.replace('{', '{ ')))
  refusedBy(signed(goodHeader, `${body.slice(0, -1)},"__proto__":{}}`))
  refusedBy(signed(goodHeader, '[]'))
  refusedBy(signed(goodHeader, 'null'))
  refusedBy(signed(goodHeader, Buffer.from([0xff, 0xfe]).toString('latin1')))
})

test('attack: the same token under another text, cut, extended or huge', () => {
  const { token } = tokens.issue(person)
  const [header = '', body = '', signature = ''] = token.split('.')
  const last = signature.at(-1) ?? ''
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  const sameBytes = `${signature.slice(0, -1)}${alphabet[alphabet.indexOf(last) + 1]}`
  assert.deepEqual(Buffer.from(sameBytes, 'base64url'), Buffer.from(signature, 'base64url'))
  for (const other of [
    `${header}.${body}.${sameBytes}`, `${token}=`, `${token}.`, `${token}.x`, `.${token}`, ` ${token}`, `${header}.${body}`, `${header}.${body}.`, `${header}..${signature}`, `.${body}.${signature}`, '', '.', '..', '...',
    `${header}=.${body}.${signature}`, `${header}.${body}=.${signature}`, `${header}.${body}.${signature.replaceAll('-', '+').replaceAll('_', '/')}!`, `${token}\0`, token.slice(0, -1), `${'a'.repeat(5_000_000)}.b.c`,
  ]) refusedBy(other)
  refusedBy(undefined as unknown as string)
  refusedBy({ toString: () => token } as unknown as string)
  refusedBy(signed(goodHeader, { ...good, tenant: 'x'.repeat(5000) }))
  const changed = Buffer.from(body, 'base64url').toString().replace('"patient"', '"admin"')
  refusedBy(`${header}.${text(changed)}.${signature}`)
})

test('expired and not yet valid, at the edges of the allowed skew, also for a token that is remembered', () => {
  clock = start
  const { token } = tokens.issue(person)
  tokens.verify(token)
  clock = start + 630_000 - 1
  tokens.verify(token)
  clock = start + 630_000
  refusedBy(token)
  clock = start - 30_000
  tokens.verify(token)
  clock = start - 30_001
  refusedBy(token)
  clock = start + 630_000
  const cold = openTokens({ issuer, audience, keys: [key], now })
  refusedBy(token, cold)
  clock = start
  cold.verify(token)
})

test('a retired key still verifies until it is taken off the list, and the first key with a private part signs', () => {
  clock = start
  const next = generateKeyPairSync('ed25519')
  const { token } = tokens.issue(person)
  const during = openTokens({ issuer, audience, keys: [{ kid: 'k2', ...next }, { kid: 'k1', publicKey: pair.publicKey }], now })
  during.verify(token)
  const newer = during.issue(person).token
  refusedBy(newer)
  refusedBy(token, openTokens({ issuer, audience, keys: [{ kid: 'k2', ...next }], now }))
  const verifier = openTokens({ issuer, audience, keys: [{ kid: 'k2', publicKey: next.publicKey }], now })
  verifier.verify(newer)
  assert.throws(() => verifier.issue(person), TypeError)
})

test('keys and names that cannot be right are refused when opened', () => {
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const other = generateKeyPairSync('ed25519')
  for (const options of [
    { keys: [] }, { keys: [key, key] }, { keys: [{ ...key, kid: '../x' }] }, { keys: [{ ...key, kid: '' }] }, { keys: [{ kid: 'k', publicKey: rsa.publicKey }] }, { keys: [{ kid: 'k', publicKey: pair.privateKey }] },
    { keys: [{ kid: 'k', publicKey: pair.publicKey, privateKey: other.privateKey }] }, { keys: [{ kid: 'k', publicKey: pair.publicKey, privateKey: pair.publicKey }] }, { keys: [{ kid: 'k', publicKey: 'pem' }] }, { issuer: '' }, { audience: undefined },
  ]) assert.throws(() => openTokens({ issuer, audience, keys: [key], ...options } as never), TypeError)
  assert.ok(createPublicKey(pair.privateKey).equals(pair.publicKey))
})

test('claims that verify would refuse are not issued', () => {
  for (const change of [{ actor: 'x' }, { session: '' }, { role: 'Admin Role' }, { tenant: '' }, { tenant: 'x'.repeat(5000) }]) {
    assert.throws(() => tokens.issue({ ...person, ...change }))
  }
})

test('the memory of verified tokens is bounded and keeps those in use', () => {
  const cache = twoGenerations<Claims>(3)
  const claims = { ...person, client: undefined, tokenId: '', notBefore: 0, expiresAt: 0 }
  for (let i = 0; i < 100; i++) {
    cache.set(`t${i}`, claims)
    if (i > 0) assert.ok(cache.get('t0') !== undefined, 'used each time, kept each time')
    if (i === 0) continue
  }
  const held = Array.from({ length: 100 }, (_, i) => cache.get(`t${i}`)).filter((found) => found !== undefined)
  assert.ok(held.length <= 6, String(held.length))
})

test('attack: a text that ends like a remembered one is not taken for it', () => {
  const cache = twoGenerations<number>(2)
  const end = 'x'.repeat(60)
  cache.set(`genuine.${end}`, 1)
  assert.equal(cache.get(`genuine.${end}`), 1)
  for (const other of [`forged!.${end}`, `longer genuine.${end}`, end, end.slice(-22)]) assert.equal(cache.get(other), undefined)
  for (const filler of ['a', 'b']) cache.set(filler, 0)
  assert.equal(cache.get(`forged!.${end}`), undefined, 'nor in the older generation')
  assert.equal(cache.get(`genuine.${end}`), 1)
})
