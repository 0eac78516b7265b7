import type { IncomingHttpHeaders } from 'node:http'
import { Refusal } from 'redoubt/errors'
import { parseJson } from 'redoubt/http/json'
import { longestStep, stepCookie } from 'redoubt/http/step-cookie'
import type { Pending } from 'redoubt/tokens/factors/sign-in'
import { z } from 'zod'

const kept = z.strictObject({
  pending: z.string().max(64), factors: z.array(z.enum(['totp', 'webauthn', 'recovery'])).max(3),
  allow: z.array(z.tuple([z.string().regex(/^[A-Za-z0-9_-]{1,1364}$/), z.array(z.string().regex(/^[a-z-]{2,20}$/)).max(8)])).max(10),
})

/** A sign-in that waits for its second factor, as the browser carries it from page to page. */
export type Waiting = { readonly pending: string; readonly factors: readonly ('totp' | 'webauthn' | 'recovery')[]; readonly allow: readonly { readonly id: Buffer; readonly transports: readonly string[] }[] }

export type PendingSignIn = {
  /** Its Set-Cookie line. */
  cookie(pending: Pending, seconds: number): string
  clear(): string
  /** Undefined where there is none. Only the handle in it decides anything; the rest says what the page offers. */
  read(headers: IncomingHttpHeaders): Waiting | undefined
}

/** Keeps pending sign-ins in a cookie of the browser they began in. */
export function pendingSignIn(service: string): PendingSignIn {
  const cookie = stepCookie(service, 'pending')
  return Object.freeze<PendingSignIn>({
    cookie({ pending, factors, passkey }, seconds) {
      const allow = (passkey?.allowCredentials ?? []).map(({ id, transports }) => [id, transports ?? []])
      const all = JSON.stringify({ pending, factors, allow })
      // Ids of a kilobyte each do not fit; without the list any passkey of this site may answer.
      return cookie.set(all.length * 4 / 3 < longestStep - 4 ? all : JSON.stringify({ pending, factors, allow: [] }), seconds)
    },
    clear: () => cookie.clear(),
    read(headers) {
      const text = cookie.read(headers)
      if (text === undefined) return undefined
      try {
        const { data } = kept.safeParse(parseJson(Buffer.from(text, 'utf8')))
        return data && { pending: data.pending, factors: data.factors, allow: data.allow.map(([id, transports]) => ({ id: Buffer.from(id, 'base64url'), transports })) }
      } catch (error) {
        if (error instanceof Refusal) return undefined
        throw error
      }
    },
  })
}
