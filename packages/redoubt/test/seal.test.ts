import assert from 'node:assert/strict'
import crypto, { createCipheriv, createDecipheriv, randomBytes, randomUUID } from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import { test } from 'node:test'
import { freshNonce, keyId } from '../src/aead.ts'
import type { DataKey } from '../src/keyring.ts'
import { keyIdOf, open, seal, type Place } from '../src/seal.ts'
import { dataKeyOf } from './support/keys.ts'
import { assertRefused, randomPlace } from './support/seal.ts'

test('what is sealed opens where it stands, whatever its length and content', () => {
  for (const length of [0, 1, 15, 16, 17, 100, 4096, 100_000]) {
    const { place, key } = randomPlace()
    const value = randomBytes(length)
    const sealed = seal(key, place, value)
    assert.equal(sealed.length, length + 45)
    assert.deepEqual(open(key, place, sealed), value)
    assert.deepEqual(keyIdOf(sealed), key.id)
  }
  for (const text of ['', 'a', 'Ärztin 💊', 'x'.repeat(70_000)]) {
    const { place, key } = randomPlace()
    assert.equal(open(key, place, seal(key, place, text)).toString('utf8'), text)
  }
})

test('500 random values at random places open there and only there', () => {
  let last: ReturnType<typeof randomPlace> | undefined
  for (let round = 0; round < 500; round++) {
    const { place, key } = randomPlace()
    const value = randomBytes(randomBytes(1).readUInt8())
    const sealed = seal(key, place, value)
    assert.deepEqual(open(key, place, sealed), value)
    if (last !== undefined) {
      const other = last
      assertRefused(() => open(other.key, other.place, sealed), 'another key at another place')
      assertRefused(() => open(other.key, place, sealed), 'another key')
    }
    last = { place, key }
  }
})

test('attack: a value moved to another row, column, table, tenant or subject is refused', () => {
  const random = randomPlace()
  const key = random.key
  const place = { ...random.place, table: 7, column: 9 }
  const sealed = seal(key, place, 'diagnosis')
  const elsewhere: readonly Partial<Place>[] = [
    { row: randomUUID() },
    { column: (place.column % 65535) + 1 },
    { table: (place.table % 65535) + 1 },
    { table: place.column, column: place.table },
    { row: place.subject, subject: place.row },
    { tenant: `${place.tenant}x` },
    { subject: randomUUID() },
  ]
  for (const other of elsewhere) {
    const moved = { ...place, ...other }
    assertRefused(() => open(key, moved, sealed), `with the key of the origin: ${JSON.stringify(other)}`)
    // The same bytes of key under the scope of the destination: the AAD alone has to refuse.
    const reassigned = { ...key, scope: { ...key.scope, tenant: moved.tenant, subject: moved.subject } }
    assertRefused(() => open(reassigned, moved, sealed), `with a re-assigned key: ${JSON.stringify(other)}`)
  }
})

test('attack: a genuine key under the scope of another tenant or subject opens nothing', () => {
  const { place, key } = randomPlace()
  const sealed = seal(key, place, 'text')
  assertRefused(() => open({ ...key, scope: { ...key.scope, tenant: 'other' } }, place, sealed), 'tenant')
  assertRefused(() => open({ ...key, scope: { ...key.scope, subject: randomUUID() } }, place, sealed), 'subject')
})

test('attack: the values of two rows swapped are both refused', () => {
  const { place, key } = randomPlace()
  const other = { ...place, row: randomUUID() }
  const [mine, theirs] = [seal(key, place, 'mine'), seal(key, other, 'theirs')]
  assertRefused(() => open(key, place, theirs), 'theirs here')
  assertRefused(() => open(key, other, mine), 'mine there')
})

test('attack: any bit of any byte flipped is refused', () => {
  const { place, key } = randomPlace()
  const sealed = seal(key, place, 'forty-two bytes of something to be changed')
  for (let at = 0; at < sealed.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const changed = Buffer.from(sealed)
      changed[at] = (changed[at] ?? 0) ^ (1 << bit)
      assertRefused(() => open(key, place, changed), `byte ${at} bit ${bit}`)
    }
  }
})

test('attack: a value cut at any length, or made longer, is refused', () => {
  const { place, key } = randomPlace()
  const sealed = seal(key, place, 'some text')
  for (let length = 0; length < sealed.length; length++) assertRefused(() => open(key, place, sealed.subarray(0, length)), `cut to ${length}`)
  for (let from = 1; from < sealed.length; from++) assertRefused(() => open(key, place, sealed.subarray(from)), `cut from ${from}`)
  for (const extra of [1, 16, 100]) assertRefused(() => open(key, place, Buffer.concat([sealed, Buffer.alloc(extra)])), `${extra} more`)
})

