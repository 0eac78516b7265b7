-- The life of a session after it was opened: refreshed, listed, ended, forgotten.

set local role {guard};

-- Exchanges a refresh token for its successor, in place and in one statement. Takes hashes only; without a token there is
-- nothing to find, so SQL injected here lists no sessions.
--   rotated   the token was the newest; now p_next is
--   replayed  the same sender asks again within ten seconds and the successor is unused: the salt gives it again
--   reused    anything else of this family: it is ended
--   ended     revoked or over; unknown: no such family
-- Whom the row names is for the app to believe: the binding tells it.
-- clock_timestamp, not the transaction's start: a transaction that waited for another's rotation began before it.
-- One row by variables, not RETURN QUERY: a set is stored and read back before it is answered.
create function guard.refresh_session(
  p_realm text, p_family bytea, p_presented bytea, p_next bytea, p_salt bytea, p_attempt bytea, p_agent bytea, p_prefix text, p_idle_seconds int,
  out outcome text, out session uuid, out actor uuid, out role text, out tenant text, out salt bytea, out binding bytea
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  known record;
begin
  if (guard.caller()).role <> 'system.refresh' or p_idle_seconds not between 60 and 2592000 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  for attempt in 1..2 loop
    update redoubt.sessions s
      set refresh_hash = p_next, previous_hash = p_presented, successor_salt = p_salt, attempt_hash = p_attempt, agent_hash = p_agent,
        address_prefix = p_prefix, generation = s.generation + 1, rotated_at = pg_catalog.clock_timestamp(), last_used_at = pg_catalog.clock_timestamp(),
        idle_expires_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => p_idle_seconds)
      from redoubt.users u
      where s.refresh_family = p_family and s.refresh_hash = p_presented and s.realm = p_realm and s.revoked_at is null
        and s.idle_expires_at > pg_catalog.now() and s.absolute_expires_at > pg_catalog.now() and u.id = s.user_id and u.status = 'active'
      returning 'rotated', s.id, s.user_id, case when s.enrolling then 'enrolment' else u.role end, s.tenant, s.binding
      into outcome, session, actor, role, tenant, binding;
    if found then
      return;
    end if;
    select * into known from redoubt.sessions s where s.refresh_family = p_family and s.realm = p_realm for update;
    if not found then
      outcome := 'unknown';
      return;
    end if;
    -- Between the two statements somebody else can have made it the newest: once more.
    exit when known.refresh_hash <> p_presented or known.revoked_at is not null
      or known.idle_expires_at <= pg_catalog.now() or known.absolute_expires_at <= pg_catalog.now();
  end loop;
  session := known.id;
  actor := known.user_id;
  if known.revoked_at is not null or known.idle_expires_at <= pg_catalog.now() or known.absolute_expires_at <= pg_catalog.now()
     or known.refresh_hash = p_presented then
    outcome := 'ended';
  elsif known.previous_hash = p_presented and known.rotated_at > pg_catalog.clock_timestamp() - interval '10 seconds'
     and (case when p_attempt is null and known.attempt_hash is null then known.agent_hash = p_agent and known.address_prefix = p_prefix
          else known.attempt_hash = p_attempt end) then
    outcome := 'replayed';
    tenant := known.tenant;
    salt := known.successor_salt;
    binding := known.binding;
    select case when known.enrolling then 'enrolment' else u.role end into role from redoubt.users u where u.id = known.user_id;
  else
    update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'reuse' where s.id = known.id;
    outcome := 'reused';
  end if;
end $$;

