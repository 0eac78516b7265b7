import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Emit } from './events.ts'
import { openScriptConnection, type ScriptConnection } from './pg.ts'
import { refusalOf } from './pg/refusal.ts'

/** A folder of numbered SQL files; `origin` names whose they are: redoubt or the app. */
export type Source = { readonly origin: string; readonly folder: string }

export type Migration = { readonly origin: string; readonly version: number; readonly name: string; readonly checksum: string; readonly sql: string }

/** The roles of a service (guarantees §5); SQL files write them in braces. */
export const roleNames = ['owner', 'guard', 'migrator', 'app', 'keys', 'worker', 'ingest', 'auditor', 'backup'] as const
export type RoleName = (typeof roleNames)[number]

/** The database has migrations that these files do not explain, or the other way round. */
export class MigrationDrift extends Error {
  override readonly name = 'MigrationDrift'
}

/**
 * Replaces `{app}` by the service's quoted role and `{service}` by its name. Other braces stay.
 * @throws TypeError when the service's name cannot be part of a role name
 */
export function withRoles(sql: string, service: string): string {
  if (!/^[a-z][a-z0-9_]{1,30}$/.test(service)) throw new TypeError('withRoles: service must be small letters, digits, underscores')
  return sql.replace(/\{([a-z]+)\}/g, (token, word: string) =>
    word === 'service' ? service : (roleNames as readonly string[]).includes(word) ? `"${service}_${word}"` : token,
  )
}

/** Reads the numbered files of all sources, in the order in which they are applied. @throws TypeError on a bad name or a number used twice */
export async function readMigrations(sources: readonly Source[]): Promise<readonly Migration[]> {
  const all: Migration[] = []
  for (const { origin, folder } of sources) {
    const files = (await readdir(folder)).filter((file) => file.endsWith('.sql') && file !== 'schema.sql').sort()
    for (const file of files) {
      const match = /^(\d{6})_([a-z0-9_]+)\.sql$/.exec(file)
      if (match === null) throw new TypeError(`migrations: ${file} must be named 000001_what_it_does.sql`)
      const version = Number(match[1])
      if (all.some((other) => other.origin === origin && other.version === version)) throw new TypeError(`migrations: ${origin} has two files with number ${match[1] ?? ''}`)
      const sql = await readFile(join(folder, file), 'utf8')
      all.push({ origin, version, name: match[2] ?? '', checksum: createHash('sha256').update(sql).digest('hex'), sql })
    }
  }
  return all
}

type Applied = { readonly origin: string; readonly version: number; readonly checksum: string }

const ledger = `
  set local role {owner};
  create schema if not exists redoubt;
  create table if not exists redoubt.schema_migrations (
    origin text not null,
    version int not null,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now(),
    applied_by text not null default session_user,
    primary key (origin, version)
  );
  alter table redoubt.schema_migrations enable row level security;
  alter table redoubt.schema_migrations force row level security;
  do $$ begin
    if not exists (select from pg_policy where polrelid = 'redoubt.schema_migrations'::regclass) then
      create policy owner_select on redoubt.schema_migrations for select to {owner} using (true);
      create policy owner_insert on redoubt.schema_migrations for insert to {owner} with check (true);
      create policy app_select on redoubt.schema_migrations for select to {app}, {worker}, {auditor} using (true);
    end if;
  end $$;
  grant usage on schema redoubt to {app}, {worker}, {auditor};
  grant select on redoubt.schema_migrations to {app}, {worker}, {auditor};
`

/** What is applied but unknown or changed, as sentences. Empty when files and database agree so far. */
export function drift(files: readonly Migration[], applied: readonly Applied[]): readonly string[] {
  return applied.flatMap((row) => {
    const file = files.find((other) => other.origin === row.origin && other.version === row.version)
    const where = `${row.origin}/${String(row.version).padStart(6, '0')}`
    if (file === undefined) return [`${where} is applied but there is no such file: this release is older than the database`]
    return file.checksum === row.checksum ? [] : [`${where} was changed after it was applied: write a new migration instead`]
  })
}

/**
 * Brings a database to the state of the files: one transaction per file, one migrator at a time, nothing waits longer
 * than five seconds for a lock that a running request holds.
 * @param settings.url the migrator's login, straight to the server (no pooler)
 * @returns the migrations applied now
 * @throws Refusal database_unavailable when there is no connection; MigrationDrift when an applied file is gone or changed; the server's own error when a statement fails
 */
export async function migrate(settings: { readonly url: string; readonly service: string; readonly sources: readonly Source[]; readonly emit?: Emit }): Promise<readonly Migration[]> {
  const files = await readMigrations(settings.sources)
  const connection = await openScriptConnection(settings.url).catch((error: unknown) => {
    throw refusalOf(error).refusal
  })
  try {
    await inTransaction(connection, settings.service, ledger)
    const done: Migration[] = []
    for (;;) {
      const applied = await applyNext(connection, settings.service, files)
      if (applied === undefined) return done
      done.push(applied.migration)
      settings.emit?.({ type: 'migration.applied', version: `${applied.migration.origin}/${applied.migration.version}`, milliseconds: applied.milliseconds })
    }
  } finally {
    await connection.close()
  }
}

/** A script in a transaction of its own, with the migrators' lock. */
export async function inTransaction(connection: ScriptConnection, service: string, sql: string): Promise<void> {
  await connection.script(`begin; set local lock_timeout = '5s'; set local statement_timeout = '10min'; select pg_advisory_xact_lock(7301, 1)`)
  try {
    await connection.script(withRoles(sql, service))
    await connection.script('commit')
  } catch (error) {
    await connection.script('rollback')
    throw error
  }
}

/** Applies the first file that is missing; the list is read again under the lock, so that a second migrator repeats nothing. */
async function applyNext(connection: ScriptConnection, service: string, files: readonly Migration[]): Promise<{ readonly migration: Migration; readonly milliseconds: number } | undefined> {
  const started = performance.now()
  await connection.script(`begin; set local lock_timeout = '60s'; select pg_advisory_xact_lock(7301, 1); set local lock_timeout = '5s'; set local statement_timeout = '10min'`)
  try {
    await connection.script(withRoles('set local role {owner}', service))
    const applied = await connection.query<Applied>('select origin, version, checksum from redoubt.schema_migrations')
    const problems = drift(files, applied)
    if (problems.length > 0) throw new MigrationDrift(`migrations: ${problems.join('; ')}`)
    const next = files.find((file) => !applied.some((row) => row.origin === file.origin && row.version === file.version))
    if (next === undefined) {
      await connection.script('rollback')
      return undefined
    }
    await connection.script(withRoles(next.sql, service))
    await connection.script(withRoles('set local role {owner}', service))
    await connection.query('insert into redoubt.schema_migrations (origin, version, name, checksum) values ($1, $2, $3, $4)', [next.origin, next.version, next.name, next.checksum])
    await connection.script('commit')
    return { migration: next, milliseconds: Math.round(performance.now() - started) }
  } catch (error) {
    await connection.script('rollback')
    throw error
  }
}
