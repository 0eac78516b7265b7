import type { TestDatabase } from './database.ts'

/**
 * A table as an app has them, `attacks.notes`: rows belong to their owner, one policy per command, FORCE.
 * Small enough that a test can say what each person must see.
 */
export async function createNotes(database: TestDatabase): Promise<void> {
  const role = (name: string): string => `"${database.service}_${name}"`
  await database.admin(`
    create schema attacks authorization ${role('owner')};
    grant usage on schema attacks to ${role('app')}, ${role('guard')};
    set role ${role('owner')};
    create table attacks.notes (id uuid primary key default gen_random_uuid(), owner uuid not null, body text not null, at timestamptz not null default now());
    create index on attacks.notes (owner);
    alter table attacks.notes enable row level security;
    alter table attacks.notes force row level security;
    grant select, insert, update, delete on attacks.notes to ${role('app')};
    create policy app_select on attacks.notes for select to ${role('app')} using (owner = (select guard.actor()));
    create policy app_insert on attacks.notes for insert to ${role('app')} with check (owner = (select guard.actor()));
    create policy app_update on attacks.notes for update to ${role('app')} using (owner = (select guard.actor())) with check (owner = (select guard.actor()));
    create policy app_delete on attacks.notes for delete to ${role('app')} using (owner = (select guard.actor()));
    -- What an app's own function might do by mistake: a way to change settings that the gate does not know by its name.
    create function attacks.setting(text, text, boolean) returns text language sql as 'select pg_catalog.set_config($1, $2, $3)';
    revoke all on function attacks.setting(text, text, boolean) from public;
    grant execute on function attacks.setting(text, text, boolean) to ${role('app')};
    reset role;
  `)
}

/** Puts a note there past every policy. */
export async function plantNote(database: TestDatabase, owner: string, body: string): Promise<void> {
  await database.admin('insert into attacks.notes (owner, body) values ($1, $2)', [owner, body])
}
