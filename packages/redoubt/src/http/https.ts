import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import { answerProblem } from './problem.ts'
import { visitOf } from './visit.ts'
import type { Step } from './visit.ts'

/**
 * Refuses plain HTTP with 421. An API host does not redirect: the token has already crossed the wire in clear,
 * and a redirect would hide that from the client's author.
 * @throws TypeError when the mode is unknown
 */
export function https(mode: 'off' | 'enforce', emit: Emit): Step {
  if (mode !== 'off' && mode !== 'enforce') throw new TypeError("https must be 'off' or 'enforce'")
  if (mode === 'off') return (_req, _res, next) => next()
  return (req, res, next) => {
    if (visitOf(req)?.secure === true) return next()
    answerProblem(req, res, new Refusal('https_required'), emit)
  }
}
