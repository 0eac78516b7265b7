-- Rotation of keys, level by level. What must not be seen half done is one function here; each leaves its entry in the
-- audit record within the same transaction. The keyring does the cryptography and calls these (keyring/*).

set local role {guard};

-- The entry of a deed on keys. Keys are handled by an operator or a job past the gate, so there is no verified caller:
-- the function itself names who it was, and only the keys role may call it.
create function guard.note_key(p_deed text, p_kind text, p_key text, p_metadata jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if p_deed not in ('key.rotated', 'key.rewrapped', 'key.retired', 'key.moved') or p_kind !~ '^[a-z][a-z0-9:._-]{1,60}$'
     or pg_catalog.length(p_key) > 100 or pg_catalog.pg_column_size(p_metadata) > 4000 then
    raise exception using errcode = '22023', message = 'deed, kind, key or metadata out of form';
  end if;
  perform pg_catalog.set_config('synchronous_commit', 'on', true);
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, resource_type, resource_id,
      purpose, outcome, request_id, metadata, retention_class, retain_until)
    values (pg_catalog.gen_random_uuid(), pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(), 'system', 'system.keys',
      '{service}', p_deed, 'key', p_key, 'key management', 'done', 'keys',
      coalesce(p_metadata, '{}') || pg_catalog.jsonb_build_object('kind', p_kind), 'change',
      pg_catalog.transaction_timestamp() + pg_catalog.make_interval(days => 2557));
end $$;

-- Nobody signs with these keys any more in p_seconds; each process replaces its own before that (transaction/signer).
-- With 0 they are gone at once, and so are the requests under way.
create function guard.expire_caller_keys(p_seconds int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  met int;
begin
  if p_seconds not between 0 and 86400 then
    raise exception using errcode = '22023', message = 'seconds must be 0 to 86400';
  end if;
  if p_seconds = 0 then
    delete from guard.caller_keys k;
    get diagnostics met = row_count;
  else
    -- No policy lets anybody alter a row: it is written again, with less time.
    with gone as (delete from guard.caller_keys k where k.not_after > pg_catalog.now() + pg_catalog.make_interval(secs => p_seconds) returning k.*)
    insert into guard.caller_keys (kid, prefix, inner_pad, outer_pad, not_after)
      select g.kid, g.prefix, g.inner_pad, g.outer_pad, pg_catalog.now() + pg_catalog.make_interval(secs => p_seconds) from gone g;
    get diagnostics met = row_count;
  end if;
  perform guard.note_key('key.rotated', 'caller', null, pg_catalog.jsonb_build_object('keys', met, 'seconds', p_seconds));
  return met;
end $$;

-- How long a process's own key is still accepted, in seconds; null when it is gone.
create function guard.caller_key_seconds(p_kid text) returns float8
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select extract(epoch from k.not_after - pg_catalog.now())::float8 from guard.caller_keys k where k.kid = p_kid $$;

-- For the status: how many processes have a key, and the time the first and the last of them ends.
create function guard.caller_keys_summary() returns table (live int, first_ends timestamptz, last_ends timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select pg_catalog.count(*)::int, pg_catalog.min(k.not_after), pg_catalog.max(k.not_after) from guard.caller_keys k where k.not_after > pg_catalog.now() $$;

-- While two versions of an address's blind index are in use, its unique index does not see that two rows mean the same
-- address. Whoever is about to write one takes the oldest version's value until the end of the transaction, then looks
-- for all of them. p_email_bidx: every version, in any order; the version is the first byte.
create function guard.claim_email(p_email_bidx bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  -- Verified before anything is looked at: for anybody else this would be an oracle of who has an account.
  who guard.verified := guard.caller();
begin
  if who.role not in ('system.register', 'system.create-admin') and who.actor is null or pg_catalog.cardinality(p_email_bidx) not between 1 and 4 then
    raise exception using errcode = 'RD403', message = 'not for this caller';
  end if;
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(
    (select pg_catalog.min(pg_catalog.encode(b, 'hex')) from pg_catalog.unnest(p_email_bidx) b), 7304));
  -- In a statement of its own: its snapshot comes after the lock.
  if exists (select from redoubt.users u where u.email_bidx = any (p_email_bidx) and u.status <> 'pending' and u.id is distinct from who.actor) then
    raise exception using errcode = 'RD409', message = 'already_exists';
  end if;
end $$;

-- What still depends on a version of an index key that no blind index is made with, but a hash: how many rows. Null: nobody
-- knows, so it is needed. Kernel tables and columns by the numbers of tables/kernel.ts.
create function guard.key_version_dependants(p_table int, p_column int, p_version int) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    -- A password is hashed under the key in front of it until its owner signs in.
    when p_table = 1 and p_column = 100 then (select pg_catalog.count(*) from redoubt.users u where pg_catalog.starts_with(u.password_hash, p_version || '$') and u.status <> 'deleted')
    -- The salt of an exchange counts for the ten seconds in which it may be asked for again.
    when p_table = 2 and p_column = 1 then 0
    when p_table = 2 and p_column = 2 then (select pg_catalog.count(*) from redoubt.sessions s where pg_catalog.get_byte(s.binding, 0) = p_version and s.revoked_at is null
      and s.idle_expires_at > pg_catalog.now() and s.absolute_expires_at > pg_catalog.now())
    -- Of a client until its secret is rotated.
    when p_table = 9 and p_column = 1 then (select pg_catalog.count(*) from redoubt.api_clients c where c.revoked_at is null
      and (pg_catalog.get_byte(c.binding, 0) = p_version or c.previous_until > pg_catalog.now() and pg_catalog.get_byte(c.previous_binding, 0) = p_version))
    when p_table = 8 and p_column = 1 then (select pg_catalog.count(*) from redoubt.one_time_codes c where pg_catalog.get_byte(c.handle_hash, 0) = p_version and c.expires_at > pg_catalog.now())
    -- The challenge of a passkey counts for five minutes.
    when p_table = 13 and p_column = 1 then 0
    when p_table = 14 and p_column = 1 then (select pg_catalog.count(*) from redoubt.recovery_codes r where pg_catalog.get_byte(r.code_hash, 0) = p_version and r.last_used_at is null)
  end;
end $$;

revoke all on function guard.note_key(text, text, text, jsonb), guard.key_version_dependants(int, int, int), guard.expire_caller_keys(int), guard.caller_key_seconds(text),
  guard.caller_keys_summary(), guard.claim_email(bytea[]) from public;
grant execute on function guard.note_key(text, text, text, jsonb), guard.key_version_dependants(int, int, int), guard.expire_caller_keys(int), guard.caller_key_seconds(text),
  guard.caller_keys_summary() to {keys};
grant execute on function guard.claim_email(bytea[]) to {app};

set local role {owner};

-- Nothing is wrapped under a key-encryption key that is not the active one. The lock makes whoever takes it out of use
-- wait for those who are about to wrap under it, and they see what he did: a key under a destroyed one would be lost.
create function keys.under_active_key() returns trigger
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  perform 1 from keys.key_encryption_keys k where k.id = new.kek_id and k.state = 'active' for share;
  if not found then
    raise exception using errcode = 'RD409', message = 'conflict';
  end if;
  return new;
end $$;
create trigger under_active_key before insert or update of kek_id on keys.data_keys for each row execute function keys.under_active_key();
create trigger under_active_key before insert or update of kek_id on keys.index_keys for each row execute function keys.under_active_key();
create trigger under_active_key before insert or update of kek_id on keys.purpose_keys for each row execute function keys.under_active_key();

-- The next version of a key-encryption key in place of the active one. False: somebody else was faster.
create function keys.rotate_kek(p_id bytea, p_purpose text, p_version int, p_provider text, p_key_ref text, p_wrapped bytea) returns boolean
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  update keys.key_encryption_keys k set state = 'decrypt_only' where k.purpose = p_purpose and k.version = p_version - 1 and k.state = 'active';
  if not found then
    return false;
  end if;
  insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped) values (p_id, p_purpose, p_version, p_provider, p_key_ref, p_wrapped);
  perform guard.note_key('key.rotated', 'kek:' || p_purpose, pg_catalog.encode(p_id, 'hex'), pg_catalog.jsonb_build_object('version', p_version));
  return true;
end $$;

-- What is wrapped under a key-encryption key.
create function keys.kek_dependants(p_id bytea) returns table (data_keys bigint, index_keys bigint, purpose_keys bigint)
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$
  select (select pg_catalog.count(*) from keys.data_keys d where d.kek_id = p_id), (select pg_catalog.count(*) from keys.index_keys i where i.kek_id = p_id),
    (select pg_catalog.count(*) from keys.purpose_keys p where p.kek_id = p_id)
$$;

-- Destroys a key-encryption key that wraps nothing. The lock comes first: the count must not miss a key being made.
create function keys.retire_kek(p_id bytea) returns boolean
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  row keys.key_encryption_keys;
begin
  select k.* into row from keys.key_encryption_keys k where k.id = p_id and k.state = 'decrypt_only' for update;
  if not found then
    return false;
  end if;
  if exists (select from keys.data_keys d where d.kek_id = p_id) or exists (select from keys.index_keys i where i.kek_id = p_id)
     or exists (select from keys.purpose_keys p where p.kek_id = p_id) then
    return false;
  end if;
  update keys.key_encryption_keys k set state = 'destroyed', wrapped = null where k.id = p_id;
  perform guard.note_key('key.retired', 'kek:' || row.purpose, pg_catalog.encode(p_id, 'hex'), pg_catalog.jsonb_build_object('version', row.version));
  return true;
end $$;

-- A new version of each of these active data keys; the old ones open and seal no more. The new rows come first: their
-- trigger takes the slot that an erasure takes first too, so that the two never wait for each other crosswise.
create function keys.rotate_data_keys(p_old bytea[], p_new bytea[], p_wrapped bytea[], p_kek bytea) returns int
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  made int;
begin
  insert into keys.data_keys (key_id, tenant, subject, keep, version, kek_id, wrapped, state)
    select m.new, d.tenant, d.subject, d.keep, d.version + 1, p_kek, m.wrapped, 'decrypt_only'
    from unnest(p_old, p_new, p_wrapped) as m (old, new, wrapped) join keys.data_keys d on d.key_id = m.old and d.state = 'active'
    order by d.tenant, d.subject, d.keep;
  update keys.data_keys d set state = 'decrypt_only' from keys.data_keys n
    where n.key_id = any (p_new) and d.key_id = any (p_old) and d.tenant = n.tenant and d.subject = n.subject and d.keep = n.keep and d.state = 'active';
  update keys.data_keys d set state = 'active' where d.key_id = any (p_new);
  get diagnostics made = row_count;
  if made > 0 then
    perform guard.note_key('key.rotated', 'data', null, pg_catalog.jsonb_build_object('keys', made));
  end if;
  return made;
end $$;

-- Closes superseded data keys: from closed_at on, no transaction commits a value under them. The locks come first: they
-- wait for those that hold one, so the moment lies behind their commits. Only keys whose successor every process knows.
create function keys.close_data_keys(p_ids bytea[], p_seconds int) returns int
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  closed int;
begin
  perform 1 from keys.data_keys d where d.key_id = any (p_ids) order by d.key_id for update;
  update keys.data_keys d set state = 'retiring', closed_at = clock_timestamp()
    where d.key_id = any (p_ids) and d.state = 'decrypt_only' and exists (
      select from keys.data_keys n where n.tenant = d.tenant and n.subject = d.subject and n.keep = d.keep and n.version > d.version
        and n.created_at <= now() - make_interval(secs => p_seconds));
  get diagnostics closed = row_count;
  return closed;
end $$;

-- Deletes some of the keys that were closed before p_proven: from then on every value of every table was looked at, and
-- none was found under a key that is not an active one.
create function keys.retire_data_keys(p_proven timestamptz, p_most int) returns int
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  gone int;
begin
  delete from keys.data_keys d where d.key_id in (
    select o.key_id from keys.data_keys o where o.state = 'retiring' and o.closed_at < p_proven order by o.key_id limit p_most for update skip locked);
  get diagnostics gone = row_count;
  if gone > 0 then
    perform guard.note_key('key.retired', 'data', null, jsonb_build_object('keys', gone));
  end if;
  return gone;
end $$;

-- The next version of a column's blind-index key, looked up at once and written from p_seconds on. Only one rotation at
-- a time: the sign-in looks for a handful of versions, and each further one is one more address to guess.
create function keys.rotate_index_key(p_table int, p_column int, p_version int, p_key bytea, p_kek bytea, p_wrapped bytea, p_seconds int) returns boolean
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  if (select count(*) <> 1 or max(i.version) <> p_version - 1 from keys.index_keys i where i.table_id = p_table and i.column_id = p_column) then
    return false;
  end if;
  insert into keys.index_keys (table_id, column_id, version, key_id, kek_id, wrapped, use_from)
    values (p_table, p_column, p_version, p_key, p_kek, p_wrapped, now() + make_interval(secs => p_seconds)) on conflict do nothing;
  if not found then
    return false;
  end if;
  perform guard.note_key('key.rotated', 'index:' || p_table || '.' || p_column, encode(p_key, 'hex'), jsonb_build_object('version', p_version, 'use_in_seconds', p_seconds));
  return true;
end $$;

-- Deletes a version of a blind-index key. From p_proven on every row was looked at and none had it; by then a later one had
-- been written for p_seconds, so that whoever had computed a value with it had long committed.
create function keys.retire_index_key(p_table int, p_column int, p_version int, p_seconds int, p_proven timestamptz) returns boolean
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  delete from keys.index_keys i where i.table_id = p_table and i.column_id = p_column and i.version = p_version and exists (
    select from keys.index_keys n where n.table_id = p_table and n.column_id = p_column and n.version > p_version
      and n.use_from + make_interval(secs => p_seconds) <= p_proven);
  if not found then
    return false;
  end if;
  perform guard.note_key('key.retired', 'index:' || p_table || '.' || p_column, null, jsonb_build_object('version', p_version));
  return true;
end $$;

-- The next key pair of a purpose: verifies at once, signs from p_seconds on.
create function keys.rotate_purpose_key(p_purpose text, p_kid text, p_version int, p_kek bytea, p_wrapped bytea, p_public bytea, p_seconds int) returns boolean
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  if (select max(p.version) is distinct from p_version - 1 from keys.purpose_keys p where p.purpose = p_purpose) then
    return false;
  end if;
  insert into keys.purpose_keys (purpose, kid, version, kek_id, wrapped, public_key, use_from)
    values (p_purpose, p_kid, p_version, p_kek, p_wrapped, p_public, now() + make_interval(secs => p_seconds)) on conflict do nothing;
  if not found then
    return false;
  end if;
  perform guard.note_key('key.rotated', p_purpose, p_kid, jsonb_build_object('version', p_version, 'use_in_seconds', p_seconds));
  return true;
end $$;

-- Takes a pair away that a later one has replaced for at least p_seconds: all of it, or with p_public (the public half,
-- wrapped) only what signs.
create function keys.retire_purpose_key(p_purpose text, p_kid text, p_kek bytea, p_public bytea, p_seconds int) returns boolean
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  old keys.purpose_keys;
begin
  select p.* into old from keys.purpose_keys p where p.purpose = p_purpose and p.kid = p_kid and p.holds = 'private' for update;
  if not found or not exists (select from keys.purpose_keys n where n.purpose = p_purpose and n.version > old.version
      and n.use_from <= now() - make_interval(secs => p_seconds)) then
    return false;
  end if;
  if p_public is null then
    delete from keys.purpose_keys p where p.purpose = p_purpose and p.kid = p_kid;
  else
    update keys.purpose_keys p set holds = 'public', kek_id = p_kek, wrapped = p_public where p.purpose = p_purpose and p.kid = p_kid;
  end if;
  perform guard.note_key('key.retired', p_purpose, p_kid, jsonb_build_object('version', old.version, 'public_half_stays', p_public is not null));
  return true;
end $$;

revoke all on function keys.under_active_key(), keys.rotate_kek(bytea, text, int, text, text, bytea), keys.kek_dependants(bytea), keys.retire_kek(bytea),
  keys.rotate_data_keys(bytea[], bytea[], bytea[], bytea), keys.close_data_keys(bytea[], int), keys.retire_data_keys(timestamptz, int),
  keys.rotate_index_key(int, int, int, bytea, bytea, bytea, int), keys.retire_index_key(int, int, int, int, timestamptz),
  keys.rotate_purpose_key(text, text, int, bytea, bytea, bytea, int), keys.retire_purpose_key(text, text, bytea, bytea, int) from public;
grant execute on function keys.rotate_kek(bytea, text, int, text, text, bytea), keys.kek_dependants(bytea), keys.retire_kek(bytea),
  keys.rotate_data_keys(bytea[], bytea[], bytea[], bytea), keys.close_data_keys(bytea[], int), keys.retire_data_keys(timestamptz, int),
  keys.rotate_index_key(int, int, int, bytea, bytea, bytea, int), keys.retire_index_key(int, int, int, int, timestamptz),
  keys.rotate_purpose_key(text, text, int, bytea, bytea, bytea, int), keys.retire_purpose_key(text, text, bytea, bytea, int) to {keys};
