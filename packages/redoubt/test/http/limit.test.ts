import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import type { Event } from '../../src/events.ts'
import { bearer } from '../../src/http/authenticate.ts'
import { edgeLimits } from '../../src/http/limit.ts'
import { openProxies } from '../../src/http/proxies.ts'
import { route } from '../../src/http/route.ts'
import { openLimits } from '../../src/limits.ts'
import { standardNumbers, type LimitNumbers } from '../../src/limits/standard.ts'
import { openTokens } from '../../src/tokens.ts'
import { ask, edge, json, kinds, problemOf, sampleRoutes, signing, tokens, withToken, type Edge, type Kind, type Received } from '../support/edge.ts'

type Options = { readonly numbers?: Partial<LimitNumbers>; readonly mode?: 'off' | 'report' | 'enforce'; readonly proxies?: readonly string[]; readonly exempt?: readonly string[]; readonly kind?: Kind }

/** An edge behind a proxy on the loopback, so that a test says from where it asks. */
async function limited({ numbers = {}, mode = 'enforce', proxies = ['127.0.0.1'], exempt = [], kind = 'node' }: Options = {}): Promise<Edge & { readonly seen: Event[] }> {
  const seen: Event[] = []
  const emit = (event: Event): void => void seen.push(event)
  const limits = edgeLimits({ limits: openLimits(), numbers: { ...standardNumbers, flood: 1_000_000, ...numbers }, mode: () => mode, emit, exempt })
  const heavy = route({ method: 'GET', path: '/api/heavy', summary: 'Heavy', access: ['patient'], weight: 7, answer: z.object({}), handle: () => ({}) })
  const hook = route({ method: 'POST', path: '/api/signed', summary: 'Signed', access: 'public', weight: 0, raw: { limit: 1_000, type: 'application/json' }, answer: z.object({}), handle: () => ({}) })
  const made = await edge(kind, { trustedProxies: proxies, limit: limits.step }, { routes: [...sampleRoutes(), heavy, hook], mount: { authenticate: limits.counting(bearer(tokens)), checks: [limits.check] } })
  return { ...made, seen }
}

const from = (address: string, more: { readonly headers?: Record<string, string> } = {}) => ({ ...more, headers: { ...more.headers, 'x-forwarded-for': address } })
const other = openTokens({ issuer: 'https://auth.test', audience: 'edge-test', keys: [{ kid: 'k1', ...signing }] })
const tokenOf = (nr: number): { headers: Record<string, string> } => ({
  headers: { authorization: `Bearer ${other.issue({ actor: `0190a8f0-0000-7000-8000-${String(nr).padStart(12, '0')}`, session: `0190a8f1-0000-7000-8000-${String(nr).padStart(12, '0')}`, role: 'patient', tenant: 'clinic' }).token}` },
})
const thing = '/api/things/0190a8f0-0000-7000-8000-000000000003'

async function statuses(count: number, send: (nr: number) => Promise<Received>): Promise<string> {
  const found: number[] = []
  for (let nr = 0; nr < count; nr++) found.push((await send(nr)).status)
  return found.join(' ')
}

