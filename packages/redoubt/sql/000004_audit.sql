-- The record of who did what. Written by guard.finish() alone, in the caller's own transaction; never
-- updated, but for the sealing of personal_enc under a new key.

set local role {owner};

-- What the columns may hold is checked by guard.finish(), the only writer: a CHECK is read anew for every single entry.
create table redoubt.audit_logs (
  id uuid primary key,
  xid xid8 not null,
  occurred_at timestamptz not null,
  actor_type text not null,
  actor_id uuid,
  actor_role text not null,
  tenant_id text not null,
  action text not null,
  resource_type text,
  resource_id text,
  purpose text,
  outcome text not null,
  request_id text not null,
  metadata jsonb not null default '{}',
  -- Sealed JSON {salt, address} under the actor's key; the chain holds only its commitment, so erasure leaves it whole.
  personal_enc bytea,
  personal_commitment bytea,
  retention_class text not null,
  retain_until timestamptz not null
);
create index audit_logs_by_xid on redoubt.audit_logs (xid, id);
create index audit_logs_by_actor on redoubt.audit_logs (actor_id, id);

-- One row per data subject whose sealed columns were opened, or about whom a row was answered.
create table redoubt.audit_subjects (
  subject_id uuid not null,
  entry_id uuid not null,
  primary key (subject_id, entry_id)
);
create index audit_subjects_by_entry on redoubt.audit_subjects (entry_id);

alter table redoubt.audit_logs enable row level security;
alter table redoubt.audit_logs force row level security;
alter table redoubt.audit_subjects enable row level security;
alter table redoubt.audit_subjects force row level security;

grant select, insert on redoubt.audit_logs, redoubt.audit_subjects to {guard};
create policy guard_select on redoubt.audit_logs for select to {guard} using (true);
create policy guard_insert on redoubt.audit_logs for insert to {guard} with check (true);
create policy guard_select on redoubt.audit_subjects for select to {guard} using (true);
create policy guard_insert on redoubt.audit_subjects for insert to {guard} with check (true);

grant select on redoubt.audit_logs, redoubt.audit_subjects to {auditor}, {app};
create policy auditor_select on redoubt.audit_logs for select to {auditor} using (true);
create policy auditor_select on redoubt.audit_subjects for select to {auditor} using (true);

create policy app_select on redoubt.audit_subjects for select to {app} using (subject_id = (select guard.actor()));
create policy app_insert on redoubt.audit_subjects for insert to {app} with check (false);
create policy app_update on redoubt.audit_subjects for update to {app} using (false) with check (false);
create policy app_delete on redoubt.audit_subjects for delete to {app} using (false);
-- A person sees the entries about them and their own; the sub-select is under audit_subjects' own policy.
create policy app_select on redoubt.audit_logs for select to {app} using (
  actor_id = (select guard.actor())
  or id = any (array(select s.entry_id from redoubt.audit_subjects s))
);
create policy app_insert on redoubt.audit_logs for insert to {app} with check (false);
create policy app_update on redoubt.audit_logs for update to {app} using (false) with check (false);
create policy app_delete on redoubt.audit_logs for delete to {app} using (false);

set local role {guard};

-- The gate's last statement before COMMIT. Actor, tenant, action, request, time, transaction and the entry's own id are
-- stamped from the verified caller, never taken from arguments. A signature carries one id, so it is good for one entry:
-- SQL injected into the transaction that writes one of its own (a reading that never was, in somebody's "who read my
-- data") makes the gate's fail, and with it everything. A look into audit_logs for an entry of this transaction cost more
-- than the entry: its plan was made while the table was small, and read all of it later.
-- What the caller's SQL set for the session ends here (DateStyle made the next caller's timestamps null, array_nulls their
-- nulls texts), in the same transaction and without a statement of its own; not asked for where that SQL called nothing. Then
-- synchronous_commit is set again: a read whose entry dies with the machine would be a read without a trace. Off only where
-- a later commit of the same session is waited for before the answer (pg/pipeline.ts).
create function guard.finish(
  p_resource_type text, p_resource_id text, p_purpose text, p_outcome text, p_metadata jsonb,
  p_personal bytea, p_commitment bytea, p_retention_class text, p_retain_days int, p_subjects uuid[], p_reset boolean, p_durable boolean
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  claim text := pg_catalog.current_setting('redoubt.caller');
begin
  if (p_outcome <> 'done' and p_outcome !~ '^(refused|failed):[a-z_]{3,40}$') or pg_catalog.octet_length(p_commitment) <> 32
     or p_retain_days not between 0 and 36500 then
    raise exception using errcode = '22023', message = 'outcome, commitment or retention out of form';
  end if;
  if who.entry is null then
    raise exception using errcode = 'RD403', message = 'this caller was not signed for an entry';
  end if;
  if p_reset then
    reset all;
    perform pg_catalog.set_config('redoubt.caller', claim, true);
  end if;
  perform pg_catalog.set_config('synchronous_commit', case when p_durable then 'on' else 'off' end, true);
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_id, actor_role, tenant_id, action, resource_type,
      resource_id, purpose, outcome, request_id, metadata, personal_enc, personal_commitment, retention_class, retain_until)
    values (who.entry, pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(),
      case when who.actor is null then 'system' when who.role = 'api_client' then 'api_client' else 'user' end, who.actor, who.role, who.tenant, who.action,
      p_resource_type, p_resource_id, p_purpose, p_outcome, who.request, p_metadata, p_personal, p_commitment,
      p_retention_class, pg_catalog.transaction_timestamp() + pg_catalog.make_interval(days => p_retain_days))
    on conflict (id) do nothing;
  if not found then
    raise exception using errcode = 'RD403', message = 'this signature has left its entry already';
  end if;
  if pg_catalog.cardinality(p_subjects) = 1 then
    insert into redoubt.audit_subjects (subject_id, entry_id) values (p_subjects[1], who.entry);
  elsif pg_catalog.cardinality(p_subjects) > 1 then
    insert into redoubt.audit_subjects (subject_id, entry_id) select s, who.entry from pg_catalog.unnest(p_subjects) s;
  end if;
end $$;

revoke all on function guard.finish(text, text, text, text, jsonb, bytea, bytea, text, int, uuid[], boolean, boolean) from public;
grant execute on function guard.finish(text, text, text, text, jsonb, bytea, bytea, text, int, uuid[], boolean, boolean) to {app}, {worker};
