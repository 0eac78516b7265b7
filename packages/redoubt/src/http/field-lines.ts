import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { answerProblem } from './problem.ts'
import type { Step } from './visit.ts'

/** Field lines of one request. */
export const mostFieldLines = 100

/** By length, so that most names are told apart without being lowered. */
const once = new Map(['host', 'authorization', 'content-type'].map((name) => [name.length, name]))

/**
 * Refuses a second Host (RFC 9112 §3.2), Authorization or Content-Type line (RFC 9110 §5.3), even an equal one: node:http
 * keeps the first and drops the rest, and a proxy that believed the last has checked another request than the one
 * answered here. Also more lines than are read at all, among which a second one could hide.
 */
export function fieldLines(emit: Emit): Step {
  return (req, res, next) => {
    const refuse = (field: string, rule: string): void => answerProblem(req, res, new Refusal('malformed_request', { fields: [{ field, rule }] }), emit)
    const raw = req.rawHeaders
    if (raw.length > 2 * mostFieldLines) return refuse('headers', 'max')
    let seen = 0
    for (let i = 0; i < raw.length; i += 2) {
      const given = raw[i] ?? ''
      const name = once.get(given.length)
      if (name === undefined || given.toLowerCase() !== name) continue
      const bit = 1 << given.length
      if ((seen & bit) !== 0) return refuse(name, 'duplicate')
      seen |= bit
    }
    next()
  }
}
