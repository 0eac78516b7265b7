import { join } from 'node:path'
import { Refusal } from 'redoubt/errors'
import { drift, readMigrations, type Source } from 'redoubt/migrate'
import type { Pool } from 'redoubt/pg'

export const repository = join(import.meta.dirname, '../../..')

/** The numbered SQL files, in the order in which they are applied. */
export const sources: readonly Source[] = [
  { origin: 'redoubt', folder: join(repository, 'packages/redoubt/sql') },
  { origin: 'therapy', folder: join(repository, 'apps/therapy/sql') },
]

/**
 * For readiness: the database has every migration of this release, and none that it does not know.
 * @throws Refusal database_error, saying which
 */
export async function checkMigrations(pool: Pool): Promise<void> {
  const files = await readMigrations(sources)
  const applied = await pool.query<{ readonly origin: string; readonly version: number; readonly checksum: string }>({
    text: 'select origin, version, checksum from redoubt.schema_migrations', values: [],
  })
  const missing = files.filter((file) => !applied.some((row) => row.origin === file.origin && row.version === file.version))
  const problems = [...drift(files, applied), ...missing.map(({ origin, version }) => `${origin}/${version} is not applied`)]
  if (problems.length > 0) throw new Refusal('database_error', { detail: problems.join('; ') })
}
