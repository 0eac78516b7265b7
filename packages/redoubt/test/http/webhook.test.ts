import assert from 'node:assert/strict'
import { createHmac, timingSafeEqual } from 'node:crypto'
import { test } from 'node:test'
import { z } from 'zod'
import { Refusal } from '../../src/errors.ts'
import { route } from '../../src/http/route.ts'
import { ask, edge, kinds, problemOf, type Received } from '../support/edge.ts'

/**
 * A delivery as a payment provider signs it (HMAC-SHA-256 over time, a point and the body), with all that is lost where a
 * body is parsed and written again: blanks, the order and spelling of its members, a number's zeros, escapes.
 */
const golden = {
  secret: 'whsec_test_4f0c2a',
  body: '{\n  "type" : "payment.succeeded",\r\n\t"amount":1.50,  "zero": -0.0, "big": 12345678901234567890,\n  "name":"Zo\\u00eb \\/ Zoë 🌿", "b":1,"a":2\n}\n',
  // printf '%s' "1790000000.<body>" | openssl dgst -sha256 -hmac whsec_test_4f0c2a
  signature: 't=1790000000,v1=b4b82afb329fc397a3cede2c3d7df1f3324881881d517ccd890455e0d8476e9c',
}

function holds(header: unknown, body: Buffer): boolean {
  const [, time = '', given = ''] = /^t=(\d{1,12}),v1=([0-9a-f]{64})$/.exec(typeof header === 'string' ? header : '') ?? []
  return given !== '' && timingSafeEqual(createHmac('sha256', golden.secret).update(`${time}.`).update(body).digest(), Buffer.from(given, 'hex'))
}

const hook = route({
  method: 'POST', path: '/api/webhooks/payments', summary: 'Events of the payment provider', access: 'public', weight: 0,
  raw: { limit: 1_000, type: ['application/json', 'application/vnd.provider+json'] }, answer: z.object({ bytes: z.int() }), refuses: ['unauthenticated'],
  handle: ({ body, headers }) => {
    if (!holds(headers['signature'], body)) throw new Refusal('unauthenticated')
    return { bytes: body.length }
  },
})
const echo = route({ method: 'POST', path: '/api/echo', summary: 'Echo', access: 'public', body: z.strictObject({ name: z.string() }), answer: z.object({ name: z.string() }), handle: ({ body }) => body })

/** RFC 9110 §8.3.1: the type alone is compared, in letters of any size; parameters are the handler's business. */
const taken = [
  'application/json; charset=utf-8', 'Application/JSON', 'application/vnd.provider+json', 'application/vnd.provider+json;charset=utf-8', 'APPLICATION/VND.Provider+JSON ; charset="utf-8"',
  'application/json;version=1; profile="a;b, \\"c\\""', 'application/json;', 'application/json ; ; charset=utf-8 ;',
]
const malformed = [
  '', 'text/plain', 'text/plain; application/json', 'text/plain; a="application/json"', 'application', 'application/', '/json', 'application /json', 'application/json/x', 'application/jsonx', 'application/json, text/plain',
  'application/json, application/json', 'application/json charset=utf-8', 'application/json; charset', 'application/json; charset=', 'application/json; =utf-8', 'application/json; charset = utf-8', 'application/json; charset="utf-8',
  'application/json; charset="utf-8"x', 'application/json; charset=utf 8', '*/*', 'application/*',
]

test('attack: a content type made for it does not hold the comparison up', async () => {
  const at = await edge('node', {}, { routes: [hook] })
  for (const type of [`application/json${' ;'.repeat(4_000)} x`, `application/json;${' '.repeat(8_000)}x`, `application/json; a="${'\\\\'.repeat(3_000)}`, `application/json; ${'a'.repeat(8_000)}`]) {
    // More than one way through each of thousands of parts would take longer than any test may.
    assert.equal(problemOf(await ask(at, 'POST', '/api/webhooks/payments', { body: golden.body, headers: { 'content-type': type, signature: golden.signature } })).code, 'unsupported_media_type')
  }
})

test('raw takes types that can be met', () => {
  const made = (type: string | readonly [string, ...string[]]): unknown => route({ method: 'POST', path: '/api/hook', summary: 'Hook', access: 'public', raw: { limit: 1, type }, answer: null, handle: () => undefined })
  for (const type of ['', 'json', 'application/json; charset=utf-8', 'Application/JSON', ['application/json', ''] as const]) assert.throws(() => made(type), /raw\.type must be media types in small letters without parameters/)
})

for (const kind of kinds) {
  test(`attack: ${kind}: a signed webhook passes through the whole edge byte for byte, and nothing that differs from what was signed does`, async () => {
    const at = await edge(kind, {}, { routes: [hook, echo] })
    const deliver = (body: string | Buffer, headers: Record<string, string> = {}): Promise<Received> =>
      ask(at, 'POST', '/api/webhooks/payments', { body, headers: { 'content-type': 'application/json', signature: golden.signature, ...headers } })
    const right = await deliver(golden.body)
    assert.deepEqual([right.status, right.text], [200, JSON.stringify({ bytes: Buffer.byteLength(golden.body) })])
    for (const type of taken) assert.equal((await deliver(golden.body, { 'content-type': type })).status, 200, type)
    for (const type of malformed) assert.deepEqual([problemOf(await deliver(golden.body, { 'content-type': type })).code, type], ['unsupported_media_type', type])

    const { signature } = golden
    for (const [what, body, headers] of [
      ['what a parser makes of it', JSON.stringify(JSON.parse(golden.body)), {}],
      ['without its last line end', golden.body.trimEnd(), {}],
      ['in another normal form', golden.body.normalize('NFD'), {}],
      ['with one bit changed', golden.body.replace('1.50', '1.51'), {}],
      ['at another time', golden.body, { signature: signature.replace('t=1790000000', 't=1790000001') }],
      ['without a signature', golden.body, { signature: '' }],
      ['with a shorter signature', golden.body, { signature: signature.slice(0, -2) }],
    ] as const) {
      const refused = await deliver(body, headers)
      assert.deepEqual([refused.status, problemOf(refused).code], [401, 'unauthenticated'], what)
    }
    for (const [code, body, headers] of [
      ['body_too_large', Buffer.alloc(1_001, 0x20), {}], ['unsupported_media_type', golden.body, { 'content-type': 'text/plain' }], ['unsupported_media_type', golden.body, { 'content-encoding': 'gzip' }],
    ] as const) assert.equal(problemOf(await deliver(body, headers)).code, code)

    // Bytes as sent are this route's alone: its neighbour parses, and takes none of its types.
    assert.equal((await ask(at, 'POST', '/api/echo', { body: '{ "name" : "x" }', headers: { 'content-type': 'application/json' } })).text, '{"name":"x"}')
    assert.equal(problemOf(await ask(at, 'POST', '/api/echo', { body: '{"name":"x"}', headers: { 'content-type': 'application/vnd.provider+json' } })).code, 'unsupported_media_type')
  })
}
