import { newId } from '../bytes.ts'
import type { Emit, Event } from '../events.ts'
import { setField } from './head.ts'
import type { Proxies } from './proxies.ts'
import { setRequestState, unmatched } from './request-state.ts'
import type { Middleware, RequestState } from './request-state.ts'

/** Filled in as a whole: what is spread into it costs as much as all the rest. */
type Answered = { -readonly [K in keyof Extract<Event, { type: 'http.answered' }>]: Extract<Event, { type: 'http.answered' }>[K] }

const wellFormed = /^[A-Za-z0-9_-]{8,64}$/

/**
 * Names the request and its sender, and reports `http.answered` once the answer is out.
 * An incoming X-Request-Id is kept only from a trusted proxy and only when well formed: it stands in logs and
 * audit entries, where a client must not choose it.
 */
export function requestId(proxies: Proxies, emit: Emit): Middleware {
  return (req, res, next) => {
    const started = performance.now()
    const incoming = req.headers['x-request-id']
    const kept = typeof incoming === 'string' && wellFormed.test(incoming) && proxies.trusts(req)
    const id = kept ? incoming : newId()
    const state: RequestState = {
      visitor: { requestId: id, address: proxies.address(req) },
      secure: proxies.secure(req),
      route: unmatched,
      kind: 'api',
      code: undefined,
      actor: undefined,
      unasked: undefined,
      renewed: [],
    }
    setRequestState(req, state)
    setField(res, 'X-Request-Id', id)
    res.on('close', () => {
      const { route, code, actor } = state
      const event: Answered = { type: 'http.answered', requestId: id, method: req.method ?? '', route, status: res.statusCode, milliseconds: performance.now() - started }
      if (code !== undefined) event.code = code
      if (actor !== undefined) event.actor = actor
      emit(event)
    })
    next()
  }
}
