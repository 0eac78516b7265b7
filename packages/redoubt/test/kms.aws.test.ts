import assert from 'node:assert/strict'
import { CreateAliasCommand, CreateKeyCommand, KMSClient, RotateKeyOnDemandCommand, UpdateAliasCommand } from '@aws-sdk/client-kms'
import { after, test } from 'node:test'
import { openKeyService, type KeyService, type KeyServiceOptions } from '../src/kms.ts'
import { keyServiceContract, refusalOf } from './contracts/key-service.ts'
import { canary, faultContract } from './contracts/key-service-faults.ts'
import { motoMissing, startMoto } from './support/emulators.ts'
import { startFaultProxy, type Fault, type Passed } from './support/fault-proxy.ts'

const region = 'eu-central-1'
const credentials = { accessKeyId: 'test', secretAccessKey: 'test', sessionToken: 'test' }
const moto = motoMissing === undefined ? await startMoto() : undefined
const proxy = await startFaultProxy(moto?.origin ?? 'http://127.0.0.1:1')
const admin = new KMSClient({ region, credentials, endpoint: moto?.origin ?? 'http://127.0.0.1:1' })
after(async () => {
  admin.destroy()
  await proxy.close()
  await moto?.stop()
})

async function createKey(multiRegion = false): Promise<string> {
  return (await admin.send(new CreateKeyCommand({ MultiRegion: multiRegion }))).KeyMetadata?.Arn ?? ''
}
const [root, other] = moto === undefined ? ['', ''] : [await createKey(), await createKey()]

function open(key: string, endpoint = moto?.origin ?? '', more: Pick<KeyServiceOptions, 'patience' | 'emit'> = {}): Promise<KeyService> {
  // A machine under load answers slowly; the bounds have tests of their own.
  return openKeyService(`aws:${key}?region=${region}`, { patience: { attempt: 20_000, whole: 60_000 }, ...more, production: false, aws: { endpoint, credentials } })
}

