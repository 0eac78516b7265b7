-- What the migrations of Therapy add to those of Redoubt, as the catalogue tells it. Nobody runs this file: it is
-- for reading, and schema.test.ts holds it against the migrations. REDOUBT_WRITE_SCHEMA=1 npm test -- /schema.test writes it.

-- schemas

create schema therapy;
grant usage on schema therapy to {app};
grant usage on schema therapy to {backup};
grant usage on schema therapy to {guard};
grant usage on schema therapy to {worker};

-- tables

create table redoubt.users (
  id uuid not null,
  tenant text not null,
  email_enc bytea not null,
  email_bidx bytea not null,
  password_hash text not null,
  status text default 'active'::text not null,
  role text not null,
  realm text default 'tenant'::text not null,
  enrol_until timestamp with time zone default (now() + '24:00:00'::interval) not null,
  created_at timestamp with time zone default now() not null,
  password_changed_at timestamp with time zone default now() not null,
  version integer default 1 not null,
  former_email_enc bytea,
  email_changed_at timestamp with time zone,
  constraint users_pkey PRIMARY KEY (id),
  constraint users_id_role_key UNIQUE (id, role),
  constraint users_realm_check CHECK ((realm = ANY (ARRAY['tenant'::text, 'platform'::text]))),
  constraint users_role_check CHECK ((((role = ANY (ARRAY['patient'::text, 'therapist'::text])) AND (realm = 'tenant'::text)) OR ((role = ANY (ARRAY['admin'::text, 'auditor'::text])) AND (realm = 'platform'::text)))),
  constraint users_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text, 'suspended'::text, 'deleted'::text])))
);
alter table redoubt.users enable row level security;
alter table redoubt.users force row level security;
alter table redoubt.users owner to {owner};
CREATE UNIQUE INDEX users_email_bidx_key ON redoubt.users USING btree (email_bidx) WHERE (status <> 'pending'::text);
CREATE INDEX users_pending ON redoubt.users USING btree (created_at) WHERE (status = 'pending'::text);
CREATE TRIGGER forget_registration BEFORE DELETE ON redoubt.users FOR EACH ROW EXECUTE FUNCTION therapy.forget_registration();
create policy app_delete on redoubt.users for delete to {app}
  using (false);
create policy app_insert on redoubt.users for insert to {app}
  with check (((tenant = ( SELECT guard.tenant() AS tenant)) AND (((( SELECT guard.role() AS role) = 'system.register'::text) AND (status = 'pending'::text) AND (role = ANY (ARRAY['patient'::text, 'therapist'::text]))) OR ((( SELECT guard.role() AS role) = 'system.create-admin'::text) AND (status = 'active'::text) AND (role = ANY (ARRAY['admin'::text, 'auditor'::text]))))));
create policy app_select on redoubt.users for select to {app}
  using ((id = ( SELECT guard.actor() AS actor)));
create policy app_update on redoubt.users for update to {app}
  using (false)
  with check (false);
create policy guard_delete on redoubt.users for delete to {guard}
  using (((status = 'pending'::text) AND (created_at < (now() - '7 days'::interval))));
create policy guard_select on redoubt.users for select to {guard}
  using (true);
create policy guard_update on redoubt.users for update to {guard}
  using (true)
  with check (true);
grant insert on redoubt.users to {app};
grant select (id, tenant, email_enc, email_bidx, status, role, realm, created_at, password_changed_at, version, former_email_enc, email_changed_at) on redoubt.users to {app};
grant delete, select on redoubt.users to {guard};
grant update (email_enc, email_bidx, password_hash, status, role, enrol_until, password_changed_at, version, former_email_enc, email_changed_at) on redoubt.users to {guard};

