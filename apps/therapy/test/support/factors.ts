import assert from 'node:assert/strict'
import { codeOf } from '../../../../packages/redoubt/test/support/factors.ts'
import type { Someone } from './clinic.ts'

/** A step-up of somebody: the header to send with the request that it is for. */
export async function stepUp(someone: Someone, action: string, resource: string, proof: unknown = { kind: 'password', password: someone.password }): Promise<Record<string, string>> {
  const { status, body, text } = await someone.send('POST', '/api/auth/step-up', { action, resource, proof })
  assert.equal(status, 201, text)
  return { 'step-up': String(body['step_up']) }
}

/** Gives somebody without a factor an authenticator app, by the routes. Its present code has been used by that. */
export async function protect(someone: Someone): Promise<{ readonly factor: string; readonly secret: string; readonly recovery: readonly string[] }> {
  const enrolled = await someone.send('POST', '/api/auth/factors/totp', { label: 'phone' }, await stepUp(someone, 'factor.enrol', someone.id))
  assert.equal(enrolled.status, 201, enrolled.text)
  const { id: factor, secret } = enrolled.body as unknown as { readonly id: string; readonly secret: string }
  const confirmed = await someone.send('POST', '/api/auth/factors/totp/confirm', { id: factor, code: codeOf(secret) })
  assert.equal(confirmed.status, 200, confirmed.text)
  return { factor, secret, recovery: confirmed.body['recovery_codes'] as unknown as readonly string[] }
}
