-- What is said and what is recorded in care.

set local role {owner};

create table therapy.messages (
  id uuid primary key,
  care_relationship_id uuid not null,
  patient_id uuid not null,
  therapist_id uuid not null,
  sender_id uuid not null,
  recipient_id uuid not null,
  body_enc bytea not null,
  created_at timestamptz not null,
  read_at timestamptz,
  check ((sender_id = patient_id and recipient_id = therapist_id) or (sender_id = therapist_id and recipient_id = patient_id)),
  foreign key (care_relationship_id, patient_id, therapist_id) references therapy.care_relationships (id, patient_id, therapist_id)
);
create index messages_by_relationship on therapy.messages (care_relationship_id, id);
create index messages_by_patient on therapy.messages (patient_id, id);
create index messages_unread on therapy.messages (recipient_id, care_relationship_id) where read_at is null;

create table therapy.medical_records (
  id uuid primary key,
  patient_id uuid not null references therapy.patients (id),
  therapist_id uuid not null references therapy.therapist_profiles (user_id),
  kind text not null check (kind in ('soap_note', 'diagnosis', 'risk', 'plan')),
  body_enc bytea not null,
  icd_code_enc bytea,
  risk_level_enc bytea,
  signed_at timestamptz not null,
  released_at timestamptz,
  -- A record is never changed: its correction is a new one that names it. Unique: two corrections of one record conflict.
  supersedes_id uuid unique,
  version int4 not null default 1,
  unique (id, patient_id, therapist_id),
  foreign key (supersedes_id, patient_id, therapist_id) references therapy.medical_records (id, patient_id, therapist_id),
  check (supersedes_id <> id)
);
create index medical_records_by_patient on therapy.medical_records (patient_id, id);

do $$
declare t text;
begin
  foreach t in array array['messages', 'medical_records'] loop
    execute format('alter table therapy.%I enable row level security', t);
    execute format('alter table therapy.%I force row level security', t);
    execute format('create policy app_delete on therapy.%I for delete to {app} using (false)', t);
  end loop;
end $$;
grant select on therapy.messages, therapy.medical_records to {backup};

-- A patient keeps reading their own messages; a therapist only while the relationship is active.
grant select, insert, update (read_at) on therapy.messages to {app};
create policy app_select on therapy.messages for select to {app} using (
  patient_id = (select guard.actor())
  or (therapist_id = (select guard.actor()) and patient_id = any (array(select therapy.my_patients())))
);
-- WITH CHECK of its own: a recipient can neither write in the sender's name nor change what was received.
create policy app_insert on therapy.messages for insert to {app} with check (
  sender_id = (select guard.actor()) and read_at is null
  and care_relationship_id = any (array(select therapy.my_relationships()))
);
-- The relation is asked for here too: an UPDATE without WHERE asks no select policy.
create policy app_update on therapy.messages for update to {app}
  using (recipient_id = (select guard.actor()) and read_at is null
    and (patient_id = (select guard.actor()) or patient_id = any (array(select therapy.my_patients()))))
  with check (recipient_id = (select guard.actor()) and read_at is not null);

-- A corrected entry is never released any more: its correction is. Both triggers run as the caller, who sees the whole
-- chain where a release or a correction is allowed at all, and wait for each other by the row that is corrected.
create function therapy.record_corrected() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform from therapy.medical_records r where r.id = new.supersedes_id for no key update;
  return new;
end $$;
create function therapy.record_released() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from therapy.medical_records r where r.supersedes_id = old.id) then
    raise exception using errcode = 'RD409', message = 'conflict';
  end if;
  return new;
end $$;
revoke all on function therapy.record_corrected(), therapy.record_released() from public;
create trigger record_corrected before insert on therapy.medical_records for each row
  when (new.supersedes_id is not null) execute function therapy.record_corrected();
create trigger record_released before update of released_at on therapy.medical_records for each row
  when (new.released_at is distinct from old.released_at) execute function therapy.record_released();

grant select, insert, update (released_at, version) on therapy.medical_records to {app};
create policy app_select on therapy.medical_records for select to {app} using (
  (patient_id = (select guard.actor()) and released_at is not null)
  or (therapist_id = (select guard.actor()) and patient_id = any (array(select therapy.my_patients())))
  or patient_id = any (array(select therapy.my_sharing_patients()))
);
create policy app_insert on therapy.medical_records for insert to {app} with check (
  therapist_id = (select guard.actor()) and released_at is null
  and patient_id = any (array(select therapy.my_patients()))
);
create policy app_update on therapy.medical_records for update to {app}
  using (therapist_id = (select guard.actor()) and released_at is null and patient_id = any (array(select therapy.my_patients())))
  with check (therapist_id = (select guard.actor()) and released_at is not null);
