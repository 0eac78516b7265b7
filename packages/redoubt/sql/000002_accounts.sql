-- Accounts, sessions and idempotency: what every service has.

set local role {owner};

create table redoubt.users (
  id uuid primary key,
  tenant text not null,
  email_enc bytea not null,
  email_bidx bytea not null,
  password_hash text not null,
  -- Pending: registered, and the address not yet shown to be theirs. It cannot be signed in to.
  status text not null default 'active' check (status in ('pending', 'active', 'suspended', 'deleted')),
  role text not null,
  -- Platform: administrators and auditors of the service, who have a door, an issuer and keys of their own.
  realm text not null default 'tenant' check (realm in ('tenant', 'platform')),
  -- Until when an account of the platform can be signed in to without a second factor, in order to set one up.
  enrol_until timestamptz not null default now() + interval '24 hours',
  created_at timestamptz not null default now(),
  password_changed_at timestamptz not null default now(),
  version int not null default 1
);
-- Several may have registered with one address; it belongs to the one who could read the mail.
create unique index users_email_bidx_key on redoubt.users (email_bidx) where status <> 'pending';
create index users_pending on redoubt.users (created_at) where status = 'pending';
alter table redoubt.users enable row level security;
alter table redoubt.users force row level security;
-- A credential is written and never read back: sign-in alone gets the hash, from its function.
grant select (id, tenant, email_enc, email_bidx, status, role, realm, created_at, password_changed_at, version), insert on redoubt.users to {app};
grant select on redoubt.users to {guard};
-- Locks too: a session is opened for an account that nobody is suspending at that moment.
grant update (status, role, enrol_until, version) on redoubt.users to {guard};
create policy app_select on redoubt.users for select to {app} using (id = (select guard.actor()));
-- Registration makes an account and cannot read one back. Which roles may register is the app's own check constraint.
create policy app_insert on redoubt.users for insert to {app}
  with check ((select guard.role()) = 'system.register' and tenant = (select guard.tenant()) and status = 'pending' and realm = 'tenant');
create policy app_update on redoubt.users for update to {app} using (false) with check (false);
create policy app_delete on redoubt.users for delete to {app} using (false);
create policy guard_select on redoubt.users for select to {guard} using (true);
create policy guard_update on redoubt.users for update to {guard} using (true) with check (true);

-- What a person may see of their own sessions; nothing of the refresh token leaves the definer functions.
grant select (id, user_id, tenant, realm, created_at, last_used_at, idle_expires_at, absolute_expires_at, revoked_at, revoke_reason, device, address_prefix)
  on redoubt.sessions to {app};
create policy app_select on redoubt.sessions for select to {app} using (user_id = (select guard.actor()));
create policy app_insert on redoubt.sessions for insert to {app} with check (false);
create policy app_update on redoubt.sessions for update to {app} using (false) with check (false);
create policy app_delete on redoubt.sessions for delete to {app} using (false);

-- One row per (principal, route, key): the first insert wins, the effect and what it made commit with it. No answer is
-- kept: it may hold another person's data, under the keys of the wrong one.
create table redoubt.idempotency_keys (
  id uuid primary key,
  principal uuid not null,
  route text not null,
  key text not null,
  request_hash bytea not null,
  salt_enc bytea,
  state text not null default 'in_progress' check (state in ('in_progress', 'done')),
  resource_type text,
  resource_id text,
  expires_at timestamptz not null,
  unique (principal, route, key)
);
create index idempotency_keys_by_expiry on redoubt.idempotency_keys (expires_at);
alter table redoubt.idempotency_keys enable row level security;
alter table redoubt.idempotency_keys force row level security;
grant select, insert, update on redoubt.idempotency_keys to {app};
create policy app_select on redoubt.idempotency_keys for select to {app} using (principal = (select guard.actor()));
create policy app_insert on redoubt.idempotency_keys for insert to {app} with check (principal = (select guard.actor()));
create policy app_update on redoubt.idempotency_keys for update to {app}
  using (principal = (select guard.actor())) with check (principal = (select guard.actor()));