function says(name: string, status = 400, extra: Readonly<Record<string, unknown>> = { message: `${canary} in words of the service` }): Extract<Fault, { kind: 'answer' }> {
  return { kind: 'answer', status, body: JSON.stringify({ __type: name, ...extra }), headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amzn-requestid': canary } }
}

const isDecrypt = ({ headers }: Passed): boolean => headers['x-amz-target'] === 'TrentService.Decrypt'

keyServiceContract('aws', () => open(root), () => open(other), {
  skip: motoMissing,
  blindToSeams: 'moto joins names and values of the encryption context without a separator',
})

if (moto !== undefined) {
  faultContract({
    name: 'aws',
    proxy,
    open: (options) => open(root, proxy.origin, options),
    unwraps: isDecrypt,
    throttled: says('ThrottlingException', 400, { message: 'Rate exceeded' }),
    worded: [
      { title: 'a disabled key', fault: says('DisabledException'), says: /^key_refused: the key is disabled/, tries: 1 },
      { title: 'a key pending deletion', fault: says('KMSInvalidStateException', 400, { message: `${root} is pending deletion.` }), says: /^key_refused: the key is deleted, pending deletion/, tries: 1 },
      { title: 'a key that is not there', fault: says('com.amazonaws.kms#NotFoundException'), says: /^key_refused: the key is deleted/, tries: 1 },
      { title: 'a denied key', fault: says('AccessDeniedException', 400, { Message: `User: ${canary} is not authorized to perform: kms:Decrypt` }), says: /^key_refused: the key service denies/, tries: 1 },
      { title: 'a wrong context without a message', fault: says('InvalidCiphertextException', 400, {}), says: /^key_refused: a wrapped key does not open here/, tries: 1 },
      { title: 'an error whose name carries a link', fault: says('com.amazonaws.kms#InvalidCiphertextException:http://internal.amazon.com/coral/com.amazonaws.kms/'), says: /^key_refused: a wrapped key does not open here/, tries: 1 },
      { title: 'a quota that is used up', fault: says('LimitExceededException'), says: /^key_service_unavailable: the key service throttles/, tries: 4 },
      { title: 'a grant that is not valid', fault: says('InvalidGrantTokenException'), says: /^key_refused: the key service denies/, tries: 1 },
      { title: 'a request that is not valid', fault: says('ValidationException'), says: /^key_refused: the key cannot be used this way/, tries: 1 },
      { title: 'another key', fault: says('IncorrectKeyException'), says: /^key_refused: a wrapped key does not open here/, tries: 1 },
      { title: 'a key for signing', fault: says('InvalidKeyUsageException'), says: /^key_refused: the key cannot be used this way/, tries: 1 },
      { title: 'an identity nobody knows', fault: says('UnrecognizedClientException'), says: /^key_service_unavailable: .*does not accept who we are/, tries: 1 },
      { title: 'a clock that is wrong', fault: says('InvalidSignatureException', 403), says: /^key_service_unavailable: .*does not accept who we are.*clock/, tries: 1 },
      { title: 'an internal error', fault: says('KMSInternalException', 500), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
      { title: 'a key store that is away', fault: says('KeyUnavailableException', 500), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
      { title: 'a dependency that is slow', fault: says('DependencyTimeoutException', 503), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
      { title: 'an error of a name not known', fault: says('SomethingNewException'), says: /^key_refused: the key cannot be used this way/, tries: 1 },
      { title: 'an answer without the key', fault: { kind: 'answer', status: 200, body: JSON.stringify({ KeyId: root }), headers: { 'content-type': 'application/x-amz-json-1.1' } }, says: /^key_service_unavailable: what answered is not/, tries: 4 },
      { title: 'an answer under another key', fault: { kind: 'answer', status: 200, body: JSON.stringify({ KeyId: other, Plaintext: Buffer.alloc(32, 7).toString('base64') }), headers: { 'content-type': 'application/x-amz-json-1.1' } }, says: /^key_refused: a wrapped key does not open here/, tries: 1 },
    ],
  })
}

test('aws: KeyId and the encryption context go with every request that uses the key', { skip: motoMissing ?? false }, async () => {
  proxy.fault(null)
  proxy.requests.length = 0
  const service = await open(root, proxy.origin)
  const context = { realm: 'therapy', version: '3' }
  const { key, wrapped } = await service.generate(context)
  await service.wrap(key, context)
  await service.unwrap(wrapped, context)
  await service.rewrap?.(wrapped, context)
  const seen = proxy.requests.map(({ headers, body }) => ({ target: headers['x-amz-target'], ...(JSON.parse(body) as Record<string, unknown>) }))
  const brief = seen.map(({ CiphertextBlob: _blob, Plaintext: _plain, ...rest }: Record<string, unknown>) => rest)
  assert.deepEqual(brief, [
    { target: 'TrentService.GenerateDataKey', KeyId: root, KeySpec: 'AES_256', EncryptionContext: context },
    { target: 'TrentService.Encrypt', KeyId: root, EncryptionContext: context },
    { target: 'TrentService.Decrypt', KeyId: root, EncryptionContext: context },
    { target: 'TrentService.ReEncrypt', SourceKeyId: root, SourceEncryptionContext: context, DestinationKeyId: root, DestinationEncryptionContext: context },
  ])
  service.close()
})

test('aws: an alias wraps and unwraps; pointed at another key it refuses what the first one wrapped', { skip: motoMissing ?? false }, async () => {
  await admin.send(new CreateAliasCommand({ AliasName: 'alias/redoubt', TargetKeyId: root }))
  const service = await open('alias/redoubt')
  const { key, wrapped } = await service.generate({ realm: 'therapy' })
  assert.equal(wrapped.keyRef, root)
  assert.deepEqual(await service.unwrap(wrapped, { realm: 'therapy' }), key)
  await admin.send(new UpdateAliasCommand({ AliasName: 'alias/redoubt', TargetKeyId: other }))
  assert.match(await refusalOf(service.unwrap(wrapped, { realm: 'therapy' })), /^key_refused/)
  service.close()
})

test('aws: after a rotation in the service old wrapped keys open, and a rewrap moves them', { skip: motoMissing ?? false }, async () => {
  const service = await open(root)
  const { key, wrapped } = await service.generate({ realm: 'therapy' })
  await admin.send(new RotateKeyOnDemandCommand({ KeyId: root }))
  assert.deepEqual(await service.unwrap(wrapped, { realm: 'therapy' }), key)
  const again = await service.rewrap?.(wrapped, { realm: 'therapy' })
  assert.ok(again !== undefined)
  assert.deepEqual(await service.unwrap(again, { realm: 'therapy' }), key)
  service.close()
})

test('aws: credentials that ran out are fetched again once for fifty calls', { skip: motoMissing ?? false }, async () => {
  proxy.fault(null)
  let fetched = 0
  let accepted = 'token-1'
  const service = await openKeyService(`aws:${root}?region=${region}`, {
    production: false,
    patience: { attempt: 20_000, whole: 60_000 },
    aws: { endpoint: proxy.origin, credentials: () => Promise.resolve({ accessKeyId: 'test', secretAccessKey: 'test', sessionToken: `token-${++fetched}` }) },
  })
  const { key, wrapped } = await service.generate({ realm: 'therapy' })
  accepted = 'token-2'
  proxy.fault(says('ExpiredTokenException', 400, { message: 'The security token included in the request is expired' }), { when: ({ headers }) => headers['x-amz-security-token'] !== accepted })
  const opened = await Promise.all(Array.from({ length: 50 }, () => service.unwrap(wrapped, { realm: 'therapy' })))
  for (const one of opened) assert.deepEqual(one, key)
  assert.equal(fetched, 2)
  accepted = 'none'
  assert.match(await refusalOf(service.unwrap(wrapped, { realm: 'therapy' })), /does not accept who we are/)
  assert.equal(fetched, 3)
  proxy.fault(null)
  service.close()
})

test('attack: a long-lived access key is refused in production before anything is sent', async () => {
  const sent = proxy.requests.length
  const service = await openKeyService(`aws:alias/redoubt?region=${region}`, { production: true, aws: { credentials: { accessKeyId: 'AKIAEXAMPLE', secretAccessKey: 'x' } } })
  assert.match(await refusalOf(service.generate({ realm: 'therapy' })), /does not accept who we are/)
  assert.equal(proxy.requests.length, sent)
})

test('aws: a replica of a multi-region key opens what was wrapped in the other region, another key there does not', async () => {
  const answers = (arn: string): Extract<Fault, { kind: 'answer' }> => ({ kind: 'answer', status: 200, body: JSON.stringify({ KeyId: arn, Plaintext: Buffer.alloc(32, 7).toString('base64') }), headers: { 'content-type': 'application/x-amz-json-1.1' } })
  const stored = { provider: 'aws', keyRef: 'arn:aws:kms:eu-west-1:123456789012:key/mrk-00000000000000000000000000000001', blob: Buffer.alloc(96, 1) }
  const service = await openKeyService(`aws:mrk-00000000000000000000000000000001?region=${region}`, { production: false, aws: { endpoint: proxy.origin, credentials } })
  proxy.fault(answers('arn:aws:kms:eu-central-1:123456789012:key/mrk-00000000000000000000000000000001'))
  assert.deepEqual(await service.unwrap(stored, { realm: 'therapy' }), Buffer.alloc(32, 7))
  for (const arn of ['arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-00000000000000000000000000000001', 'arn:aws:kms:eu-central-1:999999999999:key/mrk-00000000000000000000000000000001', 'arn:aws:kms:eu-central-1:123456789012:key/mrk-00000000000000000000000000000002', 'arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001']) {
    proxy.fault(answers(arn))
    assert.match(await refusalOf(service.unwrap(stored, { realm: 'therapy' })), /^key_refused: a wrapped key does not open here/)
  }
  proxy.fault(null)
  service.close()
})