for (const kind of kinds) {
  test(`${kind}: nobody in particular has a budget per address, reads and writes apart; each answer says how it stands`, async () => {
    const service = await limited({ numbers: { anonymous: 3 }, kind })
    const read = (address: string) => ask(service, 'GET', '/api/where', from(address))
    const first = await read('192.0.2.7')
    assert.equal(first.headers['ratelimit-policy'], '"anonymous-read";q=3;w=900')
    assert.match(String(first.headers['ratelimit']), /^"anonymous-read";r=2;t=\d{3}$/)
    assert.equal(await statuses(3, () => read('192.0.2.7')), '200 200 429')
    const refused = await read('192.0.2.7')
    assert.equal(problemOf(refused).code, 'too_many_requests')
    assert.match(String(refused.headers['retry-after']), /^\d{3}$/)
    assert.equal(refused.headers['ratelimit'], `"anonymous-read";r=0;t=${refused.headers['retry-after']}`)
    assert.equal((await read('192.0.2.8')).status, 200, 'a neighbour has his own')
    assert.equal((await ask(service, 'POST', '/api/echo', { ...json({ name: 'x' }), headers: { 'content-type': 'application/json', 'x-forwarded-for': '192.0.2.7' } })).status, 200, 'writes are counted apart')
    assert.deepEqual(service.seen.findLast(({ type }) => type === 'security.rate_limited'), { type: 'security.rate_limited', requestId: problemOf(refused).request_id, limit: 'anonymous-read', mode: 'enforce' })
  })

  test(`${kind}: a caller has a budget wherever they come from, and a heavy route costs its weight`, async () => {
    const service = await limited({ numbers: { caller: 10 }, kind })
    assert.equal(await statuses(4, (nr) => ask(service, 'GET', nr === 0 ? '/api/heavy' : thing, from(`192.0.2.${nr}`, withToken()))), '200 200 200 200')
    const refused = await ask(service, 'GET', thing, from('192.0.2.99', withToken()))
    assert.equal(refused.status, 429)
    assert.equal(refused.headers['ratelimit-policy'], '"caller";q=10;w=60')
    assert.equal((await ask(service, 'GET', thing, from('192.0.2.99', tokenOf(5)))).status, 200, 'another caller from there goes on')
  })
}

test('the order: address in this process, who calls, then caller and address together, then the body', async () => {
  const service = await limited({ numbers: { flood: 2, caller: 1 } })
  assert.equal(await statuses(1, () => ask(service, 'GET', thing, withToken())), '200')
  const broken = await ask(service, 'POST', '/api/things', { headers: { ...withToken().headers, 'content-type': 'application/json' }, body: '{' })
  assert.equal(broken.status, 429, 'a body nobody has read yet')
  assert.match(String(broken.headers['ratelimit-policy']), /^"caller"/)
  const third = await ask(service, 'GET', thing, { headers: { authorization: 'Bearer not.a.token' } })
  assert.equal(third.status, 429, 'and no signature was looked at')
  assert.match(String(third.headers['ratelimit-policy']), /^"flood"/)
})

test('attack: tokens that are none use up the budget of the address, not of a caller', async () => {
  const service = await limited({ numbers: { anonymous: 2 } })
  const guess = () => ask(service, 'GET', thing, from('192.0.2.7', { headers: { authorization: 'Bearer a.b.c' } }))
  assert.equal(await statuses(4, guess), '401 401 429 429')
  assert.equal((await ask(service, 'GET', thing, from('192.0.2.7', withToken()))).status, 200, 'who has a token is not held up by them')
})

test('attack: many accounts from one address meet the budget of the address', async () => {
  const service = await limited({ numbers: { address: 5 } })
  const send = (nr: number) => ask(service, 'GET', thing, from('192.0.2.7', tokenOf(nr)))
  assert.equal(await statuses(7, send), '200 200 200 200 200 429 429')
  assert.match(String((await send(9)).headers['ratelimit-policy']), /^"address";q=5;w=60$/)
})

test('attack: X-Forwarded-For and Forwarded of a stranger change nothing', async () => {
  const service = await limited({ numbers: { anonymous: 3 }, proxies: [] })
  const send = (nr: number) => ask(service, 'GET', '/api/where', { headers: { 'x-forwarded-for': `198.51.100.${nr}`, forwarded: `for=198.51.100.${nr}`, 'x-real-ip': `198.51.100.${nr}` } })
  assert.equal(await statuses(5, send), '200 200 200 429 429')
})

test('attack: what a client writes in front of the list of a trusted proxy changes nothing', async () => {
  const service = await limited({ numbers: { anonymous: 3 } })
  const forged = ['198.51.100.1', '::1', '127.0.0.1', 'unknown', '"', ',', '198.51.100.2,198.51.100.3']
  const send = (nr: number) => ask(service, 'GET', '/api/where', { headers: { 'x-forwarded-for': `${forged[nr] ?? ''}, 203.0.113.9`, forwarded: 'for=198.51.100.4' } })
  assert.equal(await statuses(6, send), '200 200 200 429 429 429')
})

