import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { z } from 'zod'
import { Refusal } from '../../src/errors.ts'
import { anyOf, bearer, cookie } from '../../src/http/authenticate.ts'
import type { Renew } from '../../src/http/authenticate.ts'
import { asset } from '../../src/http/asset.ts'
import { cspReports } from '../../src/http/csp-report.ts'
import { disposition, download, safeType } from '../../src/http/download.ts'
import { html, htmlText, isOwnPath } from '../../src/http/html.ts'
import { page, redirect, show } from '../../src/http/page.ts'
import { reply, route } from '../../src/http/route.ts'
import type { Route } from '../../src/http/route.ts'
import { stepCookie } from '../../src/http/step-cookie.ts'
import { browserEdge, cookies, friend, own, signedIn, tokenOf } from '../support/browser.ts'
import type { Edge, Kind, Received } from '../support/edge.ts'
import { ask, kinds, problemOf, tokenFor, tokens } from '../support/edge.ts'

/** Not an address of ours; in two parts, so that no reader of sources takes it for one. */
const script = ['javascript', 'alert(1)'].join(':')
/** A small site: signing in, a list with a form, a file, a stylesheet. What a builder of pages starts from. */
const style = asset('/assets/site.css', 'body { font-family: sans-serif }')
const notes: string[] = []
const frame = (title: string, content: ReturnType<typeof html>): ReturnType<typeof html> =>
  html`<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${title}</title><link rel="stylesheet" href="${style.url}" integrity="${style.integrity}"></head><body>${content}</body></html>`
const notesPage = (csrf: string, wrong?: string): ReturnType<typeof html> => frame('Notes', html`<ul>${notes.map((text) => html`<li>${text}</li>`)}</ul>${wrong !== undefined && html`<p role="alert">${wrong}</p>`}
  <form method="post" action="/notes"><input type="hidden" name="csrf_token" value="${csrf}"><textarea name="text"></textarea><button>Add</button></form>`)
const site: readonly Route[] = [
  page({ method: 'GET', path: '/', summary: 'The first page', access: ['patient'], handle: () => redirect('/notes') }),
  page({ method: 'GET', path: '/sign-in', summary: 'Sign in', access: 'public', handle: () => frame('Sign in', html`<form method="post" action="/sign-in"><input name="name"></form>`) }),
  page({
    method: 'POST', path: '/sign-in', summary: 'Signs in', access: 'public', form: z.strictObject({ name: z.string().min(1).max(50) }),
    handle: ({ form }) => (form.name === 'jane' ? redirect('/notes', { cookies: cookies.set({ access: tokenFor('patient'), refresh: 'r' }, 3600) }) : show(frame('Sign in', html`<p>${form.name}?</p>`), { status: 422 })),
  }),
  page({ method: 'GET', path: '/notes', summary: 'Notes', access: ['patient'], handle: ({ csrf }) => notesPage(csrf) }),
  page({
    method: 'POST', path: '/notes', summary: 'Adds a note', access: ['patient'], form: z.strictObject({ text: z.string().max(100) }), limit: 2_000,
    handle: ({ form, csrf }) => {
      if (form.text === 'fail') throw new Error('secret detail 4711')
      if (form.text === 'taken') throw new Refusal('already_exists')
      if (form.text === '') return show(notesPage(csrf, 'Nothing to add'), { status: 422 })
      notes.push(form.text)
      return redirect('/notes')
    },
  }),
  page({ method: 'GET', path: '/pay', summary: 'Payment', access: 'public', sources: { script: ['https://js.stripe.com'], frame: ['https://js.stripe.com'] }, handle: () => frame('Pay', html``) }),
  page({ method: 'GET', path: '/away', summary: 'Leads somewhere', access: 'public', query: z.strictObject({ to: z.string() }), handle: ({ query }) => redirect(query.to) }),
  download({ path: '/files/{name}', summary: 'A file', access: ['patient'], params: z.strictObject({ name: z.string() }), handle: ({ params }) => ({ name: params.name, type: 'text/html', content: Buffer.from('<script>alert(1)</script>') }) }),
  download({ path: '/stream', summary: 'A stream', access: 'public', handle: () => ({ name: 'a.csv', type: 'text/csv', content: Readable.from(['a;b\n', 'c;d\n']) }) }),
  route({ method: 'POST', path: '/api/cookie', summary: 'Sets cookies', access: 'public', answer: null, handle: () => reply(null, { cookies: cookies.clear() }) }),
  style.route,
  cspReports('/csp-report', () => undefined),
]
const open = (kind: Kind): ReturnType<typeof browserEdge> =>
  browserEdge(kind, site, { mount: { pages: { headers: { csp: 'enforce', https: true, report: '/csp-report' }, signIn: '/sign-in' } } })
