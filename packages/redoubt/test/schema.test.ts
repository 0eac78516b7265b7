import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { testDatabase } from './support/database.ts'
import { schemaOf, schemaText } from './support/schema.ts'
import { sqlFolders, type Origin } from './support/template.ts'

/** Says `1` to write the files anew after a migration was added. */
const write = process.env['REDOUBT_WRITE_SCHEMA'] === '1'
const kernelSchemas = ['guard', 'keys', 'redoubt']

const kernel = await testDatabase({ origins: ['redoubt'] })
const kernelParts = await schemaOf(kernel, kernelSchemas)

async function agrees(origin: Origin, what: string, schema: string): Promise<void> {
  const header = `-- ${what}, as the catalogue tells it. Nobody runs this file: it is\n-- for reading, and schema.test.ts holds it against the migrations. REDOUBT_WRITE_SCHEMA=1 npm test -- /schema.test writes it.\n\n`
  const file = join(sqlFolders[origin], 'schema.sql')
  if (write) await writeFile(file, header + schema)
  assert.equal(await readFile(file, 'utf8'), header + schema, `${origin}: schema.sql is not what the migrations make`)
}

test('schema.sql of the library is what its migrations make', () => agrees('redoubt', 'What the migrations of Redoubt come to', schemaText(kernelParts)))

test('schema.sql of Therapy is what its migrations add and change', async () => {
  const both = await testDatabase({ origins: ['redoubt', 'therapy'] })
  await agrees('therapy', 'What the migrations of Therapy add to those of Redoubt', schemaText(await schemaOf(both, [...kernelSchemas, 'therapy']), kernelParts))
})

test('what no migration did is seen', async () => {
  const changes = ['grant delete on redoubt.sessions to public', 'alter table redoubt.sessions no force row level security', 'create function guard.planted() returns int language sql as $$ select 1 $$', 'create index planted on redoubt.sessions (tenant)', 'drop policy guard_select on redoubt.sessions']
  let before = schemaText(kernelParts)
  for (const change of changes) {
    await kernel.admin(change)
    const now = schemaText(await schemaOf(kernel, kernelSchemas))
    assert.notEqual(now, before, change)
    before = now
  }
})
