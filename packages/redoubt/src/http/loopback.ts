import { isOrigin } from './cors.ts'
import { keepsHead, setField } from './head.ts'
import { isOwnPath } from './html.ts'
import { sendEmpty } from './send.ts'
import type { Middleware } from './request-state.ts'

const names = new Set(['localhost', '127.0.0.1', '[::1]'])

/** True for an origin of this machine without TLS, as in development: several names lead to the same place there. */
export function isLoopback(origin: string): boolean {
  if (!isOrigin(origin)) return false
  const { protocol, hostname } = new URL(origin)
  return protocol === 'http:' && names.has(hostname)
}

/**
 * Sends a person who opened a page under another name of this machine (127.0.0.1 instead of localhost) to the name that
 * is meant: under the other one forms are another origin's, cookies stay apart, and browsers give no passkeys. Only what a
 * browser says is somebody's own look at a page (Fetch Metadata, §2.2 and 2.3), so that programs are answered as ever;
 * only from a loopback name with the same port, so that nothing loops behind a proxy; and to nothing but the given origin.
 * @param origin the origin that is meant; isLoopback tells whether there is any use in this
 * @throws TypeError for one where this would do nothing
 */
export function byOneName(origin: string): Middleware {
  if (!isLoopback(origin)) throw new TypeError('byOneName: the origin must be http and of this machine, such as http://localhost:4310')
  const { host, hostname } = new URL(origin)
  const others = new Set([...names].filter((name) => name !== hostname).map((name) => name + host.slice(hostname.length)))
  return keepsHead<Middleware>((req, res, next) => {
    const { host: asked, 'sec-fetch-mode': mode, 'sec-fetch-dest': dest } = req.headers
    if (asked === undefined || !others.has(asked.toLowerCase()) || mode !== 'navigate' || dest !== 'document' || (req.method !== 'GET' && req.method !== 'HEAD')) return next()
    const target = req.url ?? ''
    setField(res, 'Location', origin + (isOwnPath(target) ? target : '/'))
    sendEmpty(res, 307)
  })
}
