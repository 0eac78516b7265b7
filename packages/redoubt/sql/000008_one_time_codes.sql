-- One-time codes: digits sent by mail, and handles of 256 bits that a request is continued with. Kept as HMACs under a
-- key that the database does not have: who reads the table cannot try the digits.

set local role {owner};

create table redoubt.one_time_codes (
  id uuid primary key,
  user_id uuid not null references redoubt.users (id),
  tenant text not null,
  purpose text not null check (purpose in ('login', 'step_up', 'reset', 'email_verify', 'email_change', 'email_undo')),
  -- HMAC of what the asker holds: the code works only together with it.
  handle_hash bytea not null unique check (octet_length(handle_hash) = 33),
  -- HMAC of the digits; null where the handle is all there is.
  code_hash bytea check (octet_length(code_hash) = 33),
  -- HMAC of the one thing that the code is for, such as a card or an export.
  context_hash bytea check (octet_length(context_hash) = 33),
  -- HMAC over the row as it was issued: a row that was given to another account, or a longer life, is not believed.
  binding bytea not null check (octet_length(binding) = 33),
  -- How often it was mailed.
  mailed int not null default 1,
  attempts int not null default 0,
  max_attempts int not null check (max_attempts between 1 and 10),
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  -- When the right code was shown, and when what it allows was done.
  consumed_at timestamptz,
  redeemed_at timestamptz
);
create index one_time_codes_by_user on redoubt.one_time_codes (user_id, purpose);
create index one_time_codes_by_expiry on redoubt.one_time_codes (expires_at);
alter table redoubt.one_time_codes enable row level security;
alter table redoubt.one_time_codes force row level security;
grant select, insert, update on redoubt.one_time_codes to {guard};
create policy guard_select on redoubt.one_time_codes for select to {guard} using (true);
create policy guard_insert on redoubt.one_time_codes for insert to {guard} with check (true);
create policy guard_update on redoubt.one_time_codes for update to {guard} using (true) with check (true);
create policy app_select on redoubt.one_time_codes for select to {app} using (false);
create policy app_insert on redoubt.one_time_codes for insert to {app} with check (false);
create policy app_update on redoubt.one_time_codes for update to {app} using (false) with check (false);
create policy app_delete on redoubt.one_time_codes for delete to {app} using (false);
-- The sweep sees and deletes what has been over for a day, and nothing else.
grant select (id, expires_at), delete on redoubt.one_time_codes to {worker};
create policy worker_select on redoubt.one_time_codes for select to {worker} using (expires_at < now() - interval '1 day');
create policy worker_delete on redoubt.one_time_codes for delete to {worker} using (expires_at < now() - interval '1 day');

-- What sign-in, reset and change of address write; which of it when is decided by the functions below.
grant update (password_hash, password_changed_at) on redoubt.users to {guard};

set local role {guard};

