-- What Therapy holds of a registration that was never confirmed goes with it (guard.forget_registrations). The policies
-- show only that: whatever deletes an account, a row of care stands in its way.

set local role {owner};

grant delete on therapy.patients, therapy.therapist_profiles to {guard};
create policy guard_delete on therapy.patients for delete to {guard}
  using (exists (select from redoubt.users u where u.id = patients.id and u.status = 'pending' and u.created_at < now() - interval '7 days'));
create policy guard_delete on therapy.therapist_profiles for delete to {guard}
  using (exists (select from redoubt.users u where u.id = user_id and u.status = 'pending' and u.created_at < now() - interval '7 days'));

grant create on schema therapy to {guard};
set local role {guard};

create function therapy.forget_registration() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  delete from therapy.patients p where p.id = old.id;
  delete from therapy.therapist_profiles p where p.user_id = old.id;
  return old;
end $$;
revoke all on function therapy.forget_registration() from public;
grant execute on function therapy.forget_registration() to {owner};

set local role {owner};
revoke create on schema therapy from {guard};
create trigger forget_registration before delete on redoubt.users for each row execute function therapy.forget_registration();
