import assert from 'node:assert/strict'
import { createHmac, createSecretKey } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { decrypt, encrypt, secretKey } from '../src/aead.ts'
import { blindIndex, keyIdOf, open, type Place } from '../src/seal.ts'
import { sealWith } from '../src/seal/wire.ts'
import { dataKeyOf } from './support/keys.ts'

type Frozen = {
  readonly sealed: readonly { readonly about: string; readonly key: string; readonly keyId: string; readonly nonce: string; readonly place: Place; readonly value: string; readonly sealed: string }[]
  readonly indexes: readonly { readonly key: string; readonly version: number; readonly place: Place; readonly value: string; readonly index: string }[]
}
const hex = (text: string): Buffer => Buffer.from(text, 'hex')
const frozen = JSON.parse(readFileSync(new URL('vectors/seal.json', import.meta.url), 'utf8')) as Frozen

test('version 1 of a sealed value is read and written as it was frozen', () => {
  assert.ok(frozen.sealed.length >= 4)
  for (const { about, key, keyId, nonce, place, value, sealed } of frozen.sealed) {
    const dataKey = dataKeyOf({ tenant: place.tenant, subject: place.subject, keep: 'care' }, hex(key))
    assert.equal(dataKey.id.toString('hex'), keyId, about)
    assert.equal(keyIdOf(hex(sealed)).toString('hex'), keyId, about)
    assert.equal(open(dataKey, place, hex(sealed)).toString('hex'), value, about)
    for (const plaintext of [hex(value), hex(value).toString('utf8')]) {
      assert.equal(sealWith(dataKey, place, plaintext, (into, at) => void hex(nonce).copy(into, at)).toString('hex'), sealed, about)
    }
  }
})

test('version 1 of a blind index is made as it was frozen', () => {
  for (const { key, version, place, value, index } of frozen.indexes) {
    assert.equal(blindIndex({ version, key: secretKey(hex(key)) }, place, value).toString('hex'), index)
  }
})

test('a blind index differs by key, tenant, table, column and value, and takes no part over a seam', () => {
  const key = { version: 1, key: secretKey(Buffer.alloc(32, 1)) }
  const place = { tenant: 'ab', table: 1, column: 2 }
  const all = [
    blindIndex(key, place, 'c'),
    blindIndex({ version: 1, key: secretKey(Buffer.alloc(32, 2)) }, place, 'c'),
    blindIndex({ ...key, version: 2 }, place, 'c'),
    blindIndex(key, { ...place, tenant: 'a' }, 'bc'),
    blindIndex(key, { ...place, tenant: 'abc' }, ''),
    blindIndex(key, { ...place, table: 2 }, 'c'),
    blindIndex(key, { ...place, column: 1 }, 'c'),
    blindIndex(key, place, 'C'),
  ].map((index) => index.toString('hex'))
  assert.equal(new Set(all).size, all.length)
  assert.ok(all.every((index) => index.length === 34))
  assert.equal(blindIndex(key, place, Buffer.from('c')).toString('hex'), all[0])
})

test('a blind index of no column, no tenant or an impossible version names the argument', () => {
  const key = { version: 1, key: secretKey(Buffer.alloc(32, 1)) }
  const place = { tenant: 'realm', table: 1, column: 2 }
  for (const version of [0, 256, 1.5]) assert.throws(() => blindIndex({ ...key, version }, place, 'x'), /key.version/)
  for (const table of [0, 65536, -1]) assert.throws(() => blindIndex(key, { ...place, table }, 'x'), /place.table/)
  assert.throws(() => blindIndex(key, { ...place, column: 0 }, 'x'), /place.column/)
  for (const tenant of ['', 'x'.repeat(201)]) assert.throws(() => blindIndex(key, { ...place, tenant }, 'x'), /place.tenant/)
})

type Wycheproof<G> = { readonly testGroups: readonly (G & { readonly type: string })[] }
type Aead = { readonly ivSize: number; readonly keySize: number; readonly tagSize: number; readonly tests: readonly { readonly tcId: number; readonly key: string; readonly iv: string; readonly aad: string; readonly msg: string; readonly ct: string; readonly tag: string; readonly result: string }[] }
type Mac = { readonly tagSize: number; readonly tests: readonly { readonly tcId: number; readonly key: string; readonly msg: string; readonly tag: string; readonly result: string }[] }

// Project Wycheproof, https://github.com/C2SP/wycheproof (Apache-2.0): aes_gcm_test.json and hmac_sha256_test.json of its folder
// testvectors_v1. Not a part of this repository; where they are not there, these tests say so and are skipped.
const folder = process.env['REDOUBT_WYCHEPROOF'] ?? join(import.meta.dirname, '../../../../shared/vectors/wycheproof')
const skip = existsSync(join(folder, 'aes_gcm_test.json')) ? false : 'Wycheproof vectors not found: set REDOUBT_WYCHEPROOF to testvectors_v1 of https://github.com/C2SP/wycheproof'

test('Wycheproof AES-GCM: what is valid opens, what is not is refused', { skip }, (t) => {
  const { testGroups } = JSON.parse(readFileSync(join(folder, 'aes_gcm_test.json'), 'utf8')) as Wycheproof<Aead>
  let ran = 0
  let unbound = 0
  for (const { ivSize, keySize, tagSize, tests } of testGroups) {
    // The others are out of scope by construction: 256-bit keys, 96-bit nonces and whole tags are all there is.
    if (keySize !== 256 || tagSize !== 128) continue
    for (const { tcId, key, iv, aad, msg, ct, tag, result } of tests) {
      const secret = createSecretKey(hex(key))
      if (aad === '') {
        assert.throws(() => decrypt(secret, hex(iv), hex(aad), hex(ct), hex(tag)), TypeError, `case ${tcId}: an empty AAD`)
        unbound++
        continue
      }
      const opened = decrypt(secret, hex(iv), hex(aad), hex(ct), hex(tag))
      assert.equal(opened?.toString('hex') ?? null, result === 'valid' && ivSize === 96 ? msg : null, `case ${tcId}`)
      if (result === 'valid' && ivSize === 96) {
        const made = encrypt(secret, hex(iv), hex(aad), hex(msg))
        assert.equal(made.ciphertext.toString('hex') + made.tag.toString('hex'), ct + tag, `case ${tcId}`)
      }
      ran++
    }
  }
  t.diagnostic(`${ran} cases with AAD; ${unbound} refused because theirs is empty`)
  assert.ok(ran >= 18)
})

test('Wycheproof HMAC-SHA-256 holds for the MAC of the blind index', { skip: skip || (existsSync(join(folder, 'hmac_sha256_test.json')) ? false : 'hmac_sha256_test.json not found') }, (t) => {
  const { testGroups } = JSON.parse(readFileSync(join(folder, 'hmac_sha256_test.json'), 'utf8')) as Wycheproof<Mac>
  let ran = 0
  for (const { tagSize, tests } of testGroups) {
    for (const { tcId, key, msg, tag, result } of tests) {
      const mac = createHmac('sha256', createSecretKey(hex(key))).update(hex(msg)).digest().subarray(0, tagSize / 8)
      assert.equal(mac.equals(hex(tag)), result === 'valid', `case ${tcId}`)
      ran++
    }
  }
  t.diagnostic(`${ran} cases`)
  assert.ok(ran > 100)
})