const navigation = { 'sec-fetch-site': 'same-origin', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' } as const
const formType = { 'content-type': 'application/x-www-form-urlencoded' } as const
const post = (at: Edge, path: string, body: string, headers: Record<string, string> = {}): Promise<Received> =>
  ask(at, 'POST', path, { body, headers: { ...formType, ...navigation, origin: own, ...headers } })

/** Of each kind of answer, what differs from kind to kind. */
const told = ['content-type', 'content-security-policy', 'referrer-policy', 'cache-control', 'content-disposition', 'location', 'set-cookie', 'reporting-endpoints', 'www-authenticate']
const same = {
  'x-content-type-options': 'nosniff', 'x-frame-options': 'DENY', 'cross-origin-opener-policy': 'same-origin', 'cross-origin-resource-policy': 'same-origin', vary: 'Origin',
  'permissions-policy': ['accelerometer', 'camera', 'display-capture', 'fullscreen', 'geolocation', 'gyroscope', 'magnetometer', 'microphone', 'midi', 'payment', 'usb'].map((feature) => `${feature}=()`).join(', '),
}
/** Of the connection, the clock and the single request. */
const passing = ['date', 'connection', 'content-length', 'transfer-encoding', 'x-request-id']
const snapshot = ({ status, headers }: Received): unknown => {
  const rest = Object.fromEntries(Object.entries(headers).filter(([name]) => ![...told, ...passing].includes(name)))
  assert.deepEqual(rest, same, 'what is the same for all, and no header beside these')
  return [status, ...told.flatMap((name) => (headers[name] === undefined ? [] : [`${name}: ${String(headers[name])}`]))]
}
const policy = (script = '', frameSrc = "'none'"): string =>
  `content-security-policy: default-src 'self'; script-src 'self'${script}; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-src ${frameSrc}; ` +
  `object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'; upgrade-insecure-requests; report-uri /csp-report; report-to csp`
const reporting = 'reporting-endpoints: csp="/csp-report"'
const api = "content-security-policy: default-src 'none'; frame-ancestors 'none'; base-uri 'none'"

for (const kind of kinds) {
  test(`${kind}: headers of each kind of answer: page, refusal of a page, redirect, download, asset, API`, async () => {
    const at = await open(kind)
    const who = { headers: { cookie: signedIn() } }
    const html5 = 'content-type: text/html; charset=utf-8'
    const rest = ['referrer-policy: same-origin', 'cache-control: no-store']
    assert.deepEqual(snapshot(await ask(at, 'GET', '/notes', who)), [200, html5, policy(), ...rest, reporting])
    assert.deepEqual(snapshot(await ask(at, 'HEAD', '/notes', who)), [200, html5, policy(), ...rest, reporting])
    assert.deepEqual(snapshot(await ask(at, 'GET', '/pay')), [200, html5, policy(' https://js.stripe.com', 'https://js.stripe.com'), ...rest, reporting])
    assert.deepEqual(snapshot(await ask(at, 'GET', '/notes', { headers: { cookie: signedIn('therapist') } })), [403, html5, policy(), ...rest, reporting])
    assert.deepEqual(snapshot(await ask(at, 'GET', '/notes')), [303, policy(), ...rest, 'location: /sign-in', reporting])
    assert.deepEqual(snapshot(await ask(at, 'GET', '/files/a%20b.html', who)), [
      200, 'content-type: application/octet-stream', "content-security-policy: default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox",
      'referrer-policy: no-referrer', 'cache-control: no-store', `content-disposition: attachment; filename="a b.html"; filename*=UTF-8''a%20b.html`,
    ])
    assert.deepEqual(snapshot(await ask(at, 'GET', style.url)), [200, 'content-type: text/css; charset=utf-8', api, 'referrer-policy: no-referrer', 'cache-control: public, max-age=31536000, immutable'])
    assert.deepEqual(snapshot(await ask(at, 'GET', '/assets/site.css')), [404, 'content-type: application/problem+json', api, 'referrer-policy: no-referrer', 'cache-control: no-store'])
    assert.equal((await ask(at, 'GET', '/', who)).headers.location, '/notes')
    for (const path of ['//', '/.', '/%2f']) assert.notEqual((await ask(at, 'GET', path, who)).headers.location, '/notes', path)
    assert.equal((await ask(at, 'GET', '/stream')).text, 'a;b\nc;d\n')
    assert.equal((await ask(at, 'POST', '/api/cookie')).headers['set-cookie']?.length, 2)
  })

  test(`${kind}: an address that leads nowhere is told to a browser on a page, and to everybody else as a problem`, async () => {
    const at = await open(kind)
    const chromium = 'text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8'
    const typeOf = async (method: string, path: string, accept?: string): Promise<unknown> => {
      const { status, headers } = await ask(at, method, path, { headers: accept === undefined ? {} : { accept } })
      return [status, String(headers['content-type']).split(';')[0]]
    }
    const [html5, problem] = ['text/html', 'application/problem+json']
    for (const path of ['/nothing', '/notes/nothing', '/nothing?a=1', '/apis', '/nothing/']) assert.deepEqual(await typeOf('GET', path, chromium), [404, html5], path)
    assert.deepEqual(snapshot(await ask(at, 'GET', '/nothing', { headers: { accept: chromium } })), [404, 'content-type: text/html; charset=utf-8', policy(), 'referrer-policy: same-origin', 'cache-control: no-store', reporting])
    assert.deepEqual(await typeOf('GET', '/nothing', 'TEXT/HTML'), [404, html5])
    assert.deepEqual(await typeOf('DELETE', '/notes', chromium), [405, html5])
    assert.deepEqual(await typeOf('POST', '/nothing', chromium), [404, html5])
    for (const accept of [undefined, '*/*', 'application/json', 'application/json, text/html', 'application/problem+json, text/html;q=0.5', 'text/html;q=0', 'text/html; q=0.00', 'text/htmlx', 'image/*']) {
      assert.deepEqual(await typeOf('GET', '/nothing', accept), [404, problem], accept)
    }
    for (const path of ['/api', '/api/', '/api/nothing', '/api/nothing?a=1', '/api/cookie/x']) assert.deepEqual(await typeOf('GET', path, chromium), [404, problem], path)
    assert.deepEqual(await typeOf('GET', '/api/cookie', chromium), [405, problem])
  })

  test(`${kind}: signing in by form sets the session and leads on; the next form needs its token`, async () => {
    const at = await open(kind)
    const received = await post(at, '/sign-in', 'name=jane')
    assert.equal(received.status, 303)
    assert.equal(received.headers.location, '/notes')
    assert.ok(received.headers['set-cookie']?.every((line) => line.startsWith('__Host-edge-') && line.endsWith('; Path=/; HttpOnly; Secure; SameSite=Lax')))
    const cookie = received.headers['set-cookie']?.map((line) => line.slice(0, line.indexOf(';'))).join('; ') ?? ''
    const shown = await ask(at, 'GET', '/notes', { headers: { cookie } })
    const token = /name="csrf_token" value="([^"]+)"/.exec(shown.text)?.[1] ?? ''
    assert.equal((await post(at, '/notes', `csrf_token=${token}&text=first+%3Cb%3E%26%22`, { cookie })).headers.location, '/notes')
    assert.match((await ask(at, 'GET', '/notes', { headers: { cookie } })).text, /<li>first &lt;b&gt;&amp;&quot;<\/li>/)
    const empty = await post(at, '/notes', `csrf_token=${token}&text=`, { cookie })
    assert.equal(empty.status, 422)
    assert.match(empty.text, /Nothing to add/)
    const none = await post(at, '/notes', 'text=second', { cookie })
    assert.equal(none.status, 403)
    assert.match(none.text, /does not prove that it comes from a page/)
    assert.ok(!notes.includes('second'))
    notes.length = 0
  })

  test(`attack: ${kind}: login CSRF: a foreign page signs its visitor in as somebody else`, async () => {
    const at = await open(kind)
    for (const headers of [
      { origin: 'https://evil.test', 'sec-fetch-site': 'cross-site' }, { origin: 'null', 'sec-fetch-site': 'cross-site' }, { origin: own, 'sec-fetch-site': 'cross-site' }, { origin: own, 'sec-fetch-site': 'same-site' },
    ]) {
      const received = await post(at, '/sign-in', 'name=jane', headers)
      assert.equal(received.status, 403, JSON.stringify(headers))
      assert.equal(received.headers['set-cookie'], undefined)
    }
    assert.equal((await ask(at, 'POST', '/sign-in', { body: 'name=jane', headers: formType })).status, 403, 'nothing says where from')
    assert.equal((await post(at, '/sign-in', 'name=jane', { origin: friend, 'sec-fetch-site': 'same-site' })).status, 303, 'a page on the list')
  })

  test(`attack: ${kind}: open redirect`, async () => {
    const at = await open(kind)
    for (const to of ['https://evil.test', '//evil.test', '/\\evil.test', '\\\\evil.test', '/x\r\nLocation: x', '/x\nLocation: x', script, '/\t/evil.test', '', 'evil', '/a b', '/ä']) {
      const received = await ask(at, 'GET', `/away?to=${encodeURIComponent(to)}`)
      assert.ok(received.status === 500 || received.status === 400, `${to}: ${received.status}`)
      assert.equal(received.headers.location, undefined, to)
    }
    assert.equal((await ask(at, 'GET', '/away?to=/notes?page=2')).headers.location, '/notes?page=2')
  })

  test(`${kind}: a form is parsed strictly, and JSON routes take none`, async () => {
    const at = await open(kind)
    const cookie = signedIn()
    const token = await tokenOf(at)
    const send = async (body: string, type = 'application/x-www-form-urlencoded'): Promise<number> => (await post(at, '/notes', `csrf_token=${token}${body}`, { cookie, 'content-type': type })).status
    for (const [body, status] of [
      ['&text=a', 303], ['&text=a%0D%0Ab', 303], ['&text=%C3%A4', 303], ['&text=a&text=b', 400], ['&text=a&__proto__=1', 400], ['&text=a&constructor=1', 400], ['&text=a&other=1', 422], ['', 422],
      ['&text=%00', 400], ['&text=%zz', 400], ['&text=%c0%af', 400], ['&text=ä', 400], ['&text', 400], ['&=x', 400], [`&text=${'x'.repeat(101)}`, 422], [`&text=${'x'.repeat(3_000)}`, 413], [Array.from({ length: 70 }, (_, i) => `&f${i}=1`).join(''), 400],
    ] as const) assert.equal(await send(body), status, body.slice(0, 40))
    for (const type of ['application/json', 'text/plain', 'multipart/form-data; boundary=x', 'application/x-www-form-urlencoded; charset=utf-7']) assert.equal(await send('&text=a', type), 415, type)
    assert.equal(await send('&text=a', 'application/x-www-form-urlencoded; charset=UTF-8'), 303)
    const failed = await post(at, '/notes', `csrf_token=${token}&text=fail`, { cookie })
    assert.equal(failed.status, 500)
    assert.ok(!failed.text.includes('secret detail') && !failed.text.includes('at '))
    assert.match((await post(at, '/notes', `csrf_token=${token}&text=taken`, { cookie })).text, /Such a thing exists already/)
    notes.length = 0
  })

  test(`${kind}: a report of the content security policy becomes an event without values`, async () => {
    const at = await open(kind)
    const old = { 'csp-report': { 'document-uri': 'https://app.example.test/notes?secret=4711', 'violated-directive': 'script-src-elem', 'effective-directive': 'script-src-elem', 'blocked-uri': 'https://evil.test/x.js?4711', disposition: 'enforce', 'status-code': 200 } }
    const recent = [{ type: 'csp-violation', age: 1, url: 'https://app.example.test/4711', user_agent: 'x', body: { documentURL: 'https://app.example.test/4711', effectiveDirective: 'style-src-attr', blockedURL: 'inline', disposition: 'report', sample: 'color: 4711' } }, { type: 'deprecation', body: {} }]
    const send = async (type: string, body: string): Promise<number> => (await ask(at, 'POST', '/csp-report', { body, headers: { 'content-type': type } })).status
    assert.equal(await send('application/csp-report', JSON.stringify(old)), 204)
    assert.equal(await send('application/reports+json', JSON.stringify(recent)), 204)
    assert.equal(await send('application/csp-report; charset=utf-8', JSON.stringify(old)), 204)
    for (const [type, body, status] of [
      ['application/json', '{}', 415], ['application/csp-report', '{', 400], ['application/csp-report', '[{}]', 422], ['application/reports+json', '{}', 422],
      ['application/csp-report', JSON.stringify({ 'csp-report': { 'blocked-uri': 'x'.repeat(20_000) } }), 413], ['application/csp-report', '{"csp-report":{"effective-directive":"4711 evil"}}', 204],
      ['application/reports+json', JSON.stringify(Array.from({ length: 200 }, () => ({ type: 'csp-violation', body: {} }))).slice(0, 20_000), 422],
    ] as const) assert.equal(await send(type, body), status, `${type} ${body.slice(0, 30)}`)
  })
}

