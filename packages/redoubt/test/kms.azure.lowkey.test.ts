import assert from 'node:assert/strict'
import { ManagedIdentityCredential } from '@azure/identity'
import { KeyClient } from '@azure/keyvault-keys'
import { after, test } from 'node:test'
import { openKeyService, type KeyService, type KeyServiceOptions } from '../src/kms.ts'
import { keyServiceContract, refusalOf } from './contracts/key-service.ts'
import { canary, faultContract } from './contracts/key-service-faults.ts'
import { selfSigned } from './support/certificate.ts'
import { lowkeyMissing, startLowkey } from './support/emulators.ts'
import { startFaultProxy } from './support/fault-proxy.ts'

/** The newest that Lowkey Vault 3 knows. */
const serviceVersion = '7.6'
const lowkey = lowkeyMissing === undefined ? await startLowkey() : undefined
const certificate = selfSigned()
const proxy = lowkey === undefined ? undefined : await startFaultProxy(lowkey.origin, certificate, lowkey.ca)
Object.assign(process.env, lowkey?.identity)
const admin = new KeyClient(lowkey?.origin ?? 'https://localhost:1', new ManagedIdentityCredential(), { serviceVersion, disableChallengeResourceVerification: true, ...(lowkey === undefined ? {} : { tlsOptions: { ca: lowkey.ca } }) })
if (lowkey !== undefined) {
  // Its wrapKey asks for the operation encrypt, and unwrapKey for decrypt; the real service does not.
  for (const name of ['root', 'other']) await admin.createRsaKey(name, { keySize: 2048, keyOps: ['wrapKey', 'unwrapKey', 'encrypt', 'decrypt'] })
  for (const name of ['sign', 'other-sign']) await admin.createEcKey(name, { curve: 'P-256', keyOps: ['sign', 'verify'] })
}
after(async () => {
  await proxy?.close()
  await lowkey?.stop()
})

function open(keys: string, origin = lowkey?.origin ?? '', more: Pick<KeyServiceOptions, 'patience' | 'emit'> = {}): Promise<KeyService> {
  return openKeyService(`azure:${origin}/keys/${keys}`, {
    patience: { attempt: 20_000, whole: 60_000 },
    ...more,
    production: false,
    azure: { ca: `${lowkey?.ca ?? ''}${certificate.cert}`, serviceVersion, insecureAnyVaultHost: true },
  })
}

keyServiceContract('azure at Lowkey Vault', () => open('root?sign=sign'), () => open('other?sign=other-sign'), { skip: lowkeyMissing })

if (proxy !== undefined) {
  faultContract({
    name: 'azure at Lowkey Vault',
    proxy,
    open: (options) => open('root?sign=sign', proxy.origin, options),
    unwraps: ({ path }) => /\/unwrapkey\?/i.test(path),
    throttled: { kind: 'answer', status: 429, body: JSON.stringify({ error: { code: 'Throttled', message: `VaultRequestTypeLimitReached ${canary}` } }) },
    worded: [],
  })
}

test('azure at Lowkey Vault: a new version wraps, the old one opens what it wrapped, a disabled one is refused', { skip: lowkeyMissing ?? false }, async () => {
  const context = { realm: 'therapy' }
  const before = await open('root?sign=sign')
  const { key, wrapped } = await before.generate(context)
  await admin.rotateKey('root')
  const after_ = await open('root?sign=sign')
  const later = await after_.wrap(key, context)
  assert.notEqual(later.keyRef, wrapped.keyRef)
  assert.deepEqual(await after_.unwrap(wrapped, context), key)
  assert.deepEqual(await after_.unwrap(later, context), key)
  await admin.updateKeyProperties('root', wrapped.keyRef.split('/').at(-1) ?? '', { enabled: false })
  // It answers 500 where the real service says 403 KeyDisabled.
  await refusalOf(after_.unwrap(wrapped, context))
  assert.deepEqual(await after_.unwrap(later, context), key)
})
