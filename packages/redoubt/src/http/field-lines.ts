import type { IncomingMessage, ServerResponse } from 'node:http'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { setField } from './head.ts'
import { answerProblem } from './problem.ts'
import type { Middleware } from './request-state.ts'

/** Field lines of one request. */
export const mostFieldLines = 100

/** Connections whose last answer is given: what the parser still stumbles over there gets none of its own. */
export const closing = new WeakSet<object>()

/** By length, so that most names are told apart without being lowered. */
const once: (string | undefined)[] = Array.from({ length: 16 }, (_, length) => ['host', 'authorization', 'content-type'].find((name) => name.length === length))

/**
 * Refuses a second Host (RFC 9112 §3.2), Authorization or Content-Type line (RFC 9110 §5.3), even an equal one: node:http
 * keeps the first and drops the rest, and a proxy that believed the last has checked another request than the one
 * answered here. Also more lines than are read at all, among which a second one could hide, and any coding of the transfer
 * but chunked, and that too with HTTP/1.0.
 */
export function fieldLines(emit: Emit): Middleware {
  const refuseAs = (req: IncomingMessage, res: ServerResponse, field: string, rule: string): void =>
    answerProblem(req, res, new Refusal('malformed_request', { fields: [{ field, rule }] }), emit)
  const refuseLast: typeof refuseAs = (req, res, field, rule) => {
    setField(res, 'Connection', 'close')
    closing.add(req.socket)
    refuseAs(req, res, field, rule)
  }
  return (req, res, next) => {
    // What stands behind a request of doubtful length may be a part of it: it is neither done nor answered.
    if (closing.has(req.socket)) {
      res.statusCode = 400
      return
    }
    const raw = req.rawHeaders
    if (raw.length > 2 * mostFieldLines) return refuseAs(req, res, 'headers', 'max')
    let seen = 0
    for (let i = 0; i < raw.length; i += 2) {
      const given = raw[i] ?? ''
      const name = once[given.length]
      if (name === undefined || given.toLowerCase() !== name) continue
      const bit = 1 << given.length
      if ((seen & bit) !== 0) return refuseAs(req, res, name, 'duplicate')
      seen |= bit
    }
    if (req.headers.host === undefined && req.httpVersionMinor > 0) return refuseLast(req, res, 'host', 'required')
    // node:http reads `identity, chunked` as chunked; whoever stands in front may not (RFC 9112 §6.1, §11.2).
    // With HTTP/1.0 any coding is faulty framing (§6.1): whoever speaks it may take the chunks for what stands behind.
    const coding = req.headers['transfer-encoding']
    if (coding !== undefined && (coding.toLowerCase() !== 'chunked' || req.httpVersionMinor === 0)) {
      return refuseLast(req, res, 'transfer-encoding', 'form')
    }
    next()
  }
}