test('whoever a page is not for is led to what their role has instead, by a page that is read alone', async () => {
  const leads: Readonly<Record<string, string | undefined>> = { '/notes': '/pay', '/': '/', '/files/{name}': '//evil.test/', '/own': '/pay' }
  const closed = page({ method: 'GET', path: '/own', summary: 'Refuses by itself', access: ['therapist'], handle: () => { throw new Refusal('forbidden') } })
  const asked: string[] = []
  const instead = (role: string, path: string): string | undefined => {
    asked.push(`${role} ${path}`)
    return leads[path]
  }
  const at = await browserEdge('node', [...site, closed], { mount: { pages: { headers: { csp: 'enforce', https: true, report: '/csp-report' }, signIn: '/sign-in', instead } } })
  const who = { cookie: signedIn('therapist') }
  for (const method of ['GET', 'HEAD']) {
    const led = await ask(at, method, '/notes', { headers: who })
    assert.deepEqual([led.status, led.headers.location, led.headers['cache-control'], led.text], [303, '/pay', 'no-store', ''])
  }
  // To the page itself or elsewhere nobody is led, a form is not sent on, and what a handler refuses is told.
  for (const [method, path] of [['GET', '/'], ['GET', '/files/a'], ['POST', '/notes'], ['GET', '/own']] as const) {
    const { status, headers } = method === 'GET' ? await ask(at, method, path, { headers: who }) : await post(at, path, `csrf_token=${await tokenOf(at)}&text=a`, who)
    assert.deepEqual([status, headers.location], [403, undefined], path)
  }
  assert.equal((await ask(at, 'GET', '/notes', { headers: { cookie: signedIn() } })).status, 200)
  assert.equal((await ask(at, 'GET', '/notes')).headers.location, '/sign-in')
  assert.deepEqual([...new Set(asked)], ['therapist /notes', 'therapist /'], 'for the rest nobody is asked')
})