create table therapy.appointment_notes (
  id uuid not null,
  appointment_id uuid not null,
  patient_id uuid not null,
  therapist_id uuid not null,
  author_id uuid not null,
  kind text not null,
  body_enc bytea not null,
  released_at timestamp with time zone,
  created_at timestamp with time zone not null,
  constraint appointment_notes_pkey PRIMARY KEY (id),
  constraint appointment_notes_appointment_id_patient_id_therapist_id_fkey FOREIGN KEY (appointment_id, patient_id, therapist_id) REFERENCES therapy.appointments(id, patient_id, therapist_id),
  constraint appointment_notes_check CHECK ((author_id =
CASE kind
    WHEN 'therapist'::text THEN therapist_id
    ELSE patient_id
END)),
  constraint appointment_notes_check1 CHECK (((released_at IS NULL) OR (kind = 'therapist'::text))),
  constraint appointment_notes_kind_check CHECK ((kind = ANY (ARRAY['therapist'::text, 'patient'::text])))
);
alter table therapy.appointment_notes enable row level security;
alter table therapy.appointment_notes force row level security;
alter table therapy.appointment_notes owner to {owner};
CREATE INDEX appointment_notes_by_appointment ON therapy.appointment_notes USING btree (appointment_id, id);
CREATE INDEX appointment_notes_by_patient ON therapy.appointment_notes USING btree (patient_id, id);
CREATE INDEX appointment_notes_by_therapist ON therapy.appointment_notes USING btree (therapist_id, id);
create policy app_delete on therapy.appointment_notes for delete to {app}
  using (false);
create policy app_insert on therapy.appointment_notes for insert to {app}
  with check (((author_id = ( SELECT guard.actor() AS actor)) AND (released_at IS NULL) AND ((kind = 'patient'::text) OR (patient_id = ANY (ARRAY( SELECT therapy.my_patients() AS my_patients))))));
create policy app_select on therapy.appointment_notes for select to {app}
  using ((((patient_id = ( SELECT guard.actor() AS actor)) AND ((kind = 'patient'::text) OR (released_at IS NOT NULL))) OR ((therapist_id = ( SELECT guard.actor() AS actor)) AND (patient_id = ANY (ARRAY( SELECT therapy.my_patients() AS my_patients)))) OR ((kind = 'therapist'::text) AND (patient_id = ANY (ARRAY( SELECT therapy.my_sharing_patients() AS my_sharing_patients))))));
create policy app_update on therapy.appointment_notes for update to {app}
  using (((kind = 'therapist'::text) AND (author_id = ( SELECT guard.actor() AS actor)) AND (released_at IS NULL) AND (patient_id = ANY (ARRAY( SELECT therapy.my_patients() AS my_patients)))))
  with check (((author_id = ( SELECT guard.actor() AS actor)) AND (released_at IS NOT NULL)));
grant insert, select on therapy.appointment_notes to {app};
grant update (released_at) on therapy.appointment_notes to {app};
grant select on therapy.appointment_notes to {backup};

create table therapy.appointments (
  id uuid not null,
  therapist_id uuid not null,
  patient_id uuid,
  slot tstzrange not null,
  kind text not null,
  status text not null,
  price_minor integer not null,
  currency text not null,
  payment_state text default 'none'::text not null,
  room_token_hash bytea,
  hold_expires_at timestamp with time zone,
  created_at timestamp with time zone not null,
  version integer default 1 not null,
  constraint appointments_pkey PRIMARY KEY (id),
  constraint appointments_id_patient_id_therapist_id_key UNIQUE (id, patient_id, therapist_id),
  constraint appointments_patient_id_fkey FOREIGN KEY (patient_id) REFERENCES therapy.patients(id),
  constraint appointments_therapist_id_fkey FOREIGN KEY (therapist_id) REFERENCES therapy.therapist_profiles(user_id),
  constraint appointments_no_overlap EXCLUDE USING gist (therapist_id WITH =, slot WITH &&) WHERE ((status <> 'cancelled'::text)),
  constraint appointments_check CHECK (((status = 'available'::text) <= (patient_id IS NULL))),
  constraint appointments_check1 CHECK (((status = ANY (ARRAY['held'::text, 'booked'::text, 'completed'::text, 'no_show'::text])) <= (patient_id IS NOT NULL))),
  constraint appointments_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  constraint appointments_kind_check CHECK ((kind = ANY (ARRAY['video'::text, 'in_person'::text]))),
  constraint appointments_payment_state_check CHECK ((payment_state = ANY (ARRAY['none'::text, 'pending'::text, 'paid'::text, 'refunded'::text]))),
  constraint appointments_price_minor_check CHECK ((price_minor >= 0)),
  constraint appointments_room_token_hash_check CHECK ((octet_length(room_token_hash) = 32)),
  constraint appointments_slot_check CHECK ((lower_inc(slot) AND (NOT upper_inc(slot)) AND (((upper(slot) - lower(slot)) >= '00:10:00'::interval) AND ((upper(slot) - lower(slot)) <= '04:00:00'::interval)))),
  constraint appointments_status_check CHECK ((status = ANY (ARRAY['available'::text, 'held'::text, 'booked'::text, 'completed'::text, 'cancelled'::text, 'no_show'::text])))
);
alter table therapy.appointments enable row level security;
alter table therapy.appointments force row level security;
alter table therapy.appointments owner to {owner};
CREATE INDEX appointments_by_patient ON therapy.appointments USING btree (patient_id, lower(slot), id);
CREATE INDEX appointments_by_therapist ON therapy.appointments USING btree (therapist_id, lower(slot), id);
CREATE TRIGGER appointment_step BEFORE UPDATE ON therapy.appointments FOR EACH ROW EXECUTE FUNCTION therapy.appointment_step();
create policy app_delete on therapy.appointments for delete to {app}
  using (false);
