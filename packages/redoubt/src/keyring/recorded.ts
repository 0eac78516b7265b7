import { performance } from 'node:perf_hooks'
import type { KeyUser } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { KeyContext, KeyService } from '../kms.ts'
import type { KeyCall, KeyUsage } from './usage.ts'

/** What a call is about, from what it binds: the data class of a check is `check`. */
function classOf(context: KeyContext): string {
  return context['purpose'] ?? 'check'
}

/**
 * A key service whose calls are noted as made for somebody, with how they ended and how long they took.
 * @param by for whom; the one that asked first, where several wait for the same key
 */
export function recordedService(service: KeyService, usage: KeyUsage, by: KeyUser): KeyService {
  async function noted<T>(operation: KeyCall['operation'], dataClass: string, work: () => Promise<T>): Promise<T> {
    const since = performance.now()
    const note = (outcome: string): void => usage.called({ by, dataClass, operation, provider: service.provider, outcome, milliseconds: performance.now() - since })
    try {
      const result = await work()
      note('done')
      return result
    } catch (error) {
      note(error instanceof Refusal ? error.code : 'key_service_unavailable')
      throw error
    }
  }

  const rewrap = service.rewrap
  return {
    provider: service.provider,
    generate: (context) => noted('generate', classOf(context), () => service.generate(context)),
    wrap: (key, context) => noted('wrap', classOf(context), () => service.wrap(key, context)),
    unwrap: (wrapped, context) => noted('unwrap', classOf(context), () => service.unwrap(wrapped, context)),
    ...(rewrap === undefined ? {} : { rewrap: (wrapped, context) => noted('rewrap', classOf(context), () => rewrap(wrapped, context)) }),
    check: () => noted('check', 'check', () => service.check()),
    close: () => service.close(),
  }
}
