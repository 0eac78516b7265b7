/** Somebody at the door: a request whose sender is not known (yet). Grants nothing. */
export type Visitor = {
  /** Made or accepted at the edge; stands in every log line, audit entry and problem answer. */
  readonly requestId: string
  /** Textual IP address as seen through the trusted proxies, or null where there is none (worker, CLI). */
  readonly address: string | null
}

/** A person whose token has been verified. */
export type Person = Visitor & {
  readonly kind: 'user'
  readonly actor: string
  readonly role: string
  /** The isolation scope: a company id, or the service's own name where it has one tenant. */
  readonly tenant: string
  /** Session id; the gate refuses it once the session is revoked. */
  readonly session: string
}

/** A program of a tenant that signed in with an id and a secret (tokens/clients). */
export type ApiClient = Visitor & {
  readonly kind: 'api_client'
  /** The client's id. */
  readonly actor: string
  readonly role: 'api_client'
  readonly tenant: string
  /** A session of its own, which ends when the client is revoked. */
  readonly session: string
  /** What it may do; a route names the one it asks for. */
  readonly scopes: readonly string[]
}

/** Explicitly named work of the service itself, with the narrow rights the policies give to its name. */
export type System = Visitor & {
  readonly kind: 'system'
  readonly actor: null
  /** `system.` and the name of the work: system.sign-in, system.register, … */
  readonly role: `system.${string}`
  readonly tenant: string
  readonly session: null
}

/** Whoever the gate works for. Of a request only http/authenticate.ts makes one, of the service's own work `systemCaller`. */
export type Caller = Person | ApiClient | System

/**
 * A named system caller: sign-in, registration, a job.
 * @param name what it does, letters and dashes
 * @param tenant the isolation scope it may touch
 * @param visitor the request (or job) it works for
 * @throws TypeError when the name is not made of small letters and dashes
 */
export function systemCaller(name: string, tenant: string, visitor: Visitor): System {
  if (!/^[a-z][a-z-]{1,40}$/.test(name)) {
    throw new TypeError('systemCaller: name must be small letters and dashes, 2 to 41 characters')
  }
  return {
    kind: 'system',
    actor: null,
    role: `system.${name}`,
    tenant,
    session: null,
    requestId: visitor.requestId,
    address: visitor.address,
  }
}

/** For whom a key is used: the class of the actor (a role), never who it is, and the purpose of the action. */
export type KeyUser = { readonly actor: string; readonly purpose: string | null }

/** The process itself: its start, its health, what no request asked for. */
export const ofTheService: KeyUser = Object.freeze({ actor: 'service', purpose: null })