create policy app_insert on therapy.appointments for insert to {app}
  with check (((therapist_id = ( SELECT guard.actor() AS actor)) AND (status = 'available'::text) AND (patient_id IS NULL) AND (therapist_id = ANY (ARRAY( SELECT p.user_id
   FROM therapy.therapist_profiles p
  WHERE ((p.verification = 'verified'::text) AND (p.user_id = ( SELECT guard.actor() AS actor))))))));
create policy app_select on therapy.appointments for select to {app}
  using (((therapist_id = ( SELECT guard.actor() AS actor)) OR (patient_id = ( SELECT guard.actor() AS actor)) OR ((status = 'available'::text) AND (( SELECT guard.role() AS role) = 'patient'::text) AND (therapist_id = ANY (ARRAY( SELECT p.user_id
   FROM therapy.therapist_profiles p
  WHERE (p.verification = 'verified'::text)))))));
create policy app_update on therapy.appointments for update to {app}
  using (((therapist_id = ( SELECT guard.actor() AS actor)) OR (patient_id = ( SELECT guard.actor() AS actor)) OR ((status = 'available'::text) AND (therapist_id = ANY (ARRAY( SELECT therapy.my_therapists() AS my_therapists))))))
  with check (((therapist_id = ( SELECT guard.actor() AS actor)) OR (patient_id = ( SELECT guard.actor() AS actor))));
grant insert on therapy.appointments to {app};
grant select (id, therapist_id, patient_id, slot, kind, status, price_minor, currency, payment_state, hold_expires_at, created_at, version) on therapy.appointments to {app};
grant update (patient_id, slot, kind, status, version) on therapy.appointments to {app};
grant select on therapy.appointments to {backup};

create table therapy.care_relationships (
  id uuid not null,
  therapist_id uuid not null,
  patient_id uuid not null,
  state text not null,
  basis text not null,
  created_at timestamp with time zone not null,
  started_at timestamp with time zone,
  ended_at timestamp with time zone,
  version integer default 1 not null,
  constraint care_relationships_pkey PRIMARY KEY (id),
  constraint care_relationships_id_patient_id_therapist_id_key UNIQUE (id, patient_id, therapist_id),
  constraint care_relationships_patient_id_fkey FOREIGN KEY (patient_id) REFERENCES therapy.patients(id),
  constraint care_relationships_therapist_id_fkey FOREIGN KEY (therapist_id) REFERENCES therapy.therapist_profiles(user_id),
  constraint care_relationships_basis_check CHECK ((basis = ANY (ARRAY['self_referral'::text, 'referral'::text, 'continuation'::text]))),
  constraint care_relationships_check CHECK (((state <> 'active'::text) OR ((started_at IS NOT NULL) AND (ended_at IS NULL)))),
  constraint care_relationships_check1 CHECK (((state = 'ended'::text) = (ended_at IS NOT NULL))),
  constraint care_relationships_state_check CHECK ((state = ANY (ARRAY['requested'::text, 'active'::text, 'ended'::text])))
);
alter table therapy.care_relationships enable row level security;
alter table therapy.care_relationships force row level security;
alter table therapy.care_relationships owner to {owner};
CREATE INDEX care_relationships_active ON therapy.care_relationships USING btree (therapist_id, patient_id) WHERE (state = 'active'::text);
CREATE INDEX care_relationships_by_patient ON therapy.care_relationships USING btree (patient_id, id);
CREATE INDEX care_relationships_by_therapist ON therapy.care_relationships USING btree (therapist_id, id);
CREATE UNIQUE INDEX care_relationships_one_open ON therapy.care_relationships USING btree (therapist_id, patient_id) WHERE (state <> 'ended'::text);
create policy app_delete on therapy.care_relationships for delete to {app}
  using (false);
