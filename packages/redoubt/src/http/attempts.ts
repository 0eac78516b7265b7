import type { IncomingHttpHeaders } from 'node:http'
import { parseCookie, stringifySetCookie } from 'cookie'
import type { Visitor } from '../context.ts'
import { deviceDays, type Devices } from '../limits/device.ts'
import type { Tried } from '../limits/standard.ts'
import type { Tries } from '../limits/tries.ts'

/** A try of somebody at the door. */
export type Attempt = {
  /** It was right, and no longer counts. */
  giveBack(): Promise<void>
  /**
   * The same where the password was right: this device is known for the account from now on.
   * @param id the row id of the account, under which later steps of the sign-in count theirs
   * @returns the Set-Cookie line of the known device
   */
  rememberDevice(id?: string): Promise<string>
}

export type Attempts = {
  /**
   * Counts a try before anything is looked up; the cookie of a known device gives it a budget of its own.
   * @param what.account the newest blind index of the address that was given, or the row id of an account known by then; never a handle or token itself, events tell it
   * @throws Refusal too_many_requests
   */
  begin(asked: { readonly headers: IncomingHttpHeaders; readonly visitor: Visitor }, what: { readonly tried: Tried; readonly account: Buffer | string }): Promise<Attempt>
}

/**
 * Limits of guessing for routes, with the cookie `__Host-<service>-device`: HttpOnly, Secure, SameSite=Strict, Path=/.
 * It signs nobody in and stays at sign-out, so that nobody else's failures hold its owner up the next time.
 */
export function openAttempts(options: { readonly service: string; readonly tries: Tries; readonly devices: Devices }): Attempts {
  const { service, tries, devices } = options
  if (!/^[a-z][a-z0-9-]{0,31}$/.test(service)) throw new TypeError('openAttempts: service must be small letters, digits and dashes')
  const name = `__Host-${service}-device`
  const read = ({ cookie }: IncomingHttpHeaders): string | undefined => (cookie === undefined || cookie.length > 16_384 ? undefined : parseCookie(cookie)[name])

  return Object.freeze<Attempts>({
    async begin({ headers, visitor }, { tried, account }) {
      const value = read(headers)
      const counted = await tries.admit(visitor, { tried, account, device: await devices.known(value, account) })
      return {
        giveBack: () => counted.succeeded(),
        async rememberDevice(id) {
          await counted.succeeded()
          const known = await devices.remember(value, id === undefined ? [account] : [account, id])
          return stringifySetCookie({ name, value: known, maxAge: deviceDays * 86_400, path: '/', httpOnly: true, secure: true, sameSite: 'strict' })
        },
      }
    },
  })
}
