import assert from 'node:assert/strict'
import { request } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { after } from 'node:test'
import { selfSigned } from '../../../../packages/redoubt/test/support/certificate.ts'
import { noChromium, openChromium, type Visit } from './chromium.ts'
import { openClinic, type Clinic } from './clinic.ts'

/** A service over TLS at one host of a domain, and a web server of somebody else at another host of the same domain. */
export type Siblings = {
  readonly clinic: Clinic
  readonly domain: string
  readonly origin: string
  readonly evilOrigin: string
  /** For the option `skip` of a test. */
  readonly skip: string | false
  /** The Cookie lines that the service got, newest last. */
  readonly sent: string[]
  visit(): Promise<Visit>
  /** What the other host answers from now on. */
  evil(answer: { readonly cookies?: readonly string[]; readonly html?: string }): void
  /** The address of the instance that answers at `origin` from now on. */
  through(address: string): void
}

export async function openSiblings(): Promise<Siblings> {
  const domain = 'clinic.test'
  const [origin, evilOrigin] = [`https://app.${domain}`, `https://evil.${domain}`]
  const clinic = await openClinic({ settings: { publicOrigin: origin, trustedProxies: ['127.0.0.1'] } })
  const sent: string[] = []
  let answer: { readonly cookies?: readonly string[]; readonly html?: string } = {}
  let back = clinic.address
  const server = createServer({ ...selfSigned(), maxHeaderSize: 1_000_000 }, (req, res) => {
    if (req.headers.host !== new URL(origin).host) {
      res.writeHead(200, { 'content-type': 'text/html', ...(answer.cookies === undefined ? {} : { 'set-cookie': [...answer.cookies] }) })
      return void res.end(answer.html ?? '<!doctype html><title>Win a prize</title>')
    }
    sent.push(req.headers.cookie ?? '')
    const headers = { ...req.headers, 'x-forwarded-proto': 'https', 'x-forwarded-for': '203.0.113.7' }
    req.pipe(request(back + (req.url ?? '/'), { method: req.method, headers }, (from) => from.pipe(res.writeHead(from.statusCode ?? 500, from.headers))))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => (server.closeAllConnections(), server.close()))
  const place = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
  const chromium = noChromium === false ? await openChromium([[origin, place], [evilOrigin, place]]) : undefined
  return {
    clinic, domain, origin, evilOrigin, skip: noChromium, sent,
    visit: () => chromium?.visit() ?? assert.fail(),
    evil: (given) => void (answer = given),
    through: (address) => void (back = address),
  }
}
