-- Jobs that re-encrypt, import, wipe and verify sealed columns while the service runs (reencrypt.ts). The migrator's login
-- runs them: it may become owner anyway, so no process that runs all the time gets rights on everybody's rows. On the
-- tables themselves it has none either, but while jobs are allowed (`redoubt reencrypt allow`, migrate/rights.ts).

set local role {owner};

create table redoubt.crypto_jobs (
  id uuid primary key,
  kind text not null check (kind in ('reencrypt', 'import', 'wipe', 'verify')),
  table_id int not null check (table_id between 1 and 65535),
  table_name text not null,
  columns text[] not null,
  state text not null default 'running' check (state in ('running', 'done')),
  -- A pass over all rows. Another one follows while the proof finds rows that were written the old way meanwhile.
  round int not null default 1 check (round between 1 and 100),
  rows_expected bigint not null default 0,
  started_at timestamptz not null default now(),
  started_by text not null default session_user,
  finished_at timestamptz,
  -- Whoever proves now.
  holder uuid,
  held_until timestamptz,
  -- The proof: every row was looked at between these two, and none needed the job any more. Null where some did.
  proven_from timestamptz,
  proven_at timestamptz,
  -- Counts of the last proof by column, never a value.
  proof jsonb,
  check (proven_at >= proven_from),
  check ((state = 'done') = (finished_at is not null))
);
create unique index crypto_jobs_one_running on redoubt.crypto_jobs (kind, table_id) where state = 'running';
create index crypto_jobs_by_proof on redoubt.crypto_jobs (table_id, kind, proven_at);

-- One row per range of row ids: where its worker is, and what it counted. Written in the transaction of each batch.
create table redoubt.crypto_job_cursors (
  job_id uuid not null references redoubt.crypto_jobs (id),
  round int not null,
  range_no int not null,
  -- The next id to look at, and the last of the range.
  next_id uuid not null,
  last_id uuid not null,
  holder uuid,
  held_until timestamptz,
  done_at timestamptz,
  changed bigint not null default 0,
  already bigint not null default 0,
  absent bigint not null default 0,
  erased bigint not null default 0,
  failed bigint not null default 0,
  primary key (job_id, round, range_no)
);

create table redoubt.crypto_job_failures (
  job_id uuid not null references redoubt.crypto_jobs (id),
  row_id uuid not null,
  column_name text not null,
  -- A class of error, never a value.
  reason text not null check (reason ~ '^[a-z_]{3,40}$'),
  at timestamptz not null default now(),
  primary key (job_id, row_id, column_name)
);

do $$
declare t text;
begin
  foreach t in array array['crypto_jobs', 'crypto_job_cursors', 'crypto_job_failures'] loop
    execute format('alter table redoubt.%I enable row level security', t);
    execute format('alter table redoubt.%I force row level security', t);
    execute format('create policy app_select on redoubt.%I for select to {app} using (false)', t);
    execute format('create policy app_insert on redoubt.%I for insert to {app} with check (false)', t);
    execute format('create policy app_update on redoubt.%I for update to {app} using (false) with check (false)', t);
    execute format('create policy app_delete on redoubt.%I for delete to {app} using (false)', t);
    execute format('create policy migrator_select on redoubt.%I for select to {migrator} using (true)', t);
    execute format('create policy migrator_insert on redoubt.%I for insert to {migrator} with check (true)', t);
    execute format('create policy migrator_update on redoubt.%I for update to {migrator} using (true) with check (true)', t);
    execute format('create policy others_select on redoubt.%I for select to {auditor}, {worker}, {keys} using (true)', t);
  end loop;
end $$;
grant usage on schema redoubt to {migrator}, {keys};
grant select on redoubt.crypto_jobs, redoubt.crypto_job_cursors, redoubt.crypto_job_failures to {auditor}, {worker}, {keys};
-- A job is never deleted: it is the record of who touched every row. What failed and was settled since is.
grant select, insert, update on redoubt.crypto_jobs, redoubt.crypto_job_cursors to {migrator};
grant select, insert, update, delete on redoubt.crypto_job_failures to {migrator};
create policy migrator_delete on redoubt.crypto_job_failures for delete to {migrator} using (true);

-- First statement of a batch: its transaction ends here unless the range is still this worker's. A worker that was away
-- longer than its lease (a paused machine) would otherwise move the cursor of whoever went on without it.
create function redoubt.hold_crypto_range(p_job uuid, p_round int, p_range int, p_holder uuid) returns void
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  perform 1 from redoubt.crypto_job_cursors c
    where c.job_id = p_job and c.round = p_round and c.range_no = p_range and c.holder = p_holder and c.done_at is null for update;
  if not found then
    raise exception using errcode = 'RD409', message = 'conflict';
  end if;
end $$;
revoke all on function redoubt.hold_crypto_range(uuid, int, int, uuid) from public;
grant execute on function redoubt.hold_crypto_range(uuid, int, int, uuid) to {migrator};

set local role {guard};
-- No value commits under a key that is being destroyed, also from here.
grant execute on function guard.hold_keys(bytea[]) to {migrator};
grant usage on schema guard to {migrator};

-- The entry of a job in the audit record: who went over everybody's sealed values, over which columns, and how it ended.
-- A job runs past the gate, so there is no verified caller: the function itself says who it was, and reads the rest from
-- the job's row. In the transaction that begins or ends the job.
create function guard.note_job(p_job uuid, p_deed text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  job redoubt.crypto_jobs;
begin
  select j.* into job from redoubt.crypto_jobs j where j.id = p_job;
  if not found or p_deed not in ('job.started', 'job.ended') then
    raise exception using errcode = '22023', message = 'no such job, or no such deed';
  end if;
  perform pg_catalog.set_config('synchronous_commit', 'on', true);
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, resource_type, resource_id,
      purpose, outcome, request_id, metadata, retention_class, retain_until)
    values (pg_catalog.gen_random_uuid(), pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(), 'system', 'system.operator',
      '{service}', p_deed, 'crypto_job', job.id::text, job.kind, 'done', 'job',
      pg_catalog.jsonb_build_object('table', job.table_name, 'columns', job.columns, 'login', session_user, 'proven', job.proven_at is not null),
      'change', pg_catalog.transaction_timestamp() + pg_catalog.make_interval(days => 2557));
end $$;
revoke all on function guard.note_job(uuid, text) from public;
grant execute on function guard.note_job(uuid, text) to {migrator};

set local role {owner};
grant select on redoubt.crypto_jobs to {guard};
create policy guard_select on redoubt.crypto_jobs for select to {guard} using (true);
