-- Second factors: what proves a person beside their password. The proof is decided by the service, which alone can open a
-- secret; that it was given, for whom, and once, is a mark in a row which only the functions below set, in the very
-- transaction that needs it.

set local role {owner};

create table redoubt.mfa_factors (
  id uuid primary key,
  user_id uuid not null references redoubt.users (id),
  tenant text not null,
  kind text not null check (kind in ('totp', 'webauthn')),
  label text not null check (char_length(label) between 1 and 60),
  -- TOTP: the shared secret. Passkey: the public key, sealed so that nobody but the service puts another in its place.
  secret_enc bytea not null,
  credential_id bytea unique check (octet_length(credential_id) between 16 and 1023),
  transports text[],
  sign_count int8 not null default 0,
  -- TOTP: the last step accepted. Passkey: when the last challenge accepted was made, in milliseconds. Only ever grows,
  -- so that neither works twice.
  last_used_step int8 not null default 0,
  created_at timestamptz not null default now(),
  confirmed_at timestamptz,
  last_used_at timestamptz,
  -- The transaction in which it was proven last.
  proven_in xid8,
  check ((kind = 'webauthn') = (credential_id is not null))
);
create index mfa_factors_by_user on redoubt.mfa_factors (user_id);

create table redoubt.recovery_codes (
  id uuid primary key,
  user_id uuid not null references redoubt.users (id),
  tenant text not null,
  code_hash bytea not null unique check (octet_length(code_hash) = 33),
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  proven_in xid8
);
create index recovery_codes_by_user on redoubt.recovery_codes (user_id);

-- Codes that can be guessed are tried ever more slowly; per door, so that a thief of a session does not slow the sign-in.
create table redoubt.factor_tries (
  user_id uuid not null references redoubt.users (id),
  door text not null check (door in ('sign_in', 'step_up')),
  tries int not null default 0,
  last_at timestamptz not null,
  primary key (user_id, door)
);

alter table redoubt.mfa_factors enable row level security;
alter table redoubt.mfa_factors force row level security;
alter table redoubt.recovery_codes enable row level security;
alter table redoubt.recovery_codes force row level security;
alter table redoubt.factor_tries enable row level security;
alter table redoubt.factor_tries force row level security;

grant select, insert, update, delete on redoubt.mfa_factors, redoubt.recovery_codes, redoubt.factor_tries to {guard};
create policy guard_select on redoubt.mfa_factors for select to {guard} using (true);
create policy guard_insert on redoubt.mfa_factors for insert to {guard} with check (true);
create policy guard_update on redoubt.mfa_factors for update to {guard} using (true) with check (true);
create policy guard_delete on redoubt.mfa_factors for delete to {guard} using (true);
create policy guard_select on redoubt.recovery_codes for select to {guard} using (true);
create policy guard_insert on redoubt.recovery_codes for insert to {guard} with check (true);
create policy guard_update on redoubt.recovery_codes for update to {guard} using (true) with check (true);
create policy guard_delete on redoubt.recovery_codes for delete to {guard} using (true);
create policy guard_select on redoubt.factor_tries for select to {guard} using (true);
create policy guard_insert on redoubt.factor_tries for insert to {guard} with check (true);
create policy guard_update on redoubt.factor_tries for update to {guard} using (true) with check (true);
create policy guard_delete on redoubt.factor_tries for delete to {guard} using (true);

grant select on redoubt.mfa_factors to {app};
create policy app_select on redoubt.mfa_factors for select to {app} using (user_id = (select guard.actor()));
grant select (id, user_id, created_at, last_used_at) on redoubt.recovery_codes to {app};
create policy app_select on redoubt.recovery_codes for select to {app} using (user_id = (select guard.actor()));
create policy app_select on redoubt.factor_tries for select to {app} using (false);
create policy app_insert on redoubt.mfa_factors for insert to {app} with check (false);
create policy app_update on redoubt.mfa_factors for update to {app} using (false) with check (false);
create policy app_delete on redoubt.mfa_factors for delete to {app} using (false);
create policy app_insert on redoubt.recovery_codes for insert to {app} with check (false);
create policy app_update on redoubt.recovery_codes for update to {app} using (false) with check (false);
create policy app_delete on redoubt.recovery_codes for delete to {app} using (false);
create policy app_insert on redoubt.factor_tries for insert to {app} with check (false);
create policy app_update on redoubt.factor_tries for update to {app} using (false) with check (false);
create policy app_delete on redoubt.factor_tries for delete to {app} using (false);

set local role {guard};

