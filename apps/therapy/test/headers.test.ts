import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request, type IncomingHttpHeaders } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { startVault } from '../../../packages/redoubt/test/support/vault.ts'
import { openClinic } from './support/clinic.ts'

const front = { trustedProxies: ['127.0.0.1'], publicOrigin: 'https://therapy.test', adminOrigin: 'https://admin.therapy.test', controls: { https: 'enforce' } } as const
const clinic = await openClinic({ settings: front })
// The helpers of the clinic speak plain HTTP: people are made by an instance that takes it.
const { id, email, password } = await (await openClinic({ database: clinic.database, settings: { kms: clinic.kms } })).patient()

type Asked = { readonly headers?: Readonly<Record<string, string>>; readonly body?: string }
type Got = { readonly status: number; readonly headers: IncomingHttpHeaders }

function ask(method: string, path: string, { headers = {}, body }: Asked = {}, { address } = clinic): Promise<Got> {
  return new Promise((resolve, reject) => {
    const sent = { host: 'therapy.test', 'x-forwarded-proto': 'https', ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) }), ...headers }
    const req = request(new URL(path, address), { method, agent: false, headers: sent }, (res) => {
      res.resume()
      res.once('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers }))
    })
    req.on('error', reject)
    req.end(body)
  })
}

/** Every header of an answer but those of the connection and the clock; numbers that count and random values as a word. */
function frozen({ status, headers }: Got): Readonly<Record<string, unknown>> {
  const { date: _date, connection: _connection, 'content-length': _length, 'x-request-id': request, ratelimit, 'set-cookie': cookies, ...rest } = headers
  return {
    status, ...rest,
    ...(request === undefined ? {} : { 'x-request-id': String(request).replace(/^[0-9a-f-]{36}$/, 'id') }),
    ...(ratelimit === undefined ? {} : { ratelimit: String(ratelimit).replaceAll(/=\d+/g, '=n') }),
    ...(cookies === undefined ? {} : { 'set-cookie': cookies.map((line) => line.replace(/=[^;]+/, '=value')) }),
  }
}

const strict = 'max-age=31536000'
const nothing = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
/** Of every answer that passed the perimeter. */
const all = {
  'x-request-id': 'id', 'x-content-type-options': 'nosniff', 'x-frame-options': 'DENY', 'cross-origin-opener-policy': 'same-origin', 'cross-origin-resource-policy': 'same-origin', 'cache-control': 'no-store',
  'permissions-policy': 'accelerometer=(), camera=(), display-capture=(), fullscreen=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), usb=()',
}
const tls = { ...all, 'strict-transport-security': strict, vary: 'Origin' }
const api = { ...tls, 'content-security-policy': nothing, 'referrer-policy': 'no-referrer' }
const page = {
  ...tls, 'referrer-policy': 'same-origin', 'reporting-endpoints': 'csp="/csp-report"',
  'content-security-policy':
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-src 'none'; object-src 'none'; base-uri 'none'; form-action 'self'; " +
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'; upgrade-insecure-requests; report-uri /csp-report; report-to csp",
}
const json = { 'content-type': 'application/json' }
const problem = { 'content-type': 'application/problem+json' }
const limited = (name: string, quota: number, window: number): Readonly<Record<string, string>> => ({ 'ratelimit-policy': `"${name}";q=${quota};w=${window}`, ratelimit: `"${name}";r=n;t=n` })
const [reads, writes, calls] = [limited('anonymous-read', 1_000_000, 900), limited('anonymous-write', 1_000_000, 900), limited('caller', 1_000_000, 60)]
const login = JSON.stringify({ email, password })
const browser = { origin: 'https://therapy.test', 'sec-fetch-site': 'same-origin' }
const own = { 'access-control-allow-origin': 'https://therapy.test', 'access-control-expose-headers': 'X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, Location, ETag' }
const cookie = (name: string, age: number, site = 'Lax'): string => `__Host-therapy-${name}=value; Max-Age=${age}; Path=/; HttpOnly; Secure; SameSite=${site}`

