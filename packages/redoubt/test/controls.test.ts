import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { assignments } from '../src/config.ts'
import { controlActions, controlNames, recordModes } from '../src/controls.ts'
import { openControls } from '../src/http/controls.ts'
import { kernelRetention } from '../src/tables/kernel.ts'
import { transaction } from '../src/transaction.ts'
import { makeAccount } from './support/accounts.ts'
import { testDatabase } from './support/database.ts'
import { openTestGate } from './support/gate.ts'

const database = await testDatabase()
const opened = await openTestGate(database)
after(() => opened.close())
const gate = { ...opened.gate, actions: { ...opened.gate.actions, ...controlActions }, retention: kernelRetention }
const visitor = { requestId: 'start', address: null }
const modes = (given: Parameters<typeof openControls>[0]): ReturnType<typeof openControls>['modes'] => openControls(given, { emit: () => undefined, insecureOff: true }).modes
const start = (given: Parameters<typeof openControls>[0], usual = {}): ReturnType<typeof recordModes> => recordModes(gate, database.service, visitor, modes(given), usual)
const entries = async (): Promise<readonly unknown[]> =>
  (await database.admin<{ resource_id: string; outcome: string; metadata: unknown; actor_role: string }>(`select resource_id, outcome, metadata, actor_role from redoubt.audit_logs where action = 'control.mode_changed' order by id`))
    .map(({ resource_id, outcome, metadata, actor_role }) => [actor_role, resource_id, outcome, metadata])

test('a start with other modes than the last one leaves an entry for each; one with the same leaves none', async () => {
  assert.deepEqual(await start({}), [], 'what enforces from the first start on is no change')
  assert.deepEqual(await start({ https: 'off' }, { https: 'off' }), [], 'nor is what is usual here')
  assert.deepEqual(await start({ csrf: 'report', csp: 'off' }), [{ control: 'csrf', from: 'enforce', to: 'report' }, { control: 'csp', from: 'enforce', to: 'off' }])
  assert.deepEqual(await start({ csrf: 'report', csp: 'off' }), [])
  assert.deepEqual(await start({ csp: 'off' }), [{ control: 'csrf', from: 'report', to: 'enforce' }])
  const by = 'system.controls'
  assert.deepEqual(await entries(), [
    [by, 'csrf', 'done', { from: 'enforce', to: 'report' }], [by, 'csp', 'done', { from: 'enforce', to: 'off' }], [by, 'csrf', 'done', { from: 'report', to: 'enforce' }],
  ])
})

test('where several instances start at once, one of them writes the entry', async () => {
  const before = (await entries()).length
  const done = await Promise.all(Array.from({ length: 6 }, () => start({ csp: 'off', origin: 'report' })))
  assert.equal(done.flat().length, 1)
  const written = (await entries()).slice(before) as readonly (readonly string[])[]
  assert.deepEqual(written.filter(([, , outcome]) => outcome === 'done').length, 1)
  assert.ok(written.every(([, , outcome]) => outcome === 'done' || outcome === 'refused:conflict'))
})

test('attack: SQL of a person hides a change of mode', async () => {
  const person = await makeAccount(database, 'mallory', 'admin')
  const run = (text: string): Promise<readonly unknown[]> => transaction(gate, person, 'test.write', (tx) => tx.query({ text, values: [] }))
  assert.deepEqual(await run('select name from redoubt.control_modes'), [])
  assert.deepEqual(await run(`update redoubt.control_modes set mode = 'off' returning name`), [])
  await assert.rejects(run(`insert into redoubt.control_modes (name, tenant, mode) values ('https', '${database.service}', 'off')`))
  await assert.rejects(run('delete from redoubt.control_modes'))
})

test('the setting of the modes: names and words that exist, each once; off only outside production', () => {
  const { schema, refuse } = assignments(controlNames, ['off', 'insecure-off', 'report', 'enforce'], ['off'])
  assert.deepEqual(schema.parse(' csrf=report, https=off '), { csrf: 'report', https: 'off' })
  assert.deepEqual(schema.parse(''), {})
  for (const text of ['csrf', 'csrf=', 'csrf=on', 'crsf=off', 'csrf=off,csrf=report', 'csrf=off=x', '__proto__=off', '=off']) assert.equal(schema.safeParse(text).success, false, text)
  assert.match(refuse?.({ csrf: 'off' }) ?? '', /insecure-off/)
  assert.equal(refuse?.({ csrf: 'insecure-off', csp: 'report' }), null)
})
