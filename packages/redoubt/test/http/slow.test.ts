import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { test } from 'node:test'
import { hardenServer } from '../../src/http.ts'
import { ask, edge, json, kinds } from '../support/edge.ts'
import type { Edge } from '../support/edge.ts'

/** What came back on a connection that sends `first`, then one byte of `rest` after another for as long as it is let; and after how many milliseconds it was ended. */
function drip(at: Edge, first: string, rest: string): Promise<{ readonly text: string; readonly took: number }> {
  return new Promise((resolve) => {
    const started = performance.now()
    const socket = connect(at.port, '127.0.0.1')
    if (first !== '') socket.write(first)
    let [text, sent] = ['', 0]
    const timer = setInterval(() => void (rest !== '' && socket.writable && socket.write(rest[sent++ % rest.length] ?? '')), 10)
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => (text += chunk))
    socket.on('error', () => undefined)
    socket.on('close', () => {
      clearInterval(timer)
      resolve({ text, took: performance.now() - started })
    })
  })
}

const head = 'POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n'
const whole = `${head}Content-Length: 50000\r\n\r\n{"name":"`

for (const kind of kinds) {
  test(`attack: ${kind}: slow heads: sent byte by byte, broken off or never begun, each is ended in its time, and nobody else waits`, async () => {
    const at = await edge(kind)
    // The real bounds, shorter.
    at.server.headersTimeout = 500
    const ways: readonly (readonly [string, string])[] = [['GET /api/where HTTP/1.1\r\nHost: a\r\nX-Slow: ', 'a'], ['GET /api/where HTTP/1.1\r\nHost: a\r\n', 'X: y\r\n'], ['GET /', 'a'], [head, ''], ['', '']]
    const slow = Promise.all(ways.flatMap((way) => Array.from({ length: 10 }, () => drip(at, ...way))))
    let over = false
    void slow.then(() => (over = true))
    let others = 0
    for (; !over || others < 20; others++) assert.equal((await ask(at, 'POST', '/api/echo', json({ name: 'x' }))).status, 200)
    for (const { text, took } of await slow) {
      assert.match(text, /^HTTP\/1\.1 408 /)
      assert.match(text, /"code":"request_timeout"/)
      assert.ok(took < 15_000, `ended after ${Math.round(took)} ms: looked at too seldom`)
    }
  })

  test(`attack: ${kind}: slow bodies: sent byte by byte, to a route that reads them or to none, each is ended in its time`, async () => {
    const at = await edge(kind, {}, { mount: { bodyTimeout: 400 } })
    at.server.headersTimeout = at.server.requestTimeout = 500
    const [read, unread] = await Promise.all([drip(at, whole, 'a'), drip(at, whole.replace('/api/echo', '/nothing'), 'a')])
    assert.match(read.text, /^HTTP\/1\.1 408 /)
    assert.match(unread.text, /^HTTP\/1\.1 404 /)
    assert.ok(unread.took < 15_000, `ended after ${Math.round(unread.took)} ms`)
  })
}

test('the times of a server hold from its start, and cannot be set too late', async () => {
  const { server } = await edge('node')
  assert.deepEqual([server.headersTimeout, server.requestTimeout, server.keepAliveTimeout], [10_000, 60_000, 65_000])
  assert.equal((server as { readonly connectionsCheckingInterval?: number }).connectionsCheckingInterval, 1_000)
  assert.throws(() => hardenServer(server, () => undefined), TypeError)
  assert.doesNotThrow(() => hardenServer(createServer(), () => undefined))
})
