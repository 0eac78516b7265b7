import { createCipheriv, createDecipheriv, createHmac, createSecretKey, randomBytes, randomUUID } from 'node:crypto'
import { keyId, secretKey } from 'redoubt/aead'
import { blindIndex, open, seal } from 'redoubt/seal'
import { rounds, type Variant } from './rounds.ts'

/*
 * The rival is what one writes by hand with node:crypto and a KeyObject: a fresh random nonce for each value, AAD and
 * key id of the same lengths, everything joined into one Buffer. It binds a ready-made AAD, ours builds it from the
 * place every time.
 */
const bytes = randomBytes(32)
const handKey = createSecretKey(bytes)
const place = { tenant: 'therapy', table: 12, column: 3, row: randomUUID(), subject: randomUUID() }
const key = secretKey(Buffer.from(bytes))
const dataKey = { id: keyId(key), key, scope: { tenant: place.tenant, subject: place.subject, keep: 'care' } }
const aad = randomBytes(65 + place.tenant.length)

function sealByHand(value: Buffer): Buffer {
  const nonce = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', handKey, nonce, { authTagLength: 16 })
  cipher.setAAD(aad)
  return Buffer.concat([dataKey.id, nonce, cipher.update(value), cipher.final(), cipher.getAuthTag()])
}

function openByHand(sealed: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', handKey, sealed.subarray(16, 28), { authTagLength: 16 })
  decipher.setAAD(aad)
  decipher.setAuthTag(sealed.subarray(-16))
  return Buffer.concat([decipher.update(sealed.subarray(28, -16)), decipher.final()])
}

function indexByHand(value: Buffer): Buffer {
  return createHmac('sha256', handKey).update(value).digest().subarray(0, 16)
}

/** Operations per second of processor time (all threads): what else the machine does moves the clock's. */
function speed(count: number, work: () => unknown): Variant {
  return () => {
    const before = process.cpuUsage()
    for (let i = 0; i < count; i++) work()
    const { user, system } = process.cpuUsage(before)
    return Promise.resolve(count / ((user + system) / 1e6))
  }
}

/** `npm run bench -- seal`: sealing and opening against node:crypto by hand, and what a sealed value costs in bytes. */
export async function run(): Promise<void> {
  for (const [size, count] of [[64, 12_000], [1024, 12_000], [16_384, 5_000]] as const) {
    const value = randomBytes(size)
    const [ours, byHand] = [seal(dataKey, place, value), sealByHand(value)]
    await rounds({
      title: `seal, ${size} bytes`,
      variants: { seal: speed(count, () => seal(dataKey, place, value)), 'createCipheriv by hand': speed(count, () => sealByHand(value)) },
      rounds: 15,
    })
    await rounds({
      title: `open, ${size} bytes`,
      variants: { open: speed(count, () => open(dataKey, place, ours)), 'createDecipheriv by hand': speed(count, () => openByHand(byHand)) },
      rounds: 15,
    })
  }
  const value = randomBytes(64)
  const indexKey = { version: 1, key }
  await rounds({
    title: 'blind index, 64 bytes',
    variants: { blindIndex: speed(12_000, () => blindIndex(indexKey, place, value)), 'createHmac by hand': speed(12_000, () => indexByHand(value)) },
    rounds: 15,
  })
  process.stdout.write('\nstorage, bytes a value\n')
  for (const size of [0, 10, 64, 1024, 16_384]) {
    const { length } = seal(dataKey, place, Buffer.alloc(size))
    process.stdout.write(`${String(size).padStart(6)} -> ${String(length).padStart(6)}  (${length - size} more${size === 0 ? '' : `, ${((length / size - 1) * 100).toFixed(1)} %`})\n`)
  }
  process.stdout.write(`blind index: ${blindIndex(indexKey, place, value).length}\n`)
}
