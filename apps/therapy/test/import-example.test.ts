import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { ready } from './support/starts.ts'
import { openWalk, repository } from './support/walk.ts'

const runbook = await readFile(join(repository, 'docs/runbooks/import-existing-database.md'), 'utf8')
const example = runbook.slice(runbook.indexOf('## An example from end to end'))
const { begin, codes, edit, migration, seen, shell } = await openWalk(Object.fromEntries([...example.matchAll(/^(\d)\. ([^]*?)(?=^\d\. |(?![^]))/gm)].map(([, n = '', text = '']) => [n, text])))

test('the example of the runbook on imports, from end to end as it stands there', async () => {
  const before = begin()
  await ready(before)
  before.child.kill('SIGINT')
  assert.equal(await before.ended, 0)

  await edit('tables.ts', /^( *insurance_no_enc: .*\n)/m, `$1${codes('1', 'ts')[0]}`)
  await edit('tables.ts', /^import \{ /m, 'import { legacy, ')
  await migration('1')
  const first = begin()
  await ready(first)
  assert.ok(first.output().includes(seen('1')), first.output())

  const setup = codes('3', '')[0]
  const imported = await shell(setup)
  assert.ok(imported.includes(seen('3')), imported)
  // The settings are those of the terminal of step 3.
  const settings = setup.slice(0, setup.indexOf('\n'))
  const wiped = await shell(`${settings}\n${codes('4', '')[0]}`)
  assert.ok(wiped.includes(seen('3')), wiped)
  assert.ok(wiped.includes('jobs are not allowed any more on '), wiped)
  first.child.kill('SIGINT')
  assert.equal(await first.ended, 0)

  await edit('tables.ts', /^ *allergies: legacy\(.*\n/m, '')
  await edit('tables.ts', 'import { legacy, ', 'import { ')
  await migration('5')
  const second = begin()
  await ready(second)
  assert.ok(second.output().includes(seen('5')), second.output())
  second.child.kill('SIGINT')
  assert.equal(await second.ended, 0)
})
