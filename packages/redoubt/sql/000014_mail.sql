-- Mail that belongs to a transaction, and what codes sent by mail allow: an address shown to be somebody's, a new
-- password, another address.

set local role {owner};

alter table redoubt.users
  -- The address before the last change, sealed like the present one, so that its owner can take the change back.
  add column former_email_enc bytea,
  add column email_changed_at timestamptz;
grant select (former_email_enc, email_changed_at) on redoubt.users to {app};
grant update (email_enc, email_bidx, former_email_enc, email_changed_at) on redoubt.users to {guard};

create table redoubt.outbox (
  -- Also the id of the code that the message carries.
  id uuid primary key,
  topic text not null check (topic ~ '^[a-z][a-z_]{1,40}$'),
  -- Whom it is to; null for a request that names an address of which nobody knows yet whether it is anybody's.
  user_id uuid references redoubt.users (id),
  tenant text not null,
  -- Who caused it, as verified: a row says no more than its caller might have said.
  caller_role text not null,
  caller_actor uuid,
  request_id text not null,
  payload_enc bytea,
  -- Blind indexes of the address that was given, one behind the other (17 bytes each).
  address_bidx bytea,
  handle_hash bytea check (octet_length(handle_hash) = 33),
  state text not null default 'waiting' check (state in ('waiting', 'failed')),
  attempts int not null default 0,
  next_attempt_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  failed_at timestamptz,
  reason text
);
create index outbox_due on redoubt.outbox (next_attempt_at) where state = 'waiting';
create index outbox_by_user on redoubt.outbox (user_id);
alter table redoubt.outbox enable row level security;
alter table redoubt.outbox force row level security;
grant select, insert on redoubt.outbox to {guard};
create policy guard_select on redoubt.outbox for select to {guard} using (true);
create policy guard_insert on redoubt.outbox for insert to {guard} with check (true);
-- The app puts in and can do nothing else with it; the worker takes out and can put nothing in.
create policy app_select on redoubt.outbox for select to {app} using (false);
create policy app_insert on redoubt.outbox for insert to {app} with check (false);
create policy app_update on redoubt.outbox for update to {app} using (false) with check (false);
create policy app_delete on redoubt.outbox for delete to {app} using (false);
grant select, delete, update (state, attempts, next_attempt_at, failed_at, reason, payload_enc) on redoubt.outbox to {worker};
create policy worker_select on redoubt.outbox for select to {worker} using (true);
create policy worker_update on redoubt.outbox for update to {worker} using (true) with check (true);
create policy worker_delete on redoubt.outbox for delete to {worker} using (true);

set local role {guard};

-- Puts a message into the caller's transaction. A person may have mail sent to themself alone; a system caller the one
-- kind that its work is about. What it says is chosen by the worker from topic and sealed payload, never by the caller's SQL.
create function guard.put_mail(p_id uuid, p_topic text, p_user uuid, p_payload bytea, p_address bytea[], p_handle bytea) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if not (case who.role
      when 'system.register' then p_topic = 'email_verify' and p_user is not null
      when 'system.forgot' then p_topic = 'reset' and p_user is null and p_payload is null and p_address is not null and p_handle is not null
      when 'system.sign-in' then p_topic in ('new_device', 'factors_reset') and p_user is not null
      when 'system.second-factor' then p_topic in ('new_device', 'recovery_code_used') and p_user is not null
      when 'system.reset' then p_topic = 'password_changed' and p_user is not null
      when 'system.create-admin' then p_topic = 'administrator_recovered' and p_user is not null
      when 'system.email-undo' then p_topic = 'email_restored' and p_user is not null
      when 'admin' then p_topic = 'factor_reset_requested' and p_user is not null or who.actor = p_user
      else who.actor = p_user end is true) or pg_catalog.cardinality(p_address) > 4 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  insert into redoubt.outbox (id, topic, user_id, tenant, caller_role, caller_actor, request_id, payload_enc, address_bidx, handle_hash)
    values (p_id, p_topic, p_user, who.tenant, who.role, who.actor, who.request, p_payload,
      (select pg_catalog.string_agg(a, ''::bytea) from pg_catalog.unnest(p_address) a), p_handle);
end $$;