test('every header of each group of routes: API, sessions, documents, pages, assets, reports, probes', async () => {
  const style = /href="(\/assets\/[^"]+\.css)"/.exec(await (await fetch(`${clinic.address}/sign-in`, { headers: { 'x-forwarded-proto': 'https' } })).text())?.[1] ?? ''
  const signedIn = await fetch(`${clinic.address}/api/auth/login`, { method: 'POST', headers: { 'x-forwarded-proto': 'https', 'content-type': 'application/json' }, body: login })
  const bearer = { authorization: `Bearer ${((await signedIn.json()) as { readonly access_token: string }).access_token}` }
  const groups: readonly (readonly [string, string, Asked, Readonly<Record<string, unknown>>])[] = [
    ['GET', '/api/auth/me', {}, { status: 401, ...api, ...problem, 'www-authenticate': 'Bearer' }],
    ['GET', '/api/auth/me', { headers: { authorization: 'Bearer a.b.c' } }, { status: 401, ...api, ...problem, 'www-authenticate': 'Bearer error="invalid_token"' }],
    ['GET', `/api/patients/${id}`, { headers: bearer }, { status: 200, ...api, ...json, ...calls }],
    ['HEAD', `/api/patients/${id}`, { headers: bearer }, { status: 200, ...api, ...json, ...calls }],
    ['GET', `/api/patients/${id}?x=1`, { headers: bearer }, { status: 422, ...api, ...problem, ...calls }],
    ['POST', '/api/auth/logout-all', { headers: bearer }, { status: 204, ...api, ...calls }],
    ['POST', '/api/auth/login', { body: login }, { status: 200, ...api, ...json, ...writes, 'set-cookie': [cookie('device', 15_552_000, 'Strict')] }],
    ['POST', '/api/auth/login', { body: login.replace('}', ',"session":"cookie"}'), headers: browser }, { status: 200, ...api, ...json, ...writes, ...own, 'set-cookie': [cookie('access', 86_400), cookie('refresh', 86_400), cookie('device', 15_552_000, 'Strict')] }],
    ['POST', '/api/auth/login', { body: '{' }, { status: 400, ...api, ...problem, ...writes }],
    ['GET', '/.well-known/jwks.json', {}, { status: 200, ...api, ...json, ...reads }],
    ['GET', '/openapi.json', {}, { status: 200, ...api, ...json }],
    ['GET', '/nothing', {}, { status: 404, ...api, ...problem }],
    ['PUT', '/api/auth/login', { body: '{}' }, { status: 405, ...api, ...problem, allow: 'POST' }],
    ['GET', '/api/auth/me', { headers: { origin: 'https://evil.test' } }, { status: 403, ...api, ...problem }],
    ['GET', '/sign-in', {}, { status: 200, ...page, ...reads, 'content-type': 'text/html; charset=utf-8' }],
    ['GET', '/account/sessions', {}, { status: 303, ...page, location: '/sign-in' }],
    ['GET', style, {}, { status: 200, ...api, 'cache-control': 'public, max-age=31536000, immutable', 'content-type': 'text/css; charset=utf-8' }],
    ['POST', '/csp-report', { body: '{"csp-report":{}}', headers: { 'content-type': 'application/csp-report' } }, { status: 204, ...api, ...writes }],
    ['GET', '/health/live', {}, { status: 200, ...json, 'cache-control': 'no-store', 'x-content-type-options': 'nosniff', 'content-security-policy': nothing }],
  ]
  for (const [method, path, asked, expected] of groups) assert.deepEqual(frozen(await ask(method, path, asked)), expected, `${method} ${path} ${JSON.stringify(asked)}`)
})

test('plain HTTP: a page is redirected, the API refused, and neither promises HSTS', async () => {
  const plain = { headers: { 'x-forwarded-proto': 'http' } }
  assert.deepEqual(frozen(await ask('GET', '/sign-in?x=1', plain)), { status: 308, ...all, 'content-security-policy': nothing, 'referrer-policy': 'no-referrer', location: 'https://therapy.test/sign-in?x=1' })
  for (const [method, path] of [['GET', '/api/auth/me'], ['POST', '/sign-in'], ['POST', '/api/auth/login']] as const) {
    assert.deepEqual(frozen(await ask(method, path, plain)), { status: 421, ...all, 'content-security-policy': nothing, 'referrer-policy': 'no-referrer', ...problem }, `${method} ${path}`)
  }
})

test('in production, without a setting for it: HTTPS is enforced, HSTS is sent, and the OpenAPI document is not served', async (t) => {
  const vault = await startVault()
  vault.transit('POST', 'keys/root', { derived: true })
  const folder = await mkdtemp(join(tmpdir(), 'production-'))
  t.after(async () => {
    await vault.close()
    await rm(folder, { recursive: true })
  })
  const file = join(folder, 'token')
  await writeFile(file, vault.token({}))
  const real = await openClinic({
    settings: { production: true, publicOrigin: front.publicOrigin, adminOrigin: front.adminOrigin, trustedProxies: front.trustedProxies, kms: 'vault:transit/root', keyService: { vault: { address: vault.origin, signIn: { method: 'token-file', file } } } },
  })
  assert.deepEqual(frozen(await ask('GET', '/openapi.json', {}, real)), { status: 404, ...api, ...problem })
  assert.deepEqual(frozen(await ask('GET', '/api/auth/me', {}, real)), { status: 401, ...api, ...problem, 'www-authenticate': 'Bearer' })
  assert.equal((await ask('GET', '/api/auth/me', { headers: { 'x-forwarded-proto': 'http' } }, real)).status, 421)
  await real.close()
})
