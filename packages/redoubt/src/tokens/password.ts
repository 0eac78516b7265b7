import { createHmac, randomBytes } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { parseOptions } from '@node-rs/argon2'
import { framed, newId } from '../bytes.ts'
import { Refusal } from '../errors.ts'
import type { IndexKey, Keyring } from '../keyring.ts'
import { kernelTables } from '../tables/kernel.ts'
import { lane } from './password-lane.ts'
import { brokenRule, passwordLength } from './password-rules.ts'
import { hashApart, verifyApart } from './password-threads.ts'

export { passwordLength } from './password-rules.ts'

/** Argon2id by number: the package declares a const enum, which erasable TypeScript cannot read. */
const argon2id = 2
/** Where the key of the passwords stands among the index keys: the accounts' table, and a column that no table has. */
const keyPlace = { table: kernelTables['redoubt.users'].id, column: 100 } as const

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
  /**
   * The hash to store for an account: its own alone, worth nothing in another account's row.
   * @param more.personal address and names of the person, which must not make up the password
   * @throws Refusal invalid_input (rule min, max, breached or personal), busy
   */
  hash(account: string, password: string, more?: { readonly personal?: readonly string[] }): Promise<string>
  /** The same for a password that was accepted before: the rules of today do not lock its owner out. @throws Refusal busy */
  rehash(account: string, password: string): Promise<string>
  /**
   * Whether the password is the account's; `outdated`: it is, and was hashed with other parameters or an older key, so
   * hash it again now that it is at hand. Without an account it does the same work on a dummy, so that time does not
   * tell who has one.
   * @throws Refusal busy
   */
  verify(stored: { readonly account: string; readonly hash: string } | undefined, password: string): Promise<'right' | 'outdated' | 'wrong'>
  /** Work that ends in a `verify`, and is refused before it begins where that would be. @throws Refusal busy */
  room<T>(work: () => Promise<T>): Promise<T>
}

/**
 * Passwords by argon2id, on threads of their own that yield to all else, and behind a bounded queue: 19 MiB a hash and
 * all cores would otherwise be anybody's to take who can reach the sign-in.
 *
 * What argon2id hashes is HMAC-SHA-256(key, account and password), under a key that the database does not have: a
 * stolen table cannot be tried against a list of passwords, and a hash moved to another account's row is nobody's.
 *
 * Parameters: OWASP Password Storage Cheat Sheet, m=19456 (19 MiB), t=2, p=1, or its equal m=47104, t=1. Weaker
 * ones are refused.
 * @param keyring gives the key, in every version that still verifies
 * @throws TypeError for parameters below these, or a queue that is no whole number
 */
export async function openPasswords(keyring: Pick<Keyring, 'indexKeys'>, options: PasswordOptions = {}): Promise<Passwords> {
  const { memoryCost = 19_456, timeCost = 2, parallelism = 1, queue = 64 } = options
  const concurrency = options.concurrency ?? Math.max(1, availableParallelism() - 1)
  for (const [name, value] of Object.entries({ memoryCost, timeCost, parallelism, concurrency, queue })) {
    if (!Number.isInteger(value) || value < 1) throw new TypeError(`openPasswords: ${name} must be a positive whole number`)
  }
  if (!(memoryCost >= 47_104 || (memoryCost >= 19_456 && timeCost >= 2))) throw new TypeError('openPasswords: weaker than OWASP recommends (m=19456,t=2 or m=47104,t=1)')
  const parameters = { algorithm: argon2id, memoryCost, timeCost, parallelism }
  const { room, run } = lane(concurrency, queue)
  const dummy = { account: newId(), phc: await hashApart(randomBytes(32), parameters) }

  async function newestKey(): Promise<IndexKey> {
    const [newest] = await keyring.indexKeys(keyPlace.table, keyPlace.column)
    if (newest === undefined) throw new Refusal('key_refused')
    return newest
  }

  async function make(account: string, normal: string): Promise<string> {
    const key = await newestKey()
    return `${key.version}${await run(() => hashApart(keyed(key, account, normal), parameters))}`
  }

  function isOutdated(phc: string): boolean {
    const found = parseOptions(phc)
    return Number(found.algorithm) !== argon2id || found.memoryCost !== memoryCost || found.timeCost !== timeCost || found.parallelism !== parallelism
  }

  return Object.freeze<Passwords>({
    room,
    async hash(account, password, { personal = [] } = {}) {
      refuseWeak(password, personal)
      return make(account, password.normalize('NFC'))
    },
    rehash: (account, password) => make(account, password.normalize('NFC')),
    async verify(stored, password) {
      // Nothing that long was ever hashed; the work is done all the same, on a stand-in.
      const normal = password.length > 4 * passwordLength.most ? '' : password.normalize('NFC')
      const keys = await keyring.indexKeys(keyPlace.table, keyPlace.column)
      const [newest] = keys
      if (newest === undefined) throw new Refusal('key_refused')
      const [, version, phc = dummy.phc] = /^(\d{1,3})(\$.*)$/s.exec(stored?.hash ?? '') ?? []
      const key = keys.find((one) => String(one.version) === version)
      const known = stored !== undefined && key !== undefined && normal !== ''
      const right = await run(() => verifyApart(known ? phc : dummy.phc, keyed(key ?? newest, stored?.account ?? dummy.account, normal)))
      if (!right || !known) return 'wrong'
      return key.version !== newest.version || isOutdated(phc) ? 'outdated' : 'right'
    },
  })
}

/**
 * What `hash` would refuse, before anything is spent on it.
 * @throws Refusal invalid_input
 */
export function refuseWeak(password: string, personal: readonly string[] = []): void {
  const rule = brokenRule(password.normalize('NFC'), personal)
  if (rule !== undefined) throw new Refusal('invalid_input', { fields: [{ field: 'password', rule }] })
}

/** What argon2id hashes (docs/formats.md), as text: the package verifies nothing else. Framed, so that no two accounts and passwords give one. */
function keyed(key: IndexKey, account: string, normal: string): string {
  return createHmac('sha256', key.key).update(framed(['redoubt password', account, normal])).digest('base64url')
}
