-- Who is who in Therapy, and who is in whose care: the base of every access rule.
-- Rules that hold for all tables of this schema: FORCE row level security, one policy per command for the app's role
-- (also where nothing is granted), column grants where only some columns may change, and no DELETE: care data ends by
-- retention, never by a request.

set local role {owner};

create schema therapy;
grant usage on schema therapy to {app}, {guard}, {worker}, {backup};

-- Equality of ids inside the exclusion constraint on slots. A trusted extension: no superuser is needed.
create schema extensions;
create extension btree_gist with schema extensions;

-- Registration makes patients and therapists; no body can ask for another role. The operator's command makes those who
-- administer and audit.
drop policy app_insert on redoubt.users;
create policy app_insert on redoubt.users for insert to {app} with check (
  tenant = (select guard.tenant())
  and ((select guard.role()) = 'system.register' and status = 'pending' and role in ('patient', 'therapist')
    or (select guard.role()) = 'system.create-admin' and status = 'active' and role in ('admin', 'auditor'))
);
alter table redoubt.users
  add constraint users_role_check check (role in ('patient', 'therapist') and realm = 'tenant' or role in ('admin', 'auditor') and realm = 'platform'),
  add constraint users_id_role_key unique (id, role);

create table therapy.therapist_profiles (
  user_id uuid primary key,
  -- In the foreign key, so that a patient's id can never stand where a therapist's is meant.
  role text not null generated always as ('therapist') stored,
  display_name text not null check (char_length(display_name) between 2 and 100),
  specialisation text not null check (char_length(specialisation) <= 200),
  bio text not null default '' check (char_length(bio) <= 2000),
  licence_number_enc bytea not null,
  verification text not null default 'pending' check (verification in ('pending', 'verified', 'rejected')),
  verified_at timestamptz,
  -- Null where the operator's command verified: it has no account.
  verified_by uuid references redoubt.users (id),
  price_minor int4 not null check (price_minor between 0 and 1000000),
  currency text not null check (currency ~ '^[A-Z]{3}$'),
  time_zone text not null check (char_length(time_zone) between 3 and 64),
  created_at timestamptz not null,
  version int4 not null default 1,
  check ((verification = 'verified') = (verified_at is not null)),
  foreign key (user_id, role) references redoubt.users (id, role)
);
create index therapist_profiles_waiting on therapy.therapist_profiles (user_id) where verification = 'pending';
create index therapist_profiles_verified on therapy.therapist_profiles (display_name, user_id) where verification = 'verified';

create table therapy.patients (
  id uuid primary key,
  role text not null generated always as ('patient') stored,
  -- The main therapist: follows the care relationships, never set by a person.
  therapist_id uuid references therapy.therapist_profiles (user_id),
  first_name_enc bytea not null,
  last_name_enc bytea not null,
  dob_enc bytea not null,
  phone_enc bytea,
  address_enc bytea,
  emergency_contact_enc bytea,
  insurance_no_enc bytea,
  created_at timestamptz not null,
  version int4 not null default 1,
  foreign key (id, role) references redoubt.users (id, role)
);

create table therapy.care_relationships (
  id uuid primary key,
  therapist_id uuid not null references therapy.therapist_profiles (user_id),
  patient_id uuid not null references therapy.patients (id),
  state text not null check (state in ('requested', 'active', 'ended')),
  basis text not null check (basis in ('self_referral', 'referral', 'continuation')),
  created_at timestamptz not null,
  started_at timestamptz,
  ended_at timestamptz,
  version int4 not null default 1,
  check (state <> 'active' or (started_at is not null and ended_at is null)),
  check ((state = 'ended') = (ended_at is not null)),
  -- What messages refer to: the pair is in the key, so a reference cannot name another pair's relationship.
  unique (id, patient_id, therapist_id)
);
create unique index care_relationships_one_open on therapy.care_relationships (therapist_id, patient_id) where state <> 'ended';
create index care_relationships_active on therapy.care_relationships (therapist_id, patient_id) where state = 'active';
create index care_relationships_by_patient on therapy.care_relationships (patient_id, id);
create index care_relationships_by_therapist on therapy.care_relationships (therapist_id, id);

create table therapy.consents (
  id uuid primary key,
  patient_id uuid not null references therapy.patients (id),
  kind text not null check (kind in ('processing', 'video', 'sharing', 'research')),
  text_version text not null check (char_length(text_version) between 1 and 40),
  given_at timestamptz not null,
  withdrawn_at timestamptz check (withdrawn_at >= given_at),
  proof_hash bytea not null check (octet_length(proof_hash) = 32)
);
create unique index consents_one_open on therapy.consents (patient_id, kind) where withdrawn_at is null;
create index consents_by_patient on therapy.consents (patient_id, id);

do $$
declare t text;
begin
  foreach t in array array['therapist_profiles', 'patients', 'care_relationships', 'consents'] loop
    execute format('alter table therapy.%I enable row level security', t);
    execute format('alter table therapy.%I force row level security', t);
    execute format('create policy app_delete on therapy.%I for delete to {app} using (false)', t);
  end loop;
