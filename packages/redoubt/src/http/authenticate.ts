import type { IncomingMessage } from 'node:http'
import type { Person, Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Tokens } from '../tokens.ts'

/** Turns a request into its caller, or refuses with `unauthenticated`. */
export type Authenticate = (req: IncomingMessage, visitor: Visitor) => Person | Promise<Person>

const scheme = /^bearer +([A-Za-z0-9_.-]+)$/i

/**
 * Callers by `Authorization: Bearer` (RFC 6750 §2.1); never by a query parameter or a form field, which end in logs.
 * The signature, the claims and the time are checked here; whether the session still stands is checked inside the
 * gate, in the transaction that does the work.
 */
export function bearer(tokens: Tokens): Authenticate {
  if (typeof tokens?.verify !== 'function') throw new TypeError('bearer: tokens must come from openTokens')
  return (req, visitor) => {
    const header = req.headers.authorization
    if (header === undefined) throw new Refusal('unauthenticated')
    const token = scheme.exec(header)?.[1]
    if (token === undefined) throw new Refusal('unauthenticated')
    const claims = tokens.verify(token)
    return {
      kind: 'user',
      actor: claims.actor,
      role: claims.role,
      tenant: claims.tenant,
      session: claims.session,
      requestId: visitor.requestId,
      address: visitor.address,
    }
  }
}
