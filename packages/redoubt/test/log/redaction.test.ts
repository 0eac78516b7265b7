import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { test } from 'node:test'
import { withRequestId } from '../../src/log.ts'
import { scrub } from '../../src/log/scrub.ts'
import { jsonText } from '../../src/log/text.ts'
import { open } from '../support/log.ts'

const canary = 'canary7Qz'
const hiddenKeys = [
  'password', 'newPassword', 'passwordHash', 'token', 'refresh_token', 'accessToken', 'authorization', 'Proxy-Authorization', 'cookie', 'Set-Cookie',
  'secret', 'client_secret', 'apiKey', 'x-api-key', 'privateKey', 'otp', 'otpCode', 'code', 'pin', 'cvv', 'CVV2', 'card_cvc', 'pan', 'maskedPan', 'iban',
  'email', 'userEmail', 'nick_name', 'nickName', 'login_hash', 'loginHash', 'first_name_enc', 'first_name', 'firstName', 'FirstName', 'reason', 'reasonEnc', 'phone', 'phone_bidx', 'phoneBidx',
]
for (const key of hiddenKeys) {
  test(`attack: a value under the key ${key} does not reach the log at any depth`, () => {
    const { log, sink } = open()
    log.info('http', 'x', { [key]: canary })
    log.info('http', 'x', { a: { b: [{ c: { [key]: { deep: canary } } }] }, m: new Map([[key, canary]]) })
    assert.ok(!sink.text().includes(canary), sink.text())
    assert.equal(sink.lines().length, 2)
  })
}

test('keys that only resemble hidden ones stay readable', () => {
  const { log, sink } = open()
  const fields = { statusCode: 404, timeZone: 'UTC', footprint: 'x', laptop: 'y', company: 'z', spinner: 1, expand: 'q', key: 'k', id: 'i', footer: 'f' }
  log.info('http', 'x', fields)
  for (const [key, value] of Object.entries(fields)) assert.equal(sink.lines()[0]?.[key], value, key)
})

const jwt = `eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.${createHmac('sha256', 'x').update('y').digest('base64url')}`
const secretsInText: readonly (readonly [string, string, string])[] = [
  ['a card number', 'card 4111111111111111 declined', '4111111111111111'],
  ['a card number in groups', 'card 4111 1111 1111 1111 declined', '1111 1111'],
  ['a card number with dashes', '5500-0055-5555-5559', '5555-5559'],
  ['a card number with dots', '5500.0055.5555.5559', '5555.5559'],
  ['a card number in a URL', '/pay?n=4111%201111%201111%201111', '201111%201111'],
  ['a card number with plus signs', 'n=4111+1111+1111+1111', '1111+1111'],
  ['a card number behind another number', 'order 42 4111111111111111 17', '4111111111111111'],
  ['two card numbers side by side', '4111111111111111 5500005555555559', '5500005555555559'],
  ['an American Express number', 'amex 378282246310005', '378282246310005'],
  ['a card number of 19 digits', 'pan:6304000000000000000'.replace(/0$/, '0'), '6304000000000000000'],
  ['a card number inside a word', 'xx4111111111111111yy', '4111111111111111'],
  ['a JWT', `got ${jwt}`, 'eyJ'],
  ['half a JWT', `got ${jwt.slice(0, 30)}`, 'eyJ'],
  ['a bearer token', 'header was Bearer abcdef123456', 'abcdef123456'],
  ['a bearer token in small letters', 'bearer Zk3Z9pQ1xx', 'Zk3Z9pQ1xx'],
  ['basic credentials', 'Basic dXNlcjpwYXNz', 'dXNlcjpwYXNz'],
  ['a private key', '-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----', 'MIGHAgEA'],
  ['a vendor key', 'using sk_live_4eC39HqLyjWDarjtT1', '4eC39HqLyjWDarjtT1'],
  ['a webhook secret', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'MfKQ9r8GKYqr'],
  ['a password in a URL', 'connect postgresql://app:p@ss-word@db/x failed', 'p@ss-word'],
  ['an e-mail address', 'no account jane.doe+x@mail.example.org', 'jane.doe'],
  ['an e-mail address in a URL', '/u?e=jane%40example.org', 'jane'],
  ['an e-mail address with other letters', 'für jörg@köln.example', 'jörg'],
  ['an IBAN', 'to DE89370400440532013000', '0532013000'],
  ['an IBAN in groups', 'to GB29 NWBK 6016 1331 9268 19 today', '9268'],
  ['the shortest digits of an IBAN', 'NL91ABNA0417164300', '0417164300'],
  ['an IBAN behind a look-alike', 'ab12 cdef ghij klm NL91ABNA0417164300', '0417164300'],
  ['an IBAN in small letters', 'nl91abna0417164300', '0417164300'],
  ['a one-time code', 'Your verification code is 493817', '493817'],
  ['a one-time code in front', '493 817 is your one-time code', '493 817'],
  ['an OTP pair', 'otp=4938', '4938'],
  ['a code', 'code: 493817', '493817'],
  ['a password pair', 'login failed password=hunter2x', 'hunter2x'],
  ['a quoted password with spaces', '{"password":"hunter two x"}', 'two x'],
  ['an unfinished quoted password', '{"password":"hunter two x', 'two x'],
  ['a quoted password with a quote inside', '{"password":"hun\\"ter two x"}', 'two x'],
  ['an escaped quoted token', '{\\"refresh_token\\":\\"zk3z9pq1\\"}', 'zk3z9pq1'],
  ['a cookie line', 'cookie: sid=abc123; theme=dark9', 'dark9'],
]
for (const [what, text, secret] of secretsInText) {
  test(`attack: ${what} does not reach the log as value, list member, key, message, error or cause`, () => {
    const { log, sink } = open()
    log.info('http', 'x', { note: text, list: [text], nested: { [text]: 1 } })
    log.info('http', text)
    log.error('http', 'x', { err: new Error(text, { cause: new Error(text) }), all: new AggregateError([new Error(text)], text) })
    log.child({ note: text }).info('http', 'x')
    withRequestId(text, () => log.info('http', 'x'))
    assert.equal(sink.lines().length, 5)
    assert.ok(!sink.text().includes(secret), sink.text())
  })
}