create policy app_insert on therapy.care_relationships for insert to {app}
  with check (((patient_id = ( SELECT guard.actor() AS actor)) AND (state = 'requested'::text) AND (therapist_id = ANY (ARRAY( SELECT p.user_id
   FROM therapy.therapist_profiles p
  WHERE (p.verification = 'verified'::text))))));
create policy app_select on therapy.care_relationships for select to {app}
  using (((therapist_id = ( SELECT guard.actor() AS actor)) OR (patient_id = ( SELECT guard.actor() AS actor))));
create policy app_update on therapy.care_relationships for update to {app}
  using (((state <> 'ended'::text) AND ((therapist_id = ( SELECT guard.actor() AS actor)) OR (patient_id = ( SELECT guard.actor() AS actor)))))
  with check ((((therapist_id = ( SELECT guard.actor() AS actor)) AND (state = ANY (ARRAY['active'::text, 'ended'::text]))) OR ((patient_id = ( SELECT guard.actor() AS actor)) AND (state = 'ended'::text))));
create policy guard_select on therapy.care_relationships for select to {guard}
  using (true);
grant insert, select on therapy.care_relationships to {app};
grant update (state, started_at, ended_at, version) on therapy.care_relationships to {app};
grant select on therapy.care_relationships to {backup};
grant select on therapy.care_relationships to {guard};

create table therapy.consents (
  id uuid not null,
  patient_id uuid not null,
  kind text not null,
  text_version text not null,
  given_at timestamp with time zone not null,
  withdrawn_at timestamp with time zone,
  proof_hash bytea not null,
  constraint consents_pkey PRIMARY KEY (id),
  constraint consents_patient_id_fkey FOREIGN KEY (patient_id) REFERENCES therapy.patients(id),
  constraint consents_check CHECK ((withdrawn_at >= given_at)),
  constraint consents_kind_check CHECK ((kind = ANY (ARRAY['processing'::text, 'video'::text, 'sharing'::text, 'research'::text]))),
  constraint consents_proof_hash_check CHECK ((octet_length(proof_hash) = 32)),
  constraint consents_text_version_check CHECK (((char_length(text_version) >= 1) AND (char_length(text_version) <= 40)))
);
alter table therapy.consents enable row level security;
alter table therapy.consents force row level security;
alter table therapy.consents owner to {owner};
CREATE INDEX consents_by_patient ON therapy.consents USING btree (patient_id, id);
CREATE UNIQUE INDEX consents_one_open ON therapy.consents USING btree (patient_id, kind) WHERE (withdrawn_at IS NULL);
create policy app_delete on therapy.consents for delete to {app}
  using (false);
create policy app_insert on therapy.consents for insert to {app}
  with check (((patient_id = ( SELECT guard.actor() AS actor)) AND (withdrawn_at IS NULL)));
create policy app_select on therapy.consents for select to {app}
  using ((patient_id = ( SELECT guard.actor() AS actor)));
create policy app_update on therapy.consents for update to {app}
  using (((patient_id = ( SELECT guard.actor() AS actor)) AND (withdrawn_at IS NULL)))
  with check (((patient_id = ( SELECT guard.actor() AS actor)) AND (withdrawn_at IS NOT NULL)));
create policy guard_select on therapy.consents for select to {guard}
  using (true);
grant insert, select on therapy.consents to {app};
grant update (withdrawn_at) on therapy.consents to {app};
grant select on therapy.consents to {backup};
grant select on therapy.consents to {guard};

