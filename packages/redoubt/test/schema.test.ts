import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { testDatabase } from './support/database.ts'
import { schemaOf } from './support/schema.ts'
import { sqlFolders, type Origin } from './support/template.ts'

/** Says `1` to write the files anew after a migration was added. */
const write = process.env['REDOUBT_WRITE_SCHEMA'] === '1'

async function agrees(origin: Origin, origins: readonly Origin[], schemas: readonly string[]): Promise<void> {
  const database = await testDatabase({ origins })
  const header = `-- What the migrations of ${origins.join(' and ')} come to, as the catalogue tells it. Nobody runs this file: it is for reading,\n-- and schema.test.ts holds it against the migrations. Written anew by REDOUBT_WRITE_SCHEMA=1 npm test -- schema\n\n`
  const made = header + (await schemaOf(database, schemas))
  const file = join(sqlFolders[origin], 'schema.sql')
  if (write) await writeFile(file, made)
  assert.equal(made, await readFile(file, 'utf8'), `${origin}: schema.sql is not what the migrations make`)
  assert.notEqual(await schemaOf(database, schemas), '', 'the catalogue tells nothing')

  // The look has teeth: what the migrations did not do is seen.
  const before = await schemaOf(database, schemas)
  for (const change of ['grant delete on redoubt.sessions to public', 'alter table redoubt.sessions no force row level security', 'create function guard.planted() returns int language sql as $$ select 1 $$', 'create index planted on redoubt.sessions (tenant)']) {
    const now = await schemaOf(database, schemas)
    await database.admin(change)
    assert.notEqual(await schemaOf(database, schemas), now, change)
  }
  assert.notEqual(await schemaOf(database, schemas), before)
}

test('schema.sql of the library is what its migrations make', () => agrees('redoubt', ['redoubt'], ['guard', 'keys', 'redoubt']))

test('schema.sql of Therapy is what its migrations make on top', () => agrees('therapy', ['redoubt', 'therapy'], ['guard', 'keys', 'redoubt', 'therapy']))
