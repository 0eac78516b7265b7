import assert from 'node:assert/strict'
import { constants, generateKeyPairSync, publicEncrypt, randomBytes, sign } from 'node:crypto'
import { after, test } from 'node:test'
import { blobOf, partsOf, signedBytes } from '../src/kms/azure-blob.ts'
import { openKeyService, type KeyService, type KeyServiceOptions } from '../src/kms.ts'
import { keyServiceContract, refusalOf } from './contracts/key-service.ts'
import { canary, faultContract } from './contracts/key-service-faults.ts'
import { startAzure } from './support/azure.ts'
import { selfSigned } from './support/certificate.ts'
import { startFaultProxy, type Fault } from './support/fault-proxy.ts'

const certificate = selfSigned()
const azure = await startAzure(certificate)
const proxy = await startFaultProxy(azure.origin, certificate, certificate.cert)
for (const [name, kind] of [['root', 'RSA'], ['other', 'RSA'], ['sign', 'EC'], ['other-sign', 'EC']] as const) azure.create(name, kind)
// A managed identity, as the platform announces it; the SDK reads these itself.
Object.assign(process.env, azure.identity)
after(async () => {
  await proxy.close()
  await azure.close()
})

const context = { realm: 'therapy', purpose: 'data', version: '1' }
type Options = Pick<KeyServiceOptions, 'patience' | 'emit'>

function open(keys: string, origin = azure.origin, more: Options = {}): Promise<KeyService> {
  // Each has a bound of its own; a machine under load is slow.
  return openKeyService(`azure:${origin}/keys/${keys}`, { patience: { attempt: 20_000, whole: 60_000 }, ...more, production: false, azure: { ca: certificate.cert, insecureAnyVaultHost: true } })
}

function says(status: number, code: string, message: string, inner?: string): Extract<Fault, { kind: 'answer' }> {
  return { kind: 'answer', status, body: JSON.stringify({ error: { code, message: `${message} ${canary}`, ...(inner === undefined ? {} : { innererror: { code: inner } }) } }), headers: { 'content-type': 'application/json; charset=utf-8', 'x-ms-request-id': canary } }
}

keyServiceContract('azure', () => open('root?sign=sign'), () => open('other?sign=other-sign'))

