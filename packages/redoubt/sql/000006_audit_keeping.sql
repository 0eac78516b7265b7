-- What happens to the chain besides sealing: resumption after a restore, retention, and the sequencer's lease and copies
-- of anchors. All by functions of guard that the worker may call; nobody has rights on the tables themselves.

set local role {guard};

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
  -- The worker asks each minute: sealing is not held up when nothing is over.
  if not exists (select from redoubt.audit_logs e where e.retain_until <= bound) then
    removed := 0;
    return next;
    return;
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

revoke all on function guard.resume_audit(text, bigint, bytea), guard.expire_audit(timestamptz, int),
  guard.claim_audit(uuid, int), guard.release_audit(uuid),
  guard.record_anchor(bigint, bytea, text, bigint, bytea, timestamptz, text, bytea) from public;
grant execute on function guard.resume_audit(text, bigint, bytea), guard.expire_audit(timestamptz, int),
  guard.claim_audit(uuid, int), guard.release_audit(uuid),
  guard.record_anchor(bigint, bytea, text, bigint, bytea, timestamptz, text, bytea) to {worker};