end $$;
grant select on all tables in schema therapy to {backup};

-- The definer functions below read as guard, and move the main therapist.
grant select on therapy.care_relationships, therapy.consents, therapy.therapist_profiles to {guard};
grant update (verification, verified_at, verified_by, version) on therapy.therapist_profiles to {guard};
grant select (id, therapist_id), update (therapist_id) on therapy.patients to {guard};
create policy guard_select on therapy.care_relationships for select to {guard} using (true);
create policy guard_select on therapy.consents for select to {guard} using (true);
create policy guard_select on therapy.therapist_profiles for select to {guard} using (true);
create policy guard_update on therapy.therapist_profiles for update to {guard} using (true) with check (true);
create policy guard_select on therapy.patients for select to {guard} using (true);
create policy guard_update on therapy.patients for update to {guard} using (true) with check (true);

grant create on schema therapy to {guard};
set local role {guard};

-- The verified caller's own sets. No function takes a person's id, so none can be asked about somebody else; each is
-- evaluated once per statement (`x = any (array(select therapy.my_patients()))`), not once per row. Policies ask them, so
-- they refuse nobody: whoever is not verified has empty sets.
create function therapy.my_patients() returns setof uuid
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
declare who guard.verified := guard.caller(false);
begin
  return query select r.patient_id from therapy.care_relationships r
    where r.therapist_id = who.actor and r.state = 'active';
end $$;

-- The caller as a patient and the caller's patients, at the price of verifying the caller once.
create function therapy.visible_patients() returns setof uuid
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
declare who guard.verified := guard.caller(false);
begin
  if who.actor is not null then
    return next who.actor;
  end if;
  -- Nobody else has patients; a patient's own row takes a third less time without looking for them.
  if who.role = 'therapist' then
    return query select r.patient_id from therapy.care_relationships r where r.therapist_id = who.actor and r.state = 'active';
  end if;
end $$;

-- Of the caller's patients, the ones who let their present therapist read what earlier therapists wrote.
create function therapy.my_sharing_patients() returns setof uuid
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
declare who guard.verified := guard.caller(false);
begin
  return query select r.patient_id from therapy.care_relationships r
    join therapy.consents c on c.patient_id = r.patient_id and c.kind = 'sharing' and c.withdrawn_at is null
    where r.therapist_id = who.actor and r.state = 'active';
end $$;

-- Therapists whose slots the calling patient may book.
create function therapy.my_therapists() returns setof uuid
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
declare who guard.verified := guard.caller(false);
begin
  return query select r.therapist_id from therapy.care_relationships r
    join therapy.therapist_profiles p on p.user_id = r.therapist_id and p.verification = 'verified'
    where r.patient_id = who.actor and r.state = 'active';
end $$;

-- Active relationships the caller is a side of.
create function therapy.my_relationships() returns setof uuid
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
declare who guard.verified := guard.caller(false);
begin
  return query select r.id from therapy.care_relationships r
    where r.state = 'active' and (r.therapist_id = who.actor or r.patient_id = who.actor);
end $$;