test('a cookie from step to step keeps any text for a while, and gives nothing for what is none of its own', () => {
  const cookie = stepCookie('edge', 'step')
  const line = cookie.set('{"a":"ä; b"}', 300)
  assert.match(line, /^__Host-edge-step=[A-Za-z0-9_-]+; Max-Age=300; Path=\/; HttpOnly; Secure; SameSite=Strict$/)
  assert.equal(cookie.read({ cookie: `x=1; ${line.slice(0, line.indexOf(';'))}` }), '{"a":"ä; b"}')
  for (const sent of [undefined, '', '__Host-edge-step=', '__Host-edge-step=%20', `__Host-edge-step=${'a'.repeat(2_049)}`, 'edge-step=YQ']) assert.equal(cookie.read(sent === undefined ? {} : { cookie: sent }), undefined, sent)
  assert.match(cookie.clear(), /^__Host-edge-step=; Max-Age=0; /)
  for (const value of ['', 'a'.repeat(1_600)]) assert.throws(() => cookie.set(value, 60), TypeError)
  assert.throws(() => cookie.set('a', 86_401), TypeError)
  assert.throws(() => stepCookie('Edge', 'step'), TypeError)
})

test('what a report says is told in words of ours', async () => {
  const events: unknown[] = []
  const { handle } = cspReports('/csp-report', (event) => events.push(event))
  const send = (value: unknown): unknown => handle({ body: Buffer.from(JSON.stringify(value)), visitor: { requestId: 'r', address: null }, headers: {} } as never)
  await send({ 'csp-report': { 'effective-directive': 'script-src-elem', 'blocked-uri': 'https://evil.test/x.js?4711', disposition: 'enforce' } })
  await send([{ type: 'csp-violation', body: { effectiveDirective: 'style-src-attr', blockedURL: 'inline', disposition: 'report', sample: '4711' } }])
  await send({ 'csp-report': { 'violated-directive': 'nonsense 4711', 'blocked-uri': 'data' } })
  const about = { type: 'security.csp_violation', requestId: 'r' }
  assert.deepEqual(events, [
    { ...about, directive: 'script-src-elem', blocked: 'address', disposition: 'enforce' }, { ...about, directive: 'style-src-attr', blocked: 'inline', disposition: 'report' }, { ...about, directive: 'other', blocked: 'data', disposition: 'other' },
  ])
})

