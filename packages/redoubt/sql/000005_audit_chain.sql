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
create trigger append_only before update or delete or truncate on redoubt.audit_logs
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

-- After a restore: transaction ids began anew, or the tail that anchors know is gone. Nothing is sealed until somebody
-- says so here; the chain then carries it, and verification demands that the anchors' key has signed it.
-- Entries that came with the restore and lie outside the present transaction ids are taken in behind it.
create function guard.resume_audit(reason text, lost_seq bigint, lost_link bytea)
returns table (seq bigint, link bytea)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  head redoubt.audit_head;
  now_seen pg_snapshot;
  id uuid := gen_random_uuid();
  ids uuid[];
begin
  if resume_audit.reason is null or octet_length(resume_audit.reason) not between 3 and 200 then
    raise exception using errcode = '22023', message = 'reason must have 3 to 200 bytes';
  end if;
  select h.* into head from redoubt.audit_head h for update;
  now_seen := pg_current_snapshot();
  perform 1 from redoubt.audit_chain c where c.seq = lost_seq and c.link = lost_link;
  if (found or lost_seq is null) and coalesce(head.cluster = guard.cluster(), true) and head.horizon <= pg_snapshot_xmax(now_seen) then
    raise exception using errcode = 'RD409', message = 'audit_not_interrupted';
  end if;
  perform set_config('synchronous_commit', 'on', true);
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, outcome, request_id,
      metadata, retention_class, retain_until)
    values (id, pg_current_xact_id(), transaction_timestamp(), 'system', 'system.audit', '{service}', 'audit.resumed', 'done', 'resume',
      jsonb_build_object('reason', resume_audit.reason, 'horizon', head.horizon::text, 'cluster', head.cluster::text,
        'head', head.seq::text, 'lost_seq', lost_seq::text, 'lost_link', encode(lost_link, 'hex')),
      'chain', '9999-12-31 00:00:00+00');
  select a.seq, a.link into head.seq, head.link from guard.append_links(array[id], head.seq, head.link, 'discontinuity') a;
  seq := head.seq;
  link := head.link;
  ids := array(
    select e.id from redoubt.audit_logs e
      where (e.xid < pg_snapshot_xmin(now_seen) or e.xid >= pg_snapshot_xmax(pg_current_snapshot()))
        and not exists (select from redoubt.audit_chain c where c.entry_id = e.id)
      order by e.xid, e.id);
  if cardinality(ids) > 0 then
    select a.seq, a.link into head.seq, head.link from guard.append_links(ids, head.seq, head.link, 'entry') a;
  end if;
  update redoubt.audit_head h set seq = head.seq, link = head.link, horizon = pg_snapshot_xmin(now_seen), cluster = guard.cluster();
  return next;
end $$;

-- Retention: one entry that lists what goes, then tombstones, then the deletion. The tombstones hold once that entry is
-- itself in the chain, and only for entries whose chained retain_until had passed.
create function guard.expire_audit(before timestamptz, max_entries int)
returns table (removed int, retention_entry uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  bound timestamptz := least(before, transaction_timestamp());
  seqs bigint[];
  ids uuid[];
  listed jsonb;
  digest bytea;
begin
  if max_entries not between 1 and 10000 then
    raise exception using errcode = '22023', message = 'max_entries must be 1 to 10000';
  end if;
  perform 1 from redoubt.audit_head h for update;
  select array_agg(o.seq order by o.seq), array_agg(o.entry_id order by o.seq), sha256(string_agg(o.link, ''::bytea order by o.seq))
    into seqs, ids, digest
    from (
      select c.seq, c.entry_id, c.link from redoubt.audit_logs e join redoubt.audit_chain c on c.entry_id = e.id
        where e.retain_until <= bound and c.retain_until <= bound
        order by e.retain_until limit max_entries
    ) o;
  removed := coalesce(cardinality(seqs), 0);
  if removed > 0 then
    select jsonb_agg(jsonb_build_array(r.low, r.high) order by r.low) into listed
      from (
        select min(g.s) as low, max(g.s) as high
          from (select s, s - row_number() over (order by s) as island from unnest(seqs) s) g group by g.island
      ) r;
    retention_entry := gen_random_uuid();
    insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, outcome, request_id,
        metadata, retention_class, retain_until)
      values (retention_entry, pg_current_xact_id(), transaction_timestamp(), 'system', 'system.retention', '{service}',
        'retention.run', 'done', 'retention',
        jsonb_build_object('removed', removed, 'seqs', listed, 'digest', encode(digest, 'hex')), 'chain', '9999-12-31 00:00:00+00');
    insert into redoubt.audit_tombstones (seq, entry_id, retention_entry)
      select t.seq, t.id, expire_audit.retention_entry from unnest(seqs, ids) t (seq, id);
    delete from redoubt.audit_subjects a where a.entry_id = any (ids);
    delete from redoubt.audit_logs e where e.id = any (ids);
  end if;
  return next;
end $$;

-- One sequencer at a time signs and writes anchors; the others stand by and take over when its lease runs out.
create function guard.claim_audit(by_holder uuid, seconds int) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  head redoubt.audit_head;
begin
  if by_holder is null or seconds not between 1 and 60 then
    raise exception using errcode = '22023', message = 'seconds must be 1 to 60';
  end if;
  select h.* into head from redoubt.audit_head h;
  if head.holder <> by_holder and head.held_until > clock_timestamp() then
    return false;
  end if;
  if head.holder = by_holder and head.held_until > clock_timestamp() + make_interval(secs => seconds * 0.8) then
    return true;
  end if;
  update redoubt.audit_head h set holder = by_holder, held_until = clock_timestamp() + make_interval(secs => seconds)
    where h.holder is null or h.holder = by_holder or h.held_until <= clock_timestamp();
  return found;
end $$;

create function guard.release_audit(by_holder uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update redoubt.audit_head h set holder = null, held_until = null where h.holder = by_holder;
end $$;

create function guard.record_anchor(seq bigint, link bytea, kind text, after_seq bigint, previous bytea, at timestamptz, kid text, signature bytea)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into redoubt.audit_anchors (seq, link, kind, after_seq, previous, at, kid, signature)
    values (seq, link, kind, after_seq, previous, at, kid, signature) on conflict do nothing;
end $$;

revoke all on function guard.refuse_audit_change(), guard.require_tombstone(), guard.netstring(text), guard.microseconds(timestamptz),
  guard.entry_commitment(redoubt.audit_logs, text), guard.next_link(bytea, bytea, bigint, text, uuid, timestamptz, bytea),
  guard.links(bytea, bigint, text, uuid, timestamptz, bytea), guard.cluster(), guard.append_links(uuid[], bigint, bytea, text),
  guard.seal_audit(int), guard.resume_audit(text, bigint, bytea), guard.expire_audit(timestamptz, int),
  guard.claim_audit(uuid, int), guard.release_audit(uuid),
  guard.record_anchor(bigint, bytea, text, bigint, bytea, timestamptz, text, bytea) from public;
grant execute on function guard.seal_audit(int), guard.resume_audit(text, bigint, bytea), guard.expire_audit(timestamptz, int),
  guard.claim_audit(uuid, int), guard.release_audit(uuid),
  guard.record_anchor(bigint, bytea, text, bigint, bytea, timestamptz, text, bytea) to {worker};
grant execute on function guard.cluster() to {auditor};
