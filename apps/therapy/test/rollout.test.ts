import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { controlNames } from 'redoubt/controls'
import { repository } from '../src/sources.ts'
import { openClinic, type Instance } from './support/clinic.ts'

const clinic = await openClinic()
const ada = await clinic.patient()
const page = { origin: 'http://therapy.test', 'sec-fetch-site': 'same-origin' } as const

/** A browser signs in at this instance and sends an unsafe request without the token of its session. */
async function withoutToken({ send }: Instance): Promise<number> {
  const login = await send()('POST', '/api/auth/login', { email: ada.email, password: ada.password, session: 'cookie' }, page)
  const cookie = login.headers.getSetCookie().map((line) => line.split(';', 1)[0]).join('; ')
  return (await send()('POST', '/api/auth/logout', undefined, { ...page, cookie })).status
}

test('a control is rolled out as its runbook says: off, report, enforce, and back; each step leaves an entry that an auditor finds', async () => {
  const auditor = await clinic.administrator('auditor')
  const seen: (readonly [string, number, readonly string[]])[] = []
  for (const word of ['insecure-off', 'report', 'enforce', 'report'] as const) {
    const before = clinic.events.length
    const instance = await clinic.another({ controls: { csrf: word } })
    const status = await withoutToken(instance)
    const told = clinic.events.slice(before).flatMap((event) => (event.type === 'security.control_triggered' && event.control === 'csrf' ? [`${event.mode} ${event.rule}`] : []))
    seen.push([word, status, told])
    await instance.stop()
  }
  assert.deepEqual(seen, [['insecure-off', 204, []], ['report', 204, ['report missing']], ['enforce', 403, ['enforce missing']], ['report', 204, ['report missing']]])
  const { status, body, text } = await auditor.send('GET', '/api/admin/audit?action=control.mode_changed&outcome=done')
  assert.equal(status, 200, text)
  assert.deepEqual((body['items'] as unknown as readonly { readonly resource: { readonly id: string } }[]).map(({ resource }) => resource.id), ['csrf', 'csrf', 'csrf', 'csrf'])
  const rows = await clinic.database.admin<{ metadata: unknown }>(`select metadata from redoubt.audit_logs where action = 'control.mode_changed' order by id`)
  assert.deepEqual(rows.map(({ metadata }) => metadata), [{ from: 'enforce', to: 'off' }, { from: 'off', to: 'report' }, { from: 'report', to: 'enforce' }, { from: 'enforce', to: 'report' }])
})

test('the runbook of controls names each of them', () => {
  const told = [...readFileSync(join(repository, 'docs/runbooks/controls.md'), 'utf8').matchAll(/^\| `([a-z-]+)` \| /gm)].map(([, name]) => name)
  assert.deepEqual(told.slice(0, controlNames.length), controlNames)
})
