import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openDecoder } from '../src/reencrypt/codecs.ts'
import type { LegacyForm, LegacySource } from '../src/tables.ts'
import { cryptoJs, gcmKey, gcmV1, jwtSecret, passphrase, signedToken } from './support/legacy.ts'

const secrets: Readonly<Record<string, string>> = { OLD_GCM: gcmKey.toString('hex'), OLD_PASSPHRASE: passphrase, OLD_JWT: jwtSecret }
const names: Readonly<Partial<Record<LegacyForm, string>>> = { 'gcm-v1': 'OLD_GCM', cryptojs: 'OLD_PASSPHRASE', 'jwt-hs256': 'OLD_JWT' }

function read(stored: string | Buffer, forms: readonly LegacyForm[], more: Partial<LegacySource> = {}): string {
  const decode = openDecoder({ into: 'x_enc', forms, secrets: names, claim: 'number', ...more }, (name) => secrets[name] ?? assert.fail(name))
  const result = decode(Buffer.isBuffer(stored) ? stored : Buffer.from(stored, 'utf8'))
  return 'value' in result ? `value ${result.value.toString('utf8')}` : result.refused
}

test('what each older form says is read', () => {
  assert.equal(read('Zoë, 3 rue', ['plaintext']), 'value Zoë, 3 rue')
  assert.equal(read('', ['plaintext']), 'value ')
  assert.equal(read(Buffer.from('Zoë').toString('base64'), ['base64']), 'value Zoë')
  assert.equal(read(cryptoJs('Zoë has a fever'), ['cryptojs']), 'value Zoë has a fever')
  assert.equal(read(signedToken('4111111111111111'), ['jwt-hs256']), 'value 4111111111111111')
  for (const form of ['tag last', 'tag first', 'one part', 'hexadecimal'] as const) {
    for (const text of ['Zoë', '', 'sixteen bytes ok', 'x'.repeat(5000)]) assert.equal(read(gcmV1(text, form), ['gcm-v1']), `value ${text}`, form)
  }
  assert.equal(read(gcmV1('x', 'tag last', Buffer.alloc(16, 7)), ['gcm-v1']), 'value x')
})

test('what OpenSSL writes in that form is read', () => {
  // `Salted__`, the salt, and what openssl enc -aes-256-cbc -md md5 -S 0102030405060708 -pass pass:secret wrote.
  const decode = openDecoder({ into: 'x_enc', forms: ['cryptojs'], secrets: { cryptojs: 'S' } }, () => 'secret')
  const result = decode(Buffer.from('U2FsdGVkX18BAgMEBQYHCCskAQmt0U+MxL/sHBIIOds='))
  assert.deepEqual(result, { value: Buffer.from('known text') })
})

test('a column with several forms is read by the first that recognises a value', () => {
  const forms = ['gcm-v1', 'cryptojs', 'jwt-hs256', 'plaintext'] as const
  for (const stored of [gcmV1('one'), cryptoJs('one'), signedToken('one'), 'one']) assert.equal(read(stored, forms), 'value one')
})

test('attack: ciphertext that does not open is refused, not taken for plaintext', () => {
  const forms = ['gcm-v1', 'cryptojs', 'jwt-hs256', 'plaintext'] as const
  assert.equal(read(`${gcmV1('one').slice(0, -6)}AAAAA=`, forms), 'does_not_open')
  assert.equal(read(cryptoJs('one', Buffer.alloc(8), 'another passphrase'), forms, { accept: (text) => (/^\w+$/.test(text) ? text : null) }), 'does_not_open')
  assert.equal(read(signedToken('one', { secret: 'another secret' }), forms), 'does_not_open')
})

test('attack: a token that says it is signed by nothing, or by something else, is refused', () => {
  assert.equal(read(signedToken('one', { alg: 'none' }), ['jwt-hs256']), 'malformed')
  assert.equal(read(signedToken('one', { alg: 'HS512' }), ['jwt-hs256']), 'malformed')
  assert.equal(read(signedToken('one').replace(/\.[^.]*$/, '.'), ['jwt-hs256']), 'malformed')
})

test('what is empty, cut off, altered or no text is told apart, and nothing of it is told', () => {
  assert.equal(read('', ['gcm-v1']), 'empty')
  assert.equal(read('no form at all', ['gcm-v1', 'cryptojs', 'base64']), 'unknown_form')
  assert.equal(read('gcm:v1:', ['gcm-v1']), 'malformed')
  assert.equal(read('gcm:v1:AAAA:BBBB', ['gcm-v1']), 'malformed')
  assert.equal(read('gcm:v1:!:!:!', ['gcm-v1']), 'malformed')
  for (let cut = 11; cut < 60; cut += 7) assert.match(read(cryptoJs('a longer text that fills some blocks').slice(0, cut), ['cryptojs']), /^(?:malformed|does_not_open|not_text)$/)
  assert.equal(read(Buffer.from([0xff, 0xfe, 0x01]).toString('base64'), ['base64']), 'not_text')
  assert.equal(read(Buffer.from([0xff, 0xfe]), ['plaintext']), 'malformed')
  assert.equal(read('0000', ['plaintext'], { accept: () => null }), 'not_accepted')
  assert.equal(read(' A@B.org ', ['plaintext'], { accept: (text) => text.trim().toLowerCase() }), 'value a@b.org')
})

test('an old key of the wrong length is a mistake of the caller, named without its value', () => {
  assert.throws(() => openDecoder({ into: 'x_enc', forms: ['gcm-v1'], secrets: { 'gcm-v1': 'OLD' } }, () => 'too short'), /^TypeError: reencrypt: OLD must be 32 bytes in hexadecimal or base64$/)
})