test('attack: HTML injection: values are escaped in text and attributes, and refused where escaping does not help', () => {
  const evil = `"><script>alert('x')</script>&`
  assert.equal(htmlText(html`<p title="${evil}">${evil}</p>`), '<p title="&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;">&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;</p>')
  assert.equal(htmlText(html`<input${true as boolean && html` checked`}>${null}${undefined}${false}${0}`), '<input checked>0')
  assert.equal(htmlText(html`<a href="${'/a?b=1&c=2'}">x</a>`), '<a href="/a?b=1&amp;c=2">x</a>')
  for (const wrong of [
    () => html`<p title=${evil}>`, () => html`<p ${evil}>`, () => html`<p class="a" ${evil}>`, () => html`<script>let a = ${evil}</script>`, () => html`<style>${evil}</style>`,
    () => html`<a href="${script}">`, () => html`<a href="${'//evil.test'}">`, () => html`<form action="${'https://evil.test'}">`, () => html`<${'script'}>`, () => html`<p>${{} as never}</p>`,
  ]) assert.throws(wrong, TypeError, wrong.toString())
  assert.throws(() => htmlText('<p>'), TypeError)
  assert.ok(isOwnPath('/') && isOwnPath('/a/b?c=d#e') && !isOwnPath('//a') && !isOwnPath('/\\a') && !isOwnPath('a') && !isOwnPath('/\n'))
})

