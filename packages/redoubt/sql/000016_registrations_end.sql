-- Registrations that nobody confirmed end after seven days: the account, what hangs on it, and the keys it was sealed
-- under, in one transaction. Anybody may register with anybody's address; what they wrote about them must not stay.

set local role {owner};

-- Of an account itself only these can be deleted, by whomever.
grant delete on redoubt.users, redoubt.one_time_codes, redoubt.outbox to {guard};
create policy guard_delete on redoubt.users for delete to {guard} using (status = 'pending' and created_at < now() - interval '7 days');
create policy guard_delete on redoubt.one_time_codes for delete to {guard}
  using (exists (select from redoubt.users u where u.id = user_id and u.status = 'pending' and u.created_at < now() - interval '7 days'));
create policy guard_delete on redoubt.outbox for delete to {guard}
  using (exists (select from redoubt.users u where u.id = user_id and u.status = 'pending' and u.created_at < now() - interval '7 days'));
grant select (tenant, subject, keep), delete on keys.data_keys to {guard};
create policy guard_delete on keys.data_keys for delete to {guard}
  using (exists (select from redoubt.users u where u.id = subject and u.status = 'pending' and u.created_at < now() - interval '7 days'));

set local role {guard};

-- At most p_limit of them; answers how many. Whose confirmation can still be shown, or was a moment ago, is left until it
-- cannot: nobody loses an account while opening it. A row that somebody holds is left to the next call.
create function guard.forget_registrations(p_limit int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  gone uuid[];
begin
  if p_limit not between 1 and 10000 then
    raise exception using errcode = '22023', message = 'p_limit must be 1 to 10000';
  end if;
  gone := array(
    select u.id from redoubt.users u
    where u.status = 'pending' and u.created_at < pg_catalog.now() - interval '7 days'
      and not exists (select from redoubt.one_time_codes c where c.user_id = u.id and c.expires_at > pg_catalog.now() - interval '1 hour')
    order by u.created_at limit p_limit for update of u skip locked);
  if pg_catalog.cardinality(gone) = 0 then
    return 0;
  end if;
  -- The slot first, as in keys.destroy_data_keys: no key is made for them after this.
  insert into keys.erased (tenant, subject, keep)
    select distinct d.tenant, d.subject, d.keep from keys.data_keys d where d.subject = any (gone) on conflict do nothing;
  delete from keys.data_keys d where d.subject = any (gone);
  delete from redoubt.outbox o where o.user_id = any (gone);
  delete from redoubt.one_time_codes c where c.user_id = any (gone);
  delete from redoubt.users u where u.id = any (gone);
  -- The worker has no signed caller here: the function names who it was.
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, purpose, outcome, request_id,
      metadata, retention_class, retain_until)
    values (pg_catalog.gen_random_uuid(), pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(), 'system', 'system.retention', '{service}',
      'auth.registrations_ended', 'retention', 'done', 'retention', pg_catalog.jsonb_build_object('accounts', pg_catalog.cardinality(gone)), 'change',
      pg_catalog.transaction_timestamp() + pg_catalog.make_interval(days => 2557));
  return pg_catalog.cardinality(gone);
end $$;

revoke all on function guard.forget_registrations(int) from public;
grant execute on function guard.forget_registrations(int) to {worker};
