import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { framed } from '../../bytes.ts'
import type { IndexKey } from '../../keyring.ts'

/** Milliseconds a challenge may be answered in; domain.md, as a step-up. */
export const challengeLife = 5 * 60_000
/** What another instance's clock may be ahead. */
const skew = 30_000
const headBytes = 1 + 8 + 16

/*
 * A challenge says itself when and what for it was made, under a key of the service: asking for one writes nothing, so a
 * stranger who asks a million times fills no table. That it is used once is kept with the credential that answers it: the
 * time in it must be newer than that of the last one accepted.
 */
function mac(key: IndexKey, head: Buffer, use: string): Buffer {
  return createHmac('sha256', key.key).update(framed(['redoubt passkey challenge', head, use])).digest()
}

/**
 * A new challenge: version of the key (1), milliseconds (8, big endian), 16 random bytes, HMAC-SHA-256 (docs/formats.md).
 * @param use the one thing it is for: a pending sign-in, a session's enrolment, a step-up
 */
export function newChallenge(key: IndexKey, use: string, now: number): Buffer {
  const head = Buffer.alloc(headBytes)
  head.writeUInt8(key.version)
  head.writeBigUInt64BE(BigInt(now), 1)
  randomBytes(16).copy(head, 9)
  return Buffer.concat([head, mac(key, head, use)])
}

/** When a challenge was made, in milliseconds; undefined for one that is not ours, not for this use, or too old. */
export function challengeTime(keys: readonly IndexKey[], text: string, use: string, now: number): number | undefined {
  const bytes = Buffer.from(text, 'base64url')
  const key = keys.find(({ version }) => version === bytes[0])
  if (key === undefined || bytes.length !== headBytes + 32 || bytes.toString('base64url') !== text) return undefined
  const head = bytes.subarray(0, headBytes)
  if (!timingSafeEqual(bytes.subarray(headBytes), mac(key, head, use))) return undefined
  const made = Number(head.readBigUInt64BE(1))
  return made <= now + skew && now - made < challengeLife ? made : undefined
}
