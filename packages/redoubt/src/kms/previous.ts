import { Refusal } from '../errors.ts'
import type { KeyService } from '../kms.ts'

/**
 * Two key services as one, while keys move from one to the other and processes of both kinds run: new keys are wrapped
 * by the current one alone, what is stored opens under whichever wrapped it.
 * @param current the one that stays
 * @param previous the one that is left; closed together with the current one
 */
export function withPrevious(current: KeyService, previous: KeyService): KeyService {
  const { rewrap } = current
  return {
    provider: current.provider,
    generate: (context) => current.generate(context),
    wrap: (key, context) => current.wrap(key, context),
    ...(rewrap === undefined ? {} : { rewrap }),
    async unwrap(wrapped, context) {
      try {
        return await current.unwrap(wrapped, context)
      } catch (error) {
        // Not of this provider, or under another of its keys: both are refused. A service that is away says nothing about either.
        if (!(error instanceof Refusal) || error.code !== 'key_refused' || wrapped.provider !== previous.provider) throw error
        try {
          return await previous.unwrap(wrapped, context)
        } catch (second) {
          throw second instanceof Refusal && second.code === 'key_refused' ? error : second
        }
      }
    },
    // What has not moved yet is opened by the keyring's own check.
    check: () => current.check(),
    close() {
      current.close()
      previous.close()
    },
  }
}