create table therapy.medical_records (
  id uuid not null,
  patient_id uuid not null,
  therapist_id uuid not null,
  kind text not null,
  body_enc bytea not null,
  icd_code_enc bytea,
  risk_level_enc bytea,
  signed_at timestamp with time zone not null,
  released_at timestamp with time zone,
  supersedes_id uuid,
  version integer default 1 not null,
  constraint medical_records_pkey PRIMARY KEY (id),
  constraint medical_records_id_patient_id_therapist_id_key UNIQUE (id, patient_id, therapist_id),
  constraint medical_records_supersedes_id_key UNIQUE (supersedes_id),
  constraint medical_records_patient_id_fkey FOREIGN KEY (patient_id) REFERENCES therapy.patients(id),
  constraint medical_records_supersedes_id_patient_id_therapist_id_fkey FOREIGN KEY (supersedes_id, patient_id, therapist_id) REFERENCES therapy.medical_records(id, patient_id, therapist_id),
  constraint medical_records_therapist_id_fkey FOREIGN KEY (therapist_id) REFERENCES therapy.therapist_profiles(user_id),
  constraint medical_records_check CHECK ((supersedes_id <> id)),
  constraint medical_records_kind_check CHECK ((kind = ANY (ARRAY['soap_note'::text, 'diagnosis'::text, 'risk'::text, 'plan'::text])))
);
alter table therapy.medical_records enable row level security;
alter table therapy.medical_records force row level security;
alter table therapy.medical_records owner to {owner};
CREATE INDEX medical_records_by_patient ON therapy.medical_records USING btree (patient_id, id);
CREATE TRIGGER record_corrected BEFORE INSERT ON therapy.medical_records FOR EACH ROW WHEN ((new.supersedes_id IS NOT NULL)) EXECUTE FUNCTION therapy.record_corrected();
CREATE TRIGGER record_released BEFORE UPDATE OF released_at ON therapy.medical_records FOR EACH ROW WHEN ((new.released_at IS DISTINCT FROM old.released_at)) EXECUTE FUNCTION therapy.record_released();
create policy app_delete on therapy.medical_records for delete to {app}
  using (false);
create policy app_insert on therapy.medical_records for insert to {app}
  with check (((therapist_id = ( SELECT guard.actor() AS actor)) AND (released_at IS NULL) AND (patient_id = ANY (ARRAY( SELECT therapy.my_patients() AS my_patients)))));
create policy app_select on therapy.medical_records for select to {app}
  using ((((patient_id = ( SELECT guard.actor() AS actor)) AND (released_at IS NOT NULL)) OR ((therapist_id = ( SELECT guard.actor() AS actor)) AND (patient_id = ANY (ARRAY( SELECT therapy.my_patients() AS my_patients)))) OR (patient_id = ANY (ARRAY( SELECT therapy.my_sharing_patients() AS my_sharing_patients)))));
create policy app_update on therapy.medical_records for update to {app}
  using (((therapist_id = ( SELECT guard.actor() AS actor)) AND (released_at IS NULL) AND (patient_id = ANY (ARRAY( SELECT therapy.my_patients() AS my_patients)))))
  with check (((therapist_id = ( SELECT guard.actor() AS actor)) AND (released_at IS NOT NULL)));
grant insert, select on therapy.medical_records to {app};
grant update (released_at, version) on therapy.medical_records to {app};
grant select on therapy.medical_records to {backup};

create table therapy.messages (
  id uuid not null,
  care_relationship_id uuid not null,
  patient_id uuid not null,
  therapist_id uuid not null,
  sender_id uuid not null,
  recipient_id uuid not null,
  body_enc bytea not null,
  created_at timestamp with time zone not null,
  read_at timestamp with time zone,
  constraint messages_pkey PRIMARY KEY (id),
  constraint messages_care_relationship_id_patient_id_therapist_id_fkey FOREIGN KEY (care_relationship_id, patient_id, therapist_id) REFERENCES therapy.care_relationships(id, patient_id, therapist_id),
  constraint messages_check CHECK ((((sender_id = patient_id) AND (recipient_id = therapist_id)) OR ((sender_id = therapist_id) AND (recipient_id = patient_id))))
);
alter table therapy.messages enable row level security;
alter table therapy.messages force row level security;
alter table therapy.messages owner to {owner};
CREATE INDEX messages_by_patient ON therapy.messages USING btree (patient_id, id);
CREATE INDEX messages_by_relationship ON therapy.messages USING btree (care_relationship_id, id);
CREATE INDEX messages_unread ON therapy.messages USING btree (recipient_id, care_relationship_id) WHERE (read_at IS NULL);
create policy app_delete on therapy.messages for delete to {app}
  using (false);
