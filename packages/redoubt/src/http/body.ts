import type { IncomingMessage } from 'node:http'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { whole } from './options.ts'
import { answerProblem } from './problem.ts'
import type { Middleware } from './request-state.ts'

/** domain.md: JSON body cap. */
export const defaultBodyLimit = 100 * 1024

export const formType = 'application/x-www-form-urlencoded'
const form = /^application\/x-www-form-urlencoded(?:;\s*charset="?utf-8"?)?$/i
const json = /^application\/json(?:;\s*charset="?utf-8"?)?$/i

/**
 * Refuses, before anything is read, a declared length above the largest any route takes, and any coding of the
 * body: a compressed body is a decompression bomb and nothing here needs one. The bytes themselves are counted
 * by readBody, under the limit of the route.
 */
export function bodyLimit(bytes: number, emit: Emit): Middleware {
  whole('maxBody', bytes, 1, 1024 * 1024 * 1024)
  return (req, res, next) => {
    const { headers } = req
    if (headers['content-length'] !== undefined && Number(headers['content-length']) > bytes) {
      return answerProblem(req, res, new Refusal('body_too_large'), emit)
    }
    const coding = headers['content-encoding']
    if (coding !== undefined && coding !== 'identity') {
      return answerProblem(req, res, new Refusal('unsupported_media_type', { detail: 'Content-Encoding is not accepted' }), emit)
    }
    next()
  }
}

/** True when the request announces a body (RFC 9112 §6.3). */
export function announcesBody(req: IncomingMessage): boolean {
  const length = req.headers['content-length']
  return req.headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0')
}

/** Of a body that is parsed here, as UTF-8 alone. @throws Refusal unsupported_media_type unless it is of this type */
export function checkContentType(req: IncomingMessage, type: 'application/json' | typeof formType): void {
  const given = req.headers['content-type']
  // Spelt as its type is, nearly always.
  if (given === undefined || (given !== type && !(type === formType ? form : json).test(given))) throw new Refusal('unsupported_media_type')
}

const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
const quoted = String.raw`"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x20-\x7e\x80-\xff])*"`
/** RFC 9110 §8.3.1 and §5.6.6. A blank belongs to one part alone, so that no line takes more than one way through it. */
const mediaType = new RegExp(String.raw`^(${token}/${token})(?:[\t ]*;(?:[\t ]*${token}=(?:${token}|${quoted}))?)*[\t ]*$`)

/**
 * Of a body that is given to a route as its bytes: what parameters mean is the route's business.
 * @param types in small letters, without parameters
 * @throws Refusal unsupported_media_type unless it is of one of these types
 */
export function checkMediaType(req: IncomingMessage, types: readonly string[]): void {
  const given = req.headers['content-type']
  if (given !== undefined && types.includes(given)) return
  const type = mediaType.exec(given ?? '')?.[1]
  if (type === undefined || !types.includes(type.toLowerCase())) throw new Refusal('unsupported_media_type')
}

/** Whether a media type is as checkMediaType compares it. */
export function isMediaType(text: unknown): boolean {
  return typeof text === 'string' && mediaType.exec(text)?.[1] === text && text === text.toLowerCase()
}

/** True once all bytes of the body are here. */
export function isWhole(req: IncomingMessage): boolean {
  return !req.destroyed && (req.complete || (req.readableLength > 0 && req.readableLength === Number(req.headers['content-length'])))
}

/**
 * Reads the body under a limit of size and of time. Bytes at once where all of them are here.
 * @param limit bytes
 * @param timeout milliseconds for the whole body: a byte a second must not hold a connection for hours
 * @throws Refusal body_too_large, request_timeout, or malformed_request when the client goes away
 * @throws TypeError when another parser has read the body: its limits would have applied, not ours
 */
export function readBody(req: IncomingMessage, limit: number, timeout: number): Buffer | Promise<Buffer> {
  if (req.readableDidRead || req.readableEnded) throw new TypeError('readBody: the body was read by another parser; mount the routes before it')
  if (Number(req.headers['content-length'] ?? 0) > limit) throw new Refusal('body_too_large')
  if (!isWhole(req)) return collect(req, limit, timeout)
  // Most bodies came with the head, and need neither a timer nor somebody who listens.
  const all = (req.read() ?? Buffer.alloc(0)) as Buffer
  // To its end, which the parser may have yet to tell.
  req.resume()
  if (all.length > limit) throw new Refusal('body_too_large')
  return all
}

function collect(req: IncomingMessage, limit: number, timeout: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    const timer = setTimeout(() => stop(new Refusal('request_timeout')), timeout)
    const onData = (chunk: Buffer): void => {
      size += chunk.length
      if (size > limit) return stop(new Refusal('body_too_large'))
      chunks.push(chunk)
    }
    const onEnd = (): void => {
      clear()
      resolve(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, size))
    }
    const onGone = (): void => stop(new Refusal('malformed_request', { fields: [{ field: 'body', rule: 'incomplete' }] }))
    req.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone)

    function clear(): void {
      clearTimeout(timer)
      req.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone)
    }
    function stop(refusal: Refusal): void {
      clear()
      // An error after this point has no other listener and would end the process.
      req.on('error', () => undefined)
      req.pause()
      reject(refusal)
    }
  })
}
