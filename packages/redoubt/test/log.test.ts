import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHmac, createSecretKey } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Event } from '../src/events.ts'
import { Refusal } from '../src/errors.ts'
import { logEvents, openLog, openSink, withRequestId, type Level, type Log, type Sink } from '../src/log.ts'
import { scrub } from '../src/log/scrub.ts'
import { jsonText } from '../src/log/text.ts'
import { blindIndex, defineTables, plain, sealed } from '../src/tables.ts'

const tables = defineTables({
  service: 'shop',
  retention: { record: { days: 1, basis: 'test' } },
  tables: {
    'shop.people': {
      id: 1,
      about: 'people',
      rowId: 'id',
      subject: 'id',
      tenant: null,
      keep: 'record',
      columns: {
        id: plain('uuid', 'INT'),
        time_zone: plain('text', 'INT'),
        nick_name: plain('text', 'PII'),
        login_hash: plain('text', 'CRED'),
        first_name_enc: sealed(1, 'PII-E'),
        reason_enc: sealed(2, 'SCH'),
        phone_enc: sealed(3, 'PII-E'),
        phone_bidx: blindIndex(4, 'phone_enc'),
      },
    },
  },
})

function memory(): Sink & { readonly lines: () => readonly Record<string, unknown>[]; readonly text: () => string } {
  let text = ''
  return {
    write: (line) => void (text += line),
    flush: () => undefined,
    close: () => undefined,
    lost: 0,
    text: () => text,
    lines: () => text.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as Record<string, unknown>),
  }
}

function open(level: Level = 'trace'): { readonly log: Log; readonly sink: ReturnType<typeof memory> } {
  const sink = memory()
  return { log: openLog({ service: 'shop', version: '1.2.3', tables, level, sink, atEnd: false }), sink }
}