create function guard.has_factor(p_user uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$ begin return exists (select from redoubt.mfa_factors f where f.user_id = p_user and f.confirmed_at is not null); end $$;

-- In this transaction, by guard.spend_proof. The time too: a restored database counts its transactions anew.
create function guard.factor_proven(p_user uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (select from redoubt.mfa_factors f
      where f.user_id = p_user and f.proven_in = pg_catalog.pg_current_xact_id_if_assigned() and f.last_used_at = pg_catalog.transaction_timestamp())
    or exists (select from redoubt.recovery_codes r
      where r.user_id = p_user and r.proven_in = pg_catalog.pg_current_xact_id_if_assigned() and r.last_used_at = pg_catalog.transaction_timestamp());
end $$;

-- Whether a step-up of the verified caller was redeemed in this transaction.
create function guard.stepped_up() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (select from redoubt.one_time_codes c
    where c.user_id = (guard.caller()).actor and c.purpose = 'step_up' and c.redeemed_at = pg_catalog.transaction_timestamp());
end $$;

-- Uses a proof up, in one statement under the row's lock: of fifty at once with one code, one gets it. A step or a
-- challenge that is not newer than the last one, or a counter that did not grow (a copied authenticator), is refused.
create function guard.spend_proof(p_user uuid, p_factor uuid, p_step int8, p_count int8, p_recovery bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  now_ms int8 := (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000)::int8;
begin
  if p_recovery is not null then
    update redoubt.recovery_codes r set last_used_at = pg_catalog.transaction_timestamp(), proven_in = pg_catalog.pg_current_xact_id()
      where r.user_id = p_user and r.code_hash = any(p_recovery) and r.last_used_at is null and guard.has_factor(p_user);
  else
    update redoubt.mfa_factors f
      set last_used_step = p_step, sign_count = p_count, last_used_at = pg_catalog.transaction_timestamp(), proven_in = pg_catalog.pg_current_xact_id()
      where f.id = p_factor and f.user_id = p_user and f.confirmed_at is not null and f.last_used_step < p_step
        and (f.sign_count < p_count or f.sign_count = 0 and p_count = 0)
        -- A step from the far future would lock its owner out.
        and case f.kind when 'totp' then p_step * 30000 else p_step end between now_ms - 600000 and now_ms + 120000;
  end if;
  if not found then
    raise exception using errcode = 'RD409', message = 'factor_refused';
  end if;
end $$;

-- Seconds to wait before a code may be tried again; 0: it may, and the try is counted already, so that many at once do not
-- slip through. Five tries are free, then the pause doubles up to an hour; a right code clears it.
create function guard.count_factor_try(p_user uuid, p_door text) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  seen redoubt.factor_tries;
  pause int;
begin
  insert into redoubt.factor_tries (user_id, door, last_at) values (p_user, p_door, pg_catalog.clock_timestamp()) on conflict do nothing;
  select * into seen from redoubt.factor_tries t where t.user_id = p_user and t.door = p_door for update;
  pause := case when seen.tries < 5 then 0
    else pg_catalog.ceil(pg_catalog.date_part('epoch', seen.last_at - pg_catalog.clock_timestamp()) + least(pg_catalog.power(2, least(seen.tries - 5, 20)), 3600)) end;
  if pause > 0 then
    return pause;
  end if;
  update redoubt.factor_tries t set tries = t.tries + 1, last_at = pg_catalog.clock_timestamp() where t.user_id = p_user and t.door = p_door;
  return 0;
end $$;

-- What a sign-in whose password was right may be continued with. The index has to be given again, as in open_session.
create function guard.sign_in_factors(p_account uuid, p_email_bidx bytea[])
returns table (kind text, credential_id bytea, transports text[])
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role <> 'system.sign-in' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query
    select f.kind, f.credential_id, f.transports from redoubt.mfa_factors f join redoubt.users u on u.id = f.user_id
      where u.id = p_account and u.email_bidx = any(p_email_bidx) and f.confirmed_at is not null
    union all
    select 'recovery', null::bytea, null::text[] from redoubt.users u
      where u.id = p_account and u.email_bidx = any(p_email_bidx)
        and exists (select from redoubt.recovery_codes r where r.user_id = u.id and r.last_used_at is null);
end $$;

-- The factors of a pending sign-in, for verification; its try was counted by guard.try_code. With p_guessable also the
-- account's: a wait above 0 comes with no factor.
create function guard.pending_factors(p_pending uuid, p_guessable boolean)
returns table (wait int, id uuid, user_id uuid, tenant text, kind text, secret_enc bytea, credential_id bytea, sign_count int8)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  account uuid;
  pause int := 0;
begin
  if (guard.caller()).role <> 'system.second-factor' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  select c.user_id into account from redoubt.one_time_codes c
    where c.id = p_pending and c.purpose = 'login' and c.attempts > 0 and c.redeemed_at is null and c.expires_at > pg_catalog.now();
  if account is null then
    return;
  end if;
  if p_guessable then
    pause := guard.count_factor_try(account, 'sign_in');
  end if;
  if pause > 0 then
    return query select pause, null::uuid, account, null::text, null::text, null::bytea, null::bytea, null::int8;
    return;
  end if;
  return query select 0, f.id, f.user_id, f.tenant, f.kind, f.secret_enc, f.credential_id, f.sign_count
    from redoubt.mfa_factors f where f.user_id = account and f.confirmed_at is not null;
end $$;

-- Ends a pending sign-in with its proof. The action is signed by the service, which begins a transaction of this action only
-- once the code was right: SQL injected into the transaction that reads the factors can complete nothing. guard.open_session
-- has to follow in the same transaction.
create function guard.complete_pending(p_pending uuid, p_factor uuid, p_step int8, p_count int8, p_recovery bytea[])
returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  account uuid;
begin
  if who.role <> 'system.second-factor' or who.action <> 'auth.login_succeeded' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  account := guard.redeem_code(p_pending, 'login');
  perform guard.spend_proof(account, p_factor, p_step, p_count, p_recovery);
  delete from redoubt.factor_tries t where t.user_id = account and t.door = 'sign_in';
  return account;
end $$;

-- A passkey of its own accord: possession and the authenticator's check of its owner are two factors by themselves.
create function guard.passkey_lookup(p_credential bytea)
returns table (id uuid, user_id uuid, tenant text, kind text, secret_enc bytea, credential_id bytea, sign_count int8)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role <> 'system.second-factor' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query select f.id, f.user_id, f.tenant, f.kind, f.secret_enc, f.credential_id, f.sign_count
    from redoubt.mfa_factors f where f.credential_id = p_credential and f.confirmed_at is not null;
end $$;

create function guard.complete_passkey(p_factor uuid, p_step int8, p_count int8) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  account uuid;
begin
  select f.user_id into account from redoubt.mfa_factors f where f.id = p_factor and f.kind = 'webauthn';
  if who.role <> 'system.second-factor' or who.action <> 'auth.login_succeeded' or account is null then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform guard.spend_proof(account, p_factor, p_step, p_count, null);
  return account;
end $$;

-- The same for somebody who is signed in: a try, then the proof.
create function guard.count_own_try() returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.actor is null then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return guard.count_factor_try(who.actor, 'step_up');
end $$;

-- Without a proof (all null) only where there is no factor: then the service has checked the password.
create function guard.prove_own(p_factor uuid, p_step int8, p_count int8, p_recovery bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.actor is null or who.action <> 'auth.step_up_succeeded' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  if p_factor is not null or p_recovery is not null then
    perform guard.spend_proof(who.actor, p_factor, p_step, p_count, p_recovery);
  elsif guard.has_factor(who.actor) then
    raise exception using errcode = 'RD409', message = 'factor_refused';
  end if;
  delete from redoubt.factor_tries t where t.user_id = who.actor and t.door = 'step_up';
end $$;

-- Redeems a step-up in the transaction of the action it was made for: it falls back with that.
create function guard.redeem_step_up(p_handles bytea[], p_contexts bytea[])
returns table (id uuid, user_id uuid, tenant text, handle_hash bytea, code_hash bytea, context_hash bytea, binding bytea, expires_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  return query update redoubt.one_time_codes c set attempts = c.attempts + 1, redeemed_at = pg_catalog.transaction_timestamp()
    where c.handle_hash = any(p_handles) and c.context_hash = any(p_contexts) and c.purpose = 'step_up' and c.user_id = who.actor
      and c.code_hash is null and c.redeemed_at is null and c.expires_at > pg_catalog.clock_timestamp()
    returning c.id, c.user_id, c.tenant, c.handle_hash, c.code_hash, c.context_hash, c.binding, c.expires_at;
end $$;

-- A new factor of the verified caller, behind a step-up. One TOTP enrolment is open at a time; a passkey has shown that it
-- works by what is put in here.
create function guard.enrol_factor(p_id uuid, p_kind text, p_label text, p_secret bytea, p_credential bytea, p_transports text[], p_count int8, p_step int8)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.actor is null or not guard.stepped_up() then
    raise exception using errcode = 'RD409', message = 'step_up_required';
  end if;
  -- Sign-ins under way are waited for, and then find the factor.
  perform from redoubt.users u where u.id = who.actor for no key update;
  delete from redoubt.mfa_factors f where f.user_id = who.actor and f.confirmed_at is null;
  if (select pg_catalog.count(*) from redoubt.mfa_factors f where f.user_id = who.actor) >= 10 then
    raise exception using errcode = 'RD409', message = 'conflict';
  end if;
  insert into redoubt.mfa_factors (id, user_id, tenant, kind, label, secret_enc, credential_id, transports, sign_count, last_used_step, confirmed_at)
    values (p_id, who.actor, who.tenant, p_kind, p_label, p_secret, p_credential, p_transports, p_count, p_step,
      case when p_kind = 'webauthn' then pg_catalog.now() end);
  if p_kind = 'webauthn' then
    perform guard.end_other_sessions('factor_changed');
  end if;
end $$;

-- The first right code of a TOTP factor. The code is used up by it.
create function guard.confirm_factor(p_factor uuid, p_step int8) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.action <> 'auth.factor_confirmed' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform from redoubt.users u where u.id = who.actor for no key update;
  update redoubt.mfa_factors f set confirmed_at = pg_catalog.transaction_timestamp(), last_used_step = p_step
    where f.id = p_factor and f.user_id = who.actor and f.kind = 'totp' and f.confirmed_at is null and f.created_at > pg_catalog.now() - interval '30 minutes';
  if not found then
    raise exception using errcode = 'RD404', message = 'not found';
  end if;
  perform guard.end_other_sessions('factor_changed');
end $$;

-- Behind a step-up. Who administers keeps one; without any factor recovery codes recover nothing.
create function guard.remove_factor(p_factor uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.actor is null or not guard.stepped_up() then
    raise exception using errcode = 'RD409', message = 'step_up_required';
  end if;
  perform from redoubt.users u where u.id = who.actor for no key update;
  delete from redoubt.mfa_factors f where f.id = p_factor and f.user_id = who.actor;
  if not found then
    raise exception using errcode = 'RD404', message = 'not found';
  end if;
  if not guard.has_factor(who.actor) then
    if exists (select from redoubt.users u where u.id = who.actor and u.realm = 'platform') then
      raise exception using errcode = 'RD409', message = 'conflict';
    end if;
    delete from redoubt.recovery_codes r where r.user_id = who.actor;
  end if;
  perform guard.end_other_sessions('factor_changed');
end $$;

-- Ten new recovery codes in place of all earlier ones: behind a step-up, or with the confirmation of a factor.
create function guard.replace_recovery_codes(p_ids uuid[], p_hashes bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.actor is null or not guard.has_factor(who.actor) or not (guard.stepped_up() or exists (select from redoubt.mfa_factors f
      where f.user_id = who.actor and f.confirmed_at = pg_catalog.transaction_timestamp())) then
    raise exception using errcode = 'RD409', message = 'step_up_required';
  end if;
  delete from redoubt.recovery_codes r where r.user_id = who.actor;
  insert into redoubt.recovery_codes (id, user_id, tenant, code_hash)
    select i, who.actor, who.tenant, h from rows from (pg_catalog.unnest(p_ids), pg_catalog.unnest(p_hashes)) as t (i, h);
end $$;

revoke all on function
  guard.has_factor(uuid), guard.factor_proven(uuid), guard.stepped_up(), guard.spend_proof(uuid, uuid, int8, int8, bytea[]),
  guard.count_factor_try(uuid, text), guard.sign_in_factors(uuid, bytea[]), guard.pending_factors(uuid, boolean),
  guard.complete_pending(uuid, uuid, int8, int8, bytea[]), guard.passkey_lookup(bytea), guard.complete_passkey(uuid, int8, int8),
  guard.count_own_try(), guard.prove_own(uuid, int8, int8, bytea[]), guard.redeem_step_up(bytea[], bytea[]),
  guard.enrol_factor(uuid, text, text, bytea, bytea, text[], int8, int8), guard.confirm_factor(uuid, int8), guard.remove_factor(uuid),
  guard.replace_recovery_codes(uuid[], bytea[]) from public;
grant execute on function
  guard.sign_in_factors(uuid, bytea[]), guard.pending_factors(uuid, boolean), guard.complete_pending(uuid, uuid, int8, int8, bytea[]),
  guard.passkey_lookup(bytea), guard.complete_passkey(uuid, int8, int8), guard.count_own_try(), guard.prove_own(uuid, int8, int8, bytea[]),
  guard.redeem_step_up(bytea[], bytea[]), guard.enrol_factor(uuid, text, text, bytea, bytea, text[], int8, int8),
  guard.confirm_factor(uuid, int8), guard.remove_factor(uuid), guard.replace_recovery_codes(uuid[], bytea[]) to {app};