test('attack: a tag of 4, 8, 12 or 15 bytes is refused', () => {
  const { place, key } = randomPlace()
  const sealed = seal(key, place, '')
  for (const length of [4, 8, 12, 15]) assertRefused(() => open(key, place, sealed.subarray(0, 29 + length)), `tag of ${length}`)
  const long = seal(key, place, 'long enough to leave 45 bytes with a short tag')
  for (const length of [4, 8, 12, 15]) assertRefused(() => open(key, place, long.subarray(0, long.length - 16 + length)), `tag of ${length}`)
})

test('attack: a value of an unknown version is refused', () => {
  const { place, key } = randomPlace()
  const sealed = seal(key, place, 'text')
  for (let version = 0; version < 256; version++) {
    if (version === 1) continue
    const other = Buffer.from(sealed)
    other[0] = version
    assertRefused(() => open(key, place, other), `version ${version}`)
    assertRefused(() => keyIdOf(other), `version ${version}`)
  }
  assertRefused(() => open(key, place, 'text' as unknown as Buffer), 'text in the place of bytes')
})

/** Carry-less product in GF(2^128) with the bit order of GCM (SP 800-38D §6.3). */
function multiply(x: bigint, y: bigint): bigint {
  let product = 0n
  let v = y
  for (let bit = 127n; bit >= 0n; bit--) {
    if ((x >> bit) & 1n) product ^= v
    v = v & 1n ? (v >> 1n) ^ (0xe1n << 120n) : v >> 1n
  }
  return product
}

function invert(x: bigint): bigint {
  // x^(2^128 - 2)
  let result = 1n << 127n
  let power = x
  for (let i = 1; i < 128; i++) {
    power = multiply(power, power)
    result = multiply(result, power)
  }
  return result
}

const big = (bytes: Uint8Array): bigint => BigInt(`0x${Buffer.from(bytes).toString('hex')}`)
const bytes16 = (x: bigint): Buffer => Buffer.from(x.toString(16).padStart(32, '0'), 'hex')

function ecb(key: Buffer, block: Buffer): Buffer {
  return createCipheriv('aes-256-ecb', key, null).setAutoPadding(false).update(block)
}

function decryptsBare(key: Buffer, nonce: Buffer, aad: Buffer, ciphertext: Buffer, tag: Buffer): boolean {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 }).setAAD(aad).setAuthTag(tag)
  decipher.update(ciphertext)
  decipher.final()
  return true
}

/** The AAD of a sealed value written from docs/formats.md, not from the code under test. */
function aadFromTheDocument(header: Buffer, place: Place): Buffer {
  const numbers = Buffer.alloc(4)
  numbers.writeUInt16BE(place.table, 0)
  numbers.writeUInt16BE(place.column, 2)
  const ids = Buffer.from((place.row + place.subject).replaceAll('-', ''), 'hex')
  return Buffer.concat([header, numbers, ids, Buffer.from(place.tenant, 'utf8')])
}

test('attack: one ciphertext built to open under two keys opens under the one it names alone', () => {
  // Len, Grubbs, Ristenpart, "Partitioning Oracle Attacks" (2021): one block is chosen so that both tags agree.
  const { place } = randomPlace()
  const scope = { tenant: place.tenant, subject: place.subject, keep: 'care' }
  const raw = [randomBytes(32), randomBytes(32)] as const
  const [named, other] = raw.map((bytes) => dataKeyOf(scope, bytes)) as [DataKey, DataKey]
  const nonce = randomBytes(12)
  const header = Buffer.concat([Buffer.from([1]), named.id, nonce])
  const aad = aadFromTheDocument(header, place)
  const padded = Buffer.concat([aad, Buffer.alloc((16 - (aad.length % 16)) % 16)])
  const first = randomBytes(16)
  const blocks = [...Array.from({ length: padded.length / 16 }, (_, i) => padded.subarray(i * 16, i * 16 + 16)), first].map(big)
  const lengths = (BigInt(aad.length * 8) << 64n) | BigInt(32 * 8)
  const [one, two] = raw.map((key) => {
    const h = big(ecb(key, Buffer.alloc(16)))
    const mask = big(ecb(key, Buffer.concat([nonce, Buffer.from([0, 0, 0, 1])])))
    // tag = mask ^ (aad and first block) * h^2 ^ second * h^2 ^ lengths * h
    const known = blocks.reduce((sum, block) => multiply(sum ^ block, h), 0n)
    const square = multiply(h, h)
    return { square, constant: mask ^ multiply(known, square) ^ multiply(lengths, h) }
  }) as [{ square: bigint; constant: bigint }, { square: bigint; constant: bigint }]
  const second = bytes16(multiply(one.constant ^ two.constant, invert(one.square ^ two.square)))
  const tag = bytes16(one.constant ^ multiply(big(second), one.square))
  const ciphertext = Buffer.concat([first, second])
  for (const key of raw) assert.ok(decryptsBare(key, nonce, aad, ciphertext, tag), 'the construction works against bare AES-GCM')

  const sealed = Buffer.concat([header, ciphertext, tag])
  assert.equal(open(named, place, sealed).length, 32)
  assertRefused(() => open(other, place, sealed), 'the other key')
  assertRefused(() => open(other, place, Buffer.concat([Buffer.from([1]), other.id, sealed.subarray(17)])), 'renamed to the other key')
  // The id is what refuses it, so a key must never come with an id that is not its own: the keyring checks at unwrap.
  assert.equal(open({ ...other, id: named.id }, place, sealed).length, 32)
})