-- After a relationship of the caller began or ended: the main therapist stays while in care, else the longest active one.
-- The patient's row is locked in a statement of its own: an UPDATE that waits for it would go on with the relationships
-- as they were before the wait, and could name a therapist whose care has just ended.
create function therapy.settle_main_therapist(p_relationship uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  patient uuid;
begin
  select r.patient_id into patient from therapy.care_relationships r
    where r.id = p_relationship and (r.therapist_id = who.actor or r.patient_id = who.actor);
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform from therapy.patients p where p.id = patient for no key update;
  update therapy.patients p set therapist_id = (
      select r.therapist_id from therapy.care_relationships r
      where r.patient_id = patient and r.state = 'active'
      order by (r.therapist_id is not distinct from p.therapist_id) desc, r.started_at, r.id limit 1)
    where p.id = patient;
end $$;

-- By an administrator, who is named in it.
create function therapy.verify_licence(p_therapist uuid) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare who guard.verified := guard.caller();
begin
  if who.role <> 'admin' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update therapy.therapist_profiles p
    set verification = 'verified', verified_at = pg_catalog.now(), verified_by = who.actor, version = p.version + 1
    where p.user_id = p_therapist and p.verification <> 'verified'
      -- Of somebody who has shown the address to be theirs: nobody is found and booked under a registration that ends.
      and exists (select from redoubt.users u where u.id = p.user_id and u.status <> 'pending');
  return found;
end $$;

-- Who waits for it, longest first, with the sealed number that an administrator compares with the register.
create function therapy.waiting_therapists(p_after uuid, p_limit int)
returns table (user_id uuid, display_name text, specialisation text, licence_number_enc bytea, created_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  if (guard.caller()).role <> 'admin' or p_limit not between 1 and 101 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query select p.user_id, p.display_name, p.specialisation, p.licence_number_enc, p.created_at
    from therapy.therapist_profiles p join redoubt.users u on u.id = p.user_id
    where p.verification = 'pending' and u.status = 'active' and (p_after is null or p.user_id > p_after)
    order by p.user_id limit p_limit;
end $$;

-- The operator's command, where no administrator has an account yet. Found by the keyed blind index of the e-mail address, which
-- injected SQL cannot compute, and only for the command's own signed caller.
create function therapy.verify_therapist(p_email_bidx bytea[]) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare therapist uuid;
begin
  if (guard.caller()).role <> 'system.verify-therapist' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update therapy.therapist_profiles p
    set verification = 'verified', verified_at = pg_catalog.now(), version = p.version + 1
    from redoubt.users u
    where u.id = p.user_id and u.email_bidx = any (p_email_bidx) and u.status <> 'pending' and p.verification <> 'verified'
    returning p.user_id into therapist;
  return therapist;
end $$;

revoke all on function therapy.my_patients(), therapy.visible_patients(), therapy.my_sharing_patients(), therapy.my_therapists(), therapy.my_relationships(),
  therapy.settle_main_therapist(uuid), therapy.verify_licence(uuid), therapy.waiting_therapists(uuid, int), therapy.verify_therapist(bytea[]) from public;
grant execute on function therapy.my_patients(), therapy.visible_patients(), therapy.my_sharing_patients(), therapy.my_therapists(), therapy.my_relationships(),
  therapy.settle_main_therapist(uuid), therapy.verify_licence(uuid), therapy.waiting_therapists(uuid, int), therapy.verify_therapist(bytea[]) to {app};

set local role {owner};
revoke create on schema therapy from {guard};

-- Verification is of a licence and of the name that stands in it: a verified therapist cannot go on under a colleague's.
-- For every role: another name needs the verification to be taken back first, and given again.
create function therapy.name_fixed() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using errcode = 'RD409', message = 'conflict';
end $$;
revoke all on function therapy.name_fixed() from public;
create trigger name_fixed before update of display_name on therapy.therapist_profiles for each row
  when (old.verification = 'verified' and new.display_name is distinct from old.display_name) execute function therapy.name_fixed();

-- Public profiles: everybody signed in reads the verified ones, a therapist their own. The licence number is for the
-- verification alone and is not readable through the app's role.
grant select (user_id, display_name, specialisation, bio, verification, verified_at, price_minor, currency, time_zone, created_at, version),
  insert, update (display_name, specialisation, bio, price_minor, currency, time_zone, version) on therapy.therapist_profiles to {app};
-- Asks who it is also where anybody may look: a session that has ended is nobody.
create policy app_select on therapy.therapist_profiles for select to {app}
  using ((select guard.role()) is not null and (verification = 'verified' or user_id = (select guard.actor())));
create policy app_insert on therapy.therapist_profiles for insert to {app}
  with check ((select guard.role()) = 'system.register' and verification = 'pending' and verified_by is null);
create policy app_update on therapy.therapist_profiles for update to {app}
  using (user_id = (select guard.actor())) with check (user_id = (select guard.actor()));

grant select, insert, update (first_name_enc, last_name_enc, dob_enc, phone_enc, address_enc, emergency_contact_enc, insurance_no_enc, version)
  on therapy.patients to {app};
create policy app_select on therapy.patients for select to {app}
  using (id = any (array(select therapy.visible_patients())));
create policy app_insert on therapy.patients for insert to {app}
  with check ((select guard.role()) = 'system.register' and therapist_id is null);
create policy app_update on therapy.patients for update to {app}
  using (id = (select guard.actor())) with check (id = (select guard.actor()));

-- The patient asks, the therapist accepts, either ends; nothing comes back from ended.
grant select, insert, update (state, started_at, ended_at, version) on therapy.care_relationships to {app};
create policy app_select on therapy.care_relationships for select to {app}
  using (therapist_id = (select guard.actor()) or patient_id = (select guard.actor()));
create policy app_insert on therapy.care_relationships for insert to {app} with check (
  patient_id = (select guard.actor()) and state = 'requested'
  and therapist_id = any (array(select p.user_id from therapy.therapist_profiles p where p.verification = 'verified'))
);
create policy app_update on therapy.care_relationships for update to {app}
  using (state <> 'ended' and (therapist_id = (select guard.actor()) or patient_id = (select guard.actor())))
  with check (
    (therapist_id = (select guard.actor()) and state in ('active', 'ended'))
    or (patient_id = (select guard.actor()) and state = 'ended')
  );

-- Append-only: a consent is withdrawn once and never given again in the same row.
grant select, insert, update (withdrawn_at) on therapy.consents to {app};
create policy app_select on therapy.consents for select to {app} using (patient_id = (select guard.actor()));
create policy app_insert on therapy.consents for insert to {app}
  with check (patient_id = (select guard.actor()) and withdrawn_at is null);
create policy app_update on therapy.consents for update to {app}
  using (patient_id = (select guard.actor()) and withdrawn_at is null)
  with check (patient_id = (select guard.actor()) and withdrawn_at is not null);