test('the name and type of a download cannot lie', () => {
  assert.equal(disposition('Befund "ä"\r\nX: y.pdf'), `attachment; filename="Befund _____X_ y.pdf"; filename*=UTF-8''Befund%20_%C3%A4___X_%20y.pdf`)
  assert.equal(disposition('../../etc/passwd'), `attachment; filename="__.._etc_passwd"; filename*=UTF-8''__.._etc_passwd`)
  assert.ok(!disposition('invoice\u202efdp.exe').includes('%E2%80%AE'))
  assert.equal(disposition(''), `attachment; filename="download"; filename*=UTF-8''download`)
  for (const type of ['text/html', 'image/svg+xml', 'application/xhtml+xml', 'text/javascript', '']) assert.equal(safeType(type), 'application/octet-stream')
  assert.equal(safeType('text/csv'), 'text/csv; charset=utf-8')
})

test('pages that are not whole are refused when built', async () => {
  const base = { method: 'GET', path: '/x', summary: 'x', access: 'public', handle: () => html`` } as const
  for (const wrong of [{ access: undefined }, { access: [] }, { method: 'PUT' }, { method: 'POST' }, { form: z.strictObject({}) }, { handle: undefined }, { summary: '' }, { path: '/x/{a}' }, { answer: null }, { method: 'POST', form: z.looseObject({}) }, { method: 'POST', form: z.strictObject({ csrf_token: z.string() }) }]) {
    assert.throws(() => page({ ...base, ...wrong } as never), TypeError, JSON.stringify(wrong))
  }
  assert.throws(() => asset('/assets/a.html', ''), TypeError)
  assert.throws(() => show(html``, { status: 301 }), TypeError)
  await assert.rejects(browserEdge('node', [page(base)]), /pages and csrf/)
  assert.equal(problemOf(await ask(await browserEdge('node', []), 'GET', '/x')).code, 'not_found')
})