test('attack: a card number as number or bigint does not reach the log', () => {
  const { log, sink } = open()
  log.info('http', 'x', { n: 4111111111111111, b: 4111111111111111n, list: [4111111111111111] })
  assert.ok(!sink.text().includes('411111111111'), sink.text())
})

test('attack: a card number on the cut of a long text leaves no half of itself', () => {
  for (let at = 16_340; at < 16_460; at++) {
    const json = jsonText(`${'a '.repeat(at / 2)}4111111111111111`)
    assert.ok(!/\d{5}/.test(json), `${at}`)
  }
})

test('ordinary texts come through as they are', () => {
  const texts = [
    '0192f5b4-7d3c-7a51-9c1e-3f6a2b8d4e10', '2025-11-22T14:08:31.123Z', '192.168.100.200:5432', 'GET /v1/patients/:id', 'Mozilla/5.0 (X11; Linux x86_64)',
    '1764000000000', '1764000000000123', 'node:internal/process/task_queues:105:5', 'file:///app/node_modules/@scope/pkg/index.js:12:34',
    'pg@8.23.1', 'state 23505', 'größe ≥ 5 €', 'emoji 🙂', 'a"b\\c\u0001', '', 'x', 'order 1234567890',
  ]
  for (const text of texts) assert.equal(JSON.parse(jsonText(text)), text)
})

test('random UUIDs and times are not taken for card numbers', () => {
  for (let i = 0; i < 5000; i++) {
    const id = crypto.randomUUID()
    assert.equal(jsonText(id), `"${id}"`)
    assert.equal(jsonText(`t=${1_764_000_000_000 + i}`), `"t=${1_764_000_000_000 + i}"`)
  }
})

test('what the quick look lets pass unchanged, the scrubber would not have changed', () => {
  for (const [, text] of secretsInText) {
    for (const variant of [text, text.toUpperCase(), ` ${text} `, `ü${text}`]) {
      if (scrub(variant) !== variant) assert.equal(JSON.parse(jsonText(variant)), scrub(variant), variant)
    }
  }
})

test('attack: texts made to stall the patterns take less than a second each', () => {
  const seeds = ['a', '1', '1 ', 'aa11 ', '://', '://a:', 'a@', 'a.', '@a.', 'token=', 'token="', 'eyJ', '-----BEGIN PRIVATE KEY-----', '%40', 'cookie:', 'code ', '=:_']
  for (const seed of seeds) {
    const started = performance.now()
    jsonText(seed.repeat(16_000 / seed.length))
    assert.ok(performance.now() - started < 1000, seed)
  }
})
