-- The chain that makes the audit log tamper-evident, written by the worker's sequencer alone.
-- Writers of entries never touch it, so they wait neither for it nor for each other: an entry carries its transaction
-- id, and the sequencer takes what lies below the oldest transaction still running. Nothing can commit below that line
-- any more, so nothing is skipped; a long write transaction delays the line and no more.
-- Byte forms: docs/formats.md, "Audit"; vectors: test/vectors/audit.json. Core sha256() only, no extension.

set local role {owner};

create table redoubt.audit_chain (
  seq bigint primary key,
  kind text not null check (kind in ('entry', 'discontinuity')),
  entry_id uuid not null unique,
  -- Copied here because it decides when a deletion is lawful, after the entry itself is gone.
  retain_until timestamptz not null,
  commitment bytea not null check (octet_length(commitment) = 32),
  link bytea not null check (octet_length(link) = 32)
);
create index audit_chain_discontinuities on redoubt.audit_chain (seq) where kind = 'discontinuity';

create table redoubt.audit_head (
  only_row boolean primary key default true check (only_row),
  seq bigint not null,
  link bytea not null check (octet_length(link) = 32),
  -- Every entry of a transaction below this is in the chain; at this one, some may be.
  horizon xid8 not null,
  -- The cluster whose transaction ids these are; null before the first sealing.
  cluster bigint,
  holder uuid,
  held_until timestamptz
);

-- A copy for queries and for noticing a cut anchor file; the anchors that prove anything lie outside the database.
create table redoubt.audit_anchors (
  seq bigint not null,
  link bytea not null check (octet_length(link) = 32),
  kind text not null check (kind in ('head', 'discontinuity')),
  after_seq bigint,
  previous bytea not null check (octet_length(previous) = 32),
  at timestamptz not null,
  kid text not null,
  signature bytea not null check (octet_length(signature) = 64),
  primary key (seq, link, kind)
);

create table redoubt.audit_tombstones (
  seq bigint primary key,
  entry_id uuid not null unique,
  retention_entry uuid not null,
  removed_at timestamptz not null default transaction_timestamp()
);
create index audit_tombstones_by_run on redoubt.audit_tombstones (retention_entry);

-- Retention looks for what is over; a removed entry leaves this index with its row.
create index audit_logs_by_retention on redoubt.audit_logs (retain_until);

grant usage on schema redoubt to {worker};
grant select, insert on redoubt.audit_chain, redoubt.audit_anchors, redoubt.audit_tombstones to {guard};
grant select, insert, update on redoubt.audit_head to {guard};
grant delete on redoubt.audit_logs, redoubt.audit_subjects to {guard};
grant select on redoubt.audit_chain, redoubt.audit_anchors, redoubt.audit_head to {worker};
grant select on redoubt.audit_chain, redoubt.audit_anchors, redoubt.audit_head, redoubt.audit_tombstones to {auditor};

set local role {guard};
-- A chain of this service and no other: rows of one cannot be planted in another under valid links.
insert into redoubt.audit_head (seq, link, horizon)
  values (0, sha256(convert_to('23:redoubt.audit.genesis.1' || octet_length('{service}') || ':{service}', 'UTF8')), '0');

set local role {owner};
alter table redoubt.audit_chain enable row level security;
alter table redoubt.audit_chain force row level security;
alter table redoubt.audit_head enable row level security;
alter table redoubt.audit_head force row level security;
alter table redoubt.audit_anchors enable row level security;
alter table redoubt.audit_anchors force row level security;
alter table redoubt.audit_tombstones enable row level security;
alter table redoubt.audit_tombstones force row level security;
revoke insert on redoubt.audit_head from {guard};

create policy guard_select on redoubt.audit_chain for select to {guard} using (true);
create policy guard_insert on redoubt.audit_chain for insert to {guard} with check (true);
create policy guard_select on redoubt.audit_head for select to {guard} using (true);
create policy guard_update on redoubt.audit_head for update to {guard} using (true) with check (true);
create policy guard_select on redoubt.audit_anchors for select to {guard} using (true);
create policy guard_insert on redoubt.audit_anchors for insert to {guard} with check (true);
create policy guard_select on redoubt.audit_tombstones for select to {guard} using (true);
create policy guard_insert on redoubt.audit_tombstones for insert to {guard} with check (true);
create policy guard_delete on redoubt.audit_logs for delete to {guard} using (retain_until <= transaction_timestamp());
create policy guard_delete on redoubt.audit_subjects for delete to {guard} using (true);
create policy worker_select on redoubt.audit_chain for select to {worker} using (true);
create policy worker_select on redoubt.audit_head for select to {worker} using (true);
create policy worker_select on redoubt.audit_anchors for select to {worker} using (true);
create policy auditor_select on redoubt.audit_chain for select to {auditor} using (true);
create policy auditor_select on redoubt.audit_head for select to {auditor} using (true);
create policy auditor_select on redoubt.audit_anchors for select to {auditor} using (true);
create policy auditor_select on redoubt.audit_tombstones for select to {auditor} using (true);

