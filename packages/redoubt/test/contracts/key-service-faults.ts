import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { Refusal } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import type { KeyService, KeyServiceOptions } from '../../src/kms.ts'
import type { Patience } from '../../src/kms/resilience.ts'
import type { Fault, FaultProxy, Passed } from '../support/fault-proxy.ts'
import { listen, type Certificate } from '../support/http-server.ts'
import { refusalOf } from './key-service.ts'

/** An answer as the real service words it, and what the caller is told. */
export type Worded = {
  readonly title: string
  readonly fault: Extract<Fault, { kind: 'answer' }>
  readonly says: RegExp
  /** Requests that reach the service for one unwrap; more than one where trying again can help. */
  readonly tries: number
}

export type FaultContract = {
  readonly name: string
  readonly proxy: FaultProxy
  /** What the provider is reached by, where it insists on TLS. */
  readonly certificate?: Certificate
  /** A service that reaches its provider through the proxy. */
  readonly open: (options: Pick<KeyServiceOptions, 'patience' | 'emit'>) => Promise<KeyService>
  /** The request that unwraps; everything else passes. */
  readonly unwraps: (request: Passed) => boolean
  readonly throttled: Extract<Fault, { kind: 'answer' }>
  readonly worded: readonly Worded[]
}

/** In every message of the answers: it must not come out anywhere. */
export const canary = 'CANARY-4711'
const context = { realm: 'therapy', purpose: 'data', version: '1' }
const quick: Patience = { attempt: 1_500, whole: 8_000, pause: 2, failures: 1_000 }
/** A machine under load is slow; what is measured here is that there is a bound. */
const slack = 3_000