test('attack: with two hops trusted, the second from the right counts, and who skipped one is known by the connection', async () => {
  const service = await limited({ numbers: { anonymous: 3 }, proxies: ['hops:2'] })
  const where = async (forwarded: string): Promise<unknown> => JSON.parse((await ask(service, 'GET', '/api/where', { headers: { 'x-forwarded-for': forwarded } })).text)
  assert.equal((await where('198.51.100.1, 203.0.113.9, 10.0.0.1') as { readonly address: string }).address, '203.0.113.9')
  assert.equal((await where('203.0.113.9') as { readonly address: string }).address, '127.0.0.1')
  assert.equal((await where('nobody, 10.0.0.1') as { readonly address: string }).address, '127.0.0.1')
  for (const bad of [true, ['true'], ['hops:0'], ['hops:6'], ['hops:1', '10.0.0.1'], ['*'], ['0.0.0.0/0'], ['proxy.internal']] as const) {
    assert.throws(() => openProxies(bad as readonly string[]), /trustedProxies/, String(bad))
  }
})

test('attack: hopping through the addresses of one /64 is one address', async () => {
  const service = await limited({ numbers: { anonymous: 3 } })
  const send = (nr: number) => ask(service, 'GET', '/api/where', from(`2001:db8:1:1::${(nr * 7919).toString(16)}`))
  assert.equal(await statuses(5, send), '200 200 200 429 429')
})

test('attack: hopping through the networks of one /48 gives ten times the budget, not 65,536 times', async () => {
  const service = await limited({ numbers: { anonymous: 3 } })
  const send = (nr: number) => ask(service, 'GET', '/api/where', from(`2001:db8:1:${nr.toString(16)}::1`))
  assert.equal(await statuses(32, send), [...Array.from({ length: 30 }, () => 200), 429, 429].join(' '))
  assert.equal((await ask(service, 'GET', '/api/where', from('2001:db8:2:1::1'))).status, 200, 'the next /48 has its own')
})

test('attack: one IPv4 address written in four ways is one address', async () => {
  const service = await limited({ numbers: { anonymous: 3 } })
  const ways = ['192.0.2.33', '::ffff:192.0.2.33', '::FFFF:c000:221', '64:ff9b::192.0.2.33']
  assert.equal(await statuses(4, (nr) => ask(service, 'GET', '/api/where', from(ways[nr] ?? ''))), '200 200 200 429')
})

test('a signed webhook is not counted, and its path passes the first step', async () => {
  const service = await limited({ numbers: { anonymous: 1, flood: 3 }, exempt: ['/api/signed'] })
  assert.equal(await statuses(6, () => ask(service, 'POST', '/api/signed', json({}))), '200 200 200 200 200 200')
  assert.equal(await statuses(4, () => ask(service, 'POST', '/api/signed?x=1', json({}))), '422 422 422 429', 'the exact path, nothing like it')
  assert.throws(() => route({ method: 'GET', path: '/free', summary: 'Free', access: 'public', weight: 0, answer: null, handle: () => undefined }), /weight 0 is for a signed webhook/)
})

test('report tells and lets pass; off neither counts nor tells', async () => {
  const report = await limited({ numbers: { anonymous: 1, flood: 1 }, mode: 'report' })
  assert.equal(await statuses(3, () => ask(report, 'GET', '/api/where')), '200 200 200')
  const told = report.seen.filter((event) => event.type === 'security.rate_limited')
  assert.deepEqual(told.map(({ limit, mode }) => `${limit} ${mode}`), ['flood report', 'anonymous-read report', 'flood report', 'anonymous-read report'])
  const off = await limited({ numbers: { anonymous: 1, flood: 1 }, mode: 'off' })
  assert.equal(await statuses(3, () => ask(off, 'GET', '/api/where')), '200 200 200')
  assert.equal(off.seen.length, 0)
})