set local role {guard};

-- Statement triggers fire also where row security would quietly touch 0 rows: the owner gets an error, not a silence.
create function guard.refuse_audit_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_argv[0] = tg_op and current_user = '{service}_guard' then
    return null;
  end if;
  raise exception using errcode = 'RD403', message = 'the audit record is append only';
end $$;

create function guard.require_tombstone() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  gone uuid := case when tg_table_name = 'audit_logs' then (to_jsonb(old) ->> 'id')::uuid else (to_jsonb(old) ->> 'entry_id')::uuid end;
begin
  perform 1 from redoubt.audit_tombstones t where t.entry_id = gone;
  if not found then
    raise exception using errcode = 'RD403', message = 'the audit record is append only';
  end if;
  return old;
end $$;

grant execute on function guard.refuse_audit_change(), guard.require_tombstone() to {owner};
grant usage on schema guard to {owner};

set local role {owner};
-- Every column but personal_enc, which the chain does not hold either: a new data key brings a new sealing of the same
-- value. Nobody may update it but a job while jobs are allowed (migrate/rights.ts); its commitment tells any other value.
create trigger append_only before update of id, xid, occurred_at, actor_type, actor_id, actor_role, tenant_id, action, resource_type,
    resource_id, purpose, outcome, request_id, metadata, personal_commitment, retention_class, retain_until or delete or truncate on redoubt.audit_logs
  for each statement execute function guard.refuse_audit_change('DELETE');
create trigger append_only before update or delete or truncate on redoubt.audit_subjects
  for each statement execute function guard.refuse_audit_change('DELETE');
create trigger tombstone_first before delete on redoubt.audit_logs
  for each row execute function guard.require_tombstone();
create trigger tombstone_first before delete on redoubt.audit_subjects
  for each row execute function guard.require_tombstone();
create trigger append_only before update or delete or truncate on redoubt.audit_chain
  for each statement execute function guard.refuse_audit_change();
create trigger append_only before update or delete or truncate on redoubt.audit_anchors
  for each statement execute function guard.refuse_audit_change();
create trigger append_only before update or delete or truncate on redoubt.audit_tombstones
  for each statement execute function guard.refuse_audit_change();
create trigger one_row before update or delete or truncate on redoubt.audit_head
  for each statement execute function guard.refuse_audit_change('UPDATE');

set local role {guard};

-- The canonical form. These run with the rights of their caller and have no SET of their own: the planner puts the SQL
-- ones in line, and a SET would cost more than the hash. Only guard may call them, from functions with a pinned path.

-- One value: '-' for null, else its length in bytes, ':', the value. Two lists of values never give the same text.
create function guard.netstring(value text) returns text
language sql immutable parallel safe
as $$ select coalesce(octet_length(value)::text || ':' || value, '-') $$;

create function guard.microseconds(at timestamptz) returns text
language sql stable parallel safe
as $$ select (extract(epoch from at) * 1000000)::bigint::text $$;

-- Every column of an entry but personal_enc, then its subjects in order, joined by commas (null where there are none).
create function guard.entry_commitment(e redoubt.audit_logs, subjects text) returns bytea
language sql stable parallel safe
as $$
  select sha256(convert_to('21:redoubt.audit.entry.1'
    || guard.netstring(e.id::text) || guard.netstring(e.xid::text) || guard.netstring(guard.microseconds(e.occurred_at))
    || guard.netstring(e.actor_type) || guard.netstring(e.actor_id::text) || guard.netstring(e.actor_role)
    || guard.netstring(e.tenant_id) || guard.netstring(e.action) || guard.netstring(e.resource_type)
    || guard.netstring(e.resource_id) || guard.netstring(e.purpose) || guard.netstring(e.outcome)
    || guard.netstring(e.request_id) || guard.netstring(e.metadata::text)
    || guard.netstring(encode(e.personal_commitment, 'hex')) || guard.netstring(e.retention_class)
    || guard.netstring(guard.microseconds(e.retain_until)) || guard.netstring(subjects), 'UTF8'))
$$;

-- The next link; `running` is null for the first of a batch, which continues from `head`.
create function guard.next_link(running bytea, head bytea, seq bigint, kind text, entry_id uuid, retain_until timestamptz, commitment bytea)
returns bytea
language plpgsql stable parallel safe
as $$
begin
  return sha256(convert_to('20:redoubt.audit.link.1' || guard.netstring(seq::text) || guard.netstring(kind)
    || guard.netstring(entry_id::text) || guard.netstring(guard.microseconds(retain_until))
    || guard.netstring(encode(commitment, 'hex')) || guard.netstring(encode(coalesce(running, head), 'hex')), 'UTF8'));
end $$;

-- Used as a window function it links a whole batch in one pass, inside one set-based insert.
create aggregate guard.links(bytea, bigint, text, uuid, timestamptz, bytea) (sfunc = guard.next_link, stype = bytea);

