-- A lost factor, where the recovery codes are lost too: an administrator asks for its removal, the person is told, and only
-- after a delay does the next sign-in with the right password go on without it. Whoever still has the factor ends the
-- request by using it.

set local role {owner};

create table redoubt.factor_resets (
  id uuid primary key,
  user_id uuid not null references redoubt.users (id),
  tenant text not null,
  requested_by uuid not null,
  requested_at timestamptz not null default now(),
  effective_at timestamptz not null,
  -- Not used by then, it was not needed.
  expires_at timestamptz not null,
  cancelled_at timestamptz,
  applied_at timestamptz
);
create unique index factor_resets_one_open on redoubt.factor_resets (user_id) where cancelled_at is null and applied_at is null;
alter table redoubt.factor_resets enable row level security;
alter table redoubt.factor_resets force row level security;
grant select, insert, update on redoubt.factor_resets to {guard};
create policy guard_select on redoubt.factor_resets for select to {guard} using (true);
create policy guard_insert on redoubt.factor_resets for insert to {guard} with check (true);
create policy guard_update on redoubt.factor_resets for update to {guard} using (true) with check (true);
grant select on redoubt.factor_resets to {app};
create policy app_select on redoubt.factor_resets for select to {app} using (user_id = (select guard.actor()));
create policy app_insert on redoubt.factor_resets for insert to {app} with check (false);
create policy app_update on redoubt.factor_resets for update to {app} using (false) with check (false);
create policy app_delete on redoubt.factor_resets for delete to {app} using (false);

set local role {guard};

-- Behind a step-up of the administrator, for somebody else, of the same tenant, who has a factor. A request that lapsed
-- makes room; one that is open stands: asking again neither hastens nor delays it.
create function guard.request_factor_reset(p_id uuid, p_user uuid, p_delay_hours int) returns timestamptz
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  due timestamptz := pg_catalog.now() + pg_catalog.make_interval(hours => p_delay_hours);
begin
  if who.role <> 'admin' or p_user = who.actor or p_delay_hours not between 1 and 720 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  if not guard.stepped_up() then
    raise exception using errcode = 'RD409', message = 'step_up_required';
  end if;
  perform from redoubt.users u where u.id = p_user and u.tenant = who.tenant and u.status <> 'deleted' for no key update;
  if not found or not guard.has_factor(p_user) then
    raise exception using errcode = 'RD404', message = 'not found';
  end if;
  update redoubt.factor_resets r set cancelled_at = pg_catalog.now()
    where r.user_id = p_user and r.cancelled_at is null and r.applied_at is null and r.expires_at <= pg_catalog.now();
  insert into redoubt.factor_resets (id, user_id, tenant, requested_by, effective_at, expires_at)
    values (p_id, p_user, who.tenant, who.actor, due, due + interval '7 days');
  return due;
end $$;

-- By the person, or by an administrator.
create function guard.cancel_factor_reset(p_user uuid) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.actor is null or who.actor <> p_user and who.role <> 'admin' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.factor_resets r set cancelled_at = pg_catalog.now()
    where r.user_id = p_user and r.tenant = who.tenant and r.cancelled_at is null and r.applied_at is null;
  return found;
end $$;

-- Whoever uses a factor has not lost it. A recovery code is what one uses who did.
create function guard.factor_was_used() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update redoubt.factor_resets r set cancelled_at = pg_catalog.now() where r.user_id = new.user_id and r.cancelled_at is null and r.applied_at is null;
  return new;
end $$;

-- Whether a sign-in whose password was right finds a request that has waited long enough.
create function guard.factor_reset_due(p_account uuid, p_email_bidx bytea[]) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role <> 'system.sign-in' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return exists (select from redoubt.factor_resets r join redoubt.users u on u.id = r.user_id
    where u.id = p_account and u.email_bidx = any(p_email_bidx) and u.status = 'active' and r.cancelled_at is null and r.applied_at is null
      and r.effective_at <= pg_catalog.now() and r.expires_at > pg_catalog.now());
end $$;

-- Whether an administrator's request has waited its time for this account, and nothing ended it since.
create function guard.recovery_holds(p_user uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (select from redoubt.factor_resets r where r.user_id = p_user and r.cancelled_at is null and r.applied_at is null
    and r.effective_at <= pg_catalog.now() and r.expires_at > pg_catalog.now());
end $$;

-- Removes all factors and recovery codes and ends all sessions: for the functions below, which know why. It has nobody's
-- rights but theirs.
create function guard.remove_all_factors(p_user uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  delete from redoubt.mfa_factors f where f.user_id = p_user;
  delete from redoubt.recovery_codes c where c.user_id = p_user;
  delete from redoubt.factor_tries t where t.user_id = p_user;
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'factor_changed' where s.user_id = p_user and s.revoked_at is null;
end $$;

-- Where the time has come. SQL injected into a sign-in gains nothing: what is due is due.
create function guard.apply_factor_reset(p_account uuid, p_email_bidx bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform from redoubt.users u where u.id = p_account for no key update;
  if not guard.factor_reset_due(p_account, p_email_bidx) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.factor_resets r set applied_at = pg_catalog.now() where r.user_id = p_account and r.cancelled_at is null and r.applied_at is null;
  -- Who administers sets up another one, in the time that a new administrator has for it.
  update redoubt.users u set enrol_until = pg_catalog.now() + interval '24 hours' where u.id = p_account;
  perform guard.remove_all_factors(p_account);
end $$;

-- For the operator's command, where nobody else administers: the account begins anew, at once. What began before ends,
-- a request for its recovery and the codes mailed under it too.
create function guard.recover_administrator(p_user uuid, p_password_hash text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.role <> 'system.create-admin' or who.action <> 'auth.administrator_recovered' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform from redoubt.users u where u.id = p_user for no key update;
  update redoubt.users u set password_hash = p_password_hash, password_changed_at = u.created_at, enrol_until = pg_catalog.now() + interval '24 hours', version = u.version + 1
    where u.id = p_user and u.realm = 'platform' and u.status = 'active';
  if not found then
    raise exception using errcode = 'RD404', message = 'not found';
  end if;
  update redoubt.factor_resets r set cancelled_at = pg_catalog.now() where r.user_id = p_user and r.cancelled_at is null and r.applied_at is null;
  perform guard.remove_all_factors(p_user);
end $$;

revoke all on function guard.recovery_holds(uuid), guard.recover_administrator(uuid, text) from public;
grant execute on function guard.recover_administrator(uuid, text) to {app};
revoke all on function guard.request_factor_reset(uuid, uuid, int), guard.cancel_factor_reset(uuid), guard.factor_was_used(),
  guard.factor_reset_due(uuid, bytea[]), guard.apply_factor_reset(uuid, bytea[]), guard.remove_all_factors(uuid) from public;
grant execute on function guard.request_factor_reset(uuid, uuid, int), guard.cancel_factor_reset(uuid), guard.factor_reset_due(uuid, bytea[]),
  guard.apply_factor_reset(uuid, bytea[]) to {app};
grant execute on function guard.factor_was_used() to {owner};

set local role {owner};

create trigger factor_was_used after update of proven_in on redoubt.mfa_factors for each row
  when (new.proven_in is distinct from old.proven_in) execute function guard.factor_was_used();
