-- Slots, bookings and the notes about them.

set local role {owner};

create table therapy.appointments (
  id uuid primary key,
  therapist_id uuid not null references therapy.therapist_profiles (user_id),
  patient_id uuid references therapy.patients (id),
  slot tstzrange not null,
  kind text not null check (kind in ('video', 'in_person')),
  status text not null check (status in ('available', 'held', 'booked', 'completed', 'cancelled', 'no_show')),
  price_minor int4 not null check (price_minor >= 0),
  currency text not null check (currency ~ '^[A-Z]{3}$'),
  payment_state text not null default 'none' check (payment_state in ('none', 'pending', 'paid', 'refunded')),
  room_token_hash bytea check (octet_length(room_token_hash) = 32),
  hold_expires_at timestamptz,
  created_at timestamptz not null,
  version int4 not null default 1,
  check (lower_inc(slot) and not upper_inc(slot) and upper(slot) - lower(slot) between interval '10 minutes' and interval '4 hours'),
  check ((status = 'available') <= (patient_id is null)),
  check ((status in ('held', 'booked', 'completed', 'no_show')) <= (patient_id is not null)),
  -- The range decides, not an equal start: slots of one therapist cannot overlap, in whatever time zone they were typed.
  constraint appointments_no_overlap exclude using gist (therapist_id with =, slot with &&) where (status <> 'cancelled'),
  unique (id, patient_id, therapist_id)
);
create index appointments_by_therapist on therapy.appointments (therapist_id, lower(slot), id);
create index appointments_by_patient on therapy.appointments (patient_id, lower(slot), id);

create table therapy.appointment_notes (
  id uuid primary key,
  appointment_id uuid not null,
  patient_id uuid not null,
  therapist_id uuid not null,
  author_id uuid not null,
  kind text not null check (kind in ('therapist', 'patient')),
  body_enc bytea not null,
  released_at timestamptz,
  created_at timestamptz not null,
  check (author_id = case kind when 'therapist' then therapist_id else patient_id end),
  check (released_at is null or kind = 'therapist'),
  -- Both sides are in the key: a note can only hang on an appointment of exactly these two.
  foreign key (appointment_id, patient_id, therapist_id) references therapy.appointments (id, patient_id, therapist_id)
);
create index appointment_notes_by_appointment on therapy.appointment_notes (appointment_id, id);
create index appointment_notes_by_patient on therapy.appointment_notes (patient_id, id);
create index appointment_notes_by_therapist on therapy.appointment_notes (therapist_id, id);

do $$
declare t text;
begin
  foreach t in array array['appointments', 'appointment_notes'] loop
    execute format('alter table therapy.%I enable row level security', t);
    execute format('alter table therapy.%I force row level security', t);
    execute format('create policy app_delete on therapy.%I for delete to {app} using (false)', t);
  end loop;
end $$;
grant select on therapy.appointments, therapy.appointment_notes to {backup};

-- A policy sees the row before or after an update, never both: the steps between them are checked here.
-- Runs as the caller, reads no table, and believes only the verified caller.
create function therapy.appointment_step() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  who guard.verified := guard.caller();
  step text := old.status || ' > ' || new.status;
begin
  if new.version <> old.version + 1 then
    raise exception using errcode = 'RD409', message = 'version_conflict';
  end if;
  if new.patient_id is distinct from old.patient_id and (step <> 'available > booked' or new.patient_id is distinct from who.actor) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  if (new.slot, new.kind) is distinct from (old.slot, old.kind) and step <> 'available > available' then
    raise exception using errcode = 'RD409', message = 'conflict';
  end if;
  if who.actor = old.therapist_id and step in ('available > available', 'available > cancelled',
       'booked > completed', 'booked > no_show', 'booked > cancelled')
     or who.actor = new.patient_id and step in ('available > booked', 'booked > cancelled') then
    return new;
  end if;
  raise exception using errcode = 'RD409', message = 'conflict';
end $$;
revoke all on function therapy.appointment_step() from public;
create trigger appointment_step before update on therapy.appointments for each row execute function therapy.appointment_step();

grant select (id, therapist_id, patient_id, slot, kind, status, price_minor, currency, payment_state, hold_expires_at, created_at, version),
  insert, update (patient_id, slot, kind, status, version) on therapy.appointments to {app};
-- Free slots of verified therapists are there to be found by patients; everything else belongs to its two sides.
create policy app_select on therapy.appointments for select to {app} using (
  therapist_id = (select guard.actor())
  or patient_id = (select guard.actor())
  or (status = 'available' and (select guard.role()) = 'patient'
      and therapist_id = any (array(select p.user_id from therapy.therapist_profiles p where p.verification = 'verified')))
);
create policy app_insert on therapy.appointments for insert to {app} with check (
  therapist_id = (select guard.actor()) and status = 'available' and patient_id is null
  and therapist_id = any (array(select p.user_id from therapy.therapist_profiles p
        where p.verification = 'verified' and p.user_id = (select guard.actor())))
);
create policy app_update on therapy.appointments for update to {app}
  using (
    therapist_id = (select guard.actor())
    or patient_id = (select guard.actor())
    or (status = 'available' and therapist_id = any (array(select therapy.my_therapists())))
  )
  with check (therapist_id = (select guard.actor()) or patient_id = (select guard.actor()));

-- A patient reads their own notes and what the therapist released; the therapist reads both while the relationship is
-- active; a later therapist what earlier ones wrote, with the patient's consent to sharing.
grant select, insert, update (released_at) on therapy.appointment_notes to {app};
create policy app_select on therapy.appointment_notes for select to {app} using (
  (patient_id = (select guard.actor()) and (kind = 'patient' or released_at is not null))
  or (therapist_id = (select guard.actor()) and patient_id = any (array(select therapy.my_patients())))
  or (kind = 'therapist' and patient_id = any (array(select therapy.my_sharing_patients())))
);
create policy app_insert on therapy.appointment_notes for insert to {app} with check (
  author_id = (select guard.actor()) and released_at is null
  and (kind = 'patient' or patient_id = any (array(select therapy.my_patients())))
);
create policy app_update on therapy.appointment_notes for update to {app}
  using (kind = 'therapist' and author_id = (select guard.actor()) and released_at is null
    and patient_id = any (array(select therapy.my_patients())))
  with check (author_id = (select guard.actor()) and released_at is not null);