test('a line is one JSON object with ISO time, level name, service, version, category, request id and message', () => {
  const { log, sink } = open()
  withRequestId('0192f5b4-7d3c-7a51-9c1e-3f6a2b8d4e10', () => log.warn('money', 'payout "late"\n', { amount: 12, big: 5n, at: new Date(0), none: null, skip: undefined }))
  const [line] = sink.lines()
  assert.match(String(line?.['time']), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
  assert.ok(Math.abs(Date.parse(String(line?.['time'])) - Date.now()) < 5000)
  delete line?.['time']
  assert.deepEqual(line, {
    level: 'warn', service: 'shop', version: '1.2.3', category: 'money', requestId: '0192f5b4-7d3c-7a51-9c1e-3f6a2b8d4e10',
    amount: 12, big: '5', at: '1970-01-01T00:00:00.000Z', none: null, msg: 'payout "late"\n',
  })
  assert.equal(sink.text().split('\n').length, 2)
})

test('the request id follows asynchronous work and does not leak into other requests', async () => {
  const { log, sink } = open()
  await Promise.all(['r-1', 'r-2'].map((id) => withRequestId(id, async () => {
    await new Promise((resolve) => setImmediate(resolve))
    log.info('http', id)
  })))
  log.info('http', 'outside')
  assert.deepEqual(sink.lines().map((line) => [line['requestId'], line['msg']]), [['r-1', 'r-1'], ['r-2', 'r-2'], [undefined, 'outside']])
})

test('the level can be changed while running, for children too; another word is a TypeError', () => {
  const { log, sink } = open('info')
  const child = log.child({ tenant: 'company-7', password: 'hunter2-hunter2' })
  child.debug('job', 'unheard')
  log.setLevel('debug')
  child.debug('job', 'heard')
  assert.equal(child.level, 'debug')
  const [line, ...others] = sink.lines()
  assert.deepEqual([line?.['msg'], line?.['tenant'], line?.['password'], others.length], ['heard', 'company-7', '[redacted]', 0])
  assert.throws(() => log.setLevel('loud' as Level), TypeError)
})

test('audit lines go to their own sink, all others to the common one', () => {
  const common = memory()
  const audit = memory()
  const log = openLog({ service: 'shop', version: '1', tables, sink: common, auditSink: audit, atEnd: false })
  for (const category of ['http', 'auth', 'money', 'provider', 'webhook', 'job', 'audit', 'service'] as const) log.info(category, category)
  assert.deepEqual(audit.lines().map((line) => line['msg']), ['audit'])
  assert.deepEqual(common.lines().map((line) => line['category']), ['http', 'auth', 'money', 'provider', 'webhook', 'job', 'service'])
})

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

test('attack: fields cannot forge time, level or message of the line', () => {
  const { log, sink } = open()
  log.info('http', 'real', JSON.parse('{"level":"fatal","time":"then","msg":"forged","requestId":"r","__proto__":{"x":1}}') as Record<string, unknown>)
  const text = sink.text()
  assert.equal(text.match(/"level":/g)?.length, 1)
  assert.equal(text.match(/"msg":/g)?.length, 1)
  assert.deepEqual([sink.lines()[0]?.['level'], sink.lines()[0]?.['_level'], sink.lines()[0]?.['msg']], ['info', 'fatal', 'real'])
})

test('bytes and keys are never shown; cycles, depth, width, throwing getters and toJSON do no harm', () => {
  const { log, sink } = open()
  const circle: Record<string, unknown> = { name: 'c' }
  circle['self'] = circle
  const deep = JSON.parse('{"d":'.repeat(50) + '1' + '}'.repeat(50)) as Record<string, unknown>
  log.info('job', 'a', { bytes: Buffer.from('hunter2'), view: new Uint8Array(3), keyObject: createSecretKey(Buffer.from('hunter2hunter2')) })
  log.info('job', 'b', { circle, deep, wide: Array.from({ length: 500 }, (_, i) => i), nan: Number.NaN, call: () => 1, url: new URL('https://a.test/x'), set: new Set([1]) })
  log.info('job', 'c', { get bad() { throw new Error('hunter2') } })
  log.info('job', 'd', { bad: { toJSON() { throw new Error('hunter2') } } })
  log.info('job', 'e', { bare: Object.assign(Object.create(null), { password: 'hunter2', fine: 1 }) })
  const lines = sink.lines()
  assert.equal(lines.length, 5)
  assert.ok(!sink.text().includes('hunter2') && !sink.text().includes('104,117'))
  assert.equal(lines[0]?.['bytes'], '[7 bytes]')
  assert.deepEqual([lines[1]?.['nan'], lines[1]?.['url'], lines[2]?.['unreadable']], [null, 'https://a.test/x', true])
})

test('an error gives type, message, stack, code and cause, and nothing a driver hung on it', () => {
  const { log, sink } = open()
  const driver = Object.assign(new Error('connect failed'), { code: 'ECONNREFUSED', detail: canary, parameters: [canary], query: canary })
  log.error('provider', 'x', { err: new Refusal('database_unavailable', { cause: driver }) })
  const err = sink.lines()[0]?.['err'] as Record<string, Record<string, unknown>>
  assert.deepEqual([err['type'], err['errorCode'], err['cause']?.['errorCode']], ['Refusal', 'database_unavailable', 'ECONNREFUSED'])
  assert.match(JSON.stringify(err['stack']), /log\.test\.ts/)
  assert.ok(!sink.text().includes(canary))
})

test('events become one line each: refusals are not errors, a failure is one error with its stack', () => {
  const { log, sink } = open()
  const emit = logEvents(log)
  const requestId = 'r-9'
  const events: readonly Event[] = [
    { type: 'http.answered', requestId, method: 'GET', route: '/x', status: 200, milliseconds: 1 },
    { type: 'http.answered', requestId, method: 'GET', route: '/x', status: 404, milliseconds: 1, code: 'not_found' },
    { type: 'http.answered', requestId, method: 'GET', route: '/x', status: 500, milliseconds: 1, code: 'internal' },
    { type: 'http.failed', requestId, error: new TypeError('broken') },
    { type: 'auth.login_failed', requestId, reason: 'wrong_password' },
    { type: 'security.injection_suspected', requestId, action: 'a.b', sqlState: '42601' },
    { type: 'security.audit_chain_broken', problem: 'link', seq: '4' },
    { type: 'key.rotated', key: 'k', purpose: 'token-sign' },
    { type: 'service.started', service: 'other', detail: 'port 1' },
  ]
  for (const event of events) emit(event)
  const lines = sink.lines()
  assert.deepEqual(lines.map((line) => [line['level'], line['category']].join(' ')), [
    'info http', 'info http', 'warn http', 'error http', 'info auth', 'warn audit', 'fatal audit', 'info audit', 'info service',
  ])
  assert.deepEqual([lines[1]?.['refusal'], lines[1]?.['requestId'], lines[1]?.['msg']], ['not_found', 'r-9', 'http.answered'])
  assert.equal(lines[4]?.['reason'], 'wrong_password', 'a column called reason_enc does not hide the reason of an event')
  assert.equal(lines[8]?.['service'], 'shop')
  assert.equal(lines.filter((line) => line['level'] === 'error').length, 1)
})

async function endingOf(...args: readonly string[]): Promise<{ readonly out: string; readonly code: number | null; readonly signal: string | null }> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'support/log-process.ts'), ...args])
  let out = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => void (out += chunk))
  if (args[0] === 'signal') child.stderr.once('data', () => child.kill('SIGTERM'))
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  return { out, code, signal }
}

for (const [ending, code, signal] of [['return', 0, null], ['close', 0, null], ['exit', 3, null], ['throw', 1, null], ['signal', null, 'SIGTERM']] as const) {
  test(`no line is lost when the process ends by ${ending}, and it ends as it would have`, async () => {
    const result = await endingOf(ending, '3000')
    assert.equal(result.out.split('\n').length - 1, 3000)
    assert.match(result.out, /"i":2999,/)
    assert.deepEqual([result.code, result.signal], [code, signal])
  })
}

test('SIGTERM leaves an app its own drain, whose lines arrive too', async () => {
  const result = await endingOf('signal', '10', 'drain')
  assert.match(result.out, /"msg":"drained"/)
  assert.equal(result.out.match(/"msg":"asked to stop"/g)?.length, 1)
  assert.deepEqual([result.code, result.signal], [0, null])
})

test('a file sink keeps order, long lines and everything before a flush; a broken one counts what it lost', () => {
  const folder = mkdtempSync(join(tmpdir(), 'redoubt-log-'))
  const path = join(folder, 'a.log')
  const sink = openSink(path)
  const lines = Array.from({ length: 300 }, (_, i) => `${i}${i % 50 === 0 ? 'é🙂'.repeat(30_000) : ''}\n`)
  for (const line of lines) sink.write(line)
  sink.flush()
  assert.equal(readFileSync(path, 'utf8'), lines.join(''))
  sink.close()
  rmSync(folder, { recursive: true })
  const broken = openSink(987_654)
  broken.write('x\n')
  broken.flush()
  assert.equal(broken.lost, 1)
})
