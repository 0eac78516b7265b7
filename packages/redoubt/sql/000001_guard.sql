-- Who is calling: the signed caller and its verifier.
-- The gate sets `redoubt.caller` locally in every transaction; policies read it through guard.actor() and its like,
-- which believe nothing that is not signed with a key that no runtime role can read. Injected SQL may overwrite the
-- setting, but can sign nothing (prior art: Vondra, "Application users vs. Row Level Security").
-- Core functions only, so that it runs on managed PostgreSQL and behind PgBouncer in transaction mode.

set local role {guard};
create schema guard;
grant usage on schema guard to {owner}, {app}, {keys}, {worker}, {ingest}, {auditor};

-- HMAC-SHA-256 (RFC 2104) from core sha256(): the key is kept as its two padded blocks.
-- Excluded from dumps and made anew by every process, so a stolen dump signs nothing.
create table guard.caller_keys (
  kid text primary key check (kid ~ '^[A-Za-z0-9_-]{8,40}$'),
  -- How every claim under this key begins: version, key id, audience (service and database).
  prefix text not null,
  inner_pad bytea not null check (octet_length(inner_pad) = 64),
  outer_pad bytea not null check (octet_length(outer_pad) = 64),
  not_after timestamptz not null
);
alter table guard.caller_keys enable row level security;
alter table guard.caller_keys force row level security;
create policy guard_select on guard.caller_keys for select to {guard} using (true);
create policy guard_insert on guard.caller_keys for insert to {guard} with check (true);
create policy guard_update on guard.caller_keys for update to {guard} using (false) with check (false);
create policy guard_delete on guard.caller_keys for delete to {guard} using (true);

create type guard.verified as (actor uuid, role text, tenant text, session uuid, action text, request text, entry uuid);

set local role {owner};
create schema if not exists redoubt;
grant usage on schema redoubt to {guard}, {app}, {worker}, {ingest}, {auditor}, {backup};

-- One row per refresh family, rotated in place: a row per generation survived the revocation of its family. revoked_at
-- is read inside the verifier: no request that starts after the revoking call returned reaches data, on any instance,
-- without another trip. Nothing that a rotation changes is indexed, and a page has room for the new version: rotations
-- leave the indexes alone (heap-only tuples).
create table redoubt.sessions (
  id uuid primary key,
  user_id uuid not null,
  tenant text not null,
  realm text not null default 'tenant' check (realm in ('tenant', 'platform')),
  -- Opened by an account that has to set up its second factor first: good for that alone.
  enrolling boolean not null default false,
  created_at timestamptz not null default now(),
  last_used_at timestamptz not null default now(),
  idle_expires_at timestamptz not null default now() + interval '1 hour',
  absolute_expires_at timestamptz not null,
  revoked_at timestamptz,
  revoke_reason text check (revoke_reason in ('logout', 'logout_all', 'ended', 'ended_by_admin', 'password_changed', 'factor_changed', 'role_changed', 'suspended', 'reuse', 'refused')),
  -- SHA-256 of the part that all refresh tokens of this family share, and of the newest token (docs/formats.md).
  refresh_family bytea unique check (octet_length(refresh_family) = 32),
  refresh_hash bytea check (octet_length(refresh_hash) = 32),
  -- HMAC over whose this family is, by which door, under a key outside the database: a refresh believes no row without it.
  binding bytea check (octet_length(binding) = 33),
  -- The one before it, when it was exchanged, and what tells its sender's retry from a theft.
  previous_hash bytea,
  rotated_at timestamptz,
  attempt_hash bytea,
  agent_hash bytea,
  address_prefix text,
  -- From it and the previous token the newest one is computed again for that retry.
  successor_salt bytea check (octet_length(successor_salt) = 33),
  generation int4 not null default 0,
  device text not null default 'Unknown device'
) with (fillfactor = 70);
create index sessions_by_user on redoubt.sessions (user_id);
create index sessions_by_absolute_expiry on redoubt.sessions (absolute_expires_at);
alter table redoubt.sessions enable row level security;
alter table redoubt.sessions force row level security;
grant select, insert, update on redoubt.sessions to {guard};
create policy guard_select on redoubt.sessions for select to {guard} using (true);
create policy guard_insert on redoubt.sessions for insert to {guard} with check (true);
create policy guard_update on redoubt.sessions for update to {guard} using (true) with check (true);

