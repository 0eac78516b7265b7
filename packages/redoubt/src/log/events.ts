import type { Emit, Event } from '../events.ts'
import { withRequestId, type Category, type Level, type Log } from '../log.ts'

/** The word before the dot of an event's type. */
type Family = Event['type'] extends infer T ? (T extends `${infer F}.${string}` ? F : never) : never

const families: Readonly<Record<Family, Category>> = {
  http: 'http',
  auth: 'auth',
  security: 'audit',
  audit: 'audit',
  key: 'audit',
  database: 'service',
  health: 'service',
  idempotency: 'service',
  mail: 'service',
  migration: 'service',
  reencrypt: 'audit',
  redis: 'service',
  service: 'service',
}

/** What is not `info`. A refused request is not an error of the service; a broken chain needs somebody now. */
const severities: Readonly<Partial<Record<Event['type'], Level>>> = {
  'http.failed': 'error',
  'auth.factor_failed': 'warn',
  'auth.step_up_failed': 'warn',
  'auth.factor_delayed': 'warn',
  'auth.factor_reset': 'warn',
  'security.credential_cloned': 'error',
  'security.session_refused': 'error',
  'security.client_refused': 'error',
  'security.unauthorized_access': 'warn',
  'security.control_triggered': 'warn',
  'security.csp_violation': 'warn',
  'security.rate_limited': 'warn',
  'security.suspicious_activity': 'error',
  'security.statement_refused': 'warn',
  'security.injection_suspected': 'warn',
  'security.audit_chain_broken': 'fatal',
  'auth.refresh_replayed': 'warn',
  'auth.refresh_reused': 'warn',
  'database.connection_destroyed': 'warn',
  'audit.sealed': 'debug',
  'audit.lagging': 'warn',
  'audit.failed': 'error',
  'key.service_failed': 'error',
  'key.usage_failed': 'error',
  'security.key_use_unusual': 'warn',
  'redis.down': 'error',
  'health.failed': 'error',
  'idempotency.sweep_failed': 'error',
  'mail.failed': 'warn',
  'mail.outbox_failed': 'error',
}

function severityOf(event: Event): Level {
  // The stack is in the line of http.failed; this one only counts, so that one failure is one error.
  if (event.type === 'http.answered') return event.status >= 500 ? 'warn' : 'info'
  return severities[event.type] ?? 'info'
}

/** Members under the names lines use: `code` would be hidden as a one-time code, `service` is the line's own. */
function fieldsOf(event: Event): Readonly<Record<string, unknown>> {
  const { type: _type, requestId: _requestId, code, service: _service, ...fields } = event as Event & Readonly<Record<string, unknown>>
  return code === undefined ? fields : { ...fields, refusal: code }
}

/**
 * Writes each event as one line: the event's type is the message, the word before its dot chooses the category.
 * Never throws and never blocks longer than a write, as Emit demands.
 */
export function logEvents(log: Log): Emit {
  return (event) => {
    const severity = severityOf(event)
    if (!log.isOn(severity)) return
    const family = event.type.slice(0, event.type.indexOf('.')) as Family
    const write = (): void => log.event(severity, families[family], event.type, fieldsOf(event))
    if ('requestId' in event) withRequestId(event.requestId, write)
    else write()
  }
}
