import { randomBytes, randomUUID } from 'node:crypto'
import assert from 'node:assert/strict'
import { Refusal } from '../../src/errors.ts'
import type { DataKey } from '../../src/keyring.ts'
import type { Place } from '../../src/seal.ts'
import { dataKeyOf } from './keys.ts'

/** A random place and a key that may seal there. */
export function randomPlace(): { readonly place: Place; readonly key: DataKey } {
  const place = {
    tenant: `realm-${randomBytes(3).toString('hex')}`,
    table: 1 + (randomBytes(2).readUInt16BE() % 65535),
    column: 1 + (randomBytes(2).readUInt16BE() % 65535),
    row: randomUUID(),
    subject: randomUUID(),
  }
  return { place, key: dataKeyOf({ tenant: place.tenant, subject: place.subject, keep: 'care' }) }
}

/** Asserts the one refusal: no detail, no cause, the same words whatever was wrong. */
export function assertRefused(work: () => unknown, why: string): void {
  assert.throws(
    work,
    (error: unknown) => {
      assert.ok(error instanceof Refusal, why)
      assert.deepEqual(
        { code: error.code, message: error.message, detail: error.detail, cause: error.cause },
        { code: 'sealed_value_refused', message: 'sealed_value_refused: A sealed value did not open where it stands', detail: undefined, cause: undefined },
        why,
      )
      return true
    },
    why,
  )
}
