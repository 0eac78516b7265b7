-- API clients: programs that sign in with an id and a secret (RFC 6749 §4.4), and the modes of the controls at the edge.

set local role {owner};

create table redoubt.api_clients (
  -- The client_id too. A session of a client names it as its user.
  id uuid primary key,
  tenant text not null,
  name text not null check (char_length(name) between 1 and 100),
  -- SHA-256 of the secret: 256 random bits need no slow hash. Two are valid while a client changes over.
  secret_hash bytea not null check (octet_length(secret_hash) = 32),
  previous_hash bytea check (octet_length(previous_hash) = 32),
  previous_until timestamptz,
  -- HMAC over client, tenant, secret hash, scopes and networks, under a key outside the database; one for each secret.
  binding bytea not null check (octet_length(binding) = 33),
  previous_binding bytea check (octet_length(previous_binding) = 33),
  scopes text[] not null check (cardinality(scopes) between 1 and 32),
  -- Networks it may come from; empty: any.
  networks text[] not null default '{}' check (cardinality(networks) <= 16),
  created_at timestamptz not null default now(),
  rotated_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz
);
create index api_clients_by_tenant on redoubt.api_clients (tenant, id);

-- What each control did at the last start, so that a change of mode is noticed and leaves an entry.
create table redoubt.control_modes (
  name text primary key,
  tenant text not null,
  mode text not null check (mode in ('off', 'report', 'enforce')),
  changed_at timestamptz not null default now()
);

alter table redoubt.api_clients enable row level security;
alter table redoubt.api_clients force row level security;
alter table redoubt.control_modes enable row level security;
alter table redoubt.control_modes force row level security;

grant select, update on redoubt.api_clients to {guard};
create policy guard_select on redoubt.api_clients for select to {guard} using (true);
create policy guard_update on redoubt.api_clients for update to {guard} using (true) with check (true);
-- A credential is written and never read back.
grant select (id, tenant, name, previous_until, scopes, networks, created_at, rotated_at, last_used_at, revoked_at),
  insert (id, tenant, name, secret_hash, binding, scopes, networks) on redoubt.api_clients to {app};
create policy app_select on redoubt.api_clients for select to {app}
  using ((select guard.role()) in ('admin', 'system.api-clients') and tenant = (select guard.tenant()));
create policy app_insert on redoubt.api_clients for insert to {app}
  with check ((select guard.role()) in ('admin', 'system.api-clients') and tenant = (select guard.tenant()));
create policy app_update on redoubt.api_clients for update to {app} using (false) with check (false);
create policy app_delete on redoubt.api_clients for delete to {app} using (false);

grant select, insert, update (mode, changed_at) on redoubt.control_modes to {app};
create policy app_select on redoubt.control_modes for select to {app} using ((select guard.role()) = 'system.controls' and tenant = (select guard.tenant()));
create policy app_insert on redoubt.control_modes for insert to {app} with check ((select guard.role()) = 'system.controls' and tenant = (select guard.tenant()));
create policy app_update on redoubt.control_modes for update to {app}
  using ((select guard.role()) = 'system.controls' and tenant = (select guard.tenant())) with check ((select guard.role()) = 'system.controls' and tenant = (select guard.tenant()));
create policy app_delete on redoubt.control_modes for delete to {app} using (false);

set local role {guard};

-- A session for the client of this id and secret, as long as its access token lives. Nothing found, a wrong secret, a
-- client that was revoked and one from elsewhere are one and the same nothing. Whether scopes and networks are the ones
-- that were bound to the secret is for the app to see, before this commits.
create function guard.open_client_session(p_client uuid, p_secret_hash bytea, p_address text, p_scopes text[], p_session uuid, p_seconds int)
returns table (tenant text, scopes text[], networks text[], allowed text[], binding bytea)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  client redoubt.api_clients;
begin
  if (guard.caller()).role <> 'system.client-token' or p_seconds not between 60 and 3600 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  -- FOR UPDATE: a revocation that is being committed is waited for, and then seen.
  select * into client from redoubt.api_clients c
    where c.id = p_client and c.revoked_at is null
      and (c.secret_hash = p_secret_hash or (c.previous_hash = p_secret_hash and c.previous_until > pg_catalog.now()))
      and (pg_catalog.cardinality(c.networks) = 0 or p_address::pg_catalog.inet <<= any (c.networks::pg_catalog.inet[]))
    for update;
  if not found then
    return;
  end if;
  if p_scopes is not null and not p_scopes <@ client.scopes then
    raise exception using errcode = 'RD409', message = 'invalid_scope';
  end if;
  insert into redoubt.sessions (id, user_id, tenant, idle_expires_at, absolute_expires_at, device)
    values (p_session, client.id, client.tenant, pg_catalog.now() + pg_catalog.make_interval(secs => p_seconds), pg_catalog.now() + pg_catalog.make_interval(secs => p_seconds), 'API client');
  update redoubt.api_clients c set last_used_at = pg_catalog.now() where c.id = client.id;
  return query select client.tenant, coalesce(p_scopes, client.scopes), client.networks, client.scopes,
    case when client.secret_hash = p_secret_hash then client.binding else client.previous_binding end;
end $$;

-- What a client's present binding is over, for its rotation: a new one over altered scopes would make them genuine.
create function guard.bound_api_client(p_client uuid) returns table (tenant text, secret_hash bytea, scopes text[], networks text[], binding bytea)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.role not in ('admin', 'system.api-clients') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query select c.tenant, c.secret_hash, c.scopes, c.networks, c.binding from redoubt.api_clients c
    where c.id = p_client and c.tenant = who.tenant and c.revoked_at is null for update;
end $$;

-- A new secret; the one before it holds for the overlap, the one before that no longer.
create function guard.rotate_api_client(p_client uuid, p_secret_hash bytea, p_binding bytea, p_overlap_seconds int) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.role not in ('admin', 'system.api-clients') or p_overlap_seconds not between 0 and 2592000 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.api_clients c set previous_hash = c.secret_hash, previous_binding = c.binding, secret_hash = p_secret_hash, binding = p_binding, rotated_at = pg_catalog.now(),
      previous_until = pg_catalog.now() + pg_catalog.make_interval(secs => p_overlap_seconds)
    where c.id = p_client and c.tenant = who.tenant and c.revoked_at is null;
  return found;
end $$;

-- Ends a client with all its tokens: their sessions are refused by every instance from now on.
create function guard.revoke_api_client(p_client uuid) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.role not in ('admin', 'system.api-clients') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.api_clients c set revoked_at = pg_catalog.now() where c.id = p_client and c.tenant = who.tenant and c.revoked_at is null;
  if not found then
    return false;
  end if;
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'ended_by_admin' where s.user_id = p_client and s.revoked_at is null;
  return true;
end $$;

revoke all on function guard.open_client_session(uuid, bytea, text, text[], uuid, int), guard.bound_api_client(uuid), guard.rotate_api_client(uuid, bytea, bytea, int), guard.revoke_api_client(uuid) from public;
grant execute on function guard.open_client_session(uuid, bytea, text, text[], uuid, int), guard.bound_api_client(uuid), guard.rotate_api_client(uuid, bytea, bytea, int), guard.revoke_api_client(uuid) to {app};