-- The same code once more, for a registration that still waits: three times, and not while the last message waits.
create function guard.mail_again(p_handles bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.role <> 'system.register' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  with again as (
    update redoubt.one_time_codes c set mailed = c.mailed + 1
      where c.handle_hash = any(p_handles) and c.purpose = 'email_verify' and c.mailed < 4 and c.consumed_at is null and c.attempts < c.max_attempts
        and c.expires_at > pg_catalog.now() and not exists (select from redoubt.outbox o where o.id = c.id)
      returning c.id, c.user_id, c.tenant, c.handle_hash)
    insert into redoubt.outbox (id, topic, user_id, tenant, caller_role, request_id, address_bidx, handle_hash)
      select a.id, 'email_verify', a.user_id, a.tenant, who.role, who.request, u.email_bidx, a.handle_hash
      from again a join redoubt.users u on u.id = a.user_id where u.status = 'pending';
end $$;

-- To whom a waiting message goes, asked when it is sent: the account as it is then. The worker reads no other account.
-- A code for a new password goes to whoever administers only while their recovery holds (000015): a mailbox alone opens
-- no account there. taken: the address of somebody who has just registered is another account's.
create function guard.mail_recipient(p_id uuid)
returns table (id uuid, tenant text, email_enc bytea, email_bidx bytea, status text, taken boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return query select u.id, u.tenant, u.email_enc, u.email_bidx, u.status,
      exists (select from redoubt.users v where v.id <> u.id and v.status <> 'pending' and pg_catalog.position(o.address_bidx, v.email_bidx) > 0)
    from redoubt.outbox o join redoubt.users u on u.id = o.user_id
      or o.user_id is null and u.status = 'active' and (u.realm = 'tenant' or guard.recovery_holds(u.id)) and pg_catalog.position(o.address_bidx, u.email_bidx) > 0
    where o.id = p_id and o.state = 'waiting' limit 1;
end $$;

-- The account of a code that has been shown and not yet redeemed: what is needed to do what it allows.
create function guard.code_account(p_code uuid)
returns table (id uuid, tenant text, email_enc bytea, former_email_enc bytea)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  return query select u.id, u.tenant, u.email_enc, u.former_email_enc from redoubt.one_time_codes c join redoubt.users u on u.id = c.user_id
    where c.id = p_code and guard.code_rule(c.purpose, c.user_id) and c.attempts > 0 and c.redeemed_at is null
      and (c.code_hash is null or c.consumed_at > pg_catalog.now() - interval '10 minutes');
end $$;

-- An address is claimed until the end of the transaction, then looked for under every version of its index.
create function guard.claim_for(p_user uuid, p_email_bidx bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if pg_catalog.cardinality(p_email_bidx) not between 1 and 4 or pg_catalog.array_position(p_email_bidx, null) is not null then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(
    (select pg_catalog.min(pg_catalog.encode(b, 'hex')) from pg_catalog.unnest(p_email_bidx) b), 7304));
  if exists (select from redoubt.users u where u.email_bidx = any (p_email_bidx) and u.status <> 'pending' and u.id <> p_user) then
    raise exception using errcode = 'RD409', message = 'already_exists';
  end if;
end $$;

-- The address is theirs who could read the code: the account comes to life.
create function guard.verify_email(p_code uuid, p_email_bidx bytea[]) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  whose uuid := guard.redeem_code(p_code, 'email_verify');
begin
  perform guard.claim_for(whose, p_email_bidx);
  update redoubt.users u set status = 'active', email_bidx = p_email_bidx[1], version = u.version + 1 where u.id = whose and u.status = 'pending';
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return whose;
end $$;

create function guard.reset_password(p_code uuid, p_hash text) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  whose uuid := guard.redeem_code(p_code, 'reset');
begin
  update redoubt.users u set password_hash = p_hash, password_changed_at = pg_catalog.now(), version = u.version + 1 where u.id = whose and u.status = 'active' and (u.realm = 'tenant' or guard.recovery_holds(u.id));
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform guard.end_sessions_of(whose, 'password_changed');
  return whose;
end $$;

-- The verified caller's own; whether they know the present one was asked before, by a sign-in of its own.
create function guard.change_password(p_hash text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  update redoubt.users u set password_hash = p_hash, password_changed_at = pg_catalog.now(), version = u.version + 1
    where u.id = who.actor and u.status = 'active';
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform guard.end_other_sessions('password_changed');
end $$;

create function guard.change_email(p_code uuid, p_email_enc bytea, p_email_bidx bytea[], p_former_enc bytea) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  whose uuid := guard.redeem_code(p_code, 'email_change');
begin
  perform guard.claim_for(whose, p_email_bidx);
  update redoubt.users u set email_enc = p_email_enc, email_bidx = p_email_bidx[1], former_email_enc = p_former_enc, email_changed_at = pg_catalog.now(), version = u.version + 1
    where u.id = whose and u.status = 'active';
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return whose;
end $$;

-- Taken back by whoever reads the former address: the password is void too, since whoever changed the address knew it.
create function guard.undo_email(p_code uuid, p_email_enc bytea, p_email_bidx bytea[]) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  whose uuid := guard.redeem_code(p_code, 'email_undo');
begin
  perform guard.claim_for(whose, p_email_bidx);
  update redoubt.users u set email_enc = p_email_enc, email_bidx = p_email_bidx[1], former_email_enc = null, email_changed_at = pg_catalog.now(),
    password_hash = '', password_changed_at = pg_catalog.now(), version = u.version + 1
    where u.id = whose and u.status = 'active' and u.former_email_enc is not null;
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform guard.end_sessions_of(whose, 'password_changed');
  return whose;
end $$;

-- Whether a sign-in comes from where its person has been before. Nobody's first sign-in is from a new device.
create function guard.is_new_device(p_user uuid, p_agent bytea, p_device text, p_prefix text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role not in ('system.sign-in', 'system.second-factor') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return exists (select from redoubt.sessions s where s.user_id = p_user)
    and not exists (select from redoubt.sessions s where s.user_id = p_user
      and (s.agent_hash = p_agent or s.device = p_device and s.address_prefix is not distinct from p_prefix));
end $$;

revoke all on function guard.put_mail(uuid, text, uuid, bytea, bytea[], bytea), guard.mail_again(bytea[]), guard.mail_recipient(uuid), guard.code_account(uuid), guard.claim_for(uuid, bytea[]),
  guard.verify_email(uuid, bytea[]), guard.reset_password(uuid, text), guard.change_password(text), guard.change_email(uuid, bytea, bytea[], bytea),
  guard.undo_email(uuid, bytea, bytea[]), guard.is_new_device(uuid, bytea, text, text) from public;
grant execute on function guard.put_mail(uuid, text, uuid, bytea, bytea[], bytea), guard.mail_again(bytea[]), guard.code_account(uuid),
  guard.verify_email(uuid, bytea[]), guard.reset_password(uuid, text), guard.change_password(text), guard.change_email(uuid, bytea, bytea[], bytea),
  guard.undo_email(uuid, bytea, bytea[]), guard.is_new_device(uuid, bytea, text, text) to {app};
grant execute on function guard.mail_recipient(uuid) to {worker};
