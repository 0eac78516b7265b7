import type { ServerResponse } from 'node:http'

/**
 * Writes a JSON answer. Instead of express's res.json: no ETag over a body that is `no-store` anyway, no charset
 * lookup, no Vary handling (they cost more than all controls of the perimeter together).
 */
export function sendJson(res: ServerResponse, status: number, text: string, type = 'application/json'): void {
  res.statusCode = status
  res.setHeader('Content-Type', type)
  const bytes = Buffer.byteLength(text)
  res.setHeader('Content-Length', bytes)
  // ASCII is the same in both encodings, and Node writes latin1 at a fraction of the cost of utf8.
  res.end(text, bytes === text.length ? 'latin1' : 'utf8')
}

/** An answer without a body. */
export function sendEmpty(res: ServerResponse, status: number): void {
  res.statusCode = status
  if (status !== 204) res.setHeader('Content-Length', 0)
  res.end()
}
