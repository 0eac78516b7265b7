import type { Keyring, Purpose, PurposeKey } from '../keyring.ts'
import type { TokenKey, Tokens } from '../tokens.ts'

/** Milliseconds between two looks at the keyring, which itself reads anew every five minutes: less than the minute that a rotation leaves for it. */
const lookEvery = 30_000

/** The keys of access tokens as the keyring has them: the pair that signs, and those that verify. */
export async function tokenKeys(keyring: Pick<Keyring, 'purposeKey'>, purpose: Purpose): Promise<readonly TokenKey[]> {
  return keysOf(await keyring.purposeKey(purpose))
}

function keysOf({ kid, privateKey, publicKey, verifiers }: PurposeKey): readonly TokenKey[] {
  const others = [...verifiers].filter(([other]) => other !== kid).map(([other, key]) => ({ kid: other, publicKey: key }))
  return [{ kid, publicKey, privateKey }, ...others]
}

/**
 * Keeps the keys of open tokens those of the keyring: a rotation is taken up without a restart. While the keyring cannot
 * be read the keys stay as they are.
 * @param settings.purpose whose keys they were opened with
 * @param settings.every milliseconds between two looks; at most half a minute, which is the default
 */
export function followKeys(settings: { readonly tokens: Pick<Tokens, 'use' | 'jwks'>; readonly keyring: Pick<Keyring, 'purposeKey'>; readonly purpose: Purpose; readonly every?: number }): { stop(): void } {
  const { tokens, keyring, purpose, every = lookEvery } = settings
  if (!Number.isInteger(every) || every < 1 || every > lookEvery) throw new TypeError(`followKeys: every must be a whole number from 1 to ${lookEvery}`)
  let looking = false

  async function look(): Promise<void> {
    if (looking) return
    looking = true
    try {
      const keys = await tokenKeys(keyring, purpose)
      const present = tokens.jwks().keys
      if (keys.length !== present.length || keys.some(({ kid }, at) => kid !== present[at]?.['kid'])) tokens.use(keys)
    } finally {
      looking = false
    }
  }

  const timer = setInterval(() => void look().catch(() => undefined), every)
  timer.unref()
  return { stop: () => clearInterval(timer) }
}
