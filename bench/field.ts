import { createCipheriv, createDecipheriv, createSecretKey, randomBytes, randomUUID } from 'node:crypto'
import {
  AlgorithmSuiteIdentifier, buildClient, CommitmentPolicy, getLocalCryptographicMaterialsCache, NodeCachingMaterialsManager,
  RawAesKeyringNode, RawAesWrappingSuiteIdentifier,
} from '@aws-crypto/client-node'
import { decryptStringSync, encryptStringSync, generateKey, parseKeySync } from '@47ng/cloak'
import { keyId, secretKey } from 'redoubt/aead'
import { open, seal } from 'redoubt/seal'
import { rounds, type Variant } from './rounds.ts'

/*
 * A field of 1 KiB. Every variant is given what it asks for ready-made: its key in memory, in the form it is fastest
 * with, and no network. All seal under AES-256-GCM with a fresh random nonce.
 */
const text = randomBytes(768).toString('base64')
const place = { tenant: 'therapy', table: 12, column: 3, row: randomUUID(), subject: randomUUID() }
const bytes = randomBytes(32)
const key = secretKey(Buffer.from(bytes))
const dataKey = { id: keyId(key), key, scope: { tenant: place.tenant, subject: place.subject, keep: 'care' } }

/** Bare node:crypto with a KeyObject: no AAD, no key id, no version. */
const bareKey = createSecretKey(bytes)

function bareSeal(value: string): Buffer {
  const nonce = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', bareKey, nonce, { authTagLength: 16 })
  return Buffer.concat([nonce, cipher.update(value, 'utf8'), cipher.final(), cipher.getAuthTag()])
}

function bareOpen(sealed: Buffer): string {
  const decipher = createDecipheriv('aes-256-gcm', bareKey, sealed.subarray(0, 12), { authTagLength: 16 })
  decipher.setAuthTag(sealed.subarray(-16))
  return decipher.update(sealed.subarray(12, -16), undefined, 'utf8') + decipher.final('utf8')
}

/**
 * The AWS Encryption SDK with its caching materials manager: one data key for all messages while its limits allow, a
 * local AES key in the place of KMS, key commitment, no signature (which would cost an ECDSA operation each).
 */
const sdk = buildClient({ commitmentPolicy: CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT, maxEncryptedDataKeys: 1 })
const cached = new NodeCachingMaterialsManager({
  backingMaterials: new RawAesKeyringNode({
    keyName: 'bench', keyNamespace: 'redoubt', unencryptedMasterKey: randomBytes(32), wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
  }),
  cache: getLocalCryptographicMaterialsCache(100),
  maxAge: 300_000,
})
const encryptionContext = { tenant: place.tenant, table: '12', column: '3', subject: place.subject }
// The length lets it look in its cache before the text has gone through.
const sdkOptions = { encryptionContext, suiteId: AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY, plaintextLength: Buffer.byteLength(text) } as const

async function sdkSeal(value: string): Promise<Buffer> {
  return (await sdk.encrypt(cached, value, sdkOptions)).result
}

async function sdkOpen(sealed: Buffer): Promise<string> {
  return (await sdk.decrypt(cached, sealed)).plaintext.toString('utf8')
}

/** The cipher of prisma-field-encryption, called as it does: synchronously, with a parsed key. */
const cloakKey = parseKeySync(generateKey())

/** Operations per second of processor time (all threads): what else the machine does moves the clock's. */
function speed(count: number, work: () => unknown): Variant {
  return async () => {
    const before = process.cpuUsage()
    for (let i = 0; i < count; i++) {
      const made = work()
      if (made instanceof Promise) await made
    }
    const { user, system } = process.cpuUsage(before)
    return count / ((user + system) / 1e6)
  }
}

function same(name: string, got: string): void {
  if (got !== text) throw new Error(`${name} did not give back what it was given`)
}

/** `npm run bench -- field`: sealing and opening a field of 1 KiB against what others use for it. */
export async function run(): Promise<void> {
  const [ours, bare, theirs, cloaked] = [seal(dataKey, place, text), bareSeal(text), await sdkSeal(text), encryptStringSync(text, cloakKey)]
  same('open', open(dataKey, place, ours).toString('utf8'))
  same('node:crypto', bareOpen(bare))
  same('the AWS Encryption SDK', await sdkOpen(theirs))
  same('cloak', decryptStringSync(cloaked, cloakKey))
  const measured = { rounds: 11 } as const
  const sealed = await rounds({
    ...measured, title: 'seal, 1 KiB of text',
    variants: {
      redoubt: speed(8_000, () => seal(dataKey, place, text)),
      'bare node:crypto': speed(8_000, () => bareSeal(text)),
      'AWS Encryption SDK, caching': speed(250, () => sdkSeal(text)),
      'prisma-field-encryption (cloak)': speed(1_500, () => encryptStringSync(text, cloakKey)),
    },
  })
  const opened = await rounds({
    ...measured, title: 'open, 1 KiB of text',
    variants: {
      redoubt: speed(8_000, () => open(dataKey, place, ours).toString('utf8')),
      'bare node:crypto': speed(8_000, () => bareOpen(bare)),
      'AWS Encryption SDK, caching': speed(250, () => sdkOpen(theirs)),
      'prisma-field-encryption (cloak)': speed(1_500, () => decryptStringSync(cloaked, cloakKey)),
    },
  })
  const of = (name: keyof typeof sealed): string => (2 / (1 / sealed.redoubt.median + 1 / opened.redoubt.median) / (2 / (1 / sealed[name].median + 1 / opened[name].median))).toFixed(1)
  process.stdout.write(`\nseal and open together: ${of('AWS Encryption SDK, caching')}x the AWS Encryption SDK (goal 50), ${of('prisma-field-encryption (cloak)')}x cloak (goal 5), ${of('bare node:crypto')}x bare node:crypto\n`)
  process.stdout.write(`bytes stored for ${Buffer.byteLength(text)}: redoubt ${ours.length}, bare ${bare.length}, AWS Encryption SDK ${theirs.length}, cloak ${Buffer.byteLength(cloaked)}\n`)
  process.stdout.write('bound besides the key: redoubt place, row and person, key id; AWS Encryption SDK its context; bare and cloak nothing\n')
}
