import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Validator } from '@seriousme/openapi-schema-validator'
import { z } from 'zod'
import { openApi } from '../../src/http/openapi.ts'
import { route } from '../../src/http/route.ts'
import { browserEdge, cookies } from '../support/browser.ts'
import { ask, edge, kinds, problemOf, sampleRoutes, thing } from '../support/edge.ts'

type Operation = {
  readonly security: readonly unknown[]
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly required: boolean }[]
  readonly responses: Readonly<Record<string, unknown>>
}
type Document = {
  readonly openapi: string
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: { readonly schemas: Readonly<Record<string, unknown>>; readonly securitySchemes: Readonly<Record<string, unknown>> }
}
const fresh = (value: unknown): object => JSON.parse(JSON.stringify(value)) as object

for (const kind of kinds) {
  test(`${kind}: the document served is valid OpenAPI 3.1 and every route in it behaves as it says`, async () => {
    const at = await edge(kind)
    const received = await ask(at, 'GET', '/openapi.json')
    const document = JSON.parse(received.text) as Document
    const { valid, errors } = await new Validator().validate(fresh(document) as never)
    assert.ok(valid, JSON.stringify(errors))
    assert.match(document.openapi, /^3\.1\./)
    const listed = Object.entries(document.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ path, method, operation })))
    assert.equal(listed.length, sampleRoutes().length)
    for (const { path, method, operation } of listed) {
      const answer = await ask(at, method.toUpperCase(), path.replace('{id}', thing))
      const open = operation.security.length === 0
      assert.equal(answer.status === 401, !open, `${method} ${path}`)
      assert.ok(String(answer.status) in operation.responses, `${method} ${path} gave ${answer.status}, which the document does not list`)
      if (answer.status >= 400) assert.equal(problemOf(answer).status, answer.status)
    }
  })
}

test('callers by cookie: the cookie, and with every unsafe method the CSRF token, stand beside bearer; without cookies neither does', async () => {
  const [withCookies, without] = await Promise.all([browserEdge('node', sampleRoutes(), { mount: { openapi: { title: 'Edge', version: '1.0.0' } } }), edge('node')])
  const document = JSON.parse((await ask(withCookies, 'GET', '/openapi.json')).text) as Document
  const { valid, errors } = await new Validator().validate(fresh(document) as never)
  assert.ok(valid, JSON.stringify(errors))
  const { bearer, cookie, csrf, ...rest } = document.components.securitySchemes as Readonly<Record<string, { readonly type: string; readonly in?: string; readonly name?: string }>>
  assert.deepEqual([bearer?.type, cookie?.in, cookie?.name, csrf?.in, csrf?.name, rest], ['http', 'cookie', cookies.names.access, 'header', 'X-CSRF-Token', {}])
  const { get, delete: remove } = document.paths['/api/things/{id}'] ?? {}
  assert.deepEqual([get?.security, remove?.security, document.paths['/api/echo']?.['post']?.security], [[{ bearer: [] }, { cookie: [] }], [{ bearer: [] }, { cookie: [], csrf: [] }], []])
  const plain = JSON.parse((await ask(without, 'GET', '/openapi.json')).text) as Document
  assert.deepEqual([Object.keys(plain.components.securitySchemes), plain.paths['/api/things/{id}']?.['get']?.security], [['bearer'], [{ bearer: [] }]])
})

test('parameters, body, answer and idempotency of a route are in the document', () => {
  const document = openApi(sampleRoutes(), { title: 'x', version: '1', servers: ['https://api.example.test'] }) as unknown as Document
  const one = document.paths['/api/things/{id}']?.['get']
  assert.deepEqual(one?.parameters?.map((each) => [each.name, each.in, each.required]), [['id', 'path', true], ['limit', 'query', false]])
  const add = document.paths['/api/things']?.['post']
  assert.deepEqual(add?.parameters?.map((each) => [each.name, each.in, each.required]), [['Idempotency-Key', 'header', false]])
  assert.deepEqual(Object.keys(add?.responses ?? {}), ['201', '400', '401', '403', '408', '409', '413', '415', '421', '422', '429', '500', '503'])
  assert.ok(JSON.stringify(add).includes('"already_exists"'))
  for (const code of ['request_in_progress', 'idempotency_key_reused']) {
    assert.ok(JSON.stringify(add).includes(`"${code}"`), code)
    assert.ok(!JSON.stringify(one).includes(`"${code}"`), `${code} where no key is taken`)
  }
  assert.equal((one?.parameters?.[0] as { readonly schema?: { readonly format?: string } } | undefined)?.schema?.format, 'uuid')
})

test('named and recursive schemas stand once, under components, and the document stays valid', async () => {
  type Tree = { readonly name: string; readonly below: readonly Tree[] }
  const tree: z.ZodType<Tree> = z.lazy(() => z.object({ name: z.string(), below: z.array(tree) }))
  const money = z.object({ minor: z.int(), currency: z.string() }).meta({ id: 'TestMoney' })
  const make = (path: `/${string}`) => route({ method: 'GET', path, summary: 'x', access: 'public', answer: z.object({ price: money, tree }), handle: () => ({ price: { minor: 1, currency: 'EUR' }, tree: { name: 'a', below: [] } }) })
  const document = openApi([make('/a'), make('/b')], { title: 'x', version: '1' }) as unknown as Document
  assert.deepEqual(document.components.schemas['TestMoney'], { type: 'object', properties: { minor: { type: 'integer', minimum: -9007199254740991, maximum: 9007199254740991 }, currency: { type: 'string' } }, required: ['minor', 'currency'], additionalProperties: false })
  assert.ok(!JSON.stringify(document).includes('$defs'))
  const validator = new Validator()
  const { valid, errors } = await validator.validate(fresh(document) as never)
  assert.ok(valid, JSON.stringify(errors))
  assert.ok(validator.resolveRefs() !== undefined)
})