set local role {guard};
-- plpgsql, not sql: its plans live for the session, a definer SQL function is planned anew at each call site. One query
-- with as few operators as possible, because starting each costs as much as a hash. The comparison need not take
-- constant time: a guess is good for ten seconds only. Nothing is cast that is not signed, hence the casts of CASE, which
-- no plan takes out beforehand: what is none of ours raises RD401 alone, and not even that where p_refuse is false.
create function guard.caller(p_refuse boolean default true) returns guard.verified
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  claim text := pg_catalog.current_setting('redoubt.caller', true);
  part text[] := pg_catalog.string_to_array(claim, '|', '');
  who guard.verified;
begin
  if part[7] is null then
    -- A system caller has no session and is no person. Without the look for one this takes 30 µs less.
    who := (
      select row(null, part[5], part[6], null, part[8], part[9], (case when k.kid = part[2] then part[10] end)::pg_catalog.uuid)::guard.verified
      from guard.caller_keys k
      where k.kid = part[2] and k.not_after > pg_catalog.transaction_timestamp() and pg_catalog.starts_with(claim, k.prefix)
        and part[12] = pg_catalog.encode(pg_catalog.sha256(k.outer_pad || pg_catalog.sha256(k.inner_pad || pg_catalog.textsend(pg_catalog.left(claim, -65)))), 'hex')
        and part[4] is null and pg_catalog.starts_with(part[5], 'system.')
    );
  else
    who := (
      select row(s.user_id, part[5], part[6], s.id, part[8], part[9], (case when k.kid = part[2] then part[10] end)::pg_catalog.uuid)::guard.verified
      from guard.caller_keys k
      -- A person without a live session of their own is nobody.
      join redoubt.sessions s on s.user_id::text = part[4] and s.absolute_expires_at > pg_catalog.transaction_timestamp()
        and s.id = (case when part[12] = pg_catalog.encode(pg_catalog.sha256(k.outer_pad || pg_catalog.sha256(k.inner_pad || pg_catalog.textsend(pg_catalog.left(claim, -65)))), 'hex') then part[7] end)::pg_catalog.uuid
        -- The transaction that ends its own session is that session's until its end: its entry is still to be written.
        and (s.revoked_at is null or s.revoked_at = pg_catalog.transaction_timestamp())
      where k.kid = part[2] and k.not_after > pg_catalog.transaction_timestamp() and pg_catalog.starts_with(claim, k.prefix)
    );
  end if;
  -- Against the transaction's own start: a long transaction keeps the caller it began with.
  if who.role is not null and (pg_catalog.abs(pg_catalog.date_part('epoch', pg_catalog.transaction_timestamp()) * 1000 - part[11]::pg_catalog.float8) <= 10000) is not true then
    who := null;
  end if;
  if p_refuse and who.role is null then
    raise exception using errcode = 'RD401', message = 'caller refused';
  end if;
  return who;
end $$;

-- For policies, which ask lazily: a refusal there would come only where a row passed the conditions before, and tell a
-- claim taken away in mid-statement that such a row exists, whoever's it is. Nobody is null, and sees nothing; that the
-- caller is refused says guard.caller(), which the gate asks in each transaction.
create function guard.actor() returns uuid
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$ begin return (guard.caller(false)).actor; end $$;

create function guard.role() returns text
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$ begin return (guard.caller(false)).role; end $$;

create function guard.tenant() returns text
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$ begin return (guard.caller(false)).tenant; end $$;

-- Every process brings a key of its own, through the keys role, and takes it away when it stops.
-- Expired ones are swept here, so a dumped table is worth at most a day.
create function guard.install_caller_key(p_kid text, p_inner bytea, p_outer bytea, p_hours int) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if p_hours not between 1 and 26 then
    raise exception using errcode = '22023', message = 'a caller key lives 1 to 26 hours';
  end if;
  delete from guard.caller_keys k where k.not_after < pg_catalog.now();
  insert into guard.caller_keys (kid, prefix, inner_pad, outer_pad, not_after)
    values (p_kid, 'v1|' || p_kid || '|{service}/' || pg_catalog.current_database() || '|', p_inner, p_outer, pg_catalog.now() + pg_catalog.make_interval(hours => p_hours));
end $$;

create function guard.drop_caller_key(p_kid text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$ begin delete from guard.caller_keys k where k.kid = p_kid; end $$;

-- For transaction.found: a row that is not there, or not in the caller's sight, fails the call and its entry with it.
create function guard.absent() returns boolean
language plpgsql parallel safe set search_path = pg_catalog, pg_temp
as $$ begin raise exception using errcode = 'RD404', message = 'not_found'; end $$;

revoke all on all functions in schema guard from public;
grant execute on function guard.caller(boolean), guard.actor(), guard.role(), guard.tenant() to {app}, {worker}, {ingest}, {auditor};
grant execute on function guard.absent() to {app};
grant execute on function guard.install_caller_key(text, bytea, bytea, int), guard.drop_caller_key(text) to {keys};