test('a key id commits to the key', () => {
  const bytes = randomBytes(32)
  const scope = { tenant: 't', subject: randomUUID(), keep: 'care' }
  assert.deepEqual(keyId(dataKeyOf(scope, bytes).key), dataKeyOf(scope, bytes).id)
  bytes[31] = (bytes[31] ?? 0) ^ 1
  assert.notDeepEqual(keyId(dataKeyOf(scope, bytes).key), dataKeyOf(scope, Buffer.from(bytes.map((b, i) => (i === 31 ? b ^ 1 : b)))).id)
})

test("sealing under somebody else's key, or at no place, is the caller's mistake and names the argument", () => {
  const { place, key } = randomPlace()
  assert.throws(() => seal(key, { ...place, subject: randomUUID() }, 'x'), /TypeError|another tenant or subject/)
  assert.throws(() => seal(key, { ...place, tenant: 'other' }, 'x'), TypeError)
  for (const [name, bad] of [['table', 0], ['table', 65536], ['table', 1.5], ['column', 0], ['column', Number.NaN], ['row', ''], ['row', place.row.toUpperCase().replace(/\d/g, 'A')], ['row', `${place.row}0`], ['row', place.row.replaceAll('-', '0')], ['row', `é${place.row.slice(1)}`]] as const) {
    assert.throws(() => seal(key, { ...place, [name]: bad }, 'x'), { name: 'TypeError', message: `seal: place.${name} is not acceptable` })
    assertRefused(() => open(key, { ...place, [name]: bad }, seal(key, place, 'x')), name)
  }
  const nobody = { ...place, subject: 'nobody' }
  assert.throws(() => seal({ ...key, scope: { ...key.scope, subject: 'nobody' } }, nobody, 'x'), /place.subject/)
  const long = { ...place, tenant: 'é'.repeat(201) }
  assert.throws(() => seal({ ...key, scope: { ...key.scope, tenant: long.tenant } }, long, 'x'), /place.tenant/)
})

test('no nonce comes twice in 20,000', () => {
  const { place, key } = randomPlace()
  const seen = new Set<string>()
  for (let i = 0; i < 20_000; i++) seen.add(seal(key, place, '').toString('hex', 17, 29))
  assert.equal(seen.size, 20_000)
})

test('attack: a machine resumed from a snapshot finds no nonces drawn ahead: the pool is small and dies with its turn', async (t) => {
  const draw = t.mock.method(crypto, 'randomFillSync')
  syncBuiltinESMExports()
  t.after(() => {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  })
  const nonce = Buffer.alloc(12)
  const drawsOf = (count: number): number => {
    const before = draw.mock.callCount()
    for (let i = 0; i < count; i++) freshNonce(nonce, 0)
    return draw.mock.callCount() - before
  }
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  await turn()
  assert.equal(drawsOf(32), 1)
  assert.equal(drawsOf(1), 1)
  assert.equal(drawsOf(1), 0)
  await turn()
  assert.equal(drawsOf(1), 1, 'not kept over a turn')
  const now = Date.now()
  t.mock.method(Date, 'now', () => now + 1000)
  assert.equal(drawsOf(1), 1, 'not kept for a second within one turn')
  t.mock.method(Date, 'now', () => now - 1)
  assert.equal(drawsOf(1), 1, 'not kept when the wall clock went back')
  const drawn = draw.mock.calls.at(-1)?.arguments[0] as Buffer | undefined
  assert.ok(drawn !== undefined && drawn.length <= 32 * 12)
})