-- The same for the many that one process was asked for at once: those of them whose token is the newest, in one statement;
-- `place` says which (from 1). What is not answered is asked of guard.refresh_session by itself.
-- It waits for nobody: a row that somebody else holds is left out. Otherwise one locked row would hold up the others, and two
-- that lock several rows in different order (this, and the end of all sessions of a person) would end as a deadlock.
-- What is looked for is the family alone, and users by their key: whatever the statistics said when the plan was made (a
-- new table has none), no plan reads all sessions or all users. The rest is asked of the rows that are held by then.
-- One plan for all lists: for a short one the server took a plan of its own to be cheaper and made it anew at each call,
-- which was half of what a call took (16 sessions: 750 us of processor time, with one plan 480).
create function guard.refresh_sessions(
  p_realm text, p_families bytea[], p_presented bytea[], p_next bytea[], p_salts bytea[], p_attempts bytea[], p_agents bytea[], p_prefixes text[], p_idle_seconds int
) returns table (place int, session uuid, actor uuid, role text, tenant text, binding bytea)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  newest int[];
begin
  if (guard.caller()).role <> 'system.refresh' or p_idle_seconds not between 60 and 2592000 or pg_catalog.cardinality(p_families) > 64 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  with held as materialized (
    select s.user_id, s.realm, s.refresh_hash, s.revoked_at, s.idle_expires_at, s.absolute_expires_at, pg_catalog.array_position(p_families, s.refresh_family) as n
      from redoubt.sessions s where s.refresh_family = any(p_families) for no key update skip locked
  )
  select pg_catalog.array_agg(h.n) into newest from held h
    where h.refresh_hash = p_presented[h.n] and h.realm = p_realm and h.revoked_at is null and h.idle_expires_at > pg_catalog.now()
      and h.absolute_expires_at > pg_catalog.now() and (select u.status from redoubt.users u where u.id = h.user_id) = 'active';
  return query update redoubt.sessions s
    set refresh_hash = p_next[g.n], previous_hash = p_presented[g.n], successor_salt = p_salts[g.n], attempt_hash = p_attempts[g.n], agent_hash = p_agents[g.n],
      address_prefix = p_prefixes[g.n], generation = s.generation + 1, rotated_at = pg_catalog.clock_timestamp(), last_used_at = pg_catalog.clock_timestamp(),
      idle_expires_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => p_idle_seconds)
    from pg_catalog.unnest(newest) g (n)
    where s.refresh_family = p_families[g.n]
    returning g.n, s.id, s.user_id, case when s.enrolling then 'enrolment' else (select u.role from redoubt.users u where u.id = s.user_id) end, s.tenant, s.binding;
end $$;

-- Ends a session whose row is not the one that was bound, for whoever showed a token of it.
create function guard.refuse_session(p_session uuid, p_family bytea) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role <> 'system.refresh' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'refused' where s.id = p_session and s.refresh_family = p_family and s.revoked_at is null;
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
declare
  who guard.verified := guard.caller();
begin
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'ended'
    where s.id = p_session and s.user_id = who.actor and s.revoked_at is null;
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

-- What an administrator sees of accounts: no name, no address. By the blind indexes of an address, or as a list.
create function guard.list_accounts(p_email_bidx bytea[], p_role text, p_status text, p_before uuid, p_limit int)
returns table (id uuid, role text, realm text, status text, created_at timestamptz, sessions int)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.role <> 'admin' or p_limit not between 1 and 101 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query
    select u.id, u.role, u.realm, u.status, u.created_at,
      (select pg_catalog.count(*)::int from redoubt.sessions s where s.user_id = u.id and s.revoked_at is null
        and s.idle_expires_at > pg_catalog.now() and s.absolute_expires_at > pg_catalog.now())
    from redoubt.users u
    where u.tenant = who.tenant and u.status <> 'deleted' and (p_email_bidx is null or u.email_bidx = any(p_email_bidx)) and (p_role is null or u.role = p_role)
      and (p_status is null or u.status = p_status) and (p_before is null or u.id < p_before)
    order by u.id desc limit p_limit;
end $$;

