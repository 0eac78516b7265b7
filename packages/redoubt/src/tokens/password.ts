import { randomBytes } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { hash as argon2, parseOptions, verify as argon2Verify } from '@node-rs/argon2'
import { Refusal } from '../errors.ts'

/** Argon2id by number: the package declares a const enum, which erasable TypeScript cannot read. */
const argon2id = 2

/** Code points, after normalisation. 64 is the least a verifier must take (NIST SP 800-63B-4 §3.1.1.2). */
export const passwordLength = { least: 8, most: 128 } as const

export type PasswordOptions = {
  /** KiB, default 19,456. */
  readonly memoryCost?: number
  /** Passes, default 2. */
  readonly timeCost?: number
  readonly parallelism?: number
  /** Hashes computed at once; default one less than the cores, so that the event loop keeps one. */
  readonly concurrency?: number
  /** Hashes that may wait; the next one is refused. Default 64. */
  readonly queue?: number
}

export type Passwords = {
  /** @throws Refusal invalid_input (length), busy */
  hash(password: string): Promise<string>
  /**
   * Whether the password is the account's. Without an account (undefined) it does the same work on a dummy and is
   * false, so that time does not tell who has an account.
   * @throws Refusal busy
   */
  verify(hash: string | undefined, password: string): Promise<boolean>
  /** True when the hash was made with other parameters: hash again now that the password is at hand. */
  outdated(hash: string): boolean
}

/**
 * Passwords by argon2id, off the main thread and behind a bounded queue: 19 MiB a hash and all cores would
 * otherwise be anybody's to take who can reach the sign-in.
 *
 * Parameters: OWASP Password Storage Cheat Sheet, m=19456 (19 MiB), t=2, p=1, or its equal m=47104, t=1. Weaker
 * ones are refused.
 * @throws TypeError for parameters below these, or a queue that is no whole number
 */
export async function openPasswords(options: PasswordOptions = {}): Promise<Passwords> {
  const { memoryCost = 19_456, timeCost = 2, parallelism = 1, queue = 64 } = options
  const concurrency = options.concurrency ?? Math.max(1, availableParallelism() - 1)
  for (const [name, value] of Object.entries({ memoryCost, timeCost, parallelism, concurrency, queue })) {
    if (!Number.isInteger(value) || value < 1) throw new TypeError(`openPasswords: ${name} must be a positive whole number`)
  }
  if (!(memoryCost >= 47_104 || (memoryCost >= 19_456 && timeCost >= 2))) throw new TypeError('openPasswords: weaker than OWASP recommends (m=19456,t=2 or m=47104,t=1)')
  const parameters = { algorithm: argon2id, memoryCost, timeCost, parallelism }
  const run = lane(concurrency, queue)
  const dummy = await argon2(randomBytes(32), parameters)

  return Object.freeze<Passwords>({
    hash(password) {
      const normal = password.normalize('NFC')
      const rule = lengthRule(normal)
      if (rule !== undefined) return Promise.reject(new Refusal('invalid_input', { fields: [{ field: 'password', rule }] }))
      return run(() => argon2(normal, parameters))
    },
    async verify(hash, password) {
      // Nothing that long was ever hashed; the work is done all the same, on a stand-in.
      const normal = password.length > 4 * passwordLength.most ? '' : password.normalize('NFC')
      const known = hash !== undefined && normal !== ''
      const right = await run(() => argon2Verify(known ? hash : dummy, normal))
      return right && known
    },
    outdated(hash) {
      const found = parseOptions(hash)
      return Number(found.algorithm) !== argon2id || found.memoryCost !== memoryCost || found.timeCost !== timeCost || found.parallelism !== parallelism
    },
  })
}

function lengthRule(password: string): 'min' | 'max' | undefined {
  // Cheap bound first: a code point is at most two units.
  if (password.length > 2 * passwordLength.most) return 'max'
  const points = [...password].length
  return points < passwordLength.least ? 'min' : points > passwordLength.most ? 'max' : undefined
}

/** Runs at most `concurrency` jobs at once and lets `queue` wait. */
function lane(concurrency: number, queue: number): <T>(job: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = []
  let running = 0
  let average = 50
  return async (job) => {
    if (running >= concurrency) {
      if (waiting.length >= queue) throw new Refusal('busy', { retryAfter: Math.ceil((average * waiting.length) / concurrency / 1000) })
      // The one who finishes hands over its place, so running stays as it is.
      await new Promise<void>((resolve) => waiting.push(resolve))
    } else {
      running++
    }
    const started = performance.now()
    try {
      return await job()
    } finally {
      average = 0.9 * average + 0.1 * (performance.now() - started)
      const next = waiting.shift()
      if (next === undefined) running--
      else next()
    }
  }
}
