import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
import { testDatabase } from '../../../packages/redoubt/test/support/database.ts'
import { startFaultProxy } from '../../../packages/redoubt/test/support/fault-proxy.ts'
import { startVault } from '../../../packages/redoubt/test/support/vault.ts'
import { openClinic } from './support/clinic.ts'

const vault = await startVault()
const proxy = await startFaultProxy(vault.origin)
vault.transit('POST', 'keys/root', { derived: true })
const database = await testDatabase()
let shift = 0
const clinic = await openClinic({
  database,
  settings: {
    kms: 'vault:transit/root', keyService: { vault: { address: proxy.origin, signIn: { method: 'token', token: vault.token({}) } } },
    openedKeys: { clock: () => performance.now() + shift },
  },
})
after(async () => {
  await clinic.close()
  await proxy.close()
  await vault.close()
})
const [patient, therapist] = [await clinic.patient(), await clinic.therapist()]
await clinic.care(patient, therapist)
const read = (who = patient) => who.send('GET', `/api/patients/${patient.id}`)
const calls = (): number => proxy.requests.filter(({ path }) => /^\/v1\/transit\/(?:decrypt|datakey|encrypt|rewrap)\//.test(path)).length
/** Asks the probe past the seconds for which an answer is reused. */
async function untilReadySays(...wanted: readonly unknown[]): Promise<void> {
  for (const end = performance.now() + 30_000; ; await new Promise((resolve) => setTimeout(resolve, 200))) {
    const { status, body } = await clinic.send()('GET', '/health/ready')
    const checks = body['checks'] as Readonly<Record<string, string>> | undefined
    const found = [status, checks?.['keys'], checks?.['key-service']]
    if (isDeepStrictEqual(found, wanted)) return
    if (performance.now() > end) assert.deepEqual(found, wanted)
  }
}
/** Keys leave memory: an hour passes for the keyring. */
const anHour = (): void => void (shift += 61 * 60_000)

test('three hundred cold requests at once make one call of the key service, warm ones none', async () => {
  assert.equal((await read()).status, 200)
  anHour()
  for (const wanted of [1, 0]) {
    const before = calls()
    const answers = await Promise.all(Array.from({ length: 300 }, (_, n) => read(n % 2 === 0 ? patient : therapist)))
    assert.deepEqual([...new Set(answers.map(({ status }) => status))], [200])
    assert.equal(calls() - before, wanted)
  }
})

test('while the service is away a data key that ran out is opened by the key-encryption key in memory', async () => {
  assert.equal((await read()).status, 200)
  // The first probe after an hour opens the keys that no request has asked for.
  await clinic.service.keyring.opened()
  proxy.fault({ kind: 'reset' })
  try {
    shift += 6 * 60_000
    assert.equal((await read()).status, 200)
    assert.equal((await read(therapist)).status, 200)
    // Still ready: what is in memory serves. The probe says what it is that will end.
    await untilReadySays(200, 'ok', 'degraded')
  } finally {
    proxy.fault(null)
  }
})

test('a cold request while the service is away is refused as that, leaves its entry, and probes say so', async () => {
  anHour()
  proxy.fault({ kind: 'answer', status: 503, body: '{"errors":["Vault is sealed"]}' })
  try {
    const { status, body, headers } = await read(therapist)
    assert.deepEqual([status, body['code']], [503, 'key_service_unavailable'])
    assert.ok(Number(headers.get('retry-after')) >= 1)
    const [entry] = await database.admin(`select outcome, personal_enc, metadata->>'address_missing' as lack from redoubt.audit_logs where action = 'patient.viewed' and actor_id = $1 order by occurred_at desc limit 1`, [therapist.id])
    assert.deepEqual(entry, { outcome: 'failed:key_service_unavailable', personal_enc: null, lack: 'key_service_unavailable' })
    // In one round trip the entry's own sealed part is needed before anybody knows that there is nothing to read.
    const other = await clinic.send(patient.token)('GET', `/api/patients/${therapist.id}`)
    assert.equal(other.status, 503)
    await untilReadySays(503, 'failed', 'degraded')
    assert.equal((await clinic.send()('GET', '/health/live')).status, 200)
  } finally {
    proxy.fault(null)
  }
})

test('it is on record who used which key, by role and by the purpose of the action', async () => {
  await clinic.close()
  const rows = await database.admin<Record<string, unknown>>(`select distinct actor, purpose, data_class, operation from redoubt.key_usage where operation = 'open' and actor in ('patient', 'therapist') and purpose <> 'audit' order by 1, 2, 3`)
  assert.ok(rows.some((row) => row['actor'] === 'therapist' && row['data_class'] === 'care'), JSON.stringify(rows))
  assert.ok(rows.some((row) => row['actor'] === 'patient' && row['data_class'] === 'care'), JSON.stringify(rows))
  assert.deepEqual(await database.admin(`select distinct provider from redoubt.key_calls`), [{ provider: 'vault' }])
  assert.ok((await database.admin(`select from redoubt.key_calls where actor in ('patient', 'therapist') and operation = 'unwrap' and outcome = 'done'`)).length >= 1)
})
