import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import { Refusal } from '../../src/errors.ts'
import { parseJson } from '../../src/http/json.ts'
import { ask, edge, json, kinds, problemOf, thing, wire, withToken } from '../support/edge.ts'
import type { Received } from '../support/edge.ts'

const ruleOf = (received: Received): string | undefined => problemOf(received).errors?.[0]?.rule

for (const kind of kinds) {
  test(`attack: ${kind}: prototype pollution by __proto__, constructor, prototype, in any depth and spelling`, async () => {
    const at = await edge(kind)
    for (const body of [
      '{"name":"x","__proto__":{"admin":true}}', '{"name":"x","constructor":{"prototype":{"admin":true}}}', '{"name":{"prototype":1}}',
      '{"name":[[{"__proto__":1}]]}', '{"name":"x","\\u005f_proto__":{"admin":true}}', '{"name":"x","__pro\\u0074o__":1}',
    ]) {
      const received = await ask(at, 'POST', '/api/echo', json(body))
      assert.equal(received.status, 400, body)
      assert.equal(ruleOf(received), 'forbidden_key', body)
    }
    for (const query of ['__proto__=1', 'constructor=1', '%5f_proto__=1', 'prototype']) {
      assert.equal((await ask(at, 'GET', `/api/where?${query}`)).status, 400, query)
    }
    assert.equal(({} as Record<string, unknown>)['admin'], undefined)
  })

  test(`attack: ${kind}: a body of 10 MB, declared or chunked, is refused without being kept`, async () => {
    const at = await edge(kind)
    const declared = await ask(at, 'POST', '/api/echo', json(JSON.stringify({ name: 'x'.repeat(10_000_000) })))
    assert.equal(declared.status, 413)
    assert.equal(declared.headers.connection, 'close')
    const chunk = `${(65536).toString(16)}\r\n${'x'.repeat(65536)}\r\n`
    const chunked = await wire(at, `POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${chunk.repeat(160)}0\r\n\r\n`)
    assert.match(chunked, /^HTTP\/1\.1 413 /)
  })

  test(`attack: ${kind}: a body that lies about being small is cut at the limit of its route`, async () => {
    const at = await edge(kind)
    const within = await ask(at, 'POST', '/api/echo', json({ name: 'x'.repeat(102_400 - 11) }))
    assert.equal(within.status, 200)
    const above = await ask(at, 'POST', '/api/echo', json({ name: 'x'.repeat(102_400 - 10) }))
    assert.equal(above.status, 413)
    const hook = await ask(at, 'POST', '/api/hook', json('x'.repeat(250_000)))
    assert.equal(hook.text, '{"bytes":250000}')
  })

  test(`attack: ${kind}: JSON of 10,000 levels is refused before it is built`, async () => {
    const at = await edge(kind)
    for (const body of ['['.repeat(10_000) + ']'.repeat(10_000), '{"a":'.repeat(10_000) + '1' + '}'.repeat(10_000), '['.repeat(50_000)]) {
      const received = await ask(at, 'POST', '/api/echo', json(body))
      assert.equal(ruleOf(received), 'depth')
      assert.equal(received.status, 400)
    }
  })

  test(`attack: ${kind}: two Authorization, Host or Content-Type lines are refused: a proxy might believe the one that is not believed here`, async () => {
    const at = await edge(kind)
    const body = '{"name":"x"}'
    const send = (...lines: readonly string[]): Promise<string> =>
      wire(at, ['POST /api/echo HTTP/1.1', ...lines, `Content-Length: ${body.length}`, 'Connection: close', '', body].join('\r\n'))
    const host = 'Host: a'
    const type = 'Content-Type: application/json'
    assert.match(await send(host, type, 'Authorization: Bearer one'), /^HTTP\/1\.1 200 /)
    for (const [field, lines] of [
      ['host', [host, 'Host: b', type]], ['host', [host, type, 'hOST: a']],
      ['authorization', [host, type, 'Authorization: Bearer one', 'Authorization: Bearer two']], ['authorization', [host, 'authorization: Bearer one', type, 'AUTHORIZATION: Bearer one']],
      ['content-type', [host, type, 'Content-Type: text/plain']], ['content-type', [host, 'Content-Type: text/plain', 'content-type: application/json']],
    ] as const) {
      const received = await send(...lines)
      assert.match(received, /^HTTP\/1\.1 400 /, lines.join())
      assert.ok(received.includes('"malformed_request"') && received.includes(`{"field":"${field}","rule":"duplicate"}`), received)
      assert.match(received, /X-Content-Type-Options: nosniff/i)
    }
    const padded = (lines: number): readonly string[] => Array.from({ length: lines - 4 }, (_, n) => `X-${n}: 1`)
    assert.match(await send(host, type, ...padded(100)), /^HTTP\/1\.1 200 /)
    assert.match(await send(host, type, ...padded(100), 'Host: b'), /^HTTP\/1\.1 400 /, 'nor behind the last line that is read')
    assert.match(await send(host, type, ...padded(300), 'Host: b'), /^HTTP\/1\.1 400 /)
  })

  test(`attack: ${kind}: a slow body is given up after its time`, async () => {
    const at = await edge(kind, {}, { mount: { bodyTimeout: 100 } })
    const text = await wire(at, 'POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"na')
    assert.match(text, /^HTTP\/1\.1 408 /)
    assert.match(text, /Connection: close/i)
    assert.match(text, /"code":"request_timeout"/)
  })

  test(`${kind}: a client that leaves in the middle of its body does no harm`, async () => {
    const at = await edge(kind)
    await new Promise<void>((resolve) => {
      const socket = connect(at.port, '127.0.0.1', () => {
        socket.write('POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"na', () => socket.destroy())
      })
      socket.on('close', () => resolve())
    })
    assert.equal((await ask(at, 'POST', '/api/echo', json({ name: 'x' }))).status, 200)
    assert.deepEqual(at.events.filter((event) => event.type === 'http.failed'), [])
  })

  test(`attack: ${kind}: response splitting through a header value is not possible`, async () => {
    const at = await edge(kind)
    for (const to of ['/x%0d%0aSet-Cookie:%20a=b', '/x%0aX:%20y', '/x%00']) {
      const received = await ask(at, 'GET', `/api/jump?to=${to}`)
      assert.ok(received.status === 400 || received.status === 500, String(received.status))
      assert.equal(received.headers['set-cookie'], undefined)
      assert.equal(received.headers.location, undefined)
    }
  })

  test(`attack: ${kind}: encoded, doubled and dotted paths do not slip past the routes`, async () => {
    const at = await edge(kind)
    const status = async (path: string): Promise<number> => (await ask(at, 'GET', path)).status
    for (const path of ['//api/where', '/api//where', '/api/./where', '/api/../api/where', '/x/..', '/api/wh\\ere', 'http://evil.test/api/where', '/api/where#x', '/api/wh<ere', '/api/where"']) {
      assert.equal(await status(path), 400, path)
    }
    for (const path of ['/api/where/', '/api/where.', '/API/where', '/api/Where', '/%61pi/where', '/api/wher%65', '/api%2fwhere', '/api/where;x=1', '/api/where%20', '/api/where%00', '/api', '/', '/api/segments/']) {
      assert.equal(await status(path), 404, path)
    }
    for (const segment of ['%2e%2e', '%2e', 'a%2fb', 'a%5cb', '%252e', '%00', 'a%0d%0ab', '%zz', '%', '%c0%ae', '%ed%a0%80', 'a%7f']) {
      assert.equal(await status(`/api/segments/${segment}`), 400, segment)
    }
    assert.equal((await ask(at, 'GET', '/api/segments/a%20b%C3%A9')).text, '{"a":"a bé"}')
    assert.match(await wire(at, 'GET /api/where\xe9 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 400 /)
  })

  test(`attack: ${kind}: a route is not reached by another method, and not by OPTIONS or TRACE`, async () => {
    const at = await edge(kind)
    for (const method of ['PUT', 'PATCH', 'OPTIONS', 'TRACE', 'PROPFIND']) {
      const received = await ask(at, method, `/api/things/${thing}`, withToken('therapist'))
      assert.equal(received.status, 405, method)
      assert.equal(received.headers.allow, 'GET, HEAD, DELETE', method)
    }
    const override = await ask(at, 'POST', '/api/echo', { ...json({ name: 'x' }), headers: { 'content-type': 'application/json', 'x-http-method-override': 'DELETE' } })
    assert.equal(override.status, 200)
  })

  test(`attack: ${kind}: a body where none is expected, of another type or coding, is refused`, async () => {
    const at = await edge(kind)
    assert.equal((await ask(at, 'GET', '/api/where', json({}))).status, 400)
    assert.equal((await ask(at, 'DELETE', `/api/things/${thing}`, { headers: { ...withToken('therapist').headers, 'content-type': 'application/json' }, body: '{}' })).status, 400)
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', 'application/jsonx', 'application/json; charset=utf-7', 'application/json, text/plain', 'text/json', '']) {
      assert.equal((await ask(at, 'POST', '/api/echo', { headers: { 'content-type': type }, body: '{"name":"x"}' })).status, 415, type)
    }
    for (const type of ['application/json', 'application/json; charset=utf-8', 'Application/JSON;charset="UTF-8"']) {
      assert.equal((await ask(at, 'POST', '/api/echo', { headers: { 'content-type': type }, body: '{"name":"x"}' })).status, 200, type)
    }
    for (const coding of ['gzip', 'br', 'deflate', 'gzip, gzip']) {
      assert.equal((await ask(at, 'POST', '/api/echo', { headers: { 'content-type': 'application/json', 'content-encoding': coding }, body: '{"name":"x"}' })).status, 415, coding)
    }
  })
}

test('attack: JSON that two parsers read differently is refused', () => {
  const cases: readonly [string | Buffer, string][] = [
    ['{"a":1,"a":2}', 'duplicate_key'], ['{"a":{"b":1,"b":1}}', 'duplicate_key'], ['{"a":1,"\\u0061":2}', 'duplicate_key'], ['[{"x":1},{"y":1,"y":1}]', 'duplicate_key'],
    [Buffer.from([0x22, 0xc3, 0x28, 0x22]), 'utf8'], [Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]), 'utf8'], [Buffer.from('\ufeff{}'), 'json'], ['"\\ud800"', 'text'], ['{"\\ud800":1}', 'text'], ['"a\\u0000b"', 'text'],
    ['', 'empty'], ['{', 'json'], ['{"a":1,}', 'json'], ["{'a':1}", 'json'], ['NaN', 'json'], ['01', 'json'], ['{}{}', 'json'], ['"', 'json'], ['"\\"', 'json'], ['// x\n{}', 'json'],
  ]
  for (const [body, rule] of cases) {
    assert.throws(() => parseJson(Buffer.from(body as string)), (error) => error instanceof Refusal && error.code === 'malformed_request' && error.fields[0]?.rule === rule, `${body.toString()} → ${rule}`)
  }
})

test('JSON that is merely unusual is read as JSON.parse reads it', () => {
  for (const body of [
    '{"a:b":"c:d","e":[1,{"f":":"}],"g":"\\":\\"","h":"\\\\","i":{}}', '"x"', '0', 'null', ' [ ] ', '{"1":1,"0":2}', '{"":{"":1}}', '"\\ud83d\\ude00"', `${'['.repeat(32)}${']'.repeat(32)}`, '{"a":"{[}]:"}',
  ]) assert.deepEqual(parseJson(Buffer.from(body)), JSON.parse(body), body)
})

test('attack: a field name that was sent is shown only when it looks like a field name', async () => {
  const at = await edge('node')
  const received = await ask(at, 'POST', '/api/echo', json({ name: 'x', 'jane@example.test': 1, '<b>': 1, ok_name: 1 }))
  assert.deepEqual(problemOf(received).errors, [{ field: '?', rule: 'unknown' }, { field: '?', rule: 'unknown' }, { field: 'ok_name', rule: 'unknown' }])
})

test('attack: a thousand unknown fields give a short answer', async () => {
  const at = await edge('node')
  const received = await ask(at, 'POST', '/api/echo', json(Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`f${i}`, i]))))
  assert.equal(problemOf(received).errors?.length, 32)
})
