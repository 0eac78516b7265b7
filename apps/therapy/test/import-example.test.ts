import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { removeEmbedded } from 'redoubt/cli/embedded'
import { openStarts, ready } from './support/starts.ts'

const repository = join(import.meta.dirname, '../../..')
const runbook = await readFile(join(repository, 'docs/runbooks/import-existing-database.md'), 'utf8')
const example = runbook.slice(runbook.indexOf('## An example from end to end'))
const steps = Object.fromEntries([...example.matchAll(/^(\d)\. ([^]*?)(?=^\d\. |(?![^]))/gm)].map(([, n = '', text = '']) => [n, text]))

/** The code of a step in this language, as somebody would copy it. */
function code(step: string, language: string): string {
  const [, text] = new RegExp(`\`\`\`${language}\n([^]*?)\`\`\``).exec(steps[step] ?? '') ?? []
  assert.ok(text !== undefined, `step ${step} has code in ${language === '' ? 'the shell' : language}`)
  return text.replaceAll(/^ {3}/gm, '')
}

/** What a step says is seen. */
function seen(step: string): string {
  const [, text] = /Seen: `([^`]+)`/.exec(steps[step] ?? '') ?? []
  assert.ok(text !== undefined, `step ${step} says what is seen`)
  return text.replaceAll(/ +/g, ' ')
}

const clone = await mkdtemp(join(tmpdir(), 'therapy-import-'))
await chmod(clone, 0o711)
await cp(join(repository, 'apps'), join(clone, 'apps'), { recursive: true, filter: (path) => !path.includes('node_modules') })
await cp(join(repository, 'package.json'), join(clone, 'package.json'))
for (const name of ['node_modules', 'packages']) await symlink(join(repository, name), join(clone, name))
const home = join(clone, '.redoubt')
const { start } = await openStarts()
after(async () => {
  await removeEmbedded(join(home, 'postgres'))
  await rm(clone, { recursive: true, force: true })
})

// What is compiled of the copy goes with it: no other run has a file of this path.
const { NODE_COMPILE_CACHE: shared } = process.env
const compiled = shared === undefined ? {} : { NODE_COMPILE_CACHE: join(clone, 'compiled') }

const begin = () => start([], { command: [process.execPath, join(clone, 'apps/therapy/src/start.ts')], env: { ...compiled, REDOUBT_HOME: home } })

/** The commands of a step, in a shell of the clone, one after the other as long as they end well. */
async function shell(commands: string): Promise<string> {
  const { DATABASE_URL: _, REDOUBT_HOME: __, ...env } = process.env
  const { stdout } = await promisify(execFile)('bash', ['-e', '-c', commands], { cwd: clone, env: { ...env, ...compiled }, encoding: 'utf8' })
  // The runbook leaves out the blanks that align the columns.
  return stdout.replaceAll(/ +/g, ' ')
}

const folder = join(clone, 'apps/therapy/sql')
const numbers = (await readdir(folder)).map((file) => Number(/^\d{6}/.exec(file)?.[0] ?? 0))
const N = Math.max(...numbers) + 1
const numbered = (text: string): string => text.replace(/N$/, String(N)).replace(/M$/, String(N + 1))

/** A migration that the step names, with the code of the step in it. */
async function migration(step: string): Promise<void> {
  const [name, letter = ''] = /00000([NM])_\w+\.sql/.exec(steps[step] ?? '') ?? []
  await writeFile(join(folder, (name ?? '').replace(`00000${letter}`, numbered(letter).padStart(6, '0'))), code(step, 'sql'))
}

const tables = join(clone, 'apps/therapy/src/tables.ts')
async function edit(from: string | RegExp, to: string): Promise<void> {
  const text = await readFile(tables, 'utf8')
  const edited = text.replace(from, to)
  assert.notEqual(edited, text, `tables.ts has ${String(from)}`)
  await writeFile(tables, edited)
}

test('the example of the runbook on imports, from end to end as it stands there', async () => {
  const before = begin()
  await ready(before)
  before.child.kill('SIGINT')
  assert.equal(await before.ended, 0)

  await edit(/^( *insurance_no_enc: .*\n)/m, `$1${code('1', 'ts')}`)
  await edit(/^import \{ /m, 'import { legacy, ')
  await migration('1')
  const first = begin()
  await ready(first)
  assert.ok(first.output().includes(numbered(seen('1'))), first.output())

  const setup = code('3', '')
  const imported = await shell(setup)
  assert.ok(imported.includes(seen('3')), imported)
  // The settings are those of the terminal of step 3.
  const settings = setup.slice(0, setup.indexOf('\n'))
  const wiped = await shell(`${settings}\n${code('4', '')}`)
  assert.ok(wiped.includes(seen('3')), wiped)
  assert.ok(wiped.includes('jobs are not allowed any more on '), wiped)
  first.child.kill('SIGINT')
  assert.equal(await first.ended, 0)

  await edit(/^ *allergies: legacy\(.*\n/m, '')
  await edit('import { legacy, ', 'import { ')
  await migration('5')
  const second = begin()
  await ready(second)
  assert.ok(second.output().includes(numbered(seen('5'))), second.output())
  second.child.kill('SIGINT')
  assert.equal(await second.ended, 0)
})
