import assert from 'node:assert/strict'
import { test } from 'node:test'
import { unrecorded } from '../../../packages/redoubt/test/support/unrecorded.ts'
import { openRotation } from 'redoubt/keyring/rotate'
import { openPool } from 'redoubt/pg'
import { openKeyService } from 'redoubt/kms'
import type { App } from '../src/app.ts'
import { register } from '../src/registration.ts'
import { confirmRegistration } from '../src/recovery.ts'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const { database } = clinic
const visitor = { requestId: 'rotation', address: null }
const person = (email: string) => ({ role: 'patient' as const, email, password: 'correct horse battery staple', first_name: 'Eva', last_name: 'Winter', dob: '1990-01-01' })

/** Asks for an account and shows the code, as whoever reads the mail of the address. */
async function join(app: App, email: string): Promise<string> {
  const { request, code } = await register(app, visitor, person(email), new Date())
  return confirmRegistration(app, visitor, { handle: request, digits: code })
}

test('attack: while the index key of addresses rotates, one address gets one account, whichever version each instance writes', async () => {
  const known = await clinic.patient()
  const pool = openPool({ url: database.url('keys'), max: 1, emit: () => undefined })
  // The rotation wraps with keys of the service itself: this instance's root opens them.
  const service = await openKeyService(clinic.kms, { production: false })
  const rotation = openRotation({ pool, service, realm: 'therapy', usage: unrecorded, emit: () => undefined, overlap: 600_000 })
  await rotation.indexKey({ table: 1, column: 2 })
  // One that has read it while its time had not come writes the old version, and one that starts later writes the new.
  const early = await clinic.another()
  assert.equal((await early.service.app.columns.lookup('redoubt.users', 'email_bidx', 'x@example.org'))[0]?.[0], 1)
  await database.admin('update keys.index_keys set use_from = now() where table_id = 1 and column_id = 2')
  const late = await clinic.another()
  assert.equal((await late.service.app.columns.lookup('redoubt.users', 'email_bidx', 'x@example.org'))[0]?.[0], 2)

  for (const instance of [early, late]) {
    await assert.rejects(join(instance.service.app, known.email), /already_exists/)
    const { status } = await instance.send()('POST', '/api/auth/login', { email: known.email, password: known.password })
    assert.equal(status, 200)
  }
  for (let round = 0; round < 12; round++) {
    const email = `race${round}@example.org`
    const outcomes = await Promise.allSettled([early, late, early, late].map(({ service: { app } }) => join(app, email)))
    assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1, `round ${round}`)
    for (const instance of [early, late]) {
      const indexes = await instance.service.app.columns.lookup('redoubt.users', 'email_bidx', email)
      assert.equal((await database.admin("select from redoubt.users where email_bidx = any ($1) and status = 'active'", [indexes])).length, 1)
    }
  }
  const versions = await database.admin<{ version: number }>('select distinct get_byte(email_bidx, 0) as version from redoubt.users order by 1')
  assert.deepEqual(versions.map(({ version }) => version), [1, 2], 'both versions were written')
  rotation.close()
  service.close()
  await pool.close()
})

test('attack: the claim of an address tells nobody else whether it has an account', async () => {
  const app = openPool({ url: database.url('app'), max: 1, emit: () => undefined })
  await assert.rejects(app.query({ text: 'select guard.claim_email($1)', values: [[Buffer.alloc(17, 1)]] }), /caller_refused/)
  await app.close()
})