create policy app_delete on redoubt.idempotency_keys for delete to {app} using (false);
-- Deleting needs to see the rows: both only past their time.
grant select (id, expires_at), delete on redoubt.idempotency_keys to {worker};
create policy worker_select on redoubt.idempotency_keys for select to {worker} using (expires_at < now());
create policy worker_delete on redoubt.idempotency_keys for delete to {worker} using (expires_at < now());

set local role {guard};

-- Sign-in finds an account only by its keyed blind index: SQL injected into a sign-in cannot list accounts, since it
-- cannot compute the index of an address. An account of the other realm does not exist at this door.
create function guard.sign_in_lookup(p_email_bidx bytea[], p_realm text)
returns table (id uuid, password_hash text, status text, role text, tenant text, factors boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role <> 'system.sign-in' or pg_catalog.cardinality(p_email_bidx) > 4 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query select u.id, u.password_hash, u.status, u.role, u.tenant, guard.has_factor(u.id) from redoubt.users u
    where u.email_bidx = any(p_email_bidx) and u.realm = p_realm and u.status <> 'pending' limit 1;
end $$;

-- A session for an account whose password was right. The index has to be given again: an id alone, which other people
-- know, opens nothing. FOR SHARE waits for a suspension that is under way and then finds nobody. An account with a second
-- factor gets a session only where guard.spend_proof marked a factor of it in this transaction: without one the password
-- opens nothing, and with one neither index nor password is needed (a passkey alone). The sign-in's own caller can mark none.
create function guard.open_session(
  p_session uuid, p_account uuid, p_email_bidx bytea[], p_realm text, p_refresh bytea[], p_device text, p_agent_hash bytea,
  p_address_prefix text, p_idle_seconds int, p_absolute_seconds int
) returns table (role text, tenant text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  account record;
  proven boolean := guard.factor_proven(p_account);
  enrols boolean;
begin
  if (guard.caller()).role not in ('system.sign-in', 'system.second-factor') or p_absolute_seconds not between 60 and 2592000 or p_idle_seconds not between 60 and p_absolute_seconds then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  select u.id, u.tenant, u.role, u.realm, u.enrol_until, u.created_at, u.password_changed_at into account from redoubt.users u
    where u.id = p_account and (u.email_bidx = any(p_email_bidx) or proven) and u.realm = p_realm and u.status = 'active' for share;
  if not found or guard.has_factor(p_account) and not proven
     or account.realm = 'platform' and not proven and account.enrol_until < pg_catalog.now() then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  -- On the platform, until there is a factor and the password the operator printed has been replaced by one's own.
  enrols := account.realm = 'platform' and (not proven or account.password_changed_at <= account.created_at);
  insert into redoubt.sessions (id, user_id, tenant, realm, enrolling, idle_expires_at, absolute_expires_at, refresh_family, refresh_hash, agent_hash, address_prefix, device)
    values (p_session, account.id, account.tenant, account.realm, enrols,
      pg_catalog.now() + pg_catalog.make_interval(secs => p_idle_seconds), pg_catalog.now() + pg_catalog.make_interval(secs => p_absolute_seconds),
      p_refresh[1], p_refresh[2], p_agent_hash, p_address_prefix, p_device);
  return query select case when enrols then 'enrolment' else account.role end, account.tenant;
end $$;

-- Binds the session that this transaction opened to what guard.open_session answered: the app computes it, with a key that
-- is not here. Once only, so that nobody can take the binding of a session away.
create function guard.bind_session(p_session uuid, p_binding bytea) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role not in ('system.sign-in', 'system.second-factor') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.sessions s set binding = p_binding where s.id = p_session and s.binding is null and s.created_at = pg_catalog.now();
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
end $$;

-- Ends the verified caller's own session: takes no id, so nobody can end another's.
create function guard.end_own_session() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'logout'
    where s.id = who.session and s.revoked_at is null;
end $$;

revoke all on function guard.sign_in_lookup(bytea[], text), guard.open_session(uuid, uuid, bytea[], text, bytea[], text, bytea, text, int, int),
  guard.bind_session(uuid, bytea), guard.end_own_session() from public;
grant execute on function guard.sign_in_lookup(bytea[], text), guard.open_session(uuid, uuid, bytea[], text, bytea[], text, bytea, text, int, int),
  guard.bind_session(uuid, bytea), guard.end_own_session() to {app};
