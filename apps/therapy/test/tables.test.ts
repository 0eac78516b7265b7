import assert from 'node:assert/strict'
import { test } from 'node:test'
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