for (const kind of kinds) {
  test(`${kind}: a page renews a session whose access token is over, keeps the new cookies whatever becomes of the request, and the API does not`, async () => {
    const asked: string[] = []
    const renew: Renew = (refresh) => {
      asked.push(refresh)
      if (refresh !== 'good') throw new Refusal('caller_refused')
      return Promise.resolve({ access: tokenFor('patient'), refresh: 'next', seconds: 60 })
    }
    const api = route({ method: 'GET', path: '/api/me', summary: 'x', access: ['patient'], answer: null, handle: () => undefined })
    const at = await browserEdge(kind, [...site, api], { mount: { authenticate: anyOf(bearer(tokens), cookie(tokens, cookies, renew)), pages: { headers: { csp: 'enforce', https: true }, signIn: '/sign-in' } } })
    const jar = (access: string, refresh: string): Record<string, string> => ({ cookie: `${access === '' ? '' : `${cookies.names.access}=${access}; `}${cookies.names.refresh}=${refresh}` })
    for (const access of ['', 'over.and.out']) {
      const shown = await ask(at, 'GET', '/notes', { headers: jar(access, 'good') })
      assert.equal(shown.status, 200)
      assert.match(String(shown.headers['set-cookie']), /-access=ey.*-refresh=next/)
    }
    const token = await tokenOf(at)
    const failed = await post(at, '/notes', `csrf_token=${token}&text=fail`, jar('', 'good'))
    assert.equal(failed.status, 500)
    assert.match(String(failed.headers['set-cookie']), /-refresh=next/, 'the old one is spent: without the new one the session would be lost')
    assert.equal((await post(at, '/notes', 'text=x', jar('', 'good'))).status, 403, 'CSRF is asked all the same')
    assert.equal((await ask(at, 'GET', '/notes', { headers: jar('', 'bad') })).headers.location, '/sign-in')
    const times = asked.length
    assert.equal((await ask(at, 'GET', '/api/me', { headers: jar('', 'good') })).status, 401)
    assert.equal(asked.length, times)
  })
}
