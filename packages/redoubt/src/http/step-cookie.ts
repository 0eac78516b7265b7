import type { IncomingHttpHeaders } from 'node:http'
import { parseCookie, stringifySetCookie } from 'cookie'
import { whole } from './options.ts'

/** Characters of the longest value: beside the cookies of a session it must fit into the line that is read. */
export const longestStep = 2_048

/** A cookie that carries a browser from one step of a form to the next. */
export type StepCookie = {
  /**
   * @param value any text; kept as base64url
   * @param seconds how long the browser keeps it, at most a day
   * @throws TypeError for a value of more than 2,048 characters as it is kept
   */
  set(value: string, seconds: number): string
  clear(): string
  /** What the browser sent: undefined for nothing, and for what is no value of ours. It is not signed: check what it says. */
  read(headers: IncomingHttpHeaders): string | undefined
}

/**
 * `__Host-<service>-<step>`: HttpOnly, Secure, SameSite=Strict, Path=/. For what a page must remember for a while, such as
 * the handle of a pending sign-in: an address would leave it in histories and logs, and a field of a form answered by a
 * POST is lost when a telephone drops the page while its owner looks for a code.
 * @throws TypeError for names other than small letters, digits and dashes
 */
export function stepCookie(service: string, step: string): StepCookie {
  for (const name of [service, step]) if (!/^[a-z][a-z0-9-]{0,31}$/.test(name)) throw new TypeError('stepCookie: names must be small letters, digits and dashes')
  const name = `__Host-${service}-${step}`
  const line = (value: string, maxAge: number): string => stringifySetCookie({ name, value, maxAge, path: '/', httpOnly: true, secure: true, sameSite: 'strict' })
  return Object.freeze<StepCookie>({
    set(value, seconds) {
      const kept = Buffer.from(value, 'utf8').toString('base64url')
      if (kept.length === 0 || kept.length > longestStep) throw new TypeError(`stepCookie: a value is 1 to ${longestStep} characters as it is kept`)
      return line(kept, whole('stepCookie: seconds', seconds, 1, 86_400))
    },
    clear: () => line('', 0),
    read({ cookie }) {
      const kept = cookie === undefined || cookie.length > 16_384 ? undefined : parseCookie(cookie)[name]
      return kept === undefined || kept.length > longestStep || !/^[A-Za-z0-9_-]+$/.test(kept) ? undefined : Buffer.from(kept, 'base64url').toString('utf8')
    },
  })
}