faultContract({
  name: 'azure',
  proxy,
  certificate,
  open: (options) => open('root?sign=sign', proxy.origin, options),
  unwraps: ({ path }) => /\/unwrapkey\?/i.test(path),
  throttled: says(429, 'Throttled', 'Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached'),
  worded: [
    { title: 'a disabled key', fault: says(403, 'Forbidden', 'Operation unwrapKey is not allowed on a disabled key.', 'KeyDisabled'), says: /^key_refused: the key is disabled/, tries: 1 },
    { title: 'a denied key', fault: says(403, 'Forbidden', "The user, group or application does not have keys unwrapKey permission on key vault", 'AccessDenied'), says: /^key_refused: the key service denies/, tries: 1 },
    { title: 'a network that is shut out', fault: says(403, 'Forbidden', 'Client address is not authorized and caller is not a trusted service.', 'ForbiddenByFirewall'), says: /^key_refused: the key service denies this identity or this network/, tries: 1 },
    { title: 'a deleted key', fault: says(404, 'KeyNotFound', 'A key with (name/id) root was not found in this key vault.'), says: /^key_refused: the key is deleted/, tries: 1 },
    { title: 'a key deleted but recoverable', fault: says(409, 'Conflict', 'Key root is currently in a deleted but recoverable state', 'ObjectIsDeletedButRecoverable'), says: /^key_refused: the key is deleted/, tries: 1 },
    { title: 'an expired version', fault: says(403, 'Forbidden', 'Operation wrapKey is not allowed on an expired key.', 'KeyExpired'), says: /^key_refused: this version of the key is expired/, tries: 1 },
    { title: 'a version that is not valid yet', fault: says(403, 'Forbidden', 'Operation unwrapKey is not allowed on a key that is not yet valid.', 'KeyNotYetValid'), says: /^key_refused: this version of the key is expired, not yet valid/, tries: 1 },
    { title: 'a policy that forbids', fault: says(403, 'Forbidden', 'The operation is not permitted by policy', 'ForbiddenByPolicy'), says: /^key_refused: the key service denies/, tries: 1 },
    { title: 'a conflict that passes', fault: says(409, 'Conflict', 'There was a conflict with another operation.'), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
    { title: 'a value that does not unwrap', fault: says(400, 'BadParameter', 'The parameter is incorrect.'), says: /^key_refused: a wrapped key does not open here/, tries: 1 },
    { title: 'an internal error', fault: says(500, 'InternalServerError', 'internal'), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
    { title: 'a service that is down', fault: says(503, 'ServiceUnavailable', 'down'), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
    { title: 'an error without words', fault: { kind: 'answer', status: 403, body: '{"error":{"code":"Forbidden"}}' }, says: /^key_refused: the key service denies/, tries: 1 },
    { title: 'an error without a body', fault: { kind: 'answer', status: 403, body: '' }, says: /^key_service_unavailable: what answered is not/, tries: 4 },
    { title: 'an answer without the key', fault: { kind: 'answer', status: 200, body: '{}' }, says: /^key_service_unavailable: what answered is not/, tries: 4 },
  ],
})

test('azure: the first request of a client carries no body, and every operation names a version', async () => {
  const service = await open('root?sign=sign')
  azure.requests.length = 0
  await service.check()
  const [first] = azure.requests
  assert.deepEqual({ authorized: first?.authorized, length: first?.length }, { authorized: false, length: 0 })
  const operations = azure.requests.filter(({ method, authorized }) => method === 'POST' && authorized).map(({ path }) => path.replace(/[0-9a-f]{32}/, 'VERSION').toLowerCase())
  assert.deepEqual(operations, ['/keys/root/version/wrapkey', '/keys/sign/version/sign', '/keys/root/version/unwrapkey'])
  service.close()
})

test('attack: a key planted with the public key alone is refused before anything is unwrapped', async () => {
  const service = await open('root?sign=sign')
  const { wrapped } = await service.generate(context)
  const parts = partsOf(wrapped.blob)
  assert.ok(parts !== null)
  const { publicKey } = azure.newest('root')
  const planted = publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }, randomBytes(32))
  const mine = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
  const forged = sign('sha256', signedBytes(context, wrapped.keyRef, parts.algorithm, planted), { key: mine, dsaEncoding: 'ieee-p1363' })
  azure.requests.length = 0
  for (const signature of [parts.signature, forged, Buffer.alloc(64), Buffer.alloc(0)]) {
    assert.match(await refusalOf(service.unwrap({ ...wrapped, blob: blobOf({ ...parts, wrapped: planted, signature }) }, context)), /^key_refused: a wrapped key does not open here/)
  }
  assert.equal(azure.requests.filter(({ path }) => path.endsWith('/unwrapkey')).length, 0)
  service.close()
})

test('attack: a signature is not moved to another version, key or vault, and no other signing key is believed', async () => {
  const service = await open('root?sign=sign')
  const { key, wrapped } = await service.generate(context)
  azure.rotate('root')
  const newer = `${azure.origin}/keys/root/${azure.newest('root').version}`
  for (const keyRef of [newer, wrapped.keyRef.replace('/root/', '/other/'), wrapped.keyRef.replace('localhost', 'vault.example'), `${azure.origin}/keys/root/`, `${wrapped.keyRef}/x`]) {
    assert.match(await refusalOf(service.unwrap({ ...wrapped, keyRef }, context)), /^key_refused: a wrapped key does not open here/)
  }
  const elsewhere = await open('root?sign=other-sign')
  await assert.rejects(elsewhere.unwrap(wrapped, context))
  const theirs = await elsewhere.generate(context)
  await assert.rejects(service.unwrap(theirs.wrapped, context))
  assert.deepEqual(await service.unwrap(wrapped, context), key)
  service.close()
  elsewhere.close()
})

test('azure: new versions of both keys are used within ten minutes; what older ones wrapped and signed opens, expired ones too', async () => {
  let now = 0
  const service = await open('root?sign=sign', azure.origin, { patience: { attempt: 20_000, whole: 60_000, clock: () => now } })
  const before = await service.generate(context)
  const [root, signing] = [azure.newest('root'), azure.newest('sign')]
  azure.rotate('root')
  azure.rotate('sign')
  now += 10 * 60_000 + 1
  const later = await service.generate(context)
  assert.ok(later.wrapped.keyRef.endsWith(azure.newest('root').version))
  assert.notEqual(later.wrapped.keyRef, before.wrapped.keyRef)
  for (const version of [root, signing]) version.expires = Math.floor(Date.now() / 1000) - 60
  const restarted = await open('root?sign=sign')
  assert.deepEqual(await restarted.unwrap(before.wrapped, context), before.key)
  restarted.close()
  assert.deepEqual(await service.unwrap(later.wrapped, context), later.key)
  service.close()
})

test('azure: the bytes of a wrapped key and of what is signed are those of docs/formats.md', () => {
  const version = '0123456789abcdef0123456789abcdef'
  const parts = { algorithm: 'RSA-OAEP-256', wrapped: Buffer.from('aabb', 'hex'), signAlgorithm: 'ES256', signVersion: version, signature: Buffer.from('cc', 'hex') }
  const text = (value: string): string => value.length.toString(16).padStart(8, '0') + Buffer.from(value).toString('hex')
  const blob = `01${text('RSA-OAEP-256')}00000002aabb${text('ES256')}${text(version)}00000001cc`
  assert.equal(blobOf(parts).toString('hex'), blob)
  assert.deepEqual(partsOf(Buffer.from(blob, 'hex')), parts)
  for (const wrong of [`02${blob.slice(2)}`, `${blob}00`, `${blob}00000000`, blob.slice(0, -2), blob.replace(text('RSA-OAEP-256'), text('RSA-OAEP')), blob.replace(text('ES256'), text('ES384'))]) assert.equal(partsOf(Buffer.from(wrong, 'hex')), null)
  const kid = `https://v.vault.azure.net/keys/root/${version}`
  const pairs = [text('context'), text('a'), text('2'), text('b'), text('1')].join('')
  const signed = `${text('redoubt azure wrapped key')}${(pairs.length / 2).toString(16).padStart(8, '0')}${pairs}${text(kid)}${text('RSA-OAEP-256')}00000002aabb`
  assert.equal(signedBytes({ b: '1', a: '2' }, kid, 'RSA-OAEP-256', parts.wrapped).toString('hex'), signed)
})

test('azure: a pinned version wraps although there is a newer one, and says so when it has expired', async () => {
  const pinned = azure.newest('root').version
  azure.rotate('root')
  const service = await open(`root/${pinned}?sign=sign/${azure.newest('sign').version}`)
  const { key, wrapped } = await service.generate(context)
  assert.ok(wrapped.keyRef.endsWith(pinned))
  const version = (await open('root?sign=sign')).wrap(key, context)
  assert.ok((await version).keyRef.endsWith(azure.newest('root').version))
  service.close()
})

test('azure: a wrapping or signing key that is disabled or deleted is said as such', async () => {
  const signing = azure.newest('sign')
  signing.enabled = false
  assert.match(await refusalOf((await open('root?sign=sign')).generate(context)), /^key_refused: the key is disabled/)
  signing.enabled = true
  const service = await open('root?sign=sign')
  const { wrapped } = await service.generate(context)
  azure.delete('root', true)
  assert.match(await refusalOf(service.unwrap(wrapped, context)), /^key_refused: the key is deleted/)
  azure.delete('root', false)
  azure.delete('sign', true)
  assert.match(await refusalOf((await open('root?sign=sign')).unwrap(wrapped, context)), /^key_refused: the key is deleted/)
  azure.delete('sign', false)
  service.close()
})

test('azure: a token that ran out is fetched again once for fifty calls', async (t) => {
  const service = await open('root?sign=sign')
  const { key, wrapped } = await service.generate(context)
  await service.unwrap(wrapped, context)
  const before = azure.tokens()
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 3_601_000 })
  azure.requests.length = 0
  const opened = await Promise.all(Array.from({ length: 50 }, () => service.unwrap(wrapped, context)))
  for (const one of opened) assert.deepEqual(one, key)
  assert.equal(azure.tokens() - before, 1)
  assert.ok(azure.requests.every(({ authorized }) => authorized))
  service.close()
})

test('attack: a host that only claims to be a vault, and a certificate nobody vouches for, get no token', async () => {
  const claims = await openKeyService(`azure:${azure.origin}/keys/root?sign=sign`, { production: false, azure: { ca: certificate.cert } })
  azure.requests.length = 0
  assert.match(await refusalOf(claims.check()), /does not accept who we are/)
  assert.ok(azure.requests.every(({ authorized, length }) => !authorized && length === 0))
  const untrusted = await openKeyService(`azure:${azure.origin}/keys/root?sign=sign`, { production: false, azure: { insecureAnyVaultHost: true } })
  assert.match(await refusalOf(untrusted.check()), /^key_service_unavailable: the certificate of the key service is not trusted/)
})