-- Suspends and restores. Never oneself, so that one administrator is left. The account first and the sessions after it:
-- a sign-in under way either waits for the row and finds it suspended, or was first, and its session is ended here.
create function guard.set_account_status(p_user uuid, p_status text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  found_status text;
begin
  if who.role <> 'admin' or p_status not in ('active', 'suspended') or p_user = who.actor then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  select u.status into found_status from redoubt.users u where u.id = p_user and u.tenant = who.tenant and u.status in ('active', 'suspended') for update;
  if not found then
    return 'unknown';
  elsif found_status = p_status then
    return 'unchanged';
  end if;
  update redoubt.users u set status = p_status, version = u.version + 1 where u.id = p_user;
  if p_status = 'suspended' then
    perform guard.end_sessions_of(p_user, 'suspended');
  end if;
  return 'changed';
end $$;

-- Another role on the platform; the roles of the others hang on what they are. Not one's own.
create function guard.set_account_role(p_user uuid, p_role text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  found_role text;
begin
  if who.role <> 'admin' or p_role not in ('admin', 'auditor') or p_user = who.actor then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  select u.role into found_role from redoubt.users u where u.id = p_user and u.tenant = who.tenant and u.realm = 'platform' and u.status <> 'deleted' for update;
  if not found then
    return 'unknown';
  elsif found_role = p_role then
    return 'unchanged';
  end if;
  update redoubt.users u set role = p_role, version = u.version + 1 where u.id = p_user;
  perform guard.end_sessions_of(p_user, 'role_changed');
  return 'changed';
end $$;

-- For the operator's command: the account of the platform that has an address; with p_unenrolled, where it has never set up
-- a second factor.
create function guard.find_administrator(p_email_bidx bytea[], p_unenrolled boolean) returns uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role <> 'system.create-admin' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return (select u.id from redoubt.users u where u.email_bidx = any(p_email_bidx) and u.realm = 'platform' and u.status = 'active'
    and not (p_unenrolled and guard.has_factor(u.id)));
end $$;

-- Such an account begins anew, with another password and another day for its second factor. One that has a factor is not
-- touched.
create function guard.renew_enrolment(p_user uuid, p_password_hash text, p_role text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if (guard.caller()).role <> 'system.create-admin' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform from redoubt.users u where u.id = p_user for no key update;
  update redoubt.users u set password_hash = p_password_hash, password_changed_at = u.created_at, role = p_role, enrol_until = pg_catalog.now() + interval '24 hours', version = u.version + 1
    where u.id = p_user and u.realm = 'platform' and u.status = 'active' and not guard.has_factor(u.id);
  if not found then
    raise exception using errcode = 'RD409', message = 'already_exists';
  end if;
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'password_changed' where s.user_id = p_user and s.revoked_at is null;
end $$;

-- The record for those who oversee it. A function and no policy: a policy that also lets them see would have every
-- person's "who read my data" read the whole record.
create function guard.read_audit(p_action text, p_actor uuid, p_resource_type text, p_resource_id text, p_outcome text, p_since timestamptz, p_until timestamptz, p_before uuid, p_limit int)
returns table (id uuid, occurred_at timestamptz, actor_type text, actor_id uuid, actor_role text, action text, resource_type text, resource_id text, purpose text, outcome text, request_id text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
begin
  if who.role not in ('admin', 'auditor') or p_limit not between 1 and 101 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query
    select l.id, l.occurred_at, l.actor_type, l.actor_id, l.actor_role, l.action, l.resource_type, l.resource_id, l.purpose, l.outcome, l.request_id
    from redoubt.audit_logs l
    where l.tenant_id = who.tenant and (p_action is null or l.action = p_action) and (p_actor is null or l.actor_id = p_actor)
      and (p_resource_type is null or l.resource_type = p_resource_type) and (p_resource_id is null or l.resource_id = p_resource_id)
      and (p_outcome is null or pg_catalog.starts_with(l.outcome, p_outcome)) and (p_before is null or l.id < p_before)
      and (p_since is null or l.occurred_at >= p_since) and (p_until is null or l.occurred_at < p_until)
    order by l.id desc limit p_limit;
end $$;

revoke all on function
  guard.refresh_session(text, bytea, bytea, bytea, bytea, bytea, bytea, text, int),
  guard.refresh_sessions(text, bytea[], bytea[], bytea[], bytea[], bytea[], bytea[], text[], int), guard.refuse_session(uuid, bytea), guard.end_session(uuid), guard.end_other_sessions(text),
  guard.end_sessions_of(uuid, text), guard.list_accounts(bytea[], text, text, uuid, int), guard.set_account_status(uuid, text),
  guard.set_account_role(uuid, text), guard.find_administrator(bytea[], boolean), guard.renew_enrolment(uuid, text, text),
  guard.read_audit(text, uuid, text, text, text, timestamptz, timestamptz, uuid, int) from public;
grant execute on function
  guard.refresh_session(text, bytea, bytea, bytea, bytea, bytea, bytea, text, int),
  guard.refresh_sessions(text, bytea[], bytea[], bytea[], bytea[], bytea[], bytea[], text[], int), guard.refuse_session(uuid, bytea), guard.end_session(uuid), guard.end_other_sessions(text),
  guard.end_sessions_of(uuid, text), guard.list_accounts(bytea[], text, text, uuid, int), guard.set_account_status(uuid, text),
  guard.set_account_role(uuid, text), guard.find_administrator(bytea[], boolean), guard.renew_enrolment(uuid, text, text),
  guard.read_audit(text, uuid, text, text, text, timestamptz, timestamptz, uuid, int) to {app};
