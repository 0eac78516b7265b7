import type { ServerResponse } from 'node:http'
import { setField, writeStatus } from './head.ts'

/**
 * Writes a JSON answer. Instead of express's res.json: no ETag over a body that is `no-store` anyway, no charset
 * lookup, no Vary handling (they cost more than all controls of the perimeter together).
 */
export function sendJson(res: ServerResponse, status: number, text: string, type = 'application/json'): void {
  setField(res, 'Content-Type', type)
  const bytes = Buffer.byteLength(text)
  setField(res, 'Content-Length', bytes)
  writeStatus(res, status)
  // ASCII is the same in both encodings, and Node writes latin1 at a fraction of the cost of utf8.
  res.end(text, bytes === text.length ? 'latin1' : 'utf8')
}

/** An answer without a body. */
export function sendEmpty(res: ServerResponse, status: number): void {
  if (status !== 204) setField(res, 'Content-Length', 0)
  writeStatus(res, status)
  res.end()
}

/** An answer of bytes: a page, a file. */
export function sendBytes(res: ServerResponse, status: number, bytes: Buffer, type: string): void {
  setField(res, 'Content-Type', type)
  setField(res, 'Content-Length', bytes.length)
  writeStatus(res, status)
  res.end(bytes)
}