/** What every remote key service does when the network, a gateway or the service itself fails. */
export function faultContract(contract: FaultContract): void {
  const { name, proxy, open, unwraps } = contract

  async function wrapped(patience: Patience = quick, events: Event[] = []) {
    proxy.fault(null)
    const service = await open({ patience, emit: (event) => events.push(event) })
    const made = await service.generate(context)
    assert.deepEqual(await service.unwrap(made.wrapped, context), made.key)
    proxy.requests.length = 0
    const tries = (): number => proxy.requests.filter(unwraps).length
    return { service, tries, key: made.key, unwrap: () => service.unwrap(made.wrapped, context) }
  }

  test(`${name}: a service that answers nothing is refused in bounded time, after bounded attempts`, async () => {
    const { service, tries, unwrap } = await wrapped({ ...quick, attempt: 1_500 })
    service.close()
    const impatient = await open({ patience: { attempt: 150, whole: 900, attempts: 3, pause: 2, failures: 1_000 } })
    proxy.fault({ kind: 'hang' })
    const since = performance.now()
    assert.match(await refusalOf(impatient.check()), /^key_service_unavailable: the key service did not answer/)
    assert.ok(performance.now() - since < 900 + slack)
    impatient.close()
    assert.match(await refusalOf(unwrap()), /closed/)
    assert.equal(tries(), 0)
  })

  test(`${name}: a slow answer within the time of an attempt is an answer`, async () => {
    const { service, key, unwrap, tries } = await wrapped()
    proxy.fault({ kind: 'slow', milliseconds: 60 }, { when: unwraps })
    assert.deepEqual(await unwrap(), key)
    assert.equal(tries(), 1)
    service.close()
  })

  for (const kind of ['reset', 'cut', 'truncated', 'page'] as const) {
    test(`${name}: one ${kind} answer is survived, an endless row of them is refused after four`, async () => {
      const { service, key, unwrap, tries } = await wrapped()
      proxy.fault({ kind }, { times: 1, when: unwraps })
      assert.deepEqual(await unwrap(), key)
      assert.equal(tries(), 2)
      proxy.requests.length = 0
      proxy.fault({ kind }, { when: unwraps })
      assert.match(await refusalOf(unwrap()), kind === 'reset' ? /^key_service_unavailable: the key service did not answer/ : /^key_service_unavailable: (?:the key service did not answer|what answered is not)/)
      assert.equal(tries(), 4)
      proxy.fault(null)
      assert.deepEqual(await unwrap(), key)
      service.close()
    })
  }

  test(`${name}: throttled once is survived, throttled on is said as such`, async () => {
    const { service, key, unwrap, tries } = await wrapped()
    proxy.fault(contract.throttled, { times: 2, when: unwraps })
    assert.deepEqual(await unwrap(), key)
    assert.equal(tries(), 3)
    proxy.fault(contract.throttled, { when: unwraps })
    assert.match(await refusalOf(unwrap()), /^key_service_unavailable: the key service throttles/)
    service.close()
  })

  test(`${name}: attack: a redirect is not followed, whatever its status: nothing goes where it points`, async () => {
    const seen: string[] = []
    const elsewhere = await listen((request, response) => {
      seen.push(`${request.method ?? ''} ${request.url ?? ''}`)
      response.end('{}')
      return Promise.resolve()
    }, contract.certificate)
    try {
      const { service, key, unwrap } = await wrapped()
      for (const status of [301, 302, 303, 307, 308]) {
        proxy.fault({ kind: 'answer', status, body: '', headers: { location: `${elsewhere.origin}/${canary}` } }, { when: unwraps })
        assert.match(await refusalOf(unwrap()), /^key_(?:service_unavailable|refused): (?!.*CANARY)/)
      }
      assert.deepEqual(seen, [])
      proxy.fault(null)
      assert.deepEqual(await unwrap(), key)
      service.close()
    } finally {
      await elsewhere.close()
    }
  })

  for (const { title, fault, says, tries: wanted } of contract.worded) {
    test(`${name}: ${title} is said as such, and no word of the service comes through`, async () => {
      const { service, key, unwrap, tries } = await wrapped()
      proxy.fault(fault, { when: unwraps })
      const error: unknown = await unwrap().then(() => null, (thrown: unknown) => thrown)
      assert.ok(error instanceof Refusal, String(error))
      assert.match(`${error.code}: ${error.detail ?? ''}`, says)
      assert.equal(tries(), wanted)
      const all = inspect(error, { depth: 20, showHidden: true })
      for (const value of [canary, key.toString('base64'), key.toString('base64url'), key.toString('hex')]) assert.ok(!all.includes(value), all)
      proxy.fault(null)
      service.close()
    })
  }

  test(`${name}: the breaker opens after a row of failures, lets one probe through and closes again`, async () => {
    let now = 0
    const events: Event[] = []
    const patience = { ...quick, attempts: 1, failures: 3, open: 2_000, clock: () => now, random: () => 1 }
    const { service, key, unwrap, tries } = await wrapped(patience, events)
    proxy.fault({ kind: 'reset' }, { when: unwraps })
    for (let failure = 0; failure < 3; failure++) await refusalOf(unwrap())
    assert.equal(tries(), 3)
    const blocked: unknown = await unwrap().then(() => null, (thrown: unknown) => thrown)
    assert.ok(blocked instanceof Refusal && blocked.code === 'key_service_unavailable' && blocked.retryAfter === 2)
    assert.equal(tries(), 3)
    now += 2_001
    // Twenty at once: one asks, the others are refused without a request.
    await Promise.all(Array.from({ length: 20 }, () => refusalOf(unwrap())))
    assert.equal(tries(), 4)
    now += 2_001
    await refusalOf(unwrap())
    assert.equal(tries(), 4, 'the second opening is longer than the first')
    now += 2_000
    proxy.fault(null)
    assert.deepEqual(await unwrap(), key)
    assert.deepEqual(await unwrap(), key)
    assert.deepEqual(events.map(({ type }) => type), ['key.service_cut_off', 'key.service_restored'])
    service.close()
  })
}
