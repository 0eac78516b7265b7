import { createServer as createHttp } from 'node:http'
import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http'
import { createServer as createHttps } from 'node:https'
import type { AddressInfo } from 'node:net'

export type TestServer = { readonly port: number; readonly origin: string; close(): Promise<void> }
export type Certificate = { readonly key: string; readonly cert: string }

/** A server on a free port of the loopback; with a certificate it speaks TLS and is called localhost. */
export async function listen(handler: (request: IncomingMessage, response: ServerResponse) => Promise<void>, certificate?: Certificate): Promise<TestServer> {
  const listener: RequestListener = (request, response) => {
    handler(request, response).catch(() => response.destroy())
  }
  const server: Server = certificate === undefined ? createHttp(listener) : createHttps(certificate, listener)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    port,
    origin: certificate === undefined ? `http://127.0.0.1:${port}` : `https://localhost:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

export async function bodyOf(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of message) chunks.push(Buffer.from(chunk as Uint8Array))
  return Buffer.concat(chunks)
}

/** A JSON body as a record; null when it is none. */
export function jsonOf(body: Buffer): Readonly<Record<string, unknown>> | null {
  if (body.length === 0) return {}
  try {
    const value: unknown = JSON.parse(body.toString('utf8'))
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.fromEntries(Object.entries(value)) : null
  } catch {
    return null
  }
}
