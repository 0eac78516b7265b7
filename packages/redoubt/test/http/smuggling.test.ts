import assert from 'node:assert/strict'
import { test } from 'node:test'
import { edge, kinds, wire, withToken } from '../support/edge.ts'

/** What a proxy that read the first request otherwise would take for a second one. */
const inner = 'GET /api/where HTTP/1.1\r\nHost: a\r\nX-Smuggled: 1\r\n\r\n'
const head = 'POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n'
const body = '{"name":"x"}'
const coded = `${head}Transfer-Encoding: chunked\r\n\r\n`
const chunked = `c\r\n${body}\r\n0\r\n\r\n`

/** Requests two servers read differently (RFC 9112 §6.3, §11.2). Each is refused, with what follows it. */
const shapes: Readonly<Record<string, string>> = {
  'CL.TE': `${head}Content-Length: ${chunked.length}\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'TE.CL': `${head}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n${chunked}`,
  'chunked twice': `${head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'TE.TE: a second coding nobody knows': `${head}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n${chunked}`,
  'TE.TE: a first coding nobody knows': `${head}Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'CL.TE behind a tab': `${head}Content-Length: ${chunked.length}\r\nTransfer-Encoding:\tchunked\r\n\r\n${chunked}`,
  'CL.TE behind a line feed': `${head}Content-Length: ${chunked.length}\r\n\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'chunked with HTTP/1.0': `${head.replace('HTTP/1.1', 'HTTP/1.0')}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'chunked, then identity': `${head}Transfer-Encoding: chunked, identity\r\n\r\n${chunked}`,
  'identity, then chunked': `${head}Transfer-Encoding: identity, chunked\r\n\r\n${chunked}`,
  'a coding nobody knows': `${head}Transfer-Encoding: xchunked\r\n\r\n${chunked}`,
  'a coding in quotes': `${head}Transfer-Encoding: "chunked"\r\n\r\n${chunked}`,
  'identity alone': `${head}Transfer-Encoding: identity\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  'space before the colon': `${head}Transfer-Encoding : chunked\r\n\r\n${chunked}`,
  'a folded length': `${head}Content-Length:\r\n ${body.length}\r\n\r\n${body}`,
  'a folded first line': 'POST /api/echo HTTP/1.1\r\n Host: a\r\n\r\n',
  'a folded line': `${head}X: y\r\n Transfer-Encoding: chunked\r\n\r\n${chunked}`,
  'a control character before the coding': `${head}Transfer-Encoding: \x0bchunked\r\n\r\n${chunked}`,
  'a name with a NUL': `${head}Transfer-Encoding\0: chunked\r\n\r\n${chunked}`,
  'a value with a NUL': `${head}X: a\0b\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  'a length with a NUL': `${head}Content-Length: ${body.length}\0\r\n\r\n${body}`,
  'a name that is empty': `${head}: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  'an empty length': `${head}Content-Length: \r\n\r\n${body}`,
  'two lengths': `${head}Content-Length: ${body.length}\r\nContent-Length: 0\r\n\r\n${body}`,
  'two equal lengths': `${head}Content-Length: ${body.length}\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  'a list of lengths': `${head}Content-Length: ${body.length}, ${body.length}\r\n\r\n${body}`,
  'a length with a sign': `${head}Content-Length: +${body.length}\r\n\r\n${body}`,
  'a negative length': `${head}Content-Length: -1\r\n\r\n${body}`,
  'a length in hex': `${head}Content-Length: 0xc\r\n\r\n${body}`,
  'a length and more': `${head}Content-Length: ${body.length} 4\r\n\r\n${body}`,
  'a length beyond numbers': `${head}Content-Length: 99999999999999999999\r\n\r\n${body}`,
  'line feeds alone': `${head.replaceAll('\r\n', '\n')}Content-Length: ${body.length}\n\n${body}`,
  'a head that ends with a line feed': `${head}Content-Length: ${body.length}\r\n\n${body}`,
  'a head that ends with carriage returns': `${head}Content-Length: ${body.length}\r\r${body}`,
  'a bare line feed': `${head}X: y\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'a bare carriage return': `${head}X: y\rTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'a chunk size that is empty': `${coded}\r\n${body}\r\n0\r\n\r\n`,
  'a chunk size before a space': `${coded}c \r\n${body}\r\n0\r\n\r\n`,
  'a chunk size behind a space': `${coded} ${chunked}`,
  'a chunk size with an underscore': `${coded}0_${chunked}`,
  'a chunk size before a line feed': `${coded}c\n${body}\r\n0\r\n\r\n`,
  'a chunk before a line feed': `${coded}c\r\n${body}\n0\r\n\r\n`,
  'a last chunk before line feeds': `${coded}c\r\n${body}\r\n0\n\n`,
  'a chunk size in 0x': `${coded}0x${chunked}`,
  'a negative chunk': `${coded}-1\r\n${body}\r\n0\r\n\r\n`,
  'a chunk larger than any number': `${coded}fffffffffffffffff\r\n${body}\r\n0\r\n\r\n`,
  'a chunk longer than its size': `${coded}4\r\n${body}\r\n0\r\n\r\n`,
  'a chunk size with a line feed in its extension': `${coded}c;x=\ny\r\n${body}\r\n0\r\n\r\n`,
  'a chunk extension with a carriage return': `${coded}c;x=\ry\r\n${body}\r\n0\r\n\r\n`,
  'a chunk extension with a line break in quotes': `${coded}c;x="a\r\nb"\r\n${body}\r\n0\r\n\r\n`,
  'a chunk extension with a NUL': `${coded}c;\0\r\n${body}\r\n0\r\n\r\n`,
  'a chunk extension without end': `${coded}c;x=${'y'.repeat(20_000)}\r\n${body}\r\n0\r\n\r\n`,
  'a length behind the body': `${coded}c\r\n${body}\r\n0\r\nContent-Length: 3\r\n\r\n`,
  'a space before a colon behind the body': `${coded}c\r\n${body}\r\n0\r\nX : y\r\n\r\n`,
  'HTTP/2 without having agreed on it': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'HTTP/0.9': 'GET /api/where\r\n',
  'a version that is none': 'GET /api/where HTTP/9.9\r\nHost: a\r\n\r\n',
  'a tab in the request line': 'GET\t/api/where HTTP/1.1\r\nHost: a\r\n\r\n',
  'a target in absolute form, with another host': 'GET http://evil.test/api/where HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a target in absolute form, with another port': 'GET http://a:81/api/where HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a target in absolute form, with user information': 'GET http://a@a/api/where HTTP/1.1\r\nHost: a@a\r\nConnection: close\r\n\r\n',
  'a target in absolute form, with another host as user information': 'GET http://evil.test@a/api/where HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a target in absolute form, of another scheme': 'GET ftp://a/api/where HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a target in absolute form, without authority': 'GET http:///api/where HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n',
  'a target in absolute form, with a second host behind it': 'GET http://a//a/api/where HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a target in absolute form, with dot segments': 'GET http://a/x/../api/where HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a target in absolute form, without a Host line': 'GET http://a/api/where HTTP/1.1\r\n\r\n',
  'a target in absolute form within an absolute form': 'GET http://a/http://a/api/where HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'no host': 'GET /api/where HTTP/1.1\r\n\r\n',
}

/** The same with the target of the first request in absolute form. */
const inAbsoluteForm = Object.entries(shapes).filter(([, bytes]) => bytes.startsWith('POST /api/echo ')).map(([name, bytes]) => [`absolute form: ${name}`, bytes.replace('POST /', 'POST http://a/')] as const)

for (const kind of kinds) {
  test(`attack: ${kind}: request smuggling: shapes two servers read differently are refused, and nothing behind them is answered`, async () => {
    const at = await edge(kind)
    for (const [name, bytes] of [...Object.entries(shapes), ...inAbsoluteForm]) {
      const text = await wire(at, bytes + inner)
      const statuses = [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => match[1])
      assert.deepEqual(statuses, ['400'], `${name}: ${text.slice(0, 200)}`)
      assert.ok(!text.includes('"address"'), name)
      assert.match(text, /application\/problem\+json/, name)
    }
    const answered = at.events.filter((event) => event.type === 'http.answered' && event.route === '/api/where')
    assert.deepEqual(answered, [])
  })

  test(`${kind}: a target in absolute form is taken where it names the Host line (RFC 9112 §3.2.2): the same route, path and query`, async () => {
    const at = await edge(kind)
    const answers = async (lines: string): Promise<string> => (await wire(at, `${lines}\r\nConnection: close\r\n\r\n`)).replaceAll(/^(?:Date|X-Request-Id): .*\r\n/gim, '')
    const plain = await answers('GET /api/segments/one HTTP/1.1\r\nHost: a:80')
    assert.match(plain, /^HTTP\/1\.1 200 .*\{"a":"one"\}$/s)
    for (const target of ['http://a:80/api/segments/one', 'https://a:80/api/segments/one', 'HTTP://A:80/api/segments/one']) assert.equal(await answers(`GET ${target} HTTP/1.1\r\nHost: a:80`), plain, target)
    assert.match(await answers('GET http://[::1]:80/api/segments/one HTTP/1.1\r\nHost: [::1]:80'), /\{"a":"one"\}$/)
    assert.match(await answers('GET http://a/api/segments/one HTTP/1.0\r\nX: no Host line, which HTTP/1.0 has not'), /\{"a":"one"\}$/)
    assert.match(await answers('GET http://a/api/segments/http:%20x HTTP/1.1\r\nHost: a'), /\{"a":"http: x"\}$/)
    assert.match(await answers('GET http://a/api/segments/one?x=1 HTTP/1.1\r\nHost: a'), /"field":"x","rule":"unknown"/)
    for (const target of ['http://a', 'http://a?x=1', 'http://a/', 'http://a/nothing']) assert.match(await answers(`GET ${target} HTTP/1.1\r\nHost: a`), /^HTTP\/1\.1 404 /, target)
    for (const target of ['*', 'http://a']) assert.match(await answers(`OPTIONS ${target} HTTP/1.1\r\nHost: a`), /^HTTP\/1\.1 40[04] /, target)
    for (const lines of ['Host: a\r\nHost: b', 'Host: b\r\nHost: a']) assert.match(await answers(`GET http://a/api/segments/one HTTP/1.1\r\n${lines}`), /"field":"host","rule":"duplicate"/, lines)
  })

  test(`${kind}: requests behind one another on one connection are each answered, in order, and by their own bodies`, async () => {
    const at = await edge(kind)
    const post = (name: string): string => `${head}Content-Length: ${name.length + 11}\r\n\r\n{"name":"${name}"}`
    const text = await wire(at, `${post('one')}${post('two')}${head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n${chunked}`)
    assert.deepEqual([...text.matchAll(/\{"name":"(\w+)"\}/g)].map((match) => match[1]), ['one', 'two', 'x'])
  })

  test(`attack: ${kind}: lines behind the body, a wish for another protocol and an odd expectation change neither caller nor framing`, async () => {
    const at = await edge(kind)
    const trailers = `c\r\n${body}\r\n0\r\nAuthorization: ${withToken().headers['authorization']}\r\nHost: b\r\n\r\n`
    const end = 'GET /api/segments/end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'
    const things = head.replace('/api/echo', '/api/things')
    const statuses = (text: string): readonly (string | undefined)[] => [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => match[1])
    assert.deepEqual(statuses(await wire(at, `${things}Transfer-Encoding: chunked\r\n\r\n${trailers}${end}`)), ['401', '200'], 'a token behind the body')
    assert.deepEqual(statuses(await wire(at, `${coded}c;x=y\r\n${body}\r\n0\r\n\r\n${end}`)), ['200', '200'], 'an extension in form is passed over')
    const expecting = await wire(at, `${head}Expect: 200-ok\r\nContent-Length: ${body.length}\r\n\r\n${body}${end}`)
    assert.deepEqual(statuses(expecting), ['200', '200'])
    assert.equal(expecting.match(/X-Content-Type-Options: nosniff/gi)?.length, 2, 'answered by the perimeter, not past it')
    const upgrade = await wire(at, 'GET /api/segments/one HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n')
    assert.ok(!upgrade.includes('101') && statuses(upgrade).every((status) => status === '200'), upgrade)
    assert.ok(!(await wire(at, `CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n${end}`)).includes('{"a":"end"}'))
  })

  test(`attack: ${kind}: a body that no route reads is not taken for the next request`, async () => {
    const at = await edge(kind)
    for (const [line, status] of [['GET /api/where', '400'], ['GET /nothing', '404'], ['POST /nothing', '404'], ['PUT /api/echo', '405']] as const) {
      const text = await wire(at, `${line} HTTP/1.1\r\nHost: a\r\nContent-Length: ${inner.length}\r\n\r\n${inner}GET /api/segments/end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`)
      assert.deepEqual([...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => match[1]), [status, '200'], `${line}: ${text.slice(0, 300)}`)
      assert.ok(!text.includes('"address"') && text.includes('{"a":"end"}'), line)
    }
  })
}
