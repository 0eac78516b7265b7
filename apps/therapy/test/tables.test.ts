import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { openPool } from 'redoubt/pg'
import { checkDatabase } from 'redoubt/migrate/check'
import { testDatabase } from '../../../packages/redoubt/test/support/database.ts'
import { definers, tables } from '../src/tables.ts'

const database = await testDatabase()
const pool = openPool({ url: database.url('app'), max: 1, emit: () => undefined })
test.after(() => pool.close())

test('the migrated database keeps every guarantee that the declaration names', async () => {
  assert.deepEqual(await checkDatabase(pool, { ...tables, service: database.service }, definers), [])
})

test('what docs/data-classes.md shows of declarations is what is declared', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'therapy-declared-'))
  test.after(() => rm(folder, { recursive: true, force: true }))
  const shown = await readFile(join(import.meta.dirname, '../../../docs/data-classes.md'), 'utf8')
  const [table, columns] = [...shown.matchAll(/^```ts\n([^]*?)^```$/gm)].map(([, code = '']) => `{\n${code}}`)
  const library = new URL('../../../packages/redoubt/src/tables.ts', import.meta.url)
  const file = join(folder, 'shown.mts')
  await writeFile(file, `import { blindIndex, plain, sealed } from '${library.href}'\nexport const table = ${table ?? ''}\nexport const columns = ${columns ?? ''}\n`)
  const read = (await import(pathToFileURL(file).href)) as { readonly table: object; readonly columns: object }
  const { 'therapy.messages': messages, 'redoubt.users': { columns: { email_enc, email_bidx } } } = tables.tables
  assert.deepEqual(read.table, { 'therapy.messages': messages })
  assert.deepEqual(read.columns, { email_enc, email_bidx })
})