-- Who may issue and show a code of a purpose: the system caller that does this one work, or the person it is about.
create function guard.code_rule(p_purpose text, p_user uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  return case p_purpose
    when 'login' then who.role in ('system.sign-in', 'system.second-factor')
    when 'email_verify' then who.role = 'system.register'
    when 'reset' then who.role = 'system.reset'
    when 'email_undo' then who.role = 'system.email-undo' or who.actor = p_user
    else who.actor = p_user
  end is true;
end $$;

-- At most ten that are still open per person and purpose: what a stranger asks for again and again does not pile up.
create function guard.issue_code(p_id uuid, p_user uuid, p_purpose text, p_handle bytea, p_code bytea, p_context bytea, p_binding bytea, p_expires timestamptz, p_tries int)
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  -- A step-up is made only behind its proof, in the transaction of that action: SQL injected into another makes none.
  if p_purpose = 'step_up' and (who.action <> 'auth.step_up_succeeded' or guard.has_factor(p_user) and not guard.factor_proven(p_user)) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  if not guard.code_rule(p_purpose, p_user) or p_expires > pg_catalog.now() + interval '8 days' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  -- The worker that ended before it could say so asks again.
  if exists (select from redoubt.one_time_codes c where c.id = p_id and c.user_id = p_user and c.purpose = p_purpose and c.handle_hash = p_handle) then
    return true;
  end if;
  if (select pg_catalog.count(*) from redoubt.one_time_codes c where c.user_id = p_user and c.purpose = p_purpose
      and c.consumed_at is null and c.redeemed_at is null and c.expires_at > pg_catalog.now()) >= 10 then
    return false;
  end if;
  insert into redoubt.one_time_codes (id, user_id, tenant, purpose, handle_hash, code_hash, context_hash, binding, expires_at, max_attempts)
    values (p_id, p_user, who.tenant, p_purpose, p_handle, p_code, p_context, p_binding, p_expires, p_tries);
  return true;
end $$;

-- One try. The handle finds the row; from then on the try counts, whatever else was wrong with it. One statement under
-- the row's lock: of fifty at once with the right code one gets it. A handle without digits stays open until redeemed.
create function guard.try_code(p_purpose text, p_handles bytea[], p_codes bytea[], p_contexts bytea[])
returns table (answer text, id uuid, user_id uuid, tenant text, handle_hash bytea, code_hash bytea, context_hash bytea, binding bytea, expires_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if not guard.code_rule(p_purpose, who.actor) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query
    with tried as (
      update redoubt.one_time_codes c
      set attempts = c.attempts + 1,
        consumed_at = case when c.code_hash = any(p_codes) and (c.context_hash is null and p_contexts is null or c.context_hash = any(p_contexts)) then pg_catalog.now() end
      where c.handle_hash = any(p_handles) and c.purpose = p_purpose and c.tenant = who.tenant and (who.actor is null or c.user_id = who.actor)
        and c.consumed_at is null and c.redeemed_at is null and c.attempts < c.max_attempts and c.expires_at > pg_catalog.now()
      returning c.*)
    select case when (t.code_hash is null and p_codes is null or t.code_hash = any(p_codes))
        and (t.context_hash is null and p_contexts is null or t.context_hash = any(p_contexts)) then 'right' else 'wrong' end,
      t.id, t.user_id, t.tenant, t.handle_hash, t.code_hash, t.context_hash, t.binding, t.expires_at
    from tried t;
  -- A handle of nobody costs a commit that waits for the disk too: whoever asked for somebody else's code would learn by
  -- the time of its refusal whether there is one, and so an account.
  if not found then
    perform pg_catalog.pg_logical_emit_message(true, 'redoubt', 'no such code');
  end if;
end $$;

-- What the code allows, once: called by the function that does it, in its transaction. Nobody may call it directly.
create function guard.redeem_code(p_id uuid, p_purpose text) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  owner_of uuid;
begin
  if not guard.code_rule(p_purpose, (guard.caller()).actor) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.one_time_codes c set redeemed_at = pg_catalog.now()
    where c.id = p_id and c.purpose = p_purpose and c.redeemed_at is null and c.attempts > 0
      and ((guard.caller()).actor is null or c.user_id = (guard.caller()).actor)
      and case when c.code_hash is null then c.expires_at > pg_catalog.now() else c.consumed_at > pg_catalog.now() - interval '10 minutes' end
    returning c.user_id into owner_of;
  if owner_of is null then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return owner_of;
end $$;

-- The same password under newer parameters or a newer key, at its sign-in. Only in place of the very hash that was read.
create function guard.rehash_password(p_email_bidx bytea[], p_before text, p_after text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role <> 'system.sign-in' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.users u set password_hash = p_after where u.email_bidx = any(p_email_bidx) and u.password_hash = p_before;
end $$;

revoke all on function guard.rehash_password(bytea[], text, text), guard.code_rule(text, uuid), guard.redeem_code(uuid, text),
  guard.issue_code(uuid, uuid, text, bytea, bytea, bytea, bytea, timestamptz, int), guard.try_code(text, bytea[], bytea[], bytea[]) from public;
grant execute on function guard.rehash_password(bytea[], text, text), guard.issue_code(uuid, uuid, text, bytea, bytea, bytea, bytea, timestamptz, int), guard.try_code(text, bytea[], bytea[], bytea[]) to {app};
-- The worker makes the code of a forgotten password: the request that asked does not know whether there is an account.
grant execute on function guard.issue_code(uuid, uuid, text, bytea, bytea, bytea, bytea, timestamptz, int) to {worker};
