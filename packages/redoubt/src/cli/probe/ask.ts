import { request as plainRequest, type IncomingHttpHeaders } from 'node:http'
import { request as tlsRequest } from 'node:https'
import { connect, type SecureVersion } from 'node:tls'

/** What came back, or `closed` where there was no answer. */
export type Got = { readonly status: number; readonly headers: IncomingHttpHeaders } | 'closed'

/** How a deployment is asked from outside. */
export type Outside = {
  /** Over TLS, or in clear where `plain`. */
  ask(method: string, path: string, asked?: { readonly plain?: true; readonly headers?: Readonly<Record<string, string>> }): Promise<Got>
  /** Whether somebody who speaks these versions of TLS and no others, and verifies the certificate, gets a connection. */
  speaks(from: SecureVersion, to: SecureVersion): Promise<boolean>
}

/** Milliseconds for one answer. */
const patience = 10_000

/** @param places where it is reached over TLS and in clear; ca: certificates to trust beside those of the system */
export function outside(places: { readonly secure: URL; readonly plain: URL; readonly ca: string | undefined }): Outside {
  const { secure, ca } = places
  const trusted = ca === undefined ? {} : { ca }
  return {
    ask: (method, path, { plain, headers = {} } = {}) =>
      new Promise((resolve) => {
        const { hostname, port } = plain === true ? places.plain : secure
        const options = { host: hostname, port, method, path, agent: false, timeout: patience, headers }
        const req = plain === true ? plainRequest(options) : tlsRequest({ ...options, ...trusted, servername: hostname })
        req.on('response', (res) => {
          res.resume()
          resolve({ status: res.statusCode ?? 0, headers: res.headers })
        })
        req.on('timeout', () => req.destroy()).on('error', () => resolve('closed')).on('close', () => resolve('closed'))
        req.end()
      }),
    speaks: (minVersion, maxVersion) =>
      new Promise((resolve) => {
        const { hostname: host, port } = secure
        // Level 0, or our own library would refuse the old versions before the other side is asked.
        const socket = connect({ host, port: Number(port === '' ? 443 : port), servername: host, minVersion, maxVersion, ciphers: 'DEFAULT@SECLEVEL=0', timeout: patience, ...trusted })
        const end = (spoken: boolean) => (): void => {
          socket.destroy()
          resolve(spoken)
        }
        socket.on('secureConnect', end(true)).on('error', end(false)).on('timeout', end(false)).on('close', end(false))
      }),
  }
}
