-- The life of a session after it was opened: refreshed, listed, ended, forgotten.

set local role {guard};

-- Exchanges a refresh token for its successor, in place and in one statement. Takes hashes only; without a token there is
-- nothing to find, so SQL injected here lists no sessions.
--   rotated   the token was the newest; now p_next is
--   replayed  the same sender asks again within ten seconds and the successor is unused: the salt gives it again
--   reused    anything else of this family: it is ended
--   ended     revoked or over; unknown: no such family
-- clock_timestamp, not the transaction's start: a transaction that waited for another's rotation began before it.
create function guard.refresh_session(
  p_realm text, p_family bytea, p_presented bytea, p_next bytea, p_salt bytea, p_attempt bytea, p_agent bytea, p_prefix text, p_idle_seconds int
) returns table (outcome text, session uuid, actor uuid, role text, tenant text, salt bytea)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  known redoubt.sessions;
begin
  if (guard.caller()).role <> 'system.refresh' or p_idle_seconds not between 60 and 2592000 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  for attempt in 1..2 loop
    return query update redoubt.sessions s
      set refresh_hash = p_next, previous_hash = p_presented, successor_salt = p_salt, attempt_hash = p_attempt, agent_hash = p_agent,
        address_prefix = p_prefix, generation = s.generation + 1, rotated_at = pg_catalog.clock_timestamp(), last_used_at = pg_catalog.clock_timestamp(),
        idle_expires_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => p_idle_seconds)
      from redoubt.users u
      where s.refresh_family = p_family and s.refresh_hash = p_presented and s.realm = p_realm and s.revoked_at is null
        and s.idle_expires_at > pg_catalog.now() and s.absolute_expires_at > pg_catalog.now() and u.id = s.user_id and u.status = 'active'
      returning 'rotated', s.id, s.user_id, case when s.enrolling then 'enrolment' else u.role end, s.tenant, null::bytea;
    if found then
      return;
    end if;
    select * into known from redoubt.sessions s where s.refresh_family = p_family and s.realm = p_realm for update;
    if not found then
      return query select 'unknown', null::uuid, null::uuid, null::text, null::text, null::bytea;
      return;
    end if;
    -- Between the two statements somebody else can have made it the newest: once more.
    exit when known.refresh_hash <> p_presented or known.revoked_at is not null
      or known.idle_expires_at <= pg_catalog.now() or known.absolute_expires_at <= pg_catalog.now();
  end loop;
  if known.revoked_at is not null or known.idle_expires_at <= pg_catalog.now() or known.absolute_expires_at <= pg_catalog.now()
     or known.refresh_hash = p_presented then
    return query select 'ended', known.id, known.user_id, null::text, null::text, null::bytea;
  elsif known.previous_hash = p_presented and known.rotated_at > pg_catalog.clock_timestamp() - interval '10 seconds'
     and (case when p_attempt is null and known.attempt_hash is null then known.agent_hash = p_agent and known.address_prefix = p_prefix
          else known.attempt_hash = p_attempt end) then
    return query select 'replayed', known.id, known.user_id, case when known.enrolling then 'enrolment' else u.role end, known.tenant, known.successor_salt
      from redoubt.users u where u.id = known.user_id;
  else
    update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'reuse' where s.id = known.id;
    return query select 'reused', known.id, known.user_id, null::text, null::text, null::bytea;
  end if;
end $$;

-- The sweep sees and deletes sessions a week after they could last have lived; the record of sign-ins is the audit's.
set local role {owner};
grant select (id, absolute_expires_at), delete on redoubt.sessions to {worker};
create policy worker_select on redoubt.sessions for select to {worker} using (absolute_expires_at < now() - interval '7 days');
create policy worker_delete on redoubt.sessions for delete to {worker} using (absolute_expires_at < now() - interval '7 days');
set local role {guard};

-- One of the verified caller's own sessions; another person's is as absent as one that never was.
create function guard.end_session(p_session uuid) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'ended'
    where s.id = p_session and s.user_id = (guard.caller()).actor and s.revoked_at is null;
  return found;
end $$;

-- All of the verified caller's sessions but the one that asks, which only logout_all ends too.
create function guard.end_other_sessions(p_reason text) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  ended int;
begin
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = p_reason
    where s.user_id = who.actor and (s.id <> who.session or p_reason = 'logout_all') and s.revoked_at is null;
  get diagnostics ended = row_count;
  return ended;
end $$;

-- All sessions of somebody: for an administrator, and for the work that has proved by a code whom it is for.
create function guard.end_sessions_of(p_user uuid, p_reason text) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  ended int;
begin
  if not (who.role = 'admin' and p_reason in ('ended_by_admin', 'suspended', 'role_changed', 'factor_changed')
       or who.role in ('system.reset', 'system.email-undo') and p_reason = 'password_changed') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = p_reason where s.user_id = p_user and s.revoked_at is null;
  get diagnostics ended = row_count;
  return ended;
end $$;

revoke all on function
  guard.refresh_session(text, bytea, bytea, bytea, bytea, bytea, bytea, text, int), guard.end_session(uuid), guard.end_other_sessions(text),
  guard.end_sessions_of(uuid, text) from public;
grant execute on function
  guard.refresh_session(text, bytea, bytea, bytea, bytea, bytea, bytea, text, int), guard.end_session(uuid), guard.end_other_sessions(text),
  guard.end_sessions_of(uuid, text) to {app};
