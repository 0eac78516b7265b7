import assert from 'node:assert/strict'
import { createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { byOneName, isLoopback } from '../../src/http/loopback.ts'

const step = byOneName('http://localhost:4310')
const server = createServer((req, res) => step(req, res, () => res.end('page')))
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
after(() => server.close())
const { port } = server.address() as AddressInfo
const navigation = { 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' }

/** The raw path and host: fetch would tidy both up. */
function ask(host: string, path = '/sign-in?note=late', headers: Record<string, string> = navigation, method = 'GET'): Promise<readonly [number | undefined, string | undefined]> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port, path, method, headers: { host, ...headers } }, (res) => {
      res.resume()
      resolve([res.statusCode, res.headers.location])
    }).once('error', reject).end()
  })
}

test('a page opened under another name of this machine is opened under the one that is meant', async () => {
  for (const host of ['127.0.0.1:4310', '[::1]:4310']) assert.deepEqual(await ask(host), [307, 'http://localhost:4310/sign-in?note=late'])
  assert.deepEqual(await ask('localhost:4310'), [200, undefined])
})

test('programs, forms, embedded pages, and every other port are left alone', async () => {
  for (const headers of [{}, { 'sec-fetch-mode': 'cors', 'sec-fetch-dest': 'empty' }, { 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' }]) assert.deepEqual(await ask('127.0.0.1:4310', '/', headers), [200, undefined])
  assert.deepEqual(await ask('127.0.0.1:4310', '/sign-in', navigation, 'POST'), [200, undefined])
  for (const host of ['127.0.0.1', '127.0.0.1:80', '127.0.0.1:43100', `127.0.0.1:${port}`]) assert.deepEqual(await ask(host), [200, undefined], host)
})

test('attack: open redirect by Host or path', async () => {
  for (const host of ['evil.example', 'evil.example:4310', '127.0.0.1:4310.evil.example', '127.0.0.1.evil.example:4310', 'localhost:4310@evil.example', '127.0.0.1:4310@evil.example']) assert.deepEqual(await ask(host), [200, undefined], host)
  for (const path of ['//evil.example/', '/\\evil.example', 'http://evil.example/']) assert.deepEqual(await ask('127.0.0.1:4310', path), [307, 'http://localhost:4310/'], path)
  // Without a slash in front nothing reaches us: it would stand behind the name.
  for (const path of ['@evil.example', '.evil.example/', ':80@evil.example/']) assert.deepEqual(await ask('127.0.0.1:4310', path), [400, undefined], path)
})

test('an origin where it would do nothing is refused when built', () => {
  for (const origin of ['https://therapy.example', 'https://localhost', 'http://therapy.test', 'http://localhost.evil.example', 'localhost', 'http://localhost/x']) {
    assert.equal(isLoopback(origin), false, origin)
    assert.throws(() => byOneName(origin), TypeError, origin)
  }
  assert.ok(isLoopback('http://127.0.0.1:4310') && isLoopback('http://[::1]:1') && isLoopback('http://localhost'))
})
