import assert from 'node:assert/strict'
import { test } from 'node:test'
import { https } from '../../src/http/https.ts'
import { ask, edge, json, kinds, problemOf } from '../support/edge.ts'

for (const kind of kinds) {
  test(`${kind}: plain HTTP is redirected for GET and HEAD of a page's host, and refused for all else`, async () => {
    const at = await edge(kind, { https: 'enforce', pageHosts: ['therapy.example'] })
    const send = (method: string, host: string, path = '/sign-in?x=1', more = {}): ReturnType<typeof ask> => ask(at, method, path, { ...more, headers: { host } })
    for (const method of ['GET', 'HEAD']) {
      for (const host of ['therapy.example', 'THERAPY.example:80']) {
        const received = await send(method, host)
        assert.equal(received.status, 308)
        assert.equal(received.headers.location, 'https://therapy.example/sign-in?x=1')
        assert.equal(received.headers['strict-transport-security'], undefined)
        assert.equal(received.text, '')
      }
    }
    assert.equal((await send('POST', 'therapy.example', '/sign-in', json({}))).status, 421, 'a body was sent in clear already')
    for (const received of [await send('GET', 'therapy.example', '/api/where'), await ask(at, 'GET', '/notes', { headers: { host: 'therapy.example', authorization: 'Bearer x' } })]) {
      assert.deepEqual([received.status, received.headers.location], [421, undefined], 'a token was sent in clear already')
    }
    for (const host of ['api.therapy.example', 'evil.test', 'therapy.example.evil.test', 'therapy.example:8080', 'therapy.example@evil.test', '']) {
      const received = await send('GET', host)
      assert.equal(received.status, 421, host)
      assert.equal(received.headers.location, undefined)
      assert.equal(problemOf(received).code, 'https_required')
    }
    for (const path of ['//evil.test/', '/\\evil.test', 'http://evil.test/']) assert.equal((await send('GET', 'therapy.example', path)).status, 421, path)
  })
}

test('https: report lets pass and tells of it; HSTS goes over TLS alone', async () => {
  const at = await edge('node', { https: 'report', hsts: { maxAge: 300 }, trustedProxies: ['127.0.0.1'] })
  const plain = await ask(at, 'GET', '/api/where')
  const secure = await ask(at, 'GET', '/api/where', { headers: { 'x-forwarded-proto': 'https' } })
  assert.deepEqual([plain.status, plain.headers['strict-transport-security'], secure.status, secure.headers['strict-transport-security']], [200, undefined, 200, 'max-age=300'])
  assert.deepEqual(at.events.flatMap((event) => (event.type === 'security.control_triggered' ? [[event.control, event.mode, event.rule]] : [])), [['https', 'report', 'plain']])
})

test('https: hosts that are none, or that would do nothing, are refused when built', () => {
  const emit = (): void => undefined
  for (const hosts of [['https://a.test'], ['a.test:80'], ['A.test'], ['*'], ['a.test/']]) assert.throws(() => https('enforce', emit, hosts), TypeError, hosts.join())
  assert.throws(() => https('off', emit, ['a.test']), TypeError)
  assert.throws(() => https('redirect' as never, emit), TypeError)
})
