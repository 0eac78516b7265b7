import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Refusal } from '../../../src/errors.ts'
import { listFactors } from '../../../src/tokens/factors.ts'
import { removeFactor, replaceRecoveryCodes } from '../../../src/tokens/factors/enrol.ts'
import { canonicalRecovery, newRecoveryCodes } from '../../../src/tokens/factors/recovery.ts'
import { stepUp } from '../../../src/tokens/step-up.ts'
import { testDatabase } from '../../support/database.ts'
import { codeOf, openFactorWorld, wrongCode, type Protected } from '../../support/factors.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await openFactorWorld(database)
after(() => world.close())
const { factors, identity } = world

const refused = (work: Promise<unknown>, code = 'factor_refused'): Promise<void> => assert.rejects(work, (error) => error instanceof Refusal && error.code === code)
const recover = async (someone: Protected, code: string | undefined): Promise<unknown> => world.complete((await world.begin(someone)).pending, { kind: 'recovery', code: code ?? '' })
const proof = (someone: Protected, at: number) => ({ kind: 'recovery', code: someone.recovery[at] ?? '' }) as const

test('ten codes of 80 bits, read back however they were written down', () => {
  const codes = newRecoveryCodes()
  assert.equal(new Set(codes).size, 10)
  for (const code of codes) assert.match(code, /^([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}$/)
  assert.equal(canonicalRecovery(' abcd-efgh 0o1i-lxyz '), 'ABCDEFGH00111XYZ')
  for (const bad of ['', 'ABCD', 'ABCDEFGHJKMNPQRU', 'ABCDEFGHJKMNPQRST']) assert.equal(canonicalRecovery(bad), undefined)
})

test('attack: a code signs in once, also when it comes eight times at once', async () => {
  const ada = await world.guarded()
  await recover(ada, ada.recovery[0])
  await refused(recover(ada, ada.recovery[0]))
  const pending = await Promise.all(Array.from({ length: 8 }, () => world.begin(ada)))
  const all = await Promise.allSettled(pending.map((each) => world.complete(each.pending, proof(ada, 1))))
  assert.equal(all.filter(({ status }) => status === 'fulfilled').length, 1)
  assert.equal((await listFactors(factors, ada.person)).recoveryCodes, 8)
})

test('attack: another person’s code, and a table that was stolen', async () => {
  const [ada, ben] = [await world.guarded(), await world.guarded()]
  await refused(recover(ada, ben.recovery[0]))
  const rows = await database.admin<{ text: string }>('select c::text as text from redoubt.recovery_codes c where user_id = $1', [ada.id])
  for (const code of ada.recovery) for (const { text } of rows) assert.ok(!text.includes(Buffer.from(code.replaceAll('-', '')).toString('hex')))
  // Moved to another account the hash fits nothing: the account is in it.
  await database.admin('update redoubt.recovery_codes set user_id = $1 where user_id = $2', [ben.id, ada.id])
  await refused(recover(ben, ada.recovery[0]))
})

test('new codes end the old ones, and need a step-up', async () => {
  const ada = await world.guarded()
  await refused(replaceRecoveryCodes(factors, ada.person, { stepUp: undefined }), 'step_up_required')
  const { handle } = await stepUp(factors, identity, ada.person, { action: 'factor.recovery', resource: ada.id, proof: proof(ada, 0) })
  const fresh = await replaceRecoveryCodes(factors, ada.person, { stepUp: handle })
  await refused(recover(ada, ada.recovery[1]))
  await recover(ada, fresh[0])
})

test('the codes end with the last factor', async () => {
  const ada = await world.guarded()
  const { handle } = await stepUp(factors, identity, ada.person, { action: 'factor.remove', resource: ada.factor, proof: proof(ada, 0) })
  await removeFactor(factors, ada.person, { factor: ada.factor, stepUp: handle })
  assert.deepEqual(await database.admin('select 1 from redoubt.recovery_codes where user_id = $1', [ada.id]), [])
})

test('a code slowed down by wrong guesses is no hindrance to a recovery code, and the right code clears the pause', async () => {
  const ada = await world.guarded()
  const { pending } = await world.begin(ada)
  for (let i = 0; i < 5; i++) await refused(world.complete(pending, { kind: 'totp', code: wrongCode(ada.secret) }))
  await refused(world.complete((await world.begin(ada)).pending, { kind: 'totp', code: codeOf(ada.secret) }), 'too_many_requests')
  await recover(ada, ada.recovery[0])
  const [tries] = await database.admin<{ n: number }>('select count(*)::int as n from redoubt.factor_tries where user_id = $1', [ada.id])
  assert.equal(tries?.n, 0)
  await world.complete((await world.begin(ada)).pending, { kind: 'totp', code: codeOf(ada.secret) })
})

test('the pause doubles up to an hour', async () => {
  const { id } = await world.guarded()
  const pauses: number[] = []
  for (const tries of [4, 5, 6, 8, 12, 40]) {
    await database.admin(`insert into redoubt.factor_tries (user_id, door, tries, last_at) values ($1, 'sign_in', $2, clock_timestamp()) on conflict (user_id, door) do update set tries = excluded.tries, last_at = excluded.last_at`, [id, tries])
    const [row] = await database.admin<{ wait: number }>(`select guard.count_factor_try($1, 'sign_in') as wait`, [id])
    pauses.push(row?.wait ?? -1)
  }
  assert.deepEqual(pauses, [0, 1, 2, 8, 128, 3600])
})

test('attack: a handle from another network or browser, and one that is too old', async () => {
  const ada = await world.guarded()
  const { pending } = await world.begin(ada)
  await refused(world.complete(pending, proof(ada, 0), { address: '198.51.100.7' }), 'code_refused')
  await refused(world.complete(pending, proof(ada, 0), { agent: 'curl/8.0' }), 'code_refused')
  await world.complete(pending, proof(ada, 0), { address: '192.0.2.99' })
  const later = await world.begin(ada)
  await database.admin(`update redoubt.one_time_codes set expires_at = now() - interval '1 second' where user_id = $1`, [ada.id])
  await refused(world.complete(later.pending, proof(ada, 1)), 'code_refused')
})

test('the key of recovery codes is kept while one that is unused depends on it; a challenge keeps none', async () => {
  const count = async (table: number): Promise<number | null> => {
    const [row] = await database.admin<{ n: string | null }>('select guard.key_version_dependants($1, 1, 1) as n', [table])
    return row === undefined || row.n === null ? null : Number(row.n)
  }
  const before = await count(14)
  const ada = await world.guarded()
  await recover(ada, ada.recovery[0])
  assert.equal(await count(14), (before ?? 0) + 9)
  assert.equal(await count(13), 0)
})

test('attack: guesses that come all at once are held up like those that come one by one', async () => {
  const ada = await world.guarded()
  const pending = await Promise.all(Array.from({ length: 8 }, () => world.begin(ada)))
  const begun = performance.now()
  const all = await Promise.allSettled(Array.from({ length: 24 }, (_, i) => world.complete(pending[i % 8]?.pending ?? '', { kind: 'totp', code: wrongCode(ada.secret) })))
  const looked = all.filter((each) => each.status === 'rejected' && each.reason instanceof Refusal && each.reason.code === 'factor_refused').length
  // Five at once, then one after 1, 2, 4 … seconds: on a slow machine a few of these may have passed.
  assert.ok(looked >= 5 && looked <= 5 + Math.ceil(Math.log2((performance.now() - begun) / 1000 + 1)), String(looked))
  assert.ok(all.every(({ status }) => status === 'rejected'))
})
