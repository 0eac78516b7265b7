import type { KeyUsage } from '../../src/keyring/usage.ts'

/** For a keyring whose use nobody has to account for. */
export const unrecorded: KeyUsage = Object.freeze({ used: () => undefined, called: () => undefined, flush: () => Promise.resolve(), stop: () => Promise.resolve() })
