import type { Got, Outside } from './ask.ts'

/** A path of each kind of answer: a page, and a route that asks who calls. */
export type Paths = { readonly page: string; readonly api: string }
export type Finding = { readonly what: string; readonly good: boolean; readonly seen: string }

const seenOf = (got: Got): string => (got === 'closed' ? 'no answer' : [got.status, got.headers.location].filter((part) => part !== undefined).join(' '))
const field = (got: Got, name: string): string => (got === 'closed' ? '' : String(got.headers[name] ?? ''))

/** The fields that every answer carries, by what they must say. */
const everywhere: readonly (readonly [name: string, fits: RegExp])[] = [
  ['content-security-policy', /frame-ancestors 'none'/], ['content-security-policy', /base-uri 'none'/], ['content-security-policy', /^(?!.*unsafe-(?:inline|eval)).*default-src '(?:none|self)'/], ['x-content-type-options', /^nosniff$/],
  ['x-frame-options', /^DENY$/], ['referrer-policy', /^(?:no-referrer|same-origin)$/], ['cross-origin-resource-policy', /^same-/], ['permissions-policy', /camera=\(/], ['cache-control', /no-store/],
  ['strict-transport-security', /^max-age=[1-9]/], ['x-powered-by', /^$/], ['x-xss-protection', /^0?$/], ['server', /^[^0-9]*$/], ['access-control-allow-origin', /^$/],
]

async function tls({ speaks }: Outside): Promise<readonly Finding[]> {
  const [now, old] = [await speaks('TLSv1.2', 'TLSv1.3'), await speaks('TLSv1', 'TLSv1.1')]
  return [
    { what: 'TLS 1.2 or 1.3, with a certificate for this name', good: now, seen: now ? 'yes' : 'no connection' },
    { what: 'TLS 1.1 and older are refused', good: !old, seen: old ? 'spoken' : 'refused' },
  ]
}

async function headers({ ask }: Outside, { page, api }: Paths): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  for (const [kind, path] of [['page', page], ['API', api], ['nothing', '/there-is-no-such-thing']] as const) {
    const got = await ask('GET', path)
    if (got === 'closed') findings.push({ what: `${kind}: an answer`, good: false, seen: 'no answer' })
    else for (const [name, fits] of everywhere) findings.push({ what: `${kind}: ${name} ${fits.source}`, good: fits.test(field(got, name)), seen: field(got, name) })
  }
  const refused = await ask('GET', api)
  findings.push({ what: 'API: without a token 401', good: refused !== 'closed' && refused.status === 401, seen: seenOf(refused) })
  for (const path of ['/health/ready', '/openapi.json']) {
    const got = await ask('GET', path)
    findings.push({ what: `${path} is not for outside`, good: got !== 'closed' && got.status === 404, seen: seenOf(got) })
  }
  return findings
}

/** In clear a page leads to itself over TLS, an API gets nothing, and nobody's word makes it secure. */
async function clear({ ask }: Outside, { page, api }: Paths, host: string): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  const forged = { 'x-forwarded-proto': 'https', forwarded: 'proto=https', 'x-forwarded-ssl': 'on', 'front-end-https': 'on' }
  for (const [whose, more] of [['', {}], [', said to be secure by the client', forged]] as const) {
    const led = await ask('GET', page, { plain: true, headers: { host, ...more } })
    const leads = led !== 'closed' && (led.status === 301 || led.status === 308) && led.headers.location === `https://${host}${page}`
    findings.push({ what: `in clear${whose}: a page leads to itself over TLS, or there is no answer`, good: led === 'closed' || leads, seen: seenOf(led) })
    findings.push({ what: `in clear${whose}: no Strict-Transport-Security`, good: field(led, 'strict-transport-security') === '', seen: field(led, 'strict-transport-security') })
    for (const [method, path] of [['POST', page], ['GET', api], ['POST', api]] as const) {
      const got = await ask(method, path, { plain: true, headers: { host, ...more } })
      findings.push({ what: `in clear${whose}: ${method} ${path} is refused, not redirected`, good: got === 'closed' || (got.status >= 400 && got.status !== 401 && got.headers.location === undefined), seen: seenOf(got) })
    }
  }
  return findings
}

async function origins({ ask }: Outside, { api }: Paths, host: string): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  for (const origin of ['null', 'https://evil.example', `https://${host}.evil.example`, `https://evil${host}`, `http://${host}`, `https://${host}:444`, `https://sub.${host}`]) {
    for (const [method, more] of [['GET', {}], ['OPTIONS', { 'access-control-request-method': 'POST' }]] as const) {
      const got = await ask(method, api, { headers: { origin, ...more } })
      const allowed = field(got, 'access-control-allow-origin')
      findings.push({ what: `${method} from ${origin}`, good: got !== 'closed' && got.status >= 400 && allowed === '', seen: [seenOf(got), allowed].filter((part) => part !== '').join(', allowed: ') })
    }
  }
  return findings
}

/**
 * What can be told of TLS, headers and origins by asking from outside alone: nothing here signs in or changes anything.
 * @param host the name that people type
 */
export async function probe(from: Outside, paths: Paths, host: string): Promise<readonly Finding[]> {
  return [...(await tls(from)), ...(await headers(from, paths)), ...(await clear(from, paths, host)), ...(await origins(from, paths, host))]
}
