import type { IncomingMessage } from 'node:http'

/** Scheme, authority without user information, and what follows. */
const absolute = /^https?:\/\/([A-Za-z0-9.\-_~[\]:]{1,262})([/?].*)?$/i

/**
 * A request target in absolute form, which a server must accept (RFC 9112 §3.2.2), becomes the origin form, before any
 * framework sees it: whatever matches paths afterwards then matches the one that is served.
 *
 * Only where its authority is the Host line, as a client must send it (§3.2). The clause has the Host line ignored in
 * favour of the target; where the two differ, whoever stands in front may have gone by either, so that nothing is changed
 * here and splitTarget refuses it. The scheme decides nothing: whether TLS was spoken is the connection's to say.
 */
export function toOriginForm(req: IncomingMessage): void {
  const { url = '' } = req
  if (url.charCodeAt(0) === 0x2f) return
  const [, authority, rest = ''] = absolute.exec(url) ?? []
  const { host } = req.headers
  const named = host === undefined ? req.httpVersionMinor === 0 : host.toLowerCase() === authority?.toLowerCase()
  // OPTIONS without a path asks about the whole server (§3.2.4), which is no path here.
  if (authority === undefined || !named || (rest === '' && req.method === 'OPTIONS')) return
  req.url = rest.startsWith('/') ? rest : `/${rest}`
}