-- The cluster these transaction ids belong to; 0 where the server does not tell.
create function guard.cluster() returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return (select c.system_identifier from pg_control_system() c);
exception when insufficient_privilege then
  return 0;
end $$;

-- Appends these entries in the given order behind the locked head, and returns the new head.
create function guard.append_links(ids uuid[], head_seq bigint, head_link bytea, kind text) returns table (seq bigint, link bytea)
language plpgsql
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
begin
  insert into redoubt.audit_chain (seq, kind, entry_id, retain_until, commitment, link)
    select f.seq, append_links.kind, f.id, f.retain_until, f.commitment,
        guard.links(head_link, f.seq, append_links.kind, f.id, f.retain_until, f.commitment)
          over (order by f.seq rows between unbounded preceding and current row)
      from (
        select head_seq + i.n as seq, e.id, e.retain_until, guard.entry_commitment(e, s.subjects) as commitment
          from unnest(ids) with ordinality i (id, n)
          join redoubt.audit_logs e on e.id = i.id
          cross join lateral (
            select string_agg(a.subject_id::text, ',' order by a.subject_id) as subjects
              from redoubt.audit_subjects a where a.entry_id = e.id
          ) s
      ) f;
  return query select c.seq, c.link from redoubt.audit_chain c where c.seq = head_seq + cardinality(ids);
  if not found then
    raise exception using errcode = 'RD503', message = 'an entry to be sealed is missing';
  end if;
end $$;

-- Seals up to `max_entries` entries. Whoever holds the head row seals; a second worker waits here and finds less to do.
-- The snapshot is taken after the lock, by a statement of its own: what lies below its xmin is settled for good.
create function guard.seal_audit(max_entries int)
returns table (sealed int, seq bigint, link bytea, oldest_unsealed double precision)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
  head redoubt.audit_head;
  now_seen pg_snapshot;
  ids uuid[];
begin
  if max_entries not between 1 and 100000 then
    raise exception using errcode = '22023', message = 'max_entries must be 1 to 100000';
  end if;
  -- Looked at without the lock first: an idle service writes nothing.
  select h.* into head from redoubt.audit_head h;
  now_seen := pg_current_snapshot();
  if head.cluster is not null and (head.cluster <> guard.cluster() or head.horizon > pg_snapshot_xmax(now_seen)) then
    raise exception using errcode = 'RD409', message = 'audit_interrupted';
  end if;
  perform 1 from redoubt.audit_logs e where e.xid >= head.horizon and e.xid < pg_snapshot_xmin(now_seen) limit 1;
  if found then
    select h.* into head from redoubt.audit_head h for update;
    now_seen := pg_current_snapshot();
    ids := array(
      select e.id from redoubt.audit_logs e
        where e.xid >= head.horizon and e.xid < pg_snapshot_xmin(now_seen)
          and (select c.seq from redoubt.audit_chain c where c.entry_id = e.id) is null
        order by e.xid, e.id limit max_entries);
  end if;
  sealed := coalesce(cardinality(ids), 0);
  if sealed > 0 then
    -- An anchor must never be ahead of what a crash leaves: the head is on disk before it is signed.
    if current_setting('synchronous_commit') = 'off' then
      perform set_config('synchronous_commit', 'on', true);
    end if;
    select a.seq, a.link into head.seq, head.link from guard.append_links(ids, head.seq, head.link, 'entry') a;
    if sealed = max_entries then
      select e.xid into head.horizon from redoubt.audit_logs e where e.id = ids[sealed];
    else
      head.horizon := pg_snapshot_xmin(now_seen);
    end if;
    update redoubt.audit_head h set seq = head.seq, link = head.link, horizon = head.horizon, cluster = guard.cluster();
  elsif ids is not null and head.horizon < pg_snapshot_xmin(now_seen) then
    head.horizon := pg_snapshot_xmin(now_seen);
    update redoubt.audit_head h set horizon = head.horizon;
  end if;
  seq := head.seq;
  link := head.link;
  select extract(epoch from clock_timestamp() - e.occurred_at) into oldest_unsealed from redoubt.audit_logs e
    where e.xid >= head.horizon and e.xid < pg_snapshot_xmax(now_seen)
      and (select c.seq from redoubt.audit_chain c where c.entry_id = e.id) is null
    order by e.xid, e.id limit 1;
  oldest_unsealed := coalesce(oldest_unsealed, 0);
  return next;
end $$;

revoke all on function guard.refuse_audit_change(), guard.require_tombstone(), guard.netstring(text), guard.microseconds(timestamptz),
  guard.entry_commitment(redoubt.audit_logs, text), guard.next_link(bytea, bytea, bigint, text, uuid, timestamptz, bytea),
  guard.links(bytea, bigint, text, uuid, timestamptz, bytea), guard.cluster(), guard.append_links(uuid[], bigint, bytea, text),
  guard.seal_audit(int) from public;
grant execute on function guard.seal_audit(int) to {worker};
grant execute on function guard.cluster() to {auditor};
