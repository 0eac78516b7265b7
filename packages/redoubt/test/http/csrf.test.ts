import assert from 'node:assert/strict'
import { createSecretKey, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { Refusal } from '../../src/errors.ts'
import { anyOf, bearer, cookie } from '../../src/http/authenticate.ts'
import { openControls } from '../../src/http/controls.ts'
import { openCsrf } from '../../src/http/csrf.ts'
import { mount } from '../../src/http/mount.ts'
import { browserEdge, cookies, friend, fromOwn, own, secret, signedIn, tokenOf } from '../support/browser.ts'
import { ask, json, kinds, problemOf, sampleRoutes, session, thing, tokens, withToken } from '../support/edge.ts'
import type { Received } from '../support/edge.ts'

const body = json({ name: 'new' })
const jsonType = { 'content-type': 'application/json' }

for (const kind of kinds) {
  test(`attack: ${kind}: a foreign page posts with the visitor's cookies`, async () => {
    const at = await browserEdge(kind, sampleRoutes())
    const send = (headers: Record<string, string>, method = 'POST', path = '/api/things'): Promise<Received> =>
      ask(at, method, path, { headers: { cookie: signedIn(), ...(method === 'POST' ? jsonType : {}), ...headers }, ...(method === 'POST' ? { body: body.body } : {}) })
    const token = await tokenOf(at)
    assert.equal((await send({ ...fromOwn, 'x-csrf-token': token })).status, 201)
    for (const [name, headers] of [
      ['cookie alone', {}],
      ['cookie and token, but nothing says from where', { 'x-csrf-token': token }],
      ['from our page without token', { ...fromOwn }],
      ['a cross-site request without Origin', { 'sec-fetch-site': 'cross-site', 'x-csrf-token': token }],
      ['a sibling host', { 'sec-fetch-site': 'same-site', 'x-csrf-token': token }],
      ['our origin, as another site says it', { origin: own, 'sec-fetch-site': 'cross-site', 'x-csrf-token': token }],
      ['a listed origin without token', { origin: friend, 'sec-fetch-site': 'same-site' }],
      ['a token cut short', { ...fromOwn, 'x-csrf-token': token.slice(0, -1) }],
      ['a token altered', { ...fromOwn, 'x-csrf-token': `${token.slice(0, 30)}${token[30] === 'A' ? 'B' : 'A'}${token.slice(31)}` }],
      ['two tokens in one line', { ...fromOwn, 'x-csrf-token': `${token}, ${token}` }],
      ['the token of another session', { ...fromOwn, 'x-csrf-token': await at.csrf.token('0190a8f0-0000-7000-8000-00000000ffff') }],
    ] as const) {
      const received = await send(headers)
      assert.equal(received.status, 403, name)
      assert.equal(problemOf(received).code, 'csrf_refused', name)
    }
    const foreign = await send({ origin: 'https://evil.test', 'sec-fetch-site': 'cross-site', 'x-csrf-token': token })
    assert.equal(problemOf(foreign).code, 'origin_refused')
    assert.equal((await send({ origin: friend, 'sec-fetch-site': 'same-site', 'x-csrf-token': token })).status, 201, 'a listed page with the token')
    assert.equal((await ask(at, 'DELETE', `/api/things/${thing}`, { headers: { cookie: signedIn('therapist'), ...fromOwn } })).status, 403, 'DELETE too')
    assert.equal((await ask(at, 'DELETE', `/api/things/${thing}`, { headers: { cookie: signedIn('therapist'), ...fromOwn, 'x-csrf-token': token } })).status, 204)
    assert.ok(at.events.some((event) => event.type === 'security.control_triggered' && event.control === 'csrf' && event.rule === 'missing' && event.mode === 'enforce'))
  })

  test(`${kind}: every unsafe route a caller by cookie can reach asks for the token, whatever its declaration`, async () => {
    const at = await browserEdge(kind, sampleRoutes())
    let asked = 0
    for (const each of sampleRoutes()) {
      if (each.access === 'public' || each.method === 'GET') continue
      const received = await ask(at, each.method, each.path.replace('{id}', thing), { headers: { cookie: signedIn(each.access[0]), ...fromOwn } })
      assert.equal(problemOf(received).code, 'csrf_refused', `${each.method} ${each.path}`)
      asked++
    }
    assert.ok(asked >= 2)
  })

  test(`${kind}: bearer callers and webhooks are not asked, also where a cookie lies beside`, async () => {
    const at = await browserEdge(kind, sampleRoutes())
    const plain = await ask(at, 'POST', '/api/things', { ...body, headers: { ...jsonType, ...withToken().headers } })
    const beside = await ask(at, 'POST', '/api/things', { ...body, headers: { ...jsonType, ...withToken().headers, cookie: signedIn() } })
    const hook = await ask(at, 'POST', '/api/hook', json('{}'))
    const hookWithCookie = await ask(at, 'POST', '/api/hook', { ...json('{}'), headers: { ...jsonType, cookie: signedIn() } })
    assert.deepEqual([plain.status, beside.status, hook.status, hookWithCookie.status], [201, 201, 200, 200])
    const wrong = await ask(at, 'GET', `/api/things/${thing}`, { headers: { authorization: 'Bearer a.b.c', cookie: signedIn() } })
    assert.equal(wrong.status, 401, 'a wrong token is not made good by the cookie')
  })

  test(`attack: ${kind}: another site embeds or times an answer read with the visitor's cookies`, async () => {
    const at = await browserEdge(kind, sampleRoutes())
    const get = async (headers: Record<string, string>): Promise<number> => (await ask(at, 'GET', `/api/things/${thing}`, { headers: { cookie: signedIn(), ...headers } })).status
    for (const dest of ['script', 'image', 'iframe', 'empty', 'style', 'object']) {
      for (const site of ['cross-site', 'same-site']) assert.equal(await get({ 'sec-fetch-site': site, 'sec-fetch-mode': dest === 'iframe' ? 'navigate' : 'no-cors', 'sec-fetch-dest': dest }), 403, `${site} ${dest}`)
    }
    assert.equal(await get({ 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' }), 200, 'a link leads here')
    assert.equal(await get({ 'sec-fetch-site': 'none', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' }), 200)
    assert.equal(await get({ 'sec-fetch-site': 'same-site', 'sec-fetch-mode': 'cors', 'sec-fetch-dest': 'empty', origin: friend }), 200)
    assert.equal(await get({}), 200)
  })

  test(`attack: ${kind}: cookie tossing: a second cookie under our name, in whatever case, is refused and not chosen from`, async () => {
    const at = await browserEdge(kind, sampleRoutes())
    const { access } = cookies.names
    const mine = signedIn()
    for (const [line, rule] of [
      [`${mine}; ${access}=evil`, 'duplicate'], [`${access}=evil; ${mine}`, 'duplicate'], [[mine, `${access}=evil`].join('; '), 'duplicate'],
      [`${access.toUpperCase()}=evil`, 'form'], [`__host-edge-access=evil; ${mine}`, 'form'], [`${access}; ${mine}`, 'duplicate'], [`x=${'y'.repeat(9_000)}`, 'max'],
    ] as const) {
      const received = await ask(at, 'GET', `/api/things/${thing}`, { headers: { cookie: line } })
      assert.ok(received.status === 400, `${line.slice(0, 60)}: ${received.status}`)
      assert.deepEqual(problemOf(received).errors, [{ field: 'cookie', rule }], line.slice(0, 60))
    }
    for (const line of [`edge-access=evil`, `\u2000${access}=evil`, `=${access}=evil`, `$Version=1; other=1`, '']) {
      const received = await ask(at, 'GET', `/api/things/${thing}`, { headers: { cookie: Buffer.from(line).toString('latin1') } })
      assert.equal(received.status, 401, line)
    }
    assert.equal((await ask(at, 'GET', `/api/things/${thing}`, { headers: { cookie: [mine, 'theme=dark'] } })).status, 200)
  })
}

test('session cookies have the attributes that keep them: __Host-, Secure, HttpOnly, SameSite=Lax, Path=/, no Domain', () => {
  const lines = cookies.set({ access: 'a.b.c', refresh: 'r' }, 86_400)
  assert.deepEqual(lines, [
    '__Host-edge-access=a.b.c; Max-Age=86400; Path=/; HttpOnly; Secure; SameSite=Lax', '__Host-edge-refresh=r; Max-Age=86400; Path=/; HttpOnly; Secure; SameSite=Lax',
  ])
  assert.ok(cookies.clear().every((line) => /^__Host-edge-(?:access|refresh)=; Max-Age=0; Path=\/; HttpOnly; Secure; SameSite=Lax$/.test(line)))
  assert.throws(() => cookies.set({ access: 'a; Domain=evil.test', refresh: 'r' }, 60), TypeError)
  assert.throws(() => cookies.set({ access: 'a\r\nSet-Cookie: x=y', refresh: 'r' }, 60), TypeError)
})

test('a token signed by one instance or under the key before this one holds; another key, or an empty signature, does not', async () => {
  const controls = openControls({}, { emit: () => undefined })
  const older = createSecretKey(randomBytes(32))
  const open = (...secrets: readonly ReturnType<typeof createSecretKey>[]): ReturnType<typeof openCsrf> => openCsrf({ secrets: () => Promise.resolve(secrets), origins: [own], controls })
  const token = await open(older).token(session)
  await open(secret, older).check(session, token, 'r')
  const refused = (error: unknown): boolean => error instanceof Refusal && error.code === 'csrf_refused'
  await assert.rejects(open(secret).check(session, token, 'r'), refused)
  await assert.rejects(open(secret).check(session, `${token.slice(0, 22)}.`, 'r'), refused)
  assert.notEqual(await open(secret).token(session), await open(secret).token(session), 'no two are alike')
})

test('callers by cookie cannot be mounted without CSRF', () => {
  const options = { roles: ['patient', 'therapist'], emit: () => undefined }
  assert.throws(() => mount(sampleRoutes(), { ...options, authenticate: cookie(tokens, cookies) }), /csrf/)
  assert.throws(() => mount(sampleRoutes(), { ...options, authenticate: anyOf(bearer(tokens), cookie(tokens, cookies)) }), /csrf/)
  assert.throws(() => anyOf(() => { throw new Refusal('unauthenticated') }), TypeError)
})

test('report lets the request pass and tells of it; off needs its ugly flag', async () => {
  const at = await browserEdge('node', sampleRoutes(), { modes: { csrf: 'report', 'fetch-metadata': 'report', origin: 'report' } })
  const received = await ask(at, 'POST', '/api/things', { ...body, headers: { cookie: signedIn(), ...jsonType, origin: 'https://evil.test', 'sec-fetch-site': 'cross-site' } })
  assert.equal(received.status, 201)
  assert.equal(received.headers['access-control-allow-origin'], undefined, 'the foreign page still cannot read it')
  const told = at.events.flatMap((event) => (event.type === 'security.control_triggered' ? [[event.control, event.mode, event.rule]] : []))
  assert.deepEqual(told, [['origin', 'report', 'unlisted'], ['fetch-metadata', 'report', 'foreign'], ['csrf', 'report', 'missing']])
  assert.throws(() => openControls({ csrf: 'off' }, { emit: () => undefined }), /insecureOff/)
  assert.throws(() => openControls({ csfr: 'off' } as never, { emit: () => undefined }), TypeError)
  assert.throws(() => openControls({ csrf: 'warn' } as never, { emit: () => undefined }), TypeError)
  const off = await browserEdge('node', sampleRoutes(), { modes: { csrf: 'off', 'fetch-metadata': 'off' } })
  assert.equal((await ask(off, 'POST', '/api/things', { ...body, headers: { cookie: signedIn(), ...jsonType } })).status, 201)
})

test('attack: a token that held is shown for another session, or after its key is gone', async () => {
  const [older, newer] = [createSecretKey(randomBytes(32)), createSecretKey(randomBytes(32))]
  let secrets = [older]
  const csrf = openCsrf({ secrets: () => Promise.resolve(secrets), origins: [own], controls: openControls({}, { emit: () => undefined }) })
  const token = await csrf.token(session)
  const refused = (error: unknown): boolean => error instanceof Refusal && error.code === 'csrf_refused'
  for (let turn = 0; turn < 2; turn++) {
    await csrf.check(session, token, 'request')
    await assert.rejects(csrf.check(thing, token, 'request'), refused)
  }
  secrets = [newer, older]
  await csrf.check(session, token, 'request')
  secrets = [newer]
  await assert.rejects(csrf.check(session, token, 'request'), refused)
})
