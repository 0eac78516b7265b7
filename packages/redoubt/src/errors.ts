/**
 * Every refusal Redoubt gives, with the HTTP status it becomes at the edge.
 * The codes are stable: clients match on them. docs/errors.md is checked against this table.
 */
export const refusals = {
  invalid_input: { status: 422, title: 'The request was understood but a field is not acceptable' },
  malformed_request: { status: 400, title: 'The request could not be parsed' },
  unauthenticated: { status: 401, title: 'A valid access token is required' },
  sign_in_failed: { status: 401, title: 'Unknown account or wrong password' },
  code_refused: { status: 401, title: 'This code is wrong, used, or too old' },
  factor_refused: { status: 401, title: 'The second factor was not accepted' },
  step_up_required: { status: 403, title: 'This needs a fresh proof of who asks' },
  invalid_client: { status: 401, title: 'Unknown client, wrong secret, or an address it may not come from' },
  invalid_scope: { status: 400, title: 'The client may not have this scope' },
  unsupported_grant_type: { status: 400, title: 'Only client_credentials is granted here' },
  forbidden: { status: 403, title: 'This caller may not do this' },
  origin_refused: { status: 403, title: 'Requests from this origin are not accepted' },
  csrf_refused: { status: 403, title: 'The request does not prove that it comes from a page of this service' },
  not_found: { status: 404, title: 'No such thing, or not visible to this caller' },
  method_not_allowed: { status: 405, title: 'This path does not support the method' },
  conflict: { status: 409, title: 'The present state does not allow this' },
  version_conflict: { status: 409, title: 'The row was changed by somebody else since it was read' },
  slot_taken: { status: 409, title: 'This slot is no longer free' },
  request_in_progress: { status: 409, title: 'A request with this Idempotency-Key is still in progress' },
  already_exists: { status: 409, title: 'Such a thing exists already' },
  request_timeout: { status: 408, title: 'The body did not arrive in time' },
  body_too_large: { status: 413, title: 'The body is larger than this route accepts' },
  unsupported_media_type: { status: 415, title: 'The body has a type or an encoding that is not taken here' },
  https_required: { status: 421, title: 'This service answers over HTTPS only' },
  idempotency_key_reused: { status: 422, title: 'This Idempotency-Key was used with another request' },
  too_many_requests: { status: 429, title: 'Too many requests' },
  internal: { status: 500, title: 'Something went wrong on our side' },
  sealed_value_refused: { status: 500, title: 'A sealed value did not open where it stands' },
  key_destroyed: { status: 410, title: 'The key of this data has been destroyed' },
  caller_refused: { status: 401, title: 'The session has ended; sign in again' },
  audit_unavailable: { status: 503, title: 'The audit entry could not be written, so there is no answer' },
  audit_interrupted: { status: 503, title: 'The audit chain does not continue what was anchored: run `redoubt audit resume`' },
  audit_not_interrupted: { status: 409, title: 'The audit chain needs no resumption' },
  database_unavailable: { status: 503, title: 'The database cannot be reached' },
  outcome_unknown: { status: 503, title: 'The connection was lost under the commit: it may or may not have been done' },
  redis_unavailable: { status: 503, title: 'The shared counters cannot be reached' },
  database_error: { status: 500, title: 'The database refused a statement' },
  statement_refused: { status: 500, title: 'A statement tried to leave its transaction or to change a setting' },
  key_service_unavailable: { status: 503, title: 'The key service cannot be reached' },
  key_refused: { status: 503, title: 'The key service refused the key' },
  mail_refused: { status: 502, title: 'The mail server refused the message' },
  mail_unavailable: { status: 503, title: 'The mail server cannot be reached' },
  busy: { status: 503, title: 'Too much work is waiting; try again' },
  stopping: { status: 503, title: 'This instance is stopping' },
} as const satisfies Record<string, { readonly status: number; readonly title: string }>

export type RefusalCode = keyof typeof refusals

/** Names a field and the rule it broke; never carries the value (RFC 9457 §3, members for fields). */
export type FieldProblem = { readonly field: string; readonly rule: string }

/**
 * The world said no. A caller's own mistake is a TypeError instead.
 * `detail` is for people and must not contain a value that came from outside.
 */
export class Refusal extends Error {
  override readonly name = 'Refusal'
  readonly code: RefusalCode
  readonly status: number
  readonly detail: string | undefined
  readonly fields: readonly FieldProblem[]
  /** Seconds after which a retry may succeed, for 429 and 503. */
  readonly retryAfter: number | undefined

  constructor(
    code: RefusalCode,
    more: {
      readonly detail?: string
      readonly fields?: readonly FieldProblem[]
      readonly retryAfter?: number
      readonly cause?: unknown
    } = {},
  ) {
    super(`${code}: ${refusals[code].title}`, more.cause === undefined ? undefined : { cause: more.cause })
    this.code = code
    this.status = refusals[code].status
    this.detail = more.detail
    this.fields = more.fields ?? []
    this.retryAfter = more.retryAfter
  }
}