create policy app_insert on therapy.messages for insert to {app}
  with check (((sender_id = ( SELECT guard.actor() AS actor)) AND (read_at IS NULL) AND (care_relationship_id = ANY (ARRAY( SELECT therapy.my_relationships() AS my_relationships)))));
create policy app_select on therapy.messages for select to {app}
  using (((patient_id = ( SELECT guard.actor() AS actor)) OR ((therapist_id = ( SELECT guard.actor() AS actor)) AND (patient_id = ANY (ARRAY( SELECT therapy.my_patients() AS my_patients))))));
create policy app_update on therapy.messages for update to {app}
  using (((recipient_id = ( SELECT guard.actor() AS actor)) AND (read_at IS NULL) AND ((patient_id = ( SELECT guard.actor() AS actor)) OR (patient_id = ANY (ARRAY( SELECT therapy.my_patients() AS my_patients))))))
  with check (((recipient_id = ( SELECT guard.actor() AS actor)) AND (read_at IS NOT NULL)));
grant insert, select on therapy.messages to {app};
grant update (read_at) on therapy.messages to {app};
grant select on therapy.messages to {backup};

create table therapy.patients (
  id uuid not null,
  role text generated always as 'patient'::text stored not null,
  therapist_id uuid,
  first_name_enc bytea not null,
  last_name_enc bytea not null,
  dob_enc bytea not null,
  phone_enc bytea,
  address_enc bytea,
  emergency_contact_enc bytea,
  insurance_no_enc bytea,
  created_at timestamp with time zone not null,
  version integer default 1 not null,
  constraint patients_pkey PRIMARY KEY (id),
  constraint patients_id_role_fkey FOREIGN KEY (id, role) REFERENCES redoubt.users(id, role),
  constraint patients_therapist_id_fkey FOREIGN KEY (therapist_id) REFERENCES therapy.therapist_profiles(user_id)
);
alter table therapy.patients enable row level security;
alter table therapy.patients force row level security;
alter table therapy.patients owner to {owner};
create policy app_delete on therapy.patients for delete to {app}
  using (false);
create policy app_insert on therapy.patients for insert to {app}
  with check (((( SELECT guard.role() AS role) = 'system.register'::text) AND (therapist_id IS NULL)));
create policy app_select on therapy.patients for select to {app}
  using ((id = ANY (ARRAY( SELECT therapy.visible_patients() AS visible_patients))));
create policy app_update on therapy.patients for update to {app}
  using ((id = ( SELECT guard.actor() AS actor)))
  with check ((id = ( SELECT guard.actor() AS actor)));
create policy guard_delete on therapy.patients for delete to {guard}
  using ((EXISTS ( SELECT
   FROM redoubt.users u
  WHERE ((u.id = patients.id) AND (u.status = 'pending'::text) AND (u.created_at < (now() - '7 days'::interval))))));
create policy guard_select on therapy.patients for select to {guard}
  using (true);
create policy guard_update on therapy.patients for update to {guard}
  using (true)
  with check (true);
grant insert, select on therapy.patients to {app};
grant update (first_name_enc, last_name_enc, dob_enc, phone_enc, address_enc, emergency_contact_enc, insurance_no_enc, version) on therapy.patients to {app};
grant select on therapy.patients to {backup};
grant delete on therapy.patients to {guard};
grant select (id, therapist_id) on therapy.patients to {guard};
grant update (therapist_id) on therapy.patients to {guard};

