import assert from 'node:assert/strict'
import { createSecretKey } from 'node:crypto'
import { test } from 'node:test'
import type { Event } from '../src/events.ts'
import { Refusal } from '../src/errors.ts'
import { logEvents, openLog, withRequestId, type Level } from '../src/log.ts'
import { memory, open, tables } from './support/log.ts'

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
  const canary = 'canary7Qz'
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
