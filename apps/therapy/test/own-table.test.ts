import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { ready } from './support/starts.ts'
import { openWalk, repository } from './support/walk.ts'

const guide = await readFile(join(repository, 'docs/your-own-table.md'), 'utf8')
const { begin, clone, codes, edit, migration, port, seen, shell, write } = await openWalk(Object.fromEntries([...guide.matchAll(/^## (\d)\. ([^]*?)(?=^## |(?![^]))/gm)].map(([, n = '', text = '']) => [n, text])))

test('a table of one’s own: each step of the walk-through as it stands there', async () => {
  const before = begin()
  await ready(before)
  before.child.kill('SIGINT')
  assert.equal(await before.ended, 0)

  await edit('tables.ts', /^ {2}\},\n\}\)$/m, `${codes('1', 'ts')[0]}$&`)
  const refused = begin()
  assert.equal(await refused.ended, 2, refused.output())
  assert.ok(refused.output().includes(seen('1')), refused.output())

  await migration('2')
  await edit('actions.ts', /^\} as const satisfies Actions$/m, `${codes('3', 'ts')[0]}$&`)
  const [file, imported = '', served = ''] = codes('4', 'ts')
  await write('diary.ts', file)
  await edit('routes.ts', /^import \{ disclosureRoutes/m, `${imported}$&`)
  await edit('routes.ts', /^ *\.\.\.appointmentRoutes\(app\)/m, `${served}$&`)
  // npm run typecheck, of the app alone.
  await writeFile(join(clone, 'tsconfig.own-table.json'), JSON.stringify({ extends: './tsconfig.json', include: ['apps/*/src'] }))
  const compiling = promisify(execFile)(process.execPath, [join(repository, 'node_modules/typescript/bin/tsc'), '--noEmit', '-p', 'tsconfig.own-table.json'], { cwd: clone })

  const running = begin()
  await ready(running)
  assert.ok(running.output().includes(seen('2')), running.output())
  const readme = await readFile(join(repository, 'README.md'), 'utf8')
  const [, first = ''] = /^## A guided tour$[^]*?^```sh\n([^]*?)^```$/m.exec(readme) ?? []
  const told = await shell(`${first.replace('http://localhost:4310', `http://localhost:${port}`)}\n${codes('5', 'sh')[0]}`)
  assert.deepEqual(told.trim().split('\n'), ['Slept through, for once.', 'Slept through, for once.', 'not_found', 'Dr. Helene Brandt'])
  running.child.kill('SIGINT')
  assert.equal(await running.ended, 0)
  assert.equal((await compiling).stdout, '')
})