create table therapy.therapist_profiles (
  user_id uuid not null,
  role text generated always as 'therapist'::text stored not null,
  display_name text not null,
  specialisation text not null,
  bio text default ''::text not null,
  licence_number_enc bytea not null,
  verification text default 'pending'::text not null,
  verified_at timestamp with time zone,
  verified_by uuid,
  price_minor integer not null,
  currency text not null,
  time_zone text not null,
  created_at timestamp with time zone not null,
  version integer default 1 not null,
  constraint therapist_profiles_pkey PRIMARY KEY (user_id),
  constraint therapist_profiles_user_id_role_fkey FOREIGN KEY (user_id, role) REFERENCES redoubt.users(id, role),
  constraint therapist_profiles_verified_by_fkey FOREIGN KEY (verified_by) REFERENCES redoubt.users(id),
  constraint therapist_profiles_bio_check CHECK ((char_length(bio) <= 2000)),
  constraint therapist_profiles_check CHECK (((verification = 'verified'::text) = (verified_at IS NOT NULL))),
  constraint therapist_profiles_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  constraint therapist_profiles_display_name_check CHECK (((char_length(display_name) >= 2) AND (char_length(display_name) <= 100))),
  constraint therapist_profiles_price_minor_check CHECK (((price_minor >= 0) AND (price_minor <= 1000000))),
  constraint therapist_profiles_specialisation_check CHECK ((char_length(specialisation) <= 200)),
  constraint therapist_profiles_time_zone_check CHECK (((char_length(time_zone) >= 3) AND (char_length(time_zone) <= 64))),
  constraint therapist_profiles_verification_check CHECK ((verification = ANY (ARRAY['pending'::text, 'verified'::text, 'rejected'::text])))
);
alter table therapy.therapist_profiles enable row level security;
alter table therapy.therapist_profiles force row level security;
alter table therapy.therapist_profiles owner to {owner};
CREATE INDEX therapist_profiles_verified ON therapy.therapist_profiles USING btree (display_name, user_id) WHERE (verification = 'verified'::text);
CREATE INDEX therapist_profiles_waiting ON therapy.therapist_profiles USING btree (user_id) WHERE (verification = 'pending'::text);
CREATE TRIGGER name_fixed BEFORE UPDATE OF display_name ON therapy.therapist_profiles FOR EACH ROW WHEN (((old.verification = 'verified'::text) AND (new.display_name IS DISTINCT FROM old.display_name))) EXECUTE FUNCTION therapy.name_fixed();
create policy app_delete on therapy.therapist_profiles for delete to {app}
  using (false);
create policy app_insert on therapy.therapist_profiles for insert to {app}
  with check (((( SELECT guard.role() AS role) = 'system.register'::text) AND (verification = 'pending'::text) AND (verified_by IS NULL)));
create policy app_select on therapy.therapist_profiles for select to {app}
  using (((( SELECT guard.role() AS role) IS NOT NULL) AND ((verification = 'verified'::text) OR (user_id = ( SELECT guard.actor() AS actor)))));
create policy app_update on therapy.therapist_profiles for update to {app}
  using ((user_id = ( SELECT guard.actor() AS actor)))
  with check ((user_id = ( SELECT guard.actor() AS actor)));
create policy guard_delete on therapy.therapist_profiles for delete to {guard}
  using ((EXISTS ( SELECT
   FROM redoubt.users u
  WHERE ((u.id = therapist_profiles.user_id) AND (u.status = 'pending'::text) AND (u.created_at < (now() - '7 days'::interval))))));
create policy guard_select on therapy.therapist_profiles for select to {guard}
  using (true);
create policy guard_update on therapy.therapist_profiles for update to {guard}
  using (true)
  with check (true);
grant insert on therapy.therapist_profiles to {app};
grant select (user_id, display_name, specialisation, bio, verification, verified_at, price_minor, currency, time_zone, created_at, version) on therapy.therapist_profiles to {app};
grant update (display_name, specialisation, bio, price_minor, currency, time_zone, version) on therapy.therapist_profiles to {app};
grant select on therapy.therapist_profiles to {backup};
grant delete, select on therapy.therapist_profiles to {guard};
grant update (verification, verified_at, verified_by, version) on therapy.therapist_profiles to {guard};

-- functions

CREATE OR REPLACE FUNCTION therapy.appointment_step()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function therapy.appointment_step() owner to {owner};

CREATE OR REPLACE FUNCTION therapy.forget_registration()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  delete from therapy.patients p where p.id = old.id;
  delete from therapy.therapist_profiles p where p.user_id = old.id;
  return old;
end $function$;
alter function therapy.forget_registration() owner to {guard};
grant execute on function therapy.forget_registration() to {owner};

CREATE OR REPLACE FUNCTION therapy.my_patients()
 RETURNS SETOF uuid
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare who guard.verified := guard.caller(false);
begin
  return query select r.patient_id from therapy.care_relationships r
    where r.therapist_id = who.actor and r.state = 'active';
end $function$;
alter function therapy.my_patients() owner to {guard};
grant execute on function therapy.my_patients() to {app};

CREATE OR REPLACE FUNCTION therapy.my_relationships()
 RETURNS SETOF uuid
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare who guard.verified := guard.caller(false);
begin
  return query select r.id from therapy.care_relationships r
    where r.state = 'active' and (r.therapist_id = who.actor or r.patient_id = who.actor);
end $function$;
alter function therapy.my_relationships() owner to {guard};
grant execute on function therapy.my_relationships() to {app};

CREATE OR REPLACE FUNCTION therapy.my_sharing_patients()
 RETURNS SETOF uuid
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare who guard.verified := guard.caller(false);
begin
  return query select r.patient_id from therapy.care_relationships r
    join therapy.consents c on c.patient_id = r.patient_id and c.kind = 'sharing' and c.withdrawn_at is null
    where r.therapist_id = who.actor and r.state = 'active';
end $function$;
alter function therapy.my_sharing_patients() owner to {guard};
grant execute on function therapy.my_sharing_patients() to {app};

CREATE OR REPLACE FUNCTION therapy.my_therapists()
 RETURNS SETOF uuid
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare who guard.verified := guard.caller(false);
begin
  return query select r.therapist_id from therapy.care_relationships r
    join therapy.therapist_profiles p on p.user_id = r.therapist_id and p.verification = 'verified'
    where r.patient_id = who.actor and r.state = 'active';
end $function$;
alter function therapy.my_therapists() owner to {guard};
grant execute on function therapy.my_therapists() to {app};

CREATE OR REPLACE FUNCTION therapy.name_fixed()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  raise exception using errcode = 'RD409', message = 'conflict';
end $function$;
alter function therapy.name_fixed() owner to {owner};

CREATE OR REPLACE FUNCTION therapy.record_corrected()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform from therapy.medical_records r where r.id = new.supersedes_id for no key update;
  return new;
end $function$;
alter function therapy.record_corrected() owner to {owner};

CREATE OR REPLACE FUNCTION therapy.record_released()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if exists (select from therapy.medical_records r where r.supersedes_id = old.id) then
    raise exception using errcode = 'RD409', message = 'conflict';
  end if;
  return new;
end $function$;
alter function therapy.record_released() owner to {owner};

CREATE OR REPLACE FUNCTION therapy.settle_main_therapist(p_relationship uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function therapy.settle_main_therapist(p_relationship uuid) owner to {guard};
grant execute on function therapy.settle_main_therapist(p_relationship uuid) to {app};

CREATE OR REPLACE FUNCTION therapy.verify_licence(p_therapist uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function therapy.verify_licence(p_therapist uuid) owner to {guard};
grant execute on function therapy.verify_licence(p_therapist uuid) to {app};

CREATE OR REPLACE FUNCTION therapy.verify_therapist(p_email_bidx bytea[])
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function therapy.verify_therapist(p_email_bidx bytea[]) owner to {guard};
grant execute on function therapy.verify_therapist(p_email_bidx bytea[]) to {app};

CREATE OR REPLACE FUNCTION therapy.visible_patients()
 RETURNS SETOF uuid
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare who guard.verified := guard.caller(false);
begin
  if who.actor is not null then
    return next who.actor;
  end if;
  -- Nobody else has patients; a patient's own row takes a third less time without looking for them.
  if who.role = 'therapist' then
    return query select r.patient_id from therapy.care_relationships r where r.therapist_id = who.actor and r.state = 'active';
  end if;
end $function$;
alter function therapy.visible_patients() owner to {guard};
grant execute on function therapy.visible_patients() to {app};

CREATE OR REPLACE FUNCTION therapy.waiting_therapists(p_after uuid, p_limit integer)
 RETURNS TABLE(user_id uuid, display_name text, specialisation text, licence_number_enc bytea, created_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  if (guard.caller()).role <> 'admin' or p_limit not between 1 and 101 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query select p.user_id, p.display_name, p.specialisation, p.licence_number_enc, p.created_at
    from therapy.therapist_profiles p join redoubt.users u on u.id = p.user_id
    where p.verification = 'pending' and u.status = 'active' and (p_after is null or p.user_id > p_after)
    order by p.user_id limit p_limit;
end $function$;
alter function therapy.waiting_therapists(p_after uuid, p_limit integer) owner to {guard};
grant execute on function therapy.waiting_therapists(p_after uuid, p_limit integer) to {app};

