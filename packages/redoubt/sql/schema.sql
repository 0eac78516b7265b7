-- What the migrations of Redoubt come to, as the catalogue tells it. Nobody runs this file: it is
-- for reading, and schema.test.ts holds it against the migrations. REDOUBT_WRITE_SCHEMA=1 npm test -- /schema.test writes it.

-- schemas

create schema guard;
grant usage on schema guard to {app};
grant usage on schema guard to {auditor};
grant usage on schema guard to {ingest};
grant usage on schema guard to {keys};
grant usage on schema guard to {migrator};
grant usage on schema guard to {owner};
grant usage on schema guard to {worker};
create schema keys;
grant usage on schema keys to {guard};
grant usage on schema keys to {keys};
create schema redoubt;
grant usage on schema redoubt to {app};
grant usage on schema redoubt to {auditor};
grant usage on schema redoubt to {backup};
grant usage on schema redoubt to {guard};
grant usage on schema redoubt to {ingest};
grant usage on schema redoubt to {keys};
grant usage on schema redoubt to {migrator};
grant usage on schema redoubt to {worker};

-- types

create type guard.verified as (actor uuid, role text, tenant text, session uuid, action text, request text, entry uuid);

-- sequences

create sequence redoubt.key_calls_id_seq as bigint start 1 increment 1;

-- tables

create table guard.caller_keys (
  kid text not null,
  prefix text not null,
  inner_pad bytea not null,
  outer_pad bytea not null,
  not_after timestamp with time zone not null,
  constraint caller_keys_pkey PRIMARY KEY (kid),
  constraint caller_keys_inner_pad_check CHECK ((octet_length(inner_pad) = 64)),
  constraint caller_keys_kid_check CHECK ((kid ~ '^[A-Za-z0-9_-]{8,40}$'::text)),
  constraint caller_keys_outer_pad_check CHECK ((octet_length(outer_pad) = 64))
);
alter table guard.caller_keys enable row level security;
alter table guard.caller_keys force row level security;
alter table guard.caller_keys owner to {guard};
create policy guard_delete on guard.caller_keys for delete to {guard}
  using (true);
create policy guard_insert on guard.caller_keys for insert to {guard}
  with check (true);
create policy guard_select on guard.caller_keys for select to {guard}
  using (true);
create policy guard_update on guard.caller_keys for update to {guard}
  using (false)
  with check (false);

create table keys.data_keys (
  key_id bytea not null,
  tenant text not null,
  subject uuid not null,
  keep text not null,
  version integer default 1 not null,
  kek_id bytea not null,
  wrapped bytea not null,
  state text default 'active'::text not null,
  closed_at timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  constraint data_keys_pkey PRIMARY KEY (key_id),
  constraint data_keys_tenant_subject_keep_version_key UNIQUE (tenant, subject, keep, version),
  constraint data_keys_kek_id_fkey FOREIGN KEY (kek_id) REFERENCES keys.key_encryption_keys(id),
  constraint data_keys_check CHECK (((state = 'retiring'::text) = (closed_at IS NOT NULL))),
  constraint data_keys_keep_check CHECK ((keep ~ '^[a-z][a-z0-9_-]{0,62}$'::text)),
  constraint data_keys_key_id_check CHECK ((octet_length(key_id) = 16)),
  constraint data_keys_state_check CHECK ((state = ANY (ARRAY['active'::text, 'decrypt_only'::text, 'retiring'::text]))),
  constraint data_keys_tenant_check CHECK (((length(tenant) >= 1) AND (length(tenant) <= 200))),
  constraint data_keys_version_check CHECK ((version > 0)),
  constraint data_keys_wrapped_check CHECK (((octet_length(wrapped) >= 61) AND (octet_length(wrapped) <= 512)))
);
alter table keys.data_keys enable row level security;
alter table keys.data_keys force row level security;
alter table keys.data_keys owner to {owner};
CREATE INDEX data_keys_by_kek ON keys.data_keys USING btree (kek_id);
CREATE UNIQUE INDEX data_keys_one_active ON keys.data_keys USING btree (tenant, subject, keep) WHERE (state = 'active'::text);
CREATE TRIGGER refuse_erased BEFORE INSERT ON keys.data_keys FOR EACH ROW EXECUTE FUNCTION guard.refuse_erased();
CREATE TRIGGER under_active_key BEFORE INSERT OR UPDATE OF kek_id ON keys.data_keys FOR EACH ROW EXECUTE FUNCTION keys.under_active_key();
create policy guard_delete on keys.data_keys for delete to {guard}
  using ((EXISTS ( SELECT
   FROM redoubt.users u
  WHERE ((u.id = data_keys.subject) AND (u.status = 'pending'::text) AND (u.created_at < (now() - '7 days'::interval))))));
create policy guard_select on keys.data_keys for select to {guard}
  using (true);
create policy guard_update on keys.data_keys for update to {guard}
  using (true)
  with check (false);
create policy keys_delete on keys.data_keys for delete to {keys}
  using (true);
create policy keys_insert on keys.data_keys for insert to {keys}
  with check (true);
create policy keys_select on keys.data_keys for select to {keys}
  using (true);
create policy keys_update on keys.data_keys for update to {keys}
  using (true)
  with check (true);
grant delete on keys.data_keys to {guard};
grant select (key_id, tenant, subject, keep, state) on keys.data_keys to {guard};
grant update (state) on keys.data_keys to {guard};
grant delete, insert, select on keys.data_keys to {keys};
grant update (kek_id, wrapped, state, closed_at) on keys.data_keys to {keys};

create table keys.erased (
  tenant text not null,
  subject uuid not null,
  keep text not null,
  erased_at timestamp with time zone default now() not null,
  constraint erased_pkey PRIMARY KEY (tenant, subject, keep)
);
alter table keys.erased enable row level security;
alter table keys.erased force row level security;
alter table keys.erased owner to {owner};
create policy guard_delete on keys.erased for delete to {guard}
  using (true);
create policy guard_insert on keys.erased for insert to {guard}
  with check (true);
create policy guard_select on keys.erased for select to {guard}
  using (true);
create policy keys_delete on keys.erased for delete to {keys}
  using (false);
create policy keys_insert on keys.erased for insert to {keys}
  with check (true);
create policy keys_select on keys.erased for select to {keys}
  using (true);
create policy keys_update on keys.erased for update to {keys}
  using (false)
  with check (false);
grant delete, insert, select on keys.erased to {guard};
grant insert, select on keys.erased to {keys};

create table keys.index_keys (
  table_id integer not null,
  column_id integer not null,
  version integer not null,
  key_id bytea not null,
  kek_id bytea not null,
  wrapped bytea not null,
  use_from timestamp with time zone default now() not null,
  created_at timestamp with time zone default now() not null,
  constraint index_keys_pkey PRIMARY KEY (table_id, column_id, version),
  constraint index_keys_key_id_key UNIQUE (key_id),
  constraint index_keys_kek_id_fkey FOREIGN KEY (kek_id) REFERENCES keys.key_encryption_keys(id),
  constraint index_keys_column_id_check CHECK (((column_id >= 1) AND (column_id <= 65535))),
  constraint index_keys_key_id_check CHECK ((octet_length(key_id) = 16)),
  constraint index_keys_table_id_check CHECK (((table_id >= 1) AND (table_id <= 65535))),
  constraint index_keys_version_check CHECK (((version >= 1) AND (version <= 255))),
  constraint index_keys_wrapped_check CHECK (((octet_length(wrapped) >= 61) AND (octet_length(wrapped) <= 512)))
);
alter table keys.index_keys enable row level security;
alter table keys.index_keys force row level security;
alter table keys.index_keys owner to {owner};
CREATE INDEX index_keys_by_kek ON keys.index_keys USING btree (kek_id);
CREATE TRIGGER under_active_key BEFORE INSERT OR UPDATE OF kek_id ON keys.index_keys FOR EACH ROW EXECUTE FUNCTION keys.under_active_key();
create policy keys_delete on keys.index_keys for delete to {keys}
  using (true);
create policy keys_insert on keys.index_keys for insert to {keys}
  with check (true);
create policy keys_select on keys.index_keys for select to {keys}
  using (true);
create policy keys_update on keys.index_keys for update to {keys}
  using (true)
  with check (true);
grant delete, insert, select on keys.index_keys to {keys};
grant update (kek_id, wrapped) on keys.index_keys to {keys};

create table keys.key_encryption_keys (
  id bytea not null,
  purpose text not null,
  version integer not null,
  provider text not null,
  key_ref text not null,
  wrapped bytea,
  state text default 'active'::text not null,
  created_at timestamp with time zone default now() not null,
  constraint key_encryption_keys_pkey PRIMARY KEY (id),
  constraint key_encryption_keys_purpose_version_key UNIQUE (purpose, version),
  constraint key_encryption_keys_check CHECK (((state = 'destroyed'::text) = (wrapped IS NULL))),
  constraint key_encryption_keys_id_check CHECK ((octet_length(id) = 16)),
  constraint key_encryption_keys_key_ref_check CHECK (((length(key_ref) >= 1) AND (length(key_ref) <= 2048))),
  constraint key_encryption_keys_provider_check CHECK ((provider = ANY (ARRAY['local'::text, 'aws'::text, 'azure'::text, 'vault'::text]))),
  constraint key_encryption_keys_purpose_check CHECK ((purpose = ANY (ARRAY['data'::text, 'index'::text, 'purpose'::text]))),
  constraint key_encryption_keys_state_check CHECK ((state = ANY (ARRAY['active'::text, 'decrypt_only'::text, 'destroyed'::text]))),
  constraint key_encryption_keys_version_check CHECK ((version > 0)),
  constraint key_encryption_keys_wrapped_check CHECK (((octet_length(wrapped) >= 1) AND (octet_length(wrapped) <= 6144)))
);
alter table keys.key_encryption_keys enable row level security;
alter table keys.key_encryption_keys force row level security;
alter table keys.key_encryption_keys owner to {owner};
CREATE UNIQUE INDEX key_encryption_keys_one_active ON keys.key_encryption_keys USING btree (purpose) WHERE (state = 'active'::text);
create policy keys_delete on keys.key_encryption_keys for delete to {keys}
  using ((state = 'destroyed'::text));
create policy keys_insert on keys.key_encryption_keys for insert to {keys}
  with check (true);
create policy keys_select on keys.key_encryption_keys for select to {keys}
  using (true);
create policy keys_update on keys.key_encryption_keys for update to {keys}
  using (true)
  with check (true);
grant delete, insert, select on keys.key_encryption_keys to {keys};
grant update (provider, key_ref, wrapped, state) on keys.key_encryption_keys to {keys};

create table keys.purpose_keys (
  purpose text not null,
  kid text not null,
  version integer not null,
  kek_id bytea not null,
  wrapped bytea not null,
  public_key bytea not null,
  holds text default 'private'::text not null,
  use_from timestamp with time zone default now() not null,
  created_at timestamp with time zone default now() not null,
  constraint purpose_keys_pkey PRIMARY KEY (purpose, kid),
  constraint purpose_keys_purpose_version_key UNIQUE (purpose, version),
  constraint purpose_keys_kek_id_fkey FOREIGN KEY (kek_id) REFERENCES keys.key_encryption_keys(id),
  constraint purpose_keys_holds_check CHECK ((holds = ANY (ARRAY['private'::text, 'public'::text]))),
  constraint purpose_keys_kid_check CHECK ((kid ~ '^[A-Za-z0-9_-]{43}$'::text)),
  constraint purpose_keys_public_key_check CHECK (((octet_length(public_key) >= 32) AND (octet_length(public_key) <= 512))),
  constraint purpose_keys_purpose_check CHECK ((purpose ~ '^[a-z][a-z-]{1,40}$'::text)),
  constraint purpose_keys_version_check CHECK ((version > 0)),
  constraint purpose_keys_wrapped_check CHECK (((octet_length(wrapped) >= 61) AND (octet_length(wrapped) <= 512)))
);
alter table keys.purpose_keys enable row level security;
alter table keys.purpose_keys force row level security;
alter table keys.purpose_keys owner to {owner};
CREATE INDEX purpose_keys_by_kek ON keys.purpose_keys USING btree (kek_id);
CREATE TRIGGER under_active_key BEFORE INSERT OR UPDATE OF kek_id ON keys.purpose_keys FOR EACH ROW EXECUTE FUNCTION keys.under_active_key();
create policy keys_delete on keys.purpose_keys for delete to {keys}
  using (true);
create policy keys_insert on keys.purpose_keys for insert to {keys}
  with check (true);
create policy keys_select on keys.purpose_keys for select to {keys}
  using (true);
create policy keys_update on keys.purpose_keys for update to {keys}
  using (true)
  with check (true);
grant delete, insert, select on keys.purpose_keys to {keys};
grant update (kek_id, wrapped, holds) on keys.purpose_keys to {keys};

create table redoubt.api_clients (
  id uuid not null,
  tenant text not null,
  name text not null,
  secret_hash bytea not null,
  previous_hash bytea,
  previous_until timestamp with time zone,
  binding bytea not null,
  previous_binding bytea,
  scopes text[] not null,
  networks text[] default '{}'::text[] not null,
  created_at timestamp with time zone default now() not null,
  rotated_at timestamp with time zone,
  last_used_at timestamp with time zone,
  revoked_at timestamp with time zone,
  constraint api_clients_pkey PRIMARY KEY (id),
  constraint api_clients_binding_check CHECK ((octet_length(binding) = 33)),
  constraint api_clients_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 100))),
  constraint api_clients_networks_check CHECK ((cardinality(networks) <= 16)),
  constraint api_clients_previous_binding_check CHECK ((octet_length(previous_binding) = 33)),
  constraint api_clients_previous_hash_check CHECK ((octet_length(previous_hash) = 32)),
  constraint api_clients_scopes_check CHECK (((cardinality(scopes) >= 1) AND (cardinality(scopes) <= 32))),
  constraint api_clients_secret_hash_check CHECK ((octet_length(secret_hash) = 32))
);
alter table redoubt.api_clients enable row level security;
alter table redoubt.api_clients force row level security;
alter table redoubt.api_clients owner to {owner};
CREATE INDEX api_clients_by_tenant ON redoubt.api_clients USING btree (tenant, id);
create policy app_delete on redoubt.api_clients for delete to {app}
  using (false);
create policy app_insert on redoubt.api_clients for insert to {app}
  with check (((( SELECT guard.role() AS role) = ANY (ARRAY['admin'::text, 'system.api-clients'::text])) AND (tenant = ( SELECT guard.tenant() AS tenant))));
create policy app_select on redoubt.api_clients for select to {app}
  using (((( SELECT guard.role() AS role) = ANY (ARRAY['admin'::text, 'system.api-clients'::text])) AND (tenant = ( SELECT guard.tenant() AS tenant))));
create policy app_update on redoubt.api_clients for update to {app}
  using (false)
  with check (false);
create policy guard_select on redoubt.api_clients for select to {guard}
  using (true);
create policy guard_update on redoubt.api_clients for update to {guard}
  using (true)
  with check (true);
grant insert (id, tenant, name, secret_hash, binding, scopes, networks) on redoubt.api_clients to {app};
grant select (id, tenant, name, previous_until, scopes, networks, created_at, rotated_at, last_used_at, revoked_at) on redoubt.api_clients to {app};
grant select, update on redoubt.api_clients to {guard};

create table redoubt.audit_anchors (
  seq bigint not null,
  link bytea not null,
  kind text not null,
  after_seq bigint,
  previous bytea not null,
  at timestamp with time zone not null,
  kid text not null,
  signature bytea not null,
  constraint audit_anchors_pkey PRIMARY KEY (seq, link, kind),
  constraint audit_anchors_kind_check CHECK ((kind = ANY (ARRAY['head'::text, 'discontinuity'::text]))),
  constraint audit_anchors_link_check CHECK ((octet_length(link) = 32)),
  constraint audit_anchors_previous_check CHECK ((octet_length(previous) = 32)),
  constraint audit_anchors_signature_check CHECK ((octet_length(signature) = 64))
);
alter table redoubt.audit_anchors enable row level security;
alter table redoubt.audit_anchors force row level security;
alter table redoubt.audit_anchors owner to {owner};
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON redoubt.audit_anchors FOR EACH STATEMENT EXECUTE FUNCTION guard.refuse_audit_change();
create policy auditor_select on redoubt.audit_anchors for select to {auditor}
  using (true);
create policy guard_insert on redoubt.audit_anchors for insert to {guard}
  with check (true);
create policy guard_select on redoubt.audit_anchors for select to {guard}
  using (true);
create policy worker_select on redoubt.audit_anchors for select to {worker}
  using (true);
grant select on redoubt.audit_anchors to {auditor};
grant insert, select on redoubt.audit_anchors to {guard};
grant select on redoubt.audit_anchors to {worker};

create table redoubt.audit_chain (
  seq bigint not null,
  kind text not null,
  entry_id uuid not null,
  retain_until timestamp with time zone not null,
  commitment bytea not null,
  link bytea not null,
  constraint audit_chain_pkey PRIMARY KEY (seq),
  constraint audit_chain_entry_id_key UNIQUE (entry_id),
  constraint audit_chain_commitment_check CHECK ((octet_length(commitment) = 32)),
  constraint audit_chain_kind_check CHECK ((kind = ANY (ARRAY['entry'::text, 'discontinuity'::text]))),
  constraint audit_chain_link_check CHECK ((octet_length(link) = 32))
);
alter table redoubt.audit_chain enable row level security;
alter table redoubt.audit_chain force row level security;
alter table redoubt.audit_chain owner to {owner};
CREATE INDEX audit_chain_discontinuities ON redoubt.audit_chain USING btree (seq) WHERE (kind = 'discontinuity'::text);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON redoubt.audit_chain FOR EACH STATEMENT EXECUTE FUNCTION guard.refuse_audit_change();
create policy auditor_select on redoubt.audit_chain for select to {auditor}
  using (true);
create policy guard_insert on redoubt.audit_chain for insert to {guard}
  with check (true);
create policy guard_select on redoubt.audit_chain for select to {guard}
  using (true);
create policy worker_select on redoubt.audit_chain for select to {worker}
  using (true);
grant select on redoubt.audit_chain to {auditor};
grant insert, select on redoubt.audit_chain to {guard};
grant select on redoubt.audit_chain to {worker};

create table redoubt.audit_head (
  only_row boolean default true not null,
  seq bigint not null,
  link bytea not null,
  horizon xid8 not null,
  cluster bigint,
  holder uuid,
  held_until timestamp with time zone,
  constraint audit_head_pkey PRIMARY KEY (only_row),
  constraint audit_head_link_check CHECK ((octet_length(link) = 32)),
  constraint audit_head_only_row_check CHECK (only_row)
);
alter table redoubt.audit_head enable row level security;
alter table redoubt.audit_head force row level security;
alter table redoubt.audit_head owner to {owner};
CREATE TRIGGER one_row BEFORE DELETE OR UPDATE OR TRUNCATE ON redoubt.audit_head FOR EACH STATEMENT EXECUTE FUNCTION guard.refuse_audit_change('UPDATE');
create policy auditor_select on redoubt.audit_head for select to {auditor}
  using (true);
create policy guard_select on redoubt.audit_head for select to {guard}
  using (true);
create policy guard_update on redoubt.audit_head for update to {guard}
  using (true)
  with check (true);
create policy worker_select on redoubt.audit_head for select to {worker}
  using (true);
grant select on redoubt.audit_head to {auditor};
grant select, update on redoubt.audit_head to {guard};
grant select on redoubt.audit_head to {worker};

create table redoubt.audit_logs (
  id uuid not null,
  xid xid8 not null,
  occurred_at timestamp with time zone not null,
  actor_type text not null,
  actor_id uuid,
  actor_role text not null,
  tenant_id text not null,
  action text not null,
  resource_type text,
  resource_id text,
  purpose text,
  outcome text not null,
  request_id text not null,
  metadata jsonb default '{}'::jsonb not null,
  personal_enc bytea,
  personal_commitment bytea,
  retention_class text not null,
  retain_until timestamp with time zone not null,
  constraint audit_logs_pkey PRIMARY KEY (id)
);
alter table redoubt.audit_logs enable row level security;
alter table redoubt.audit_logs force row level security;
alter table redoubt.audit_logs owner to {owner};
CREATE INDEX audit_logs_by_actor ON redoubt.audit_logs USING btree (actor_id, id);
CREATE INDEX audit_logs_by_retention ON redoubt.audit_logs USING btree (retain_until);
CREATE INDEX audit_logs_by_xid ON redoubt.audit_logs USING btree (xid, id);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OF id, xid, occurred_at, actor_type, actor_id, actor_role, tenant_id, action, resource_type, resource_id, purpose, outcome, request_id, metadata, personal_commitment, retention_class, retain_until OR TRUNCATE ON redoubt.audit_logs FOR EACH STATEMENT EXECUTE FUNCTION guard.refuse_audit_change('DELETE');
CREATE TRIGGER tombstone_first BEFORE DELETE ON redoubt.audit_logs FOR EACH ROW EXECUTE FUNCTION guard.require_tombstone();
create policy app_delete on redoubt.audit_logs for delete to {app}
  using (false);
create policy app_insert on redoubt.audit_logs for insert to {app}
  with check (false);
create policy app_select on redoubt.audit_logs for select to {app}
  using (((actor_id = ( SELECT guard.actor() AS actor)) OR (id = ANY (ARRAY( SELECT s.entry_id
   FROM redoubt.audit_subjects s)))));
create policy app_update on redoubt.audit_logs for update to {app}
  using (false)
  with check (false);
create policy auditor_select on redoubt.audit_logs for select to {auditor}
  using (true);
create policy guard_delete on redoubt.audit_logs for delete to {guard}
  using ((retain_until <= transaction_timestamp()));
create policy guard_insert on redoubt.audit_logs for insert to {guard}
  with check (true);
create policy guard_select on redoubt.audit_logs for select to {guard}
  using (true);
grant select on redoubt.audit_logs to {app};
grant select on redoubt.audit_logs to {auditor};
grant delete, insert, select on redoubt.audit_logs to {guard};

create table redoubt.audit_subjects (
  subject_id uuid not null,
  entry_id uuid not null,
  constraint audit_subjects_pkey PRIMARY KEY (subject_id, entry_id)
);
alter table redoubt.audit_subjects enable row level security;
alter table redoubt.audit_subjects force row level security;
alter table redoubt.audit_subjects owner to {owner};
CREATE INDEX audit_subjects_by_entry ON redoubt.audit_subjects USING btree (entry_id);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON redoubt.audit_subjects FOR EACH STATEMENT EXECUTE FUNCTION guard.refuse_audit_change('DELETE');
CREATE TRIGGER tombstone_first BEFORE DELETE ON redoubt.audit_subjects FOR EACH ROW EXECUTE FUNCTION guard.require_tombstone();
create policy app_delete on redoubt.audit_subjects for delete to {app}
  using (false);
create policy app_insert on redoubt.audit_subjects for insert to {app}
  with check (false);
create policy app_select on redoubt.audit_subjects for select to {app}
  using ((subject_id = ( SELECT guard.actor() AS actor)));
create policy app_update on redoubt.audit_subjects for update to {app}
  using (false)
  with check (false);
create policy auditor_select on redoubt.audit_subjects for select to {auditor}
  using (true);
create policy guard_delete on redoubt.audit_subjects for delete to {guard}
  using (true);
create policy guard_insert on redoubt.audit_subjects for insert to {guard}
  with check (true);
create policy guard_select on redoubt.audit_subjects for select to {guard}
  using (true);
grant select on redoubt.audit_subjects to {app};
grant select on redoubt.audit_subjects to {auditor};
grant delete, insert, select on redoubt.audit_subjects to {guard};

create table redoubt.audit_tombstones (
  seq bigint not null,
  entry_id uuid not null,
  retention_entry uuid not null,
  removed_at timestamp with time zone default transaction_timestamp() not null,
  constraint audit_tombstones_pkey PRIMARY KEY (seq),
  constraint audit_tombstones_entry_id_key UNIQUE (entry_id)
);
alter table redoubt.audit_tombstones enable row level security;
alter table redoubt.audit_tombstones force row level security;
alter table redoubt.audit_tombstones owner to {owner};
CREATE INDEX audit_tombstones_by_run ON redoubt.audit_tombstones USING btree (retention_entry);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON redoubt.audit_tombstones FOR EACH STATEMENT EXECUTE FUNCTION guard.refuse_audit_change();
create policy auditor_select on redoubt.audit_tombstones for select to {auditor}
  using (true);
create policy guard_insert on redoubt.audit_tombstones for insert to {guard}
  with check (true);
create policy guard_select on redoubt.audit_tombstones for select to {guard}
  using (true);
grant select on redoubt.audit_tombstones to {auditor};
grant insert, select on redoubt.audit_tombstones to {guard};

create table redoubt.control_modes (
  name text not null,
  tenant text not null,
  mode text not null,
  changed_at timestamp with time zone default now() not null,
  constraint control_modes_pkey PRIMARY KEY (name),
  constraint control_modes_mode_check CHECK ((mode = ANY (ARRAY['off'::text, 'report'::text, 'enforce'::text])))
);
alter table redoubt.control_modes enable row level security;
alter table redoubt.control_modes force row level security;
alter table redoubt.control_modes owner to {owner};
create policy app_delete on redoubt.control_modes for delete to {app}
  using (false);
create policy app_insert on redoubt.control_modes for insert to {app}
  with check (((( SELECT guard.role() AS role) = 'system.controls'::text) AND (tenant = ( SELECT guard.tenant() AS tenant))));
create policy app_select on redoubt.control_modes for select to {app}
  using (((( SELECT guard.role() AS role) = 'system.controls'::text) AND (tenant = ( SELECT guard.tenant() AS tenant))));
create policy app_update on redoubt.control_modes for update to {app}
  using (((( SELECT guard.role() AS role) = 'system.controls'::text) AND (tenant = ( SELECT guard.tenant() AS tenant))))
  with check (((( SELECT guard.role() AS role) = 'system.controls'::text) AND (tenant = ( SELECT guard.tenant() AS tenant))));
grant insert, select on redoubt.control_modes to {app};
grant update (mode, changed_at) on redoubt.control_modes to {app};

create table redoubt.crypto_job_cursors (
  job_id uuid not null,
  round integer not null,
  range_no integer not null,
  next_id uuid not null,
  last_id uuid not null,
  holder uuid,
  held_until timestamp with time zone,
  done_at timestamp with time zone,
  changed bigint default 0 not null,
  already bigint default 0 not null,
  absent bigint default 0 not null,
  erased bigint default 0 not null,
  failed bigint default 0 not null,
  constraint crypto_job_cursors_pkey PRIMARY KEY (job_id, round, range_no),
  constraint crypto_job_cursors_job_id_fkey FOREIGN KEY (job_id) REFERENCES redoubt.crypto_jobs(id)
);
alter table redoubt.crypto_job_cursors enable row level security;
alter table redoubt.crypto_job_cursors force row level security;
alter table redoubt.crypto_job_cursors owner to {owner};
create policy app_delete on redoubt.crypto_job_cursors for delete to {app}
  using (false);
create policy app_insert on redoubt.crypto_job_cursors for insert to {app}
  with check (false);
create policy app_select on redoubt.crypto_job_cursors for select to {app}
  using (false);
create policy app_update on redoubt.crypto_job_cursors for update to {app}
  using (false)
  with check (false);
create policy migrator_insert on redoubt.crypto_job_cursors for insert to {migrator}
  with check (true);
create policy migrator_select on redoubt.crypto_job_cursors for select to {migrator}
  using (true);
create policy migrator_update on redoubt.crypto_job_cursors for update to {migrator}
  using (true)
  with check (true);
create policy others_select on redoubt.crypto_job_cursors for select to {auditor}, {keys}, {worker}
  using (true);
grant select on redoubt.crypto_job_cursors to {auditor};
grant select on redoubt.crypto_job_cursors to {keys};
grant insert, select, update on redoubt.crypto_job_cursors to {migrator};
grant select on redoubt.crypto_job_cursors to {worker};

create table redoubt.crypto_job_failures (
  job_id uuid not null,
  row_id uuid not null,
  column_name text not null,
  reason text not null,
  at timestamp with time zone default now() not null,
  constraint crypto_job_failures_pkey PRIMARY KEY (job_id, row_id, column_name),
  constraint crypto_job_failures_job_id_fkey FOREIGN KEY (job_id) REFERENCES redoubt.crypto_jobs(id),
  constraint crypto_job_failures_reason_check CHECK ((reason ~ '^[a-z_]{3,40}$'::text))
);
alter table redoubt.crypto_job_failures enable row level security;
alter table redoubt.crypto_job_failures force row level security;
alter table redoubt.crypto_job_failures owner to {owner};
create policy app_delete on redoubt.crypto_job_failures for delete to {app}
  using (false);
create policy app_insert on redoubt.crypto_job_failures for insert to {app}
  with check (false);
create policy app_select on redoubt.crypto_job_failures for select to {app}
  using (false);
create policy app_update on redoubt.crypto_job_failures for update to {app}
  using (false)
  with check (false);
create policy migrator_delete on redoubt.crypto_job_failures for delete to {migrator}
  using (true);
create policy migrator_insert on redoubt.crypto_job_failures for insert to {migrator}
  with check (true);
create policy migrator_select on redoubt.crypto_job_failures for select to {migrator}
  using (true);
create policy migrator_update on redoubt.crypto_job_failures for update to {migrator}
  using (true)
  with check (true);
create policy others_select on redoubt.crypto_job_failures for select to {auditor}, {keys}, {worker}
  using (true);
grant select on redoubt.crypto_job_failures to {auditor};
grant select on redoubt.crypto_job_failures to {keys};
grant delete, insert, select, update on redoubt.crypto_job_failures to {migrator};
grant select on redoubt.crypto_job_failures to {worker};

create table redoubt.crypto_jobs (
  id uuid not null,
  kind text not null,
  table_id integer not null,
  table_name text not null,
  columns text[] not null,
  state text default 'running'::text not null,
  round integer default 1 not null,
  rows_expected bigint default 0 not null,
  started_at timestamp with time zone default now() not null,
  started_by text default SESSION_USER not null,
  finished_at timestamp with time zone,
  holder uuid,
  held_until timestamp with time zone,
  proven_from timestamp with time zone,
  proven_at timestamp with time zone,
  proof jsonb,
  constraint crypto_jobs_pkey PRIMARY KEY (id),
  constraint crypto_jobs_check CHECK ((proven_at >= proven_from)),
  constraint crypto_jobs_check1 CHECK (((state = 'done'::text) = (finished_at IS NOT NULL))),
  constraint crypto_jobs_kind_check CHECK ((kind = ANY (ARRAY['reencrypt'::text, 'import'::text, 'wipe'::text, 'verify'::text]))),
  constraint crypto_jobs_round_check CHECK (((round >= 1) AND (round <= 100))),
  constraint crypto_jobs_state_check CHECK ((state = ANY (ARRAY['running'::text, 'done'::text]))),
  constraint crypto_jobs_table_id_check CHECK (((table_id >= 1) AND (table_id <= 65535)))
);
alter table redoubt.crypto_jobs enable row level security;
alter table redoubt.crypto_jobs force row level security;
alter table redoubt.crypto_jobs owner to {owner};
CREATE INDEX crypto_jobs_by_proof ON redoubt.crypto_jobs USING btree (table_id, kind, proven_at);
CREATE UNIQUE INDEX crypto_jobs_one_running ON redoubt.crypto_jobs USING btree (kind, table_id) WHERE (state = 'running'::text);
create policy app_delete on redoubt.crypto_jobs for delete to {app}
  using (false);
create policy app_insert on redoubt.crypto_jobs for insert to {app}
  with check (false);
create policy app_select on redoubt.crypto_jobs for select to {app}
  using (false);
create policy app_update on redoubt.crypto_jobs for update to {app}
  using (false)
  with check (false);
create policy guard_select on redoubt.crypto_jobs for select to {guard}
  using (true);
create policy migrator_insert on redoubt.crypto_jobs for insert to {migrator}
  with check (true);
create policy migrator_select on redoubt.crypto_jobs for select to {migrator}
  using (true);
create policy migrator_update on redoubt.crypto_jobs for update to {migrator}
  using (true)
  with check (true);
create policy others_select on redoubt.crypto_jobs for select to {auditor}, {keys}, {worker}
  using (true);
grant select on redoubt.crypto_jobs to {auditor};
grant select on redoubt.crypto_jobs to {guard};
grant select on redoubt.crypto_jobs to {keys};
grant insert, select, update on redoubt.crypto_jobs to {migrator};
grant select on redoubt.crypto_jobs to {worker};

create table redoubt.factor_resets (
  id uuid not null,
  user_id uuid not null,
  tenant text not null,
  requested_by uuid not null,
  requested_at timestamp with time zone default now() not null,
  effective_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  cancelled_at timestamp with time zone,
  applied_at timestamp with time zone,
  constraint factor_resets_pkey PRIMARY KEY (id),
  constraint factor_resets_user_id_fkey FOREIGN KEY (user_id) REFERENCES redoubt.users(id)
);
alter table redoubt.factor_resets enable row level security;
alter table redoubt.factor_resets force row level security;
alter table redoubt.factor_resets owner to {owner};
CREATE UNIQUE INDEX factor_resets_one_open ON redoubt.factor_resets USING btree (user_id) WHERE ((cancelled_at IS NULL) AND (applied_at IS NULL));
create policy app_delete on redoubt.factor_resets for delete to {app}
  using (false);
create policy app_insert on redoubt.factor_resets for insert to {app}
  with check (false);
create policy app_select on redoubt.factor_resets for select to {app}
  using ((user_id = ( SELECT guard.actor() AS actor)));
create policy app_update on redoubt.factor_resets for update to {app}
  using (false)
  with check (false);
create policy guard_insert on redoubt.factor_resets for insert to {guard}
  with check (true);
create policy guard_select on redoubt.factor_resets for select to {guard}
  using (true);
create policy guard_update on redoubt.factor_resets for update to {guard}
  using (true)
  with check (true);
grant select on redoubt.factor_resets to {app};
grant insert, select, update on redoubt.factor_resets to {guard};

create table redoubt.factor_tries (
  user_id uuid not null,
  door text not null,
  tries integer default 0 not null,
  last_at timestamp with time zone not null,
  constraint factor_tries_pkey PRIMARY KEY (user_id, door),
  constraint factor_tries_user_id_fkey FOREIGN KEY (user_id) REFERENCES redoubt.users(id),
  constraint factor_tries_door_check CHECK ((door = ANY (ARRAY['sign_in'::text, 'step_up'::text])))
);
alter table redoubt.factor_tries enable row level security;
alter table redoubt.factor_tries force row level security;
alter table redoubt.factor_tries owner to {owner};
create policy app_delete on redoubt.factor_tries for delete to {app}
  using (false);
create policy app_insert on redoubt.factor_tries for insert to {app}
  with check (false);
create policy app_select on redoubt.factor_tries for select to {app}
  using (false);
create policy app_update on redoubt.factor_tries for update to {app}
  using (false)
  with check (false);
create policy guard_delete on redoubt.factor_tries for delete to {guard}
  using (true);
create policy guard_insert on redoubt.factor_tries for insert to {guard}
  with check (true);
create policy guard_select on redoubt.factor_tries for select to {guard}
  using (true);
create policy guard_update on redoubt.factor_tries for update to {guard}
  using (true)
  with check (true);
grant delete, insert, select, update on redoubt.factor_tries to {guard};

create table redoubt.idempotency_keys (
  id uuid not null,
  principal uuid not null,
  route text not null,
  key text not null,
  request_hash bytea not null,
  salt_enc bytea,
  state text default 'in_progress'::text not null,
  resource_type text,
  resource_id text,
  expires_at timestamp with time zone not null,
  constraint idempotency_keys_pkey PRIMARY KEY (id),
  constraint idempotency_keys_principal_route_key_key UNIQUE (principal, route, key),
  constraint idempotency_keys_state_check CHECK ((state = ANY (ARRAY['in_progress'::text, 'done'::text])))
);
alter table redoubt.idempotency_keys enable row level security;
alter table redoubt.idempotency_keys force row level security;
alter table redoubt.idempotency_keys owner to {owner};
CREATE INDEX idempotency_keys_by_expiry ON redoubt.idempotency_keys USING btree (expires_at);
create policy app_delete on redoubt.idempotency_keys for delete to {app}
  using (false);
create policy app_insert on redoubt.idempotency_keys for insert to {app}
  with check ((principal = ( SELECT guard.actor() AS actor)));
create policy app_select on redoubt.idempotency_keys for select to {app}
  using ((principal = ( SELECT guard.actor() AS actor)));
create policy app_update on redoubt.idempotency_keys for update to {app}
  using ((principal = ( SELECT guard.actor() AS actor)))
  with check ((principal = ( SELECT guard.actor() AS actor)));
create policy worker_delete on redoubt.idempotency_keys for delete to {worker}
  using ((expires_at < now()));
create policy worker_select on redoubt.idempotency_keys for select to {worker}
  using ((expires_at < now()));
grant insert, select, update on redoubt.idempotency_keys to {app};
grant delete on redoubt.idempotency_keys to {worker};
grant select (id, expires_at) on redoubt.idempotency_keys to {worker};

create table redoubt.key_calls (
  id bigint generated always as identity not null,
  at timestamp with time zone not null,
  actor text not null,
  purpose text not null,
  data_class text not null,
  operation text not null,
  provider text not null,
  outcome text not null,
  milliseconds bigint not null,
  times integer not null,
  constraint key_calls_pkey PRIMARY KEY (id),
  constraint key_calls_milliseconds_check CHECK ((milliseconds >= 0)),
  constraint key_calls_operation_check CHECK ((operation = ANY (ARRAY['generate'::text, 'wrap'::text, 'unwrap'::text, 'rewrap'::text, 'check'::text]))),
  constraint key_calls_times_check CHECK ((times > 0))
);
alter table redoubt.key_calls enable row level security;
alter table redoubt.key_calls force row level security;
alter table redoubt.key_calls owner to {owner};
CREATE INDEX key_calls_by_time ON redoubt.key_calls USING btree (at);
create policy auditor_select on redoubt.key_calls for select to {auditor}, {backup}
  using (true);
create policy guard_delete on redoubt.key_calls for delete to {guard}
  using (true);
create policy guard_insert on redoubt.key_calls for insert to {guard}
  with check (true);
create policy guard_select on redoubt.key_calls for select to {guard}
  using (true);
grant select on redoubt.key_calls to {auditor};
grant select on redoubt.key_calls to {backup};
grant delete, insert, select on redoubt.key_calls to {guard};

create table redoubt.key_usage (
  hour timestamp with time zone not null,
  actor text not null,
  purpose text not null,
  data_class text not null,
  operation text not null,
  key text not null,
  uses bigint not null,
  constraint key_usage_pkey PRIMARY KEY (hour, actor, purpose, data_class, operation, key),
  constraint key_usage_operation_check CHECK ((operation = ANY (ARRAY['open'::text, 'unwrap'::text, 'wrap'::text]))),
  constraint key_usage_uses_check CHECK ((uses > 0))
);
alter table redoubt.key_usage enable row level security;
alter table redoubt.key_usage force row level security;
alter table redoubt.key_usage owner to {owner};
CREATE INDEX key_usage_by_key ON redoubt.key_usage USING btree (key, hour);
create policy auditor_select on redoubt.key_usage for select to {auditor}, {backup}
  using (true);
create policy guard_delete on redoubt.key_usage for delete to {guard}
  using (true);
create policy guard_insert on redoubt.key_usage for insert to {guard}
  with check (true);
create policy guard_select on redoubt.key_usage for select to {guard}
  using (true);
create policy guard_update on redoubt.key_usage for update to {guard}
  using (true)
  with check (true);
grant select on redoubt.key_usage to {auditor};
grant select on redoubt.key_usage to {backup};
grant delete, insert, select on redoubt.key_usage to {guard};
grant update (uses) on redoubt.key_usage to {guard};

create table redoubt.key_usage_batches (
  batch uuid not null,
  at timestamp with time zone default now() not null,
  constraint key_usage_batches_pkey PRIMARY KEY (batch)
);
alter table redoubt.key_usage_batches enable row level security;
alter table redoubt.key_usage_batches force row level security;
alter table redoubt.key_usage_batches owner to {owner};
create policy guard_delete on redoubt.key_usage_batches for delete to {guard}
  using (true);
create policy guard_insert on redoubt.key_usage_batches for insert to {guard}
  with check (true);
create policy guard_select on redoubt.key_usage_batches for select to {guard}
  using (true);
grant delete, insert, select on redoubt.key_usage_batches to {guard};

create table redoubt.key_use_unusual (
  hour timestamp with time zone not null,
  actor text not null,
  purpose text not null,
  data_class text not null,
  uses bigint not null,
  baseline bigint not null,
  constraint key_use_unusual_pkey PRIMARY KEY (hour, actor, purpose, data_class)
);
alter table redoubt.key_use_unusual enable row level security;
alter table redoubt.key_use_unusual force row level security;
alter table redoubt.key_use_unusual owner to {owner};
create policy auditor_select on redoubt.key_use_unusual for select to {auditor}, {backup}
  using (true);
create policy guard_delete on redoubt.key_use_unusual for delete to {guard}
  using (true);
create policy guard_insert on redoubt.key_use_unusual for insert to {guard}
  with check (true);
create policy guard_select on redoubt.key_use_unusual for select to {guard}
  using (true);
grant select on redoubt.key_use_unusual to {auditor};
grant select on redoubt.key_use_unusual to {backup};
grant delete, insert, select on redoubt.key_use_unusual to {guard};

create table redoubt.mfa_factors (
  id uuid not null,
  user_id uuid not null,
  tenant text not null,
  kind text not null,
  label text not null,
  secret_enc bytea not null,
  credential_id bytea,
  transports text[],
  sign_count bigint default 0 not null,
  last_used_step bigint default 0 not null,
  created_at timestamp with time zone default now() not null,
  confirmed_at timestamp with time zone,
  last_used_at timestamp with time zone,
  proven_in xid8,
  constraint mfa_factors_pkey PRIMARY KEY (id),
  constraint mfa_factors_credential_id_key UNIQUE (credential_id),
  constraint mfa_factors_user_id_fkey FOREIGN KEY (user_id) REFERENCES redoubt.users(id),
  constraint mfa_factors_check CHECK (((kind = 'webauthn'::text) = (credential_id IS NOT NULL))),
  constraint mfa_factors_credential_id_check CHECK (((octet_length(credential_id) >= 16) AND (octet_length(credential_id) <= 1023))),
  constraint mfa_factors_kind_check CHECK ((kind = ANY (ARRAY['totp'::text, 'webauthn'::text]))),
  constraint mfa_factors_label_check CHECK (((char_length(label) >= 1) AND (char_length(label) <= 60)))
);
alter table redoubt.mfa_factors enable row level security;
alter table redoubt.mfa_factors force row level security;
alter table redoubt.mfa_factors owner to {owner};
CREATE INDEX mfa_factors_by_user ON redoubt.mfa_factors USING btree (user_id);
CREATE TRIGGER factor_was_used AFTER UPDATE OF proven_in ON redoubt.mfa_factors FOR EACH ROW WHEN ((new.proven_in IS DISTINCT FROM old.proven_in)) EXECUTE FUNCTION guard.factor_was_used();
create policy app_delete on redoubt.mfa_factors for delete to {app}
  using (false);
create policy app_insert on redoubt.mfa_factors for insert to {app}
  with check (false);
create policy app_select on redoubt.mfa_factors for select to {app}
  using ((user_id = ( SELECT guard.actor() AS actor)));
create policy app_update on redoubt.mfa_factors for update to {app}
  using (false)
  with check (false);
create policy guard_delete on redoubt.mfa_factors for delete to {guard}
  using (true);
create policy guard_insert on redoubt.mfa_factors for insert to {guard}
  with check (true);
create policy guard_select on redoubt.mfa_factors for select to {guard}
  using (true);
create policy guard_update on redoubt.mfa_factors for update to {guard}
  using (true)
  with check (true);
grant select on redoubt.mfa_factors to {app};
grant delete, insert, select, update on redoubt.mfa_factors to {guard};

create table redoubt.one_time_codes (
  id uuid not null,
  user_id uuid not null,
  tenant text not null,
  purpose text not null,
  handle_hash bytea not null,
  code_hash bytea,
  context_hash bytea,
  binding bytea not null,
  mailed integer default 1 not null,
  attempts integer default 0 not null,
  max_attempts integer not null,
  created_at timestamp with time zone default now() not null,
  expires_at timestamp with time zone not null,
  consumed_at timestamp with time zone,
  redeemed_at timestamp with time zone,
  constraint one_time_codes_pkey PRIMARY KEY (id),
  constraint one_time_codes_handle_hash_key UNIQUE (handle_hash),
  constraint one_time_codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES redoubt.users(id),
  constraint one_time_codes_binding_check CHECK ((octet_length(binding) = 33)),
  constraint one_time_codes_code_hash_check CHECK ((octet_length(code_hash) = 33)),
  constraint one_time_codes_context_hash_check CHECK ((octet_length(context_hash) = 33)),
  constraint one_time_codes_handle_hash_check CHECK ((octet_length(handle_hash) = 33)),
  constraint one_time_codes_max_attempts_check CHECK (((max_attempts >= 1) AND (max_attempts <= 10))),
  constraint one_time_codes_purpose_check CHECK ((purpose = ANY (ARRAY['login'::text, 'step_up'::text, 'reset'::text, 'email_verify'::text, 'email_change'::text, 'email_undo'::text])))
);
alter table redoubt.one_time_codes enable row level security;
alter table redoubt.one_time_codes force row level security;
alter table redoubt.one_time_codes owner to {owner};
CREATE INDEX one_time_codes_by_expiry ON redoubt.one_time_codes USING btree (expires_at);
CREATE INDEX one_time_codes_by_user ON redoubt.one_time_codes USING btree (user_id, purpose);
create policy app_delete on redoubt.one_time_codes for delete to {app}
  using (false);
create policy app_insert on redoubt.one_time_codes for insert to {app}
  with check (false);
create policy app_select on redoubt.one_time_codes for select to {app}
  using (false);
create policy app_update on redoubt.one_time_codes for update to {app}
  using (false)
  with check (false);
create policy guard_delete on redoubt.one_time_codes for delete to {guard}
  using ((EXISTS ( SELECT
   FROM redoubt.users u
  WHERE ((u.id = one_time_codes.user_id) AND (u.status = 'pending'::text) AND (u.created_at < (now() - '7 days'::interval))))));
create policy guard_insert on redoubt.one_time_codes for insert to {guard}
  with check (true);
create policy guard_select on redoubt.one_time_codes for select to {guard}
  using (true);
create policy guard_update on redoubt.one_time_codes for update to {guard}
  using (true)
  with check (true);
create policy worker_delete on redoubt.one_time_codes for delete to {worker}
  using ((expires_at < (now() - '1 day'::interval)));
create policy worker_select on redoubt.one_time_codes for select to {worker}
  using ((expires_at < (now() - '1 day'::interval)));
grant delete, insert, select, update on redoubt.one_time_codes to {guard};
grant delete on redoubt.one_time_codes to {worker};
grant select (id, expires_at) on redoubt.one_time_codes to {worker};

create table redoubt.outbox (
  id uuid not null,
  topic text not null,
  user_id uuid,
  tenant text not null,
  caller_role text not null,
  caller_actor uuid,
  request_id text not null,
  payload_enc bytea,
  address_bidx bytea,
  handle_hash bytea,
  state text default 'waiting'::text not null,
  attempts integer default 0 not null,
  next_attempt_at timestamp with time zone default now() not null,
  created_at timestamp with time zone default now() not null,
  failed_at timestamp with time zone,
  reason text,
  constraint outbox_pkey PRIMARY KEY (id),
  constraint outbox_user_id_fkey FOREIGN KEY (user_id) REFERENCES redoubt.users(id),
  constraint outbox_handle_hash_check CHECK ((octet_length(handle_hash) = 33)),
  constraint outbox_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'failed'::text]))),
  constraint outbox_topic_check CHECK ((topic ~ '^[a-z][a-z_]{1,40}$'::text))
);
alter table redoubt.outbox enable row level security;
alter table redoubt.outbox force row level security;
alter table redoubt.outbox owner to {owner};
CREATE INDEX outbox_by_user ON redoubt.outbox USING btree (user_id);
CREATE INDEX outbox_due ON redoubt.outbox USING btree (next_attempt_at) WHERE (state = 'waiting'::text);
create policy app_delete on redoubt.outbox for delete to {app}
  using (false);
create policy app_insert on redoubt.outbox for insert to {app}
  with check (false);
create policy app_select on redoubt.outbox for select to {app}
  using (false);
create policy app_update on redoubt.outbox for update to {app}
  using (false)
  with check (false);
create policy guard_delete on redoubt.outbox for delete to {guard}
  using ((EXISTS ( SELECT
   FROM redoubt.users u
  WHERE ((u.id = outbox.user_id) AND (u.status = 'pending'::text) AND (u.created_at < (now() - '7 days'::interval))))));
create policy guard_insert on redoubt.outbox for insert to {guard}
  with check (true);
create policy guard_select on redoubt.outbox for select to {guard}
  using (true);
create policy worker_delete on redoubt.outbox for delete to {worker}
  using (true);
create policy worker_select on redoubt.outbox for select to {worker}
  using (true);
create policy worker_update on redoubt.outbox for update to {worker}
  using (true)
  with check (true);
grant delete, insert, select on redoubt.outbox to {guard};
grant delete, select on redoubt.outbox to {worker};
grant update (payload_enc, state, attempts, next_attempt_at, failed_at, reason) on redoubt.outbox to {worker};

create table redoubt.recovery_codes (
  id uuid not null,
  user_id uuid not null,
  tenant text not null,
  code_hash bytea not null,
  created_at timestamp with time zone default now() not null,
  last_used_at timestamp with time zone,
  proven_in xid8,
  constraint recovery_codes_pkey PRIMARY KEY (id),
  constraint recovery_codes_code_hash_key UNIQUE (code_hash),
  constraint recovery_codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES redoubt.users(id),
  constraint recovery_codes_code_hash_check CHECK ((octet_length(code_hash) = 33))
);
alter table redoubt.recovery_codes enable row level security;
alter table redoubt.recovery_codes force row level security;
alter table redoubt.recovery_codes owner to {owner};
CREATE INDEX recovery_codes_by_user ON redoubt.recovery_codes USING btree (user_id);
create policy app_delete on redoubt.recovery_codes for delete to {app}
  using (false);
create policy app_insert on redoubt.recovery_codes for insert to {app}
  with check (false);
create policy app_select on redoubt.recovery_codes for select to {app}
  using ((user_id = ( SELECT guard.actor() AS actor)));
create policy app_update on redoubt.recovery_codes for update to {app}
  using (false)
  with check (false);
create policy guard_delete on redoubt.recovery_codes for delete to {guard}
  using (true);
create policy guard_insert on redoubt.recovery_codes for insert to {guard}
  with check (true);
create policy guard_select on redoubt.recovery_codes for select to {guard}
  using (true);
create policy guard_update on redoubt.recovery_codes for update to {guard}
  using (true)
  with check (true);
grant select (id, user_id, created_at, last_used_at) on redoubt.recovery_codes to {app};
grant delete, insert, select, update on redoubt.recovery_codes to {guard};

create table redoubt.schema_migrations (
  origin text not null,
  version integer not null,
  name text not null,
  checksum text not null,
  applied_at timestamp with time zone default now() not null,
  applied_by text default SESSION_USER not null,
  constraint schema_migrations_pkey PRIMARY KEY (origin, version)
);
alter table redoubt.schema_migrations enable row level security;
alter table redoubt.schema_migrations force row level security;
alter table redoubt.schema_migrations owner to {owner};
create policy app_select on redoubt.schema_migrations for select to {app}, {auditor}, {worker}
  using (true);
create policy owner_insert on redoubt.schema_migrations for insert to {owner}
  with check (true);
create policy owner_select on redoubt.schema_migrations for select to {owner}
  using (true);
grant select on redoubt.schema_migrations to {app};
grant select on redoubt.schema_migrations to {auditor};
grant select on redoubt.schema_migrations to {worker};

create table redoubt.sessions (
  id uuid not null,
  user_id uuid not null,
  tenant text not null,
  realm text default 'tenant'::text not null,
  enrolling boolean default false not null,
  created_at timestamp with time zone default now() not null,
  last_used_at timestamp with time zone default now() not null,
  idle_expires_at timestamp with time zone default (now() + '01:00:00'::interval) not null,
  absolute_expires_at timestamp with time zone not null,
  revoked_at timestamp with time zone,
  revoke_reason text,
  refresh_family bytea,
  refresh_hash bytea,
  binding bytea,
  previous_hash bytea,
  rotated_at timestamp with time zone,
  attempt_hash bytea,
  agent_hash bytea,
  address_prefix text,
  successor_salt bytea,
  generation integer default 0 not null,
  device text default 'Unknown device'::text not null,
  constraint sessions_pkey PRIMARY KEY (id),
  constraint sessions_refresh_family_key UNIQUE (refresh_family),
  constraint sessions_binding_check CHECK ((octet_length(binding) = 33)),
  constraint sessions_realm_check CHECK ((realm = ANY (ARRAY['tenant'::text, 'platform'::text]))),
  constraint sessions_refresh_family_check CHECK ((octet_length(refresh_family) = 32)),
  constraint sessions_refresh_hash_check CHECK ((octet_length(refresh_hash) = 32)),
  constraint sessions_revoke_reason_check CHECK ((revoke_reason = ANY (ARRAY['logout'::text, 'logout_all'::text, 'ended'::text, 'ended_by_admin'::text, 'password_changed'::text, 'factor_changed'::text, 'role_changed'::text, 'suspended'::text, 'reuse'::text, 'refused'::text]))),
  constraint sessions_successor_salt_check CHECK ((octet_length(successor_salt) = 33))
);
alter table redoubt.sessions enable row level security;
alter table redoubt.sessions force row level security;
alter table redoubt.sessions owner to {owner};
CREATE INDEX sessions_by_absolute_expiry ON redoubt.sessions USING btree (absolute_expires_at);
CREATE INDEX sessions_by_user ON redoubt.sessions USING btree (user_id);
create policy app_delete on redoubt.sessions for delete to {app}
  using (false);
create policy app_insert on redoubt.sessions for insert to {app}
  with check (false);
create policy app_select on redoubt.sessions for select to {app}
  using ((user_id = ( SELECT guard.actor() AS actor)));
create policy app_update on redoubt.sessions for update to {app}
  using (false)
  with check (false);
create policy guard_insert on redoubt.sessions for insert to {guard}
  with check (true);
create policy guard_select on redoubt.sessions for select to {guard}
  using (true);
create policy guard_update on redoubt.sessions for update to {guard}
  using (true)
  with check (true);
create policy worker_delete on redoubt.sessions for delete to {worker}
  using ((absolute_expires_at < (now() - '7 days'::interval)));
create policy worker_select on redoubt.sessions for select to {worker}
  using ((absolute_expires_at < (now() - '7 days'::interval)));
grant select (id, user_id, tenant, realm, created_at, last_used_at, idle_expires_at, absolute_expires_at, revoked_at, revoke_reason, address_prefix, device) on redoubt.sessions to {app};
grant insert, select, update on redoubt.sessions to {guard};
grant delete on redoubt.sessions to {worker};
grant select (id, absolute_expires_at) on redoubt.sessions to {worker};

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
  constraint users_realm_check CHECK ((realm = ANY (ARRAY['tenant'::text, 'platform'::text]))),
  constraint users_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text, 'suspended'::text, 'deleted'::text])))
);
alter table redoubt.users enable row level security;
alter table redoubt.users force row level security;
alter table redoubt.users owner to {owner};
CREATE UNIQUE INDEX users_email_bidx_key ON redoubt.users USING btree (email_bidx) WHERE (status <> 'pending'::text);
CREATE INDEX users_pending ON redoubt.users USING btree (created_at) WHERE (status = 'pending'::text);
create policy app_delete on redoubt.users for delete to {app}
  using (false);
create policy app_insert on redoubt.users for insert to {app}
  with check (((( SELECT guard.role() AS role) = 'system.register'::text) AND (tenant = ( SELECT guard.tenant() AS tenant)) AND (status = 'pending'::text) AND (realm = 'tenant'::text)));
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

-- functions

CREATE OR REPLACE FUNCTION guard.absent()
 RETURNS boolean
 LANGUAGE plpgsql
 PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ begin raise exception using errcode = 'RD404', message = 'not_found'; end $function$;
alter function guard.absent() owner to {guard};
grant execute on function guard.absent() to {app};

CREATE OR REPLACE FUNCTION guard.actor()
 RETURNS uuid
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ begin return (guard.caller(false)).actor; end $function$;
alter function guard.actor() owner to {guard};
grant execute on function guard.actor() to {app};
grant execute on function guard.actor() to {auditor};
grant execute on function guard.actor() to {ingest};
grant execute on function guard.actor() to {worker};

CREATE OR REPLACE FUNCTION guard.append_links(ids uuid[], head_seq bigint, head_link bytea, kind text)
 RETURNS TABLE(seq bigint, link bytea)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
begin
  insert into redoubt.audit_chain (seq, kind, entry_id, retain_until, commitment, link)
    select f.seq, append_links.kind, f.id, f.retain_until, f.commitment,
        guard.links(head_link, f.seq, append_links.kind, f.id, f.retain_until, f.commitment)
          over (order by f.seq rows between unbounded preceding and current row)
      from (
        select head_seq + i.n as seq, e.id, e.retain_until, guard.entry_commitment(e, s.subjects) as commitment
          from unnest(ids) with ordinality i (id, n)
          join redoubt.audit_logs e on e.id = i.id
          cross join lateral (
            select string_agg(a.subject_id::text, ',' order by a.subject_id) as subjects
              from redoubt.audit_subjects a where a.entry_id = e.id
          ) s
      ) f;
  return query select c.seq, c.link from redoubt.audit_chain c where c.seq = head_seq + cardinality(ids);
  if not found then
    raise exception using errcode = 'RD503', message = 'an entry to be sealed is missing';
  end if;
end $function$;
alter function guard.append_links(ids uuid[], head_seq bigint, head_link bytea, kind text) owner to {guard};

CREATE OR REPLACE FUNCTION guard.apply_factor_reset(p_account uuid, p_email_bidx bytea[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform from redoubt.users u where u.id = p_account for no key update;
  if not guard.factor_reset_due(p_account, p_email_bidx) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.factor_resets r set applied_at = pg_catalog.now() where r.user_id = p_account and r.cancelled_at is null and r.applied_at is null;
  -- Who administers sets up another one, in the time that a new administrator has for it.
  update redoubt.users u set enrol_until = pg_catalog.now() + interval '24 hours' where u.id = p_account;
  perform guard.remove_all_factors(p_account);
end $function$;
alter function guard.apply_factor_reset(p_account uuid, p_email_bidx bytea[]) owner to {guard};
grant execute on function guard.apply_factor_reset(p_account uuid, p_email_bidx bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.bind_session(p_session uuid, p_binding bytea)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (guard.caller()).role not in ('system.sign-in', 'system.second-factor') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.sessions s set binding = p_binding where s.id = p_session and s.binding is null and s.created_at = pg_catalog.now();
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
end $function$;
alter function guard.bind_session(p_session uuid, p_binding bytea) owner to {guard};
grant execute on function guard.bind_session(p_session uuid, p_binding bytea) to {app};

CREATE OR REPLACE FUNCTION guard.bound_api_client(p_client uuid)
 RETURNS TABLE(tenant text, secret_hash bytea, scopes text[], networks text[], binding bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  if who.role not in ('admin', 'system.api-clients') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query select c.tenant, c.secret_hash, c.scopes, c.networks, c.binding from redoubt.api_clients c
    where c.id = p_client and c.tenant = who.tenant and c.revoked_at is null for update;
end $function$;
alter function guard.bound_api_client(p_client uuid) owner to {guard};
grant execute on function guard.bound_api_client(p_client uuid) to {app};

CREATE OR REPLACE FUNCTION guard.caller(p_refuse boolean DEFAULT true)
 RETURNS guard.verified
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  claim text := pg_catalog.current_setting('redoubt.caller', true);
  part text[] := pg_catalog.string_to_array(claim, '|', '');
  who guard.verified;
begin
  if part[7] is null then
    -- A system caller has no session and is no person. Without the look for one this takes 30 µs less.
    who := (
      select row(null, part[5], part[6], null, part[8], part[9], (case when k.kid = part[2] then part[10] end)::pg_catalog.uuid)::guard.verified
      from guard.caller_keys k
      where k.kid = part[2] and k.not_after > pg_catalog.transaction_timestamp() and pg_catalog.starts_with(claim, k.prefix)
        and part[12] = pg_catalog.encode(pg_catalog.sha256(k.outer_pad || pg_catalog.sha256(k.inner_pad || pg_catalog.textsend(pg_catalog.left(claim, -65)))), 'hex')
        and part[4] is null and pg_catalog.starts_with(part[5], 'system.')
    );
  else
    who := (
      select row(s.user_id, part[5], part[6], s.id, part[8], part[9], (case when k.kid = part[2] then part[10] end)::pg_catalog.uuid)::guard.verified
      from guard.caller_keys k
      -- A person without a live session of their own is nobody.
      join redoubt.sessions s on s.user_id::text = part[4] and s.absolute_expires_at > pg_catalog.transaction_timestamp()
        and s.id = (case when part[12] = pg_catalog.encode(pg_catalog.sha256(k.outer_pad || pg_catalog.sha256(k.inner_pad || pg_catalog.textsend(pg_catalog.left(claim, -65)))), 'hex') then part[7] end)::pg_catalog.uuid
        -- The transaction that ends its own session is that session's until its end: its entry is still to be written.
        and (s.revoked_at is null or s.revoked_at = pg_catalog.transaction_timestamp())
      where k.kid = part[2] and k.not_after > pg_catalog.transaction_timestamp() and pg_catalog.starts_with(claim, k.prefix)
    );
  end if;
  -- Against the transaction's own start: a long transaction keeps the caller it began with.
  if who.role is not null and (pg_catalog.abs(pg_catalog.date_part('epoch', pg_catalog.transaction_timestamp()) * 1000 - part[11]::pg_catalog.float8) <= 10000) is not true then
    who := null;
  end if;
  if p_refuse and who.role is null then
    raise exception using errcode = 'RD401', message = 'caller refused';
  end if;
  return who;
end $function$;
alter function guard.caller(p_refuse boolean) owner to {guard};
grant execute on function guard.caller(p_refuse boolean) to {app};
grant execute on function guard.caller(p_refuse boolean) to {auditor};
grant execute on function guard.caller(p_refuse boolean) to {ingest};
grant execute on function guard.caller(p_refuse boolean) to {worker};

CREATE OR REPLACE FUNCTION guard.caller_key_seconds(p_kid text)
 RETURNS double precision
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ select extract(epoch from k.not_after - pg_catalog.now())::float8 from guard.caller_keys k where k.kid = p_kid $function$;
alter function guard.caller_key_seconds(p_kid text) owner to {guard};
grant execute on function guard.caller_key_seconds(p_kid text) to {keys};

CREATE OR REPLACE FUNCTION guard.caller_keys_summary()
 RETURNS TABLE(live integer, first_ends timestamp with time zone, last_ends timestamp with time zone)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ select pg_catalog.count(*)::int, pg_catalog.min(k.not_after), pg_catalog.max(k.not_after) from guard.caller_keys k where k.not_after > pg_catalog.now() $function$;
alter function guard.caller_keys_summary() owner to {guard};
grant execute on function guard.caller_keys_summary() to {keys};

CREATE OR REPLACE FUNCTION guard.cancel_factor_reset(p_user uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  if who.actor is null or who.actor <> p_user and who.role <> 'admin' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.factor_resets r set cancelled_at = pg_catalog.now()
    where r.user_id = p_user and r.tenant = who.tenant and r.cancelled_at is null and r.applied_at is null;
  return found;
end $function$;
alter function guard.cancel_factor_reset(p_user uuid) owner to {guard};
grant execute on function guard.cancel_factor_reset(p_user uuid) to {app};

CREATE OR REPLACE FUNCTION guard.change_email(p_code uuid, p_email_enc bytea, p_email_bidx bytea[], p_former_enc bytea)
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.change_email(p_code uuid, p_email_enc bytea, p_email_bidx bytea[], p_former_enc bytea) owner to {guard};
grant execute on function guard.change_email(p_code uuid, p_email_enc bytea, p_email_bidx bytea[], p_former_enc bytea) to {app};

CREATE OR REPLACE FUNCTION guard.change_password(p_hash text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  update redoubt.users u set password_hash = p_hash, password_changed_at = pg_catalog.now(), version = u.version + 1
    where u.id = who.actor and u.status = 'active';
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform guard.end_other_sessions('password_changed');
end $function$;
alter function guard.change_password(p_hash text) owner to {guard};
grant execute on function guard.change_password(p_hash text) to {app};

CREATE OR REPLACE FUNCTION guard.claim_audit(by_holder uuid, seconds integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  head redoubt.audit_head;
begin
  if by_holder is null or seconds not between 1 and 60 then
    raise exception using errcode = '22023', message = 'seconds must be 1 to 60';
  end if;
  select h.* into head from redoubt.audit_head h;
  if head.holder <> by_holder and head.held_until > clock_timestamp() then
    return false;
  end if;
  if head.holder = by_holder and head.held_until > clock_timestamp() + make_interval(secs => seconds * 0.8) then
    return true;
  end if;
  update redoubt.audit_head h set holder = by_holder, held_until = clock_timestamp() + make_interval(secs => seconds)
    where h.holder is null or h.holder = by_holder or h.held_until <= clock_timestamp();
  return found;
end $function$;
alter function guard.claim_audit(by_holder uuid, seconds integer) owner to {guard};
grant execute on function guard.claim_audit(by_holder uuid, seconds integer) to {worker};

CREATE OR REPLACE FUNCTION guard.claim_email(p_email_bidx bytea[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  -- Verified before anything is looked at: for anybody else this would be an oracle of who has an account.
  who guard.verified := guard.caller();
begin
  if who.role not in ('system.register', 'system.create-admin') and who.actor is null or pg_catalog.cardinality(p_email_bidx) not between 1 and 4 then
    raise exception using errcode = 'RD403', message = 'not for this caller';
  end if;
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(
    (select pg_catalog.min(pg_catalog.encode(b, 'hex')) from pg_catalog.unnest(p_email_bidx) b), 7304));
  -- In a statement of its own: its snapshot comes after the lock.
  if exists (select from redoubt.users u where u.email_bidx = any (p_email_bidx) and u.status <> 'pending' and u.id is distinct from who.actor) then
    raise exception using errcode = 'RD409', message = 'already_exists';
  end if;
end $function$;
alter function guard.claim_email(p_email_bidx bytea[]) owner to {guard};
grant execute on function guard.claim_email(p_email_bidx bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.claim_for(p_user uuid, p_email_bidx bytea[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if pg_catalog.cardinality(p_email_bidx) not between 1 and 4 or pg_catalog.array_position(p_email_bidx, null) is not null then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(
    (select pg_catalog.min(pg_catalog.encode(b, 'hex')) from pg_catalog.unnest(p_email_bidx) b), 7304));
  if exists (select from redoubt.users u where u.email_bidx = any (p_email_bidx) and u.status <> 'pending' and u.id <> p_user) then
    raise exception using errcode = 'RD409', message = 'already_exists';
  end if;
end $function$;
alter function guard.claim_for(p_user uuid, p_email_bidx bytea[]) owner to {guard};

CREATE OR REPLACE FUNCTION guard.cluster()
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  return (select c.system_identifier from pg_control_system() c);
exception when insufficient_privilege then
  return 0;
end $function$;
alter function guard.cluster() owner to {guard};
grant execute on function guard.cluster() to {auditor};

CREATE OR REPLACE FUNCTION guard.code_account(p_code uuid)
 RETURNS TABLE(id uuid, tenant text, email_enc bytea, former_email_enc bytea)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  return query select u.id, u.tenant, u.email_enc, u.former_email_enc from redoubt.one_time_codes c join redoubt.users u on u.id = c.user_id
    where c.id = p_code and guard.code_rule(c.purpose, c.user_id) and c.attempts > 0 and c.redeemed_at is null
      and (c.code_hash is null or c.consumed_at > pg_catalog.now() - interval '10 minutes');
end $function$;
alter function guard.code_account(p_code uuid) owner to {guard};
grant execute on function guard.code_account(p_code uuid) to {app};

CREATE OR REPLACE FUNCTION guard.code_rule(p_purpose text, p_user uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  return case p_purpose
    when 'login' then who.role in ('system.sign-in', 'system.second-factor')
    when 'email_verify' then who.role = 'system.register'
    when 'reset' then who.role = 'system.reset'
    when 'email_undo' then who.role = 'system.email-undo' or who.actor = p_user
    else who.actor = p_user
  end is true;
end $function$;
alter function guard.code_rule(p_purpose text, p_user uuid) owner to {guard};

CREATE OR REPLACE FUNCTION guard.complete_passkey(p_factor uuid, p_step bigint, p_count bigint)
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.complete_passkey(p_factor uuid, p_step bigint, p_count bigint) owner to {guard};
grant execute on function guard.complete_passkey(p_factor uuid, p_step bigint, p_count bigint) to {app};

CREATE OR REPLACE FUNCTION guard.complete_pending(p_pending uuid, p_factor uuid, p_step bigint, p_count bigint, p_recovery bytea[])
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.complete_pending(p_pending uuid, p_factor uuid, p_step bigint, p_count bigint, p_recovery bytea[]) owner to {guard};
grant execute on function guard.complete_pending(p_pending uuid, p_factor uuid, p_step bigint, p_count bigint, p_recovery bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.confirm_factor(p_factor uuid, p_step bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.confirm_factor(p_factor uuid, p_step bigint) owner to {guard};
grant execute on function guard.confirm_factor(p_factor uuid, p_step bigint) to {app};

CREATE OR REPLACE FUNCTION guard.count_factor_try(p_user uuid, p_door text)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.count_factor_try(p_user uuid, p_door text) owner to {guard};

CREATE OR REPLACE FUNCTION guard.count_own_try()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  if who.actor is null then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return guard.count_factor_try(who.actor, 'step_up');
end $function$;
alter function guard.count_own_try() owner to {guard};
grant execute on function guard.count_own_try() to {app};

CREATE OR REPLACE FUNCTION guard.drop_caller_key(p_kid text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ begin delete from guard.caller_keys k where k.kid = p_kid; end $function$;
alter function guard.drop_caller_key(p_kid text) owner to {guard};
grant execute on function guard.drop_caller_key(p_kid text) to {keys};

CREATE OR REPLACE FUNCTION guard.end_other_sessions(p_reason text)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
  ended int;
begin
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = p_reason
    where s.user_id = who.actor and (s.id <> who.session or p_reason = 'logout_all') and s.revoked_at is null;
  get diagnostics ended = row_count;
  return ended;
end $function$;
alter function guard.end_other_sessions(p_reason text) owner to {guard};
grant execute on function guard.end_other_sessions(p_reason text) to {app};

CREATE OR REPLACE FUNCTION guard.end_own_session()
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'logout'
    where s.id = who.session and s.revoked_at is null;
end $function$;
alter function guard.end_own_session() owner to {guard};
grant execute on function guard.end_own_session() to {app};

CREATE OR REPLACE FUNCTION guard.end_recovery_codes(p_version integer)
 RETURNS TABLE(codes integer, people integer)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  with gone as (delete from redoubt.recovery_codes r where pg_catalog.get_byte(r.code_hash, 0) = p_version and r.last_used_at is null returning r.user_id)
    select pg_catalog.count(*), pg_catalog.count(distinct g.user_id) into codes, people from gone g;
  if codes > 0 then
    perform guard.note_key('key.retired', 'recovery-codes', null, pg_catalog.jsonb_build_object('version', p_version, 'codes', codes, 'people', people));
  end if;
  return next;
end $function$;
alter function guard.end_recovery_codes(p_version integer) owner to {guard};
grant execute on function guard.end_recovery_codes(p_version integer) to {keys};

CREATE OR REPLACE FUNCTION guard.end_session(p_session uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'ended'
    where s.id = p_session and s.user_id = who.actor and s.revoked_at is null;
  return found;
end $function$;
alter function guard.end_session(p_session uuid) owner to {guard};
grant execute on function guard.end_session(p_session uuid) to {app};

CREATE OR REPLACE FUNCTION guard.end_sessions_of(p_user uuid, p_reason text)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.end_sessions_of(p_user uuid, p_reason text) owner to {guard};
grant execute on function guard.end_sessions_of(p_user uuid, p_reason text) to {app};

CREATE OR REPLACE FUNCTION guard.enrol_factor(p_id uuid, p_kind text, p_label text, p_secret bytea, p_credential bytea, p_transports text[], p_count bigint, p_step bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.enrol_factor(p_id uuid, p_kind text, p_label text, p_secret bytea, p_credential bytea, p_transports text[], p_count bigint, p_step bigint) owner to {guard};
grant execute on function guard.enrol_factor(p_id uuid, p_kind text, p_label text, p_secret bytea, p_credential bytea, p_transports text[], p_count bigint, p_step bigint) to {app};

CREATE OR REPLACE FUNCTION guard.entry_commitment(e redoubt.audit_logs, subjects text)
 RETURNS bytea
 LANGUAGE sql
 STABLE PARALLEL SAFE
AS $function$
  select sha256(convert_to('21:redoubt.audit.entry.1'
    || guard.netstring(e.id::text) || guard.netstring(e.xid::text) || guard.netstring(guard.microseconds(e.occurred_at))
    || guard.netstring(e.actor_type) || guard.netstring(e.actor_id::text) || guard.netstring(e.actor_role)
    || guard.netstring(e.tenant_id) || guard.netstring(e.action) || guard.netstring(e.resource_type)
    || guard.netstring(e.resource_id) || guard.netstring(e.purpose) || guard.netstring(e.outcome)
    || guard.netstring(e.request_id) || guard.netstring(e.metadata::text)
    || guard.netstring(encode(e.personal_commitment, 'hex')) || guard.netstring(e.retention_class)
    || guard.netstring(guard.microseconds(e.retain_until)) || guard.netstring(subjects), 'UTF8'))
$function$;
alter function guard.entry_commitment(e redoubt.audit_logs, subjects text) owner to {guard};

CREATE OR REPLACE FUNCTION guard.expire_audit(before timestamp with time zone, max_entries integer)
 RETURNS TABLE(removed integer, retention_entry uuid)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  bound timestamptz := least(before, transaction_timestamp());
  seqs bigint[];
  ids uuid[];
  listed jsonb;
  digest bytea;
begin
  if max_entries not between 1 and 10000 then
    raise exception using errcode = '22023', message = 'max_entries must be 1 to 10000';
  end if;
  -- The worker asks each minute: sealing is not held up when nothing is over.
  if not exists (select from redoubt.audit_logs e where e.retain_until <= bound) then
    removed := 0;
    return next;
    return;
  end if;
  perform 1 from redoubt.audit_head h for update;
  select array_agg(o.seq order by o.seq), array_agg(o.entry_id order by o.seq), sha256(string_agg(o.link, ''::bytea order by o.seq))
    into seqs, ids, digest
    from (
      select c.seq, c.entry_id, c.link from redoubt.audit_logs e join redoubt.audit_chain c on c.entry_id = e.id
        where e.retain_until <= bound and c.retain_until <= bound
        order by e.retain_until limit max_entries
    ) o;
  removed := coalesce(cardinality(seqs), 0);
  if removed > 0 then
    select jsonb_agg(jsonb_build_array(r.low, r.high) order by r.low) into listed
      from (
        select min(g.s) as low, max(g.s) as high
          from (select s, s - row_number() over (order by s) as island from unnest(seqs) s) g group by g.island
      ) r;
    retention_entry := gen_random_uuid();
    insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, outcome, request_id,
        metadata, retention_class, retain_until)
      values (retention_entry, pg_current_xact_id(), transaction_timestamp(), 'system', 'system.retention', '{service}',
        'retention.run', 'done', 'retention',
        jsonb_build_object('removed', removed, 'seqs', listed, 'digest', encode(digest, 'hex')), 'chain', '9999-12-31 00:00:00+00');
    insert into redoubt.audit_tombstones (seq, entry_id, retention_entry)
      select t.seq, t.id, expire_audit.retention_entry from unnest(seqs, ids) t (seq, id);
    delete from redoubt.audit_subjects a where a.entry_id = any (ids);
    delete from redoubt.audit_logs e where e.id = any (ids);
  end if;
  return next;
end $function$;
alter function guard.expire_audit(before timestamp with time zone, max_entries integer) owner to {guard};
grant execute on function guard.expire_audit(before timestamp with time zone, max_entries integer) to {worker};

CREATE OR REPLACE FUNCTION guard.expire_caller_keys(p_seconds integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  met int;
begin
  if p_seconds not between 0 and 86400 then
    raise exception using errcode = '22023', message = 'seconds must be 0 to 86400';
  end if;
  if p_seconds = 0 then
    delete from guard.caller_keys k;
    get diagnostics met = row_count;
  else
    -- No policy lets anybody alter a row: it is written again, with less time.
    with gone as (delete from guard.caller_keys k where k.not_after > pg_catalog.now() + pg_catalog.make_interval(secs => p_seconds) returning k.*)
    insert into guard.caller_keys (kid, prefix, inner_pad, outer_pad, not_after)
      select g.kid, g.prefix, g.inner_pad, g.outer_pad, pg_catalog.now() + pg_catalog.make_interval(secs => p_seconds) from gone g;
    get diagnostics met = row_count;
  end if;
  perform guard.note_key('key.rotated', 'caller', null, pg_catalog.jsonb_build_object('keys', met, 'seconds', p_seconds));
  return met;
end $function$;
alter function guard.expire_caller_keys(p_seconds integer) owner to {guard};
grant execute on function guard.expire_caller_keys(p_seconds integer) to {keys};

CREATE OR REPLACE FUNCTION guard.factor_proven(p_user uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  return exists (select from redoubt.mfa_factors f
      where f.user_id = p_user and f.proven_in = pg_catalog.pg_current_xact_id_if_assigned() and f.last_used_at = pg_catalog.transaction_timestamp())
    or exists (select from redoubt.recovery_codes r
      where r.user_id = p_user and r.proven_in = pg_catalog.pg_current_xact_id_if_assigned() and r.last_used_at = pg_catalog.transaction_timestamp());
end $function$;
alter function guard.factor_proven(p_user uuid) owner to {guard};

CREATE OR REPLACE FUNCTION guard.factor_reset_due(p_account uuid, p_email_bidx bytea[])
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (guard.caller()).role <> 'system.sign-in' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return exists (select from redoubt.factor_resets r join redoubt.users u on u.id = r.user_id
    where u.id = p_account and u.email_bidx = any(p_email_bidx) and u.status = 'active' and r.cancelled_at is null and r.applied_at is null
      and r.effective_at <= pg_catalog.now() and r.expires_at > pg_catalog.now());
end $function$;
alter function guard.factor_reset_due(p_account uuid, p_email_bidx bytea[]) owner to {guard};
grant execute on function guard.factor_reset_due(p_account uuid, p_email_bidx bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.factor_was_used()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  update redoubt.factor_resets r set cancelled_at = pg_catalog.now() where r.user_id = new.user_id and r.cancelled_at is null and r.applied_at is null;
  return new;
end $function$;
alter function guard.factor_was_used() owner to {guard};
grant execute on function guard.factor_was_used() to {owner};

CREATE OR REPLACE FUNCTION guard.find_administrator(p_email_bidx bytea[], p_unenrolled boolean)
 RETURNS uuid
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (guard.caller()).role <> 'system.create-admin' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return (select u.id from redoubt.users u where u.email_bidx = any(p_email_bidx) and u.realm = 'platform' and u.status = 'active'
    and not (p_unenrolled and guard.has_factor(u.id)));
end $function$;
alter function guard.find_administrator(p_email_bidx bytea[], p_unenrolled boolean) owner to {guard};
grant execute on function guard.find_administrator(p_email_bidx bytea[], p_unenrolled boolean) to {app};

CREATE OR REPLACE FUNCTION guard.find_unusual_key_use(p_times numeric, p_least bigint)
 RETURNS TABLE(hour timestamp with time zone, actor text, purpose text, data_class text, uses bigint, baseline bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  began timestamptz := (select min(u.hour) from redoubt.key_usage u);
begin
  if p_times is null or p_times < 1 or p_least is null or p_least < 1 then
    raise exception using errcode = '22023', message = 'p_times and p_least must be 1 or more';
  end if;
  return query
    with looked_at as (
      select date_trunc('hour', transaction_timestamp(), 'UTC') - make_interval(hours => h) as hour from generate_series(0, 1) h
    ), now_used as (
      select u.hour, u.actor, u.purpose, u.data_class, sum(u.uses)::bigint as uses
        from redoubt.key_usage u where u.operation = 'open' and u.hour in (select l.hour from looked_at l)
        group by 1, 2, 3, 4
    ), compared as (
      select n.*, greatest(p_least, coalesce((
          select ceil(sum(u.uses) / least(7, greatest(1, floor(extract(epoch from n.hour - began) / 86400)))) from redoubt.key_usage u
            where u.operation = 'open' and u.actor = n.actor and u.purpose = n.purpose and u.data_class = n.data_class
              and u.hour in (select n.hour - make_interval(days => d) from generate_series(1, 7) d)), 0))::bigint as baseline
        from now_used n
    )
    insert into redoubt.key_use_unusual (hour, actor, purpose, data_class, uses, baseline)
      select c.hour, c.actor, c.purpose, c.data_class, c.uses, c.baseline from compared c where c.uses > p_times * c.baseline
      on conflict do nothing
      returning hour, actor, purpose, data_class, uses, baseline;
end $function$;
alter function guard.find_unusual_key_use(p_times numeric, p_least bigint) owner to {guard};
grant execute on function guard.find_unusual_key_use(p_times numeric, p_least bigint) to {worker};

CREATE OR REPLACE FUNCTION guard.finish(p_resource_type text, p_resource_id text, p_purpose text, p_outcome text, p_metadata jsonb, p_personal bytea, p_commitment bytea, p_retention_class text, p_retain_days integer, p_subjects uuid[], p_reset boolean, p_durable boolean)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
  claim text := pg_catalog.current_setting('redoubt.caller');
begin
  if (p_outcome <> 'done' and p_outcome !~ '^(refused|failed):[a-z_]{3,40}$') or pg_catalog.octet_length(p_commitment) <> 32
     or p_retain_days not between 0 and 36500 then
    raise exception using errcode = '22023', message = 'outcome, commitment or retention out of form';
  end if;
  if who.entry is null then
    raise exception using errcode = 'RD403', message = 'this caller was not signed for an entry';
  end if;
  if p_reset then
    reset all;
    perform pg_catalog.set_config('redoubt.caller', claim, true);
  end if;
  perform pg_catalog.set_config('synchronous_commit', case when p_durable then 'on' else 'off' end, true);
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_id, actor_role, tenant_id, action, resource_type,
      resource_id, purpose, outcome, request_id, metadata, personal_enc, personal_commitment, retention_class, retain_until)
    values (who.entry, pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(),
      case when who.actor is null then 'system' when who.role = 'api_client' then 'api_client' else 'user' end, who.actor, who.role, who.tenant, who.action,
      p_resource_type, p_resource_id, p_purpose, p_outcome, who.request, p_metadata, p_personal, p_commitment,
      p_retention_class, pg_catalog.transaction_timestamp() + pg_catalog.make_interval(days => p_retain_days))
    on conflict (id) do nothing;
  if not found then
    raise exception using errcode = 'RD403', message = 'this signature has left its entry already';
  end if;
  if pg_catalog.cardinality(p_subjects) = 1 then
    insert into redoubt.audit_subjects (subject_id, entry_id) values (p_subjects[1], who.entry);
  elsif pg_catalog.cardinality(p_subjects) > 1 then
    insert into redoubt.audit_subjects (subject_id, entry_id) select s, who.entry from pg_catalog.unnest(p_subjects) s;
  end if;
end $function$;
alter function guard.finish(p_resource_type text, p_resource_id text, p_purpose text, p_outcome text, p_metadata jsonb, p_personal bytea, p_commitment bytea, p_retention_class text, p_retain_days integer, p_subjects uuid[], p_reset boolean, p_durable boolean) owner to {guard};
grant execute on function guard.finish(p_resource_type text, p_resource_id text, p_purpose text, p_outcome text, p_metadata jsonb, p_personal bytea, p_commitment bytea, p_retention_class text, p_retain_days integer, p_subjects uuid[], p_reset boolean, p_durable boolean) to {app};
grant execute on function guard.finish(p_resource_type text, p_resource_id text, p_purpose text, p_outcome text, p_metadata jsonb, p_personal bytea, p_commitment bytea, p_retention_class text, p_retain_days integer, p_subjects uuid[], p_reset boolean, p_durable boolean) to {worker};

CREATE OR REPLACE FUNCTION guard.forget_key_usage(p_most integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  bound timestamptz := transaction_timestamp() - interval '400 days';
  gone int;
  part int;
begin
  if p_most is null or p_most not between 1 and 100000 then
    raise exception using errcode = '22023', message = 'p_most must be 1 to 100000';
  end if;
  delete from redoubt.key_usage u where u.ctid = any (array(select o.ctid from redoubt.key_usage o where o.hour < bound limit p_most));
  get diagnostics gone = row_count;
  delete from redoubt.key_calls c where c.ctid = any (array(select o.ctid from redoubt.key_calls o where o.at < bound limit p_most));
  get diagnostics part = row_count;
  gone := gone + part;
  delete from redoubt.key_usage_batches b where b.ctid = any (array(select o.ctid from redoubt.key_usage_batches o where o.at < transaction_timestamp() - interval '14 days' limit p_most));
  get diagnostics part = row_count;
  gone := gone + part;
  delete from redoubt.key_use_unusual n where n.hour < bound;
  return gone;
end $function$;
alter function guard.forget_key_usage(p_most integer) owner to {guard};
grant execute on function guard.forget_key_usage(p_most integer) to {worker};

CREATE OR REPLACE FUNCTION guard.forget_registrations(p_limit integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.forget_registrations(p_limit integer) owner to {guard};
grant execute on function guard.forget_registrations(p_limit integer) to {worker};

CREATE OR REPLACE FUNCTION guard.has_factor(p_user uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ begin return exists (select from redoubt.mfa_factors f where f.user_id = p_user and f.confirmed_at is not null); end $function$;
alter function guard.has_factor(p_user uuid) owner to {guard};

CREATE OR REPLACE FUNCTION guard.hold_keys(key_ids bytea[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  wanted int := (select pg_catalog.count(distinct k) from pg_catalog.unnest(key_ids) k);
  held int;
begin
  perform 1 from keys.data_keys d where d.key_id = any (key_ids) and d.state <> 'retiring' order by d.key_id for key share;
  get diagnostics held = row_count;
  if key_ids is null or pg_catalog.array_position(key_ids, null) is not null or held <> wanted then
    raise exception using errcode = 'RD410', message = 'key destroyed';
  end if;
end $function$;
alter function guard.hold_keys(key_ids bytea[]) owner to {guard};
grant execute on function guard.hold_keys(key_ids bytea[]) to {app};
grant execute on function guard.hold_keys(key_ids bytea[]) to {migrator};
grant execute on function guard.hold_keys(key_ids bytea[]) to {worker};

CREATE OR REPLACE FUNCTION guard.install_caller_key(p_kid text, p_inner bytea, p_outer bytea, p_hours integer)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if p_hours not between 1 and 26 then
    raise exception using errcode = '22023', message = 'a caller key lives 1 to 26 hours';
  end if;
  delete from guard.caller_keys k where k.not_after < pg_catalog.now();
  insert into guard.caller_keys (kid, prefix, inner_pad, outer_pad, not_after)
    values (p_kid, 'v1|' || p_kid || '|{service}/' || pg_catalog.current_database() || '|', p_inner, p_outer, pg_catalog.now() + pg_catalog.make_interval(hours => p_hours));
end $function$;
alter function guard.install_caller_key(p_kid text, p_inner bytea, p_outer bytea, p_hours integer) owner to {guard};
grant execute on function guard.install_caller_key(p_kid text, p_inner bytea, p_outer bytea, p_hours integer) to {keys};

CREATE OR REPLACE FUNCTION guard.is_new_device(p_user uuid, p_agent bytea, p_device text, p_prefix text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (guard.caller()).role not in ('system.sign-in', 'system.second-factor') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return exists (select from redoubt.sessions s where s.user_id = p_user)
    and not exists (select from redoubt.sessions s where s.user_id = p_user
      and (s.agent_hash = p_agent or s.device = p_device and s.address_prefix is not distinct from p_prefix));
end $function$;
alter function guard.is_new_device(p_user uuid, p_agent bytea, p_device text, p_prefix text) owner to {guard};
grant execute on function guard.is_new_device(p_user uuid, p_agent bytea, p_device text, p_prefix text) to {app};

CREATE OR REPLACE FUNCTION guard.issue_code(p_id uuid, p_user uuid, p_purpose text, p_handle bytea, p_code bytea, p_context bytea, p_binding bytea, p_expires timestamp with time zone, p_tries integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  -- A step-up is made only behind its proof, in the transaction of that action: SQL injected into another makes none.
  if p_purpose = 'step_up' and (who.action <> 'auth.step_up_succeeded' or guard.has_factor(p_user) and not guard.factor_proven(p_user)) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  if not guard.code_rule(p_purpose, p_user) or p_expires > pg_catalog.now() + interval '8 days' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  -- The worker that ended before it could say so asks again.
  if exists (select from redoubt.one_time_codes c where c.id = p_id and c.user_id = p_user and c.purpose = p_purpose and c.handle_hash = p_handle) then
    return true;
  end if;
  if (select pg_catalog.count(*) from redoubt.one_time_codes c where c.user_id = p_user and c.purpose = p_purpose
      and c.consumed_at is null and c.redeemed_at is null and c.expires_at > pg_catalog.now()) >= 10 then
    return false;
  end if;
  insert into redoubt.one_time_codes (id, user_id, tenant, purpose, handle_hash, code_hash, context_hash, binding, expires_at, max_attempts)
    values (p_id, p_user, who.tenant, p_purpose, p_handle, p_code, p_context, p_binding, p_expires, p_tries);
  return true;
end $function$;
alter function guard.issue_code(p_id uuid, p_user uuid, p_purpose text, p_handle bytea, p_code bytea, p_context bytea, p_binding bytea, p_expires timestamp with time zone, p_tries integer) owner to {guard};
grant execute on function guard.issue_code(p_id uuid, p_user uuid, p_purpose text, p_handle bytea, p_code bytea, p_context bytea, p_binding bytea, p_expires timestamp with time zone, p_tries integer) to {app};
grant execute on function guard.issue_code(p_id uuid, p_user uuid, p_purpose text, p_handle bytea, p_code bytea, p_context bytea, p_binding bytea, p_expires timestamp with time zone, p_tries integer) to {worker};

CREATE OR REPLACE FUNCTION guard.key_version_dependants(p_table integer, p_column integer, p_version integer)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  return case
    -- A password is hashed under the key in front of it until its owner signs in.
    when p_table = 1 and p_column = 100 then (select pg_catalog.count(*) from redoubt.users u where pg_catalog.starts_with(u.password_hash, p_version || '$') and u.status <> 'deleted')
    -- The salt of an exchange counts for the ten seconds in which it may be asked for again.
    when p_table = 2 and p_column = 1 then 0
    when p_table = 2 and p_column = 2 then (select pg_catalog.count(*) from redoubt.sessions s where pg_catalog.get_byte(s.binding, 0) = p_version and s.revoked_at is null
      and s.idle_expires_at > pg_catalog.now() and s.absolute_expires_at > pg_catalog.now())
    -- Of a client until its secret is rotated.
    when p_table = 9 and p_column = 1 then (select pg_catalog.count(*) from redoubt.api_clients c where c.revoked_at is null
      and (pg_catalog.get_byte(c.binding, 0) = p_version or c.previous_until > pg_catalog.now() and pg_catalog.get_byte(c.previous_binding, 0) = p_version))
    when p_table = 8 and p_column = 1 then (select pg_catalog.count(*) from redoubt.one_time_codes c where pg_catalog.get_byte(c.handle_hash, 0) = p_version and c.expires_at > pg_catalog.now())
    -- The challenge of a passkey counts for five minutes.
    when p_table = 13 and p_column = 1 then 0
    when p_table = 14 and p_column = 1 then (select pg_catalog.count(*) from redoubt.recovery_codes r where pg_catalog.get_byte(r.code_hash, 0) = p_version and r.last_used_at is null)
  end;
end $function$;
alter function guard.key_version_dependants(p_table integer, p_column integer, p_version integer) owner to {guard};
grant execute on function guard.key_version_dependants(p_table integer, p_column integer, p_version integer) to {keys};

CREATE OR REPLACE FUNCTION guard.list_accounts(p_email_bidx bytea[], p_role text, p_status text, p_before uuid, p_limit integer)
 RETURNS TABLE(id uuid, role text, realm text, status text, created_at timestamp with time zone, sessions integer)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.list_accounts(p_email_bidx bytea[], p_role text, p_status text, p_before uuid, p_limit integer) owner to {guard};
grant execute on function guard.list_accounts(p_email_bidx bytea[], p_role text, p_status text, p_before uuid, p_limit integer) to {app};

CREATE OR REPLACE FUNCTION guard.mail_again(p_handles bytea[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.mail_again(p_handles bytea[]) owner to {guard};
grant execute on function guard.mail_again(p_handles bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.mail_recipient(p_id uuid)
 RETURNS TABLE(id uuid, tenant text, email_enc bytea, email_bidx bytea, status text, taken boolean)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  return query select u.id, u.tenant, u.email_enc, u.email_bidx, u.status,
      exists (select from redoubt.users v where v.id <> u.id and v.status <> 'pending' and pg_catalog.position(o.address_bidx, v.email_bidx) > 0)
    from redoubt.outbox o join redoubt.users u on u.id = o.user_id
      or o.user_id is null and u.status = 'active' and (u.realm = 'tenant' or guard.recovery_holds(u.id)) and pg_catalog.position(o.address_bidx, u.email_bidx) > 0
    where o.id = p_id and o.state = 'waiting' limit 1;
end $function$;
alter function guard.mail_recipient(p_id uuid) owner to {guard};
grant execute on function guard.mail_recipient(p_id uuid) to {worker};

CREATE OR REPLACE FUNCTION guard.microseconds(at timestamp with time zone)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
AS $function$ select (extract(epoch from at) * 1000000)::bigint::text $function$;
alter function guard.microseconds(at timestamp with time zone) owner to {guard};

CREATE OR REPLACE FUNCTION guard.netstring(value text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$ select coalesce(octet_length(value)::text || ':' || value, '-') $function$;
alter function guard.netstring(value text) owner to {guard};

CREATE OR REPLACE FUNCTION guard.next_link(running bytea, head bytea, seq bigint, kind text, entry_id uuid, retain_until timestamp with time zone, commitment bytea)
 RETURNS bytea
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE
AS $function$
begin
  return sha256(convert_to('20:redoubt.audit.link.1' || guard.netstring(seq::text) || guard.netstring(kind)
    || guard.netstring(entry_id::text) || guard.netstring(guard.microseconds(retain_until))
    || guard.netstring(encode(commitment, 'hex')) || guard.netstring(encode(coalesce(running, head), 'hex')), 'UTF8'));
end $function$;
alter function guard.next_link(running bytea, head bytea, seq bigint, kind text, entry_id uuid, retain_until timestamp with time zone, commitment bytea) owner to {guard};

CREATE OR REPLACE FUNCTION guard.note_job(p_job uuid, p_deed text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  job redoubt.crypto_jobs;
begin
  select j.* into job from redoubt.crypto_jobs j where j.id = p_job;
  if not found or p_deed not in ('job.started', 'job.ended') then
    raise exception using errcode = '22023', message = 'no such job, or no such deed';
  end if;
  perform pg_catalog.set_config('synchronous_commit', 'on', true);
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, resource_type, resource_id,
      purpose, outcome, request_id, metadata, retention_class, retain_until)
    values (pg_catalog.gen_random_uuid(), pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(), 'system', 'system.operator',
      '{service}', p_deed, 'crypto_job', job.id::text, job.kind, 'done', 'job',
      pg_catalog.jsonb_build_object('table', job.table_name, 'columns', job.columns, 'login', session_user, 'proven', job.proven_at is not null),
      'change', pg_catalog.transaction_timestamp() + pg_catalog.make_interval(days => 2557));
end $function$;
alter function guard.note_job(p_job uuid, p_deed text) owner to {guard};
grant execute on function guard.note_job(p_job uuid, p_deed text) to {migrator};

CREATE OR REPLACE FUNCTION guard.note_key(p_deed text, p_kind text, p_key text, p_metadata jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if p_deed not in ('key.rotated', 'key.rewrapped', 'key.retired', 'key.moved') or p_kind !~ '^[a-z][a-z0-9:._-]{1,60}$'
     or pg_catalog.length(p_key) > 100 or pg_catalog.pg_column_size(p_metadata) > 4000 then
    raise exception using errcode = '22023', message = 'deed, kind, key or metadata out of form';
  end if;
  perform pg_catalog.set_config('synchronous_commit', 'on', true);
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, resource_type, resource_id,
      purpose, outcome, request_id, metadata, retention_class, retain_until)
    values (pg_catalog.gen_random_uuid(), pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(), 'system', 'system.keys',
      '{service}', p_deed, 'key', p_key, 'key management', 'done', 'keys',
      coalesce(p_metadata, '{}') || pg_catalog.jsonb_build_object('kind', p_kind), 'change',
      pg_catalog.transaction_timestamp() + pg_catalog.make_interval(days => 2557));
end $function$;
alter function guard.note_key(p_deed text, p_kind text, p_key text, p_metadata jsonb) owner to {guard};
grant execute on function guard.note_key(p_deed text, p_kind text, p_key text, p_metadata jsonb) to {keys};

CREATE OR REPLACE FUNCTION guard.open_client_session(p_client uuid, p_secret_hash bytea, p_address text, p_scopes text[], p_session uuid, p_seconds integer)
 RETURNS TABLE(tenant text, scopes text[], networks text[], allowed text[], binding bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  client redoubt.api_clients;
begin
  if (guard.caller()).role <> 'system.client-token' or p_seconds not between 60 and 3600 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  -- FOR UPDATE: a revocation that is being committed is waited for, and then seen.
  select * into client from redoubt.api_clients c
    where c.id = p_client and c.revoked_at is null
      and (c.secret_hash = p_secret_hash or (c.previous_hash = p_secret_hash and c.previous_until > pg_catalog.now()))
      and (pg_catalog.cardinality(c.networks) = 0 or p_address::pg_catalog.inet <<= any (c.networks::pg_catalog.inet[]))
    for update;
  if not found then
    return;
  end if;
  if p_scopes is not null and not p_scopes <@ client.scopes then
    raise exception using errcode = 'RD409', message = 'invalid_scope';
  end if;
  insert into redoubt.sessions (id, user_id, tenant, idle_expires_at, absolute_expires_at, device)
    values (p_session, client.id, client.tenant, pg_catalog.now() + pg_catalog.make_interval(secs => p_seconds), pg_catalog.now() + pg_catalog.make_interval(secs => p_seconds), 'API client');
  update redoubt.api_clients c set last_used_at = pg_catalog.now() where c.id = client.id;
  return query select client.tenant, coalesce(p_scopes, client.scopes), client.networks, client.scopes,
    case when client.secret_hash = p_secret_hash then client.binding else client.previous_binding end;
end $function$;
alter function guard.open_client_session(p_client uuid, p_secret_hash bytea, p_address text, p_scopes text[], p_session uuid, p_seconds integer) owner to {guard};
grant execute on function guard.open_client_session(p_client uuid, p_secret_hash bytea, p_address text, p_scopes text[], p_session uuid, p_seconds integer) to {app};

CREATE OR REPLACE FUNCTION guard.open_session(p_session uuid, p_account uuid, p_email_bidx bytea[], p_realm text, p_refresh bytea[], p_device text, p_agent_hash bytea, p_address_prefix text, p_idle_seconds integer, p_absolute_seconds integer)
 RETURNS TABLE(role text, tenant text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  account record;
  proven boolean := guard.factor_proven(p_account);
  enrols boolean;
begin
  if (guard.caller()).role not in ('system.sign-in', 'system.second-factor') or p_absolute_seconds not between 60 and 2592000 or p_idle_seconds not between 60 and p_absolute_seconds then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  select u.id, u.tenant, u.role, u.realm, u.enrol_until, u.created_at, u.password_changed_at into account from redoubt.users u
    where u.id = p_account and (u.email_bidx = any(p_email_bidx) or proven) and u.realm = p_realm and u.status = 'active' for share;
  if not found or guard.has_factor(p_account) and not proven
     or account.realm = 'platform' and not proven and account.enrol_until < pg_catalog.now() then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  -- On the platform, until there is a factor and the password the operator printed has been replaced by one's own.
  enrols := account.realm = 'platform' and (not proven or account.password_changed_at <= account.created_at);
  insert into redoubt.sessions (id, user_id, tenant, realm, enrolling, idle_expires_at, absolute_expires_at, refresh_family, refresh_hash, agent_hash, address_prefix, device)
    values (p_session, account.id, account.tenant, account.realm, enrols,
      pg_catalog.now() + pg_catalog.make_interval(secs => p_idle_seconds), pg_catalog.now() + pg_catalog.make_interval(secs => p_absolute_seconds),
      p_refresh[1], p_refresh[2], p_agent_hash, p_address_prefix, p_device);
  return query select case when enrols then 'enrolment' else account.role end, account.tenant;
end $function$;
alter function guard.open_session(p_session uuid, p_account uuid, p_email_bidx bytea[], p_realm text, p_refresh bytea[], p_device text, p_agent_hash bytea, p_address_prefix text, p_idle_seconds integer, p_absolute_seconds integer) owner to {guard};
grant execute on function guard.open_session(p_session uuid, p_account uuid, p_email_bidx bytea[], p_realm text, p_refresh bytea[], p_device text, p_agent_hash bytea, p_address_prefix text, p_idle_seconds integer, p_absolute_seconds integer) to {app};

CREATE OR REPLACE FUNCTION guard.passkey_lookup(p_credential bytea)
 RETURNS TABLE(id uuid, user_id uuid, tenant text, kind text, secret_enc bytea, credential_id bytea, sign_count bigint)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (guard.caller()).role <> 'system.second-factor' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query select f.id, f.user_id, f.tenant, f.kind, f.secret_enc, f.credential_id, f.sign_count
    from redoubt.mfa_factors f where f.credential_id = p_credential and f.confirmed_at is not null;
end $function$;
alter function guard.passkey_lookup(p_credential bytea) owner to {guard};
grant execute on function guard.passkey_lookup(p_credential bytea) to {app};

CREATE OR REPLACE FUNCTION guard.pending_factors(p_pending uuid, p_guessable boolean)
 RETURNS TABLE(wait integer, id uuid, user_id uuid, tenant text, kind text, secret_enc bytea, credential_id bytea, sign_count bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.pending_factors(p_pending uuid, p_guessable boolean) owner to {guard};
grant execute on function guard.pending_factors(p_pending uuid, p_guessable boolean) to {app};

CREATE OR REPLACE FUNCTION guard.prove_own(p_factor uuid, p_step bigint, p_count bigint, p_recovery bytea[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.prove_own(p_factor uuid, p_step bigint, p_count bigint, p_recovery bytea[]) owner to {guard};
grant execute on function guard.prove_own(p_factor uuid, p_step bigint, p_count bigint, p_recovery bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.put_mail(p_id uuid, p_topic text, p_user uuid, p_payload bytea, p_address bytea[], p_handle bytea)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.put_mail(p_id uuid, p_topic text, p_user uuid, p_payload bytea, p_address bytea[], p_handle bytea) owner to {guard};
grant execute on function guard.put_mail(p_id uuid, p_topic text, p_user uuid, p_payload bytea, p_address bytea[], p_handle bytea) to {app};

CREATE OR REPLACE FUNCTION guard.read_audit(p_action text, p_actor uuid, p_resource_type text, p_resource_id text, p_outcome text, p_since timestamp with time zone, p_until timestamp with time zone, p_before uuid, p_limit integer)
 RETURNS TABLE(id uuid, occurred_at timestamp with time zone, actor_type text, actor_id uuid, actor_role text, action text, resource_type text, resource_id text, purpose text, outcome text, request_id text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.read_audit(p_action text, p_actor uuid, p_resource_type text, p_resource_id text, p_outcome text, p_since timestamp with time zone, p_until timestamp with time zone, p_before uuid, p_limit integer) owner to {guard};
grant execute on function guard.read_audit(p_action text, p_actor uuid, p_resource_type text, p_resource_id text, p_outcome text, p_since timestamp with time zone, p_until timestamp with time zone, p_before uuid, p_limit integer) to {app};

CREATE OR REPLACE FUNCTION guard.record_anchor(seq bigint, link bytea, kind text, after_seq bigint, previous bytea, at timestamp with time zone, kid text, signature bytea)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  insert into redoubt.audit_anchors (seq, link, kind, after_seq, previous, at, kid, signature)
    values (seq, link, kind, after_seq, previous, at, kid, signature) on conflict do nothing;
end $function$;
alter function guard.record_anchor(seq bigint, link bytea, kind text, after_seq bigint, previous bytea, at timestamp with time zone, kid text, signature bytea) owner to {guard};
grant execute on function guard.record_anchor(seq bigint, link bytea, kind text, after_seq bigint, previous bytea, at timestamp with time zone, kid text, signature bytea) to {worker};

CREATE OR REPLACE FUNCTION guard.record_key_usage(p_batch uuid, p_age_ms bigint, p_uses jsonb, p_calls jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  -- A batch is kept while the database is away; a week is more than any process waits.
  taken timestamptz := transaction_timestamp() - make_interval(secs => least(greatest(p_age_ms, 0), 604800000) / 1000.0);
begin
  insert into redoubt.key_usage_batches (batch) values (p_batch) on conflict do nothing;
  if not found then
    return;
  end if;
  insert into redoubt.key_usage as k (hour, actor, purpose, data_class, operation, key, uses)
    select date_trunc('hour', taken, 'UTC'), left(u.actor, 100), left(coalesce(u.purpose, ''), 100), left(u.data_class, 100), u.operation, left(u.key, 200), sum(u.uses)::bigint
      from jsonb_to_recordset(p_uses) as u (actor text, purpose text, data_class text, operation text, key text, uses bigint)
      group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3, 4, 5, 6
    on conflict (hour, actor, purpose, data_class, operation, key) do update set uses = k.uses + excluded.uses;
  insert into redoubt.key_calls (at, actor, purpose, data_class, operation, provider, outcome, milliseconds, times)
    select taken - make_interval(secs => least(greatest(c.age, 0), 604800000) / 1000.0), left(c.actor, 100), left(coalesce(c.purpose, ''), 100),
        left(c.data_class, 100), c.operation, left(c.provider, 100), left(c.outcome, 100), c.milliseconds, c.times
      from jsonb_to_recordset(p_calls) as c (age bigint, actor text, purpose text, data_class text, operation text, provider text, outcome text, milliseconds bigint, times int);
end $function$;
alter function guard.record_key_usage(p_batch uuid, p_age_ms bigint, p_uses jsonb, p_calls jsonb) owner to {guard};
grant execute on function guard.record_key_usage(p_batch uuid, p_age_ms bigint, p_uses jsonb, p_calls jsonb) to {keys};

CREATE OR REPLACE FUNCTION guard.recover_administrator(p_user uuid, p_password_hash text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  if who.role <> 'system.create-admin' or who.action <> 'auth.administrator_recovered' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform from redoubt.users u where u.id = p_user for no key update;
  update redoubt.users u set password_hash = p_password_hash, password_changed_at = u.created_at, enrol_until = pg_catalog.now() + interval '24 hours', version = u.version + 1
    where u.id = p_user and u.realm = 'platform' and u.status = 'active';
  if not found then
    raise exception using errcode = 'RD404', message = 'not found';
  end if;
  update redoubt.factor_resets r set cancelled_at = pg_catalog.now() where r.user_id = p_user and r.cancelled_at is null and r.applied_at is null;
  perform guard.remove_all_factors(p_user);
end $function$;
alter function guard.recover_administrator(p_user uuid, p_password_hash text) owner to {guard};
grant execute on function guard.recover_administrator(p_user uuid, p_password_hash text) to {app};

CREATE OR REPLACE FUNCTION guard.recovery_holds(p_user uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  return exists (select from redoubt.factor_resets r where r.user_id = p_user and r.cancelled_at is null and r.applied_at is null
    and r.effective_at <= pg_catalog.now() and r.expires_at > pg_catalog.now());
end $function$;
alter function guard.recovery_holds(p_user uuid) owner to {guard};

CREATE OR REPLACE FUNCTION guard.redeem_code(p_id uuid, p_purpose text)
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  owner_of uuid;
begin
  if not guard.code_rule(p_purpose, (guard.caller()).actor) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.one_time_codes c set redeemed_at = pg_catalog.now()
    where c.id = p_id and c.purpose = p_purpose and c.redeemed_at is null and c.attempts > 0
      and ((guard.caller()).actor is null or c.user_id = (guard.caller()).actor)
      and case when c.code_hash is null then c.expires_at > pg_catalog.now() else c.consumed_at > pg_catalog.now() - interval '10 minutes' end
    returning c.user_id into owner_of;
  if owner_of is null then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return owner_of;
end $function$;
alter function guard.redeem_code(p_id uuid, p_purpose text) owner to {guard};

CREATE OR REPLACE FUNCTION guard.redeem_step_up(p_handles bytea[], p_contexts bytea[])
 RETURNS TABLE(id uuid, user_id uuid, tenant text, handle_hash bytea, code_hash bytea, context_hash bytea, binding bytea, expires_at timestamp with time zone)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  return query update redoubt.one_time_codes c set attempts = c.attempts + 1, redeemed_at = pg_catalog.transaction_timestamp()
    where c.handle_hash = any(p_handles) and c.context_hash = any(p_contexts) and c.purpose = 'step_up' and c.user_id = who.actor
      and c.code_hash is null and c.redeemed_at is null and c.expires_at > pg_catalog.clock_timestamp()
    returning c.id, c.user_id, c.tenant, c.handle_hash, c.code_hash, c.context_hash, c.binding, c.expires_at;
end $function$;
alter function guard.redeem_step_up(p_handles bytea[], p_contexts bytea[]) owner to {guard};
grant execute on function guard.redeem_step_up(p_handles bytea[], p_contexts bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.refresh_session(p_realm text, p_family bytea, p_presented bytea, p_next bytea, p_salt bytea, p_attempt bytea, p_agent bytea, p_prefix text, p_idle_seconds integer, OUT outcome text, OUT session uuid, OUT actor uuid, OUT role text, OUT tenant text, OUT salt bytea, OUT binding bytea)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.refresh_session(p_realm text, p_family bytea, p_presented bytea, p_next bytea, p_salt bytea, p_attempt bytea, p_agent bytea, p_prefix text, p_idle_seconds integer, OUT outcome text, OUT session uuid, OUT actor uuid, OUT role text, OUT tenant text, OUT salt bytea, OUT binding bytea) owner to {guard};
grant execute on function guard.refresh_session(p_realm text, p_family bytea, p_presented bytea, p_next bytea, p_salt bytea, p_attempt bytea, p_agent bytea, p_prefix text, p_idle_seconds integer, OUT outcome text, OUT session uuid, OUT actor uuid, OUT role text, OUT tenant text, OUT salt bytea, OUT binding bytea) to {app};

CREATE OR REPLACE FUNCTION guard.refresh_sessions(p_realm text, p_families bytea[], p_presented bytea[], p_next bytea[], p_salts bytea[], p_attempts bytea[], p_agents bytea[], p_prefixes text[], p_idle_seconds integer)
 RETURNS TABLE(place integer, session uuid, actor uuid, role text, tenant text, binding bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
AS $function$
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
end $function$;
alter function guard.refresh_sessions(p_realm text, p_families bytea[], p_presented bytea[], p_next bytea[], p_salts bytea[], p_attempts bytea[], p_agents bytea[], p_prefixes text[], p_idle_seconds integer) owner to {guard};
grant execute on function guard.refresh_sessions(p_realm text, p_families bytea[], p_presented bytea[], p_next bytea[], p_salts bytea[], p_attempts bytea[], p_agents bytea[], p_prefixes text[], p_idle_seconds integer) to {app};

CREATE OR REPLACE FUNCTION guard.refuse_audit_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if tg_argv[0] = tg_op and current_user = '{guard}' then
    return null;
  end if;
  raise exception using errcode = 'RD403', message = 'the audit record is append only';
end $function$;
alter function guard.refuse_audit_change() owner to {guard};
grant execute on function guard.refuse_audit_change() to {owner};

CREATE OR REPLACE FUNCTION guard.refuse_erased()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  insert into keys.erased (tenant, subject, keep) values (new.tenant, new.subject, new.keep) on conflict do nothing;
  if not found then
    raise exception using errcode = 'RD410', message = 'key destroyed';
  end if;
  delete from keys.erased e where e.tenant = new.tenant and e.subject = new.subject and e.keep = new.keep;
  return new;
end $function$;
alter function guard.refuse_erased() owner to {guard};
grant execute on function guard.refuse_erased() to {owner};

CREATE OR REPLACE FUNCTION guard.refuse_session(p_session uuid, p_family bytea)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (guard.caller()).role <> 'system.refresh' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'refused' where s.id = p_session and s.refresh_family = p_family and s.revoked_at is null;
end $function$;
alter function guard.refuse_session(p_session uuid, p_family bytea) owner to {guard};
grant execute on function guard.refuse_session(p_session uuid, p_family bytea) to {app};

CREATE OR REPLACE FUNCTION guard.rehash_password(p_email_bidx bytea[], p_before text, p_after text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (guard.caller()).role <> 'system.sign-in' then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.users u set password_hash = p_after where u.email_bidx = any(p_email_bidx) and u.password_hash = p_before;
end $function$;
alter function guard.rehash_password(p_email_bidx bytea[], p_before text, p_after text) owner to {guard};
grant execute on function guard.rehash_password(p_email_bidx bytea[], p_before text, p_after text) to {app};

CREATE OR REPLACE FUNCTION guard.release_audit(by_holder uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  update redoubt.audit_head h set holder = null, held_until = null where h.holder = by_holder;
end $function$;
alter function guard.release_audit(by_holder uuid) owner to {guard};
grant execute on function guard.release_audit(by_holder uuid) to {worker};

CREATE OR REPLACE FUNCTION guard.remove_all_factors(p_user uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  delete from redoubt.mfa_factors f where f.user_id = p_user;
  delete from redoubt.recovery_codes c where c.user_id = p_user;
  delete from redoubt.factor_tries t where t.user_id = p_user;
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'factor_changed' where s.user_id = p_user and s.revoked_at is null;
end $function$;
alter function guard.remove_all_factors(p_user uuid) owner to {guard};

CREATE OR REPLACE FUNCTION guard.remove_factor(p_factor uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.remove_factor(p_factor uuid) owner to {guard};
grant execute on function guard.remove_factor(p_factor uuid) to {app};

CREATE OR REPLACE FUNCTION guard.renew_enrolment(p_user uuid, p_password_hash text, p_role text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.renew_enrolment(p_user uuid, p_password_hash text, p_role text) owner to {guard};
grant execute on function guard.renew_enrolment(p_user uuid, p_password_hash text, p_role text) to {app};

CREATE OR REPLACE FUNCTION guard.replace_recovery_codes(p_ids uuid[], p_hashes bytea[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.replace_recovery_codes(p_ids uuid[], p_hashes bytea[]) owner to {guard};
grant execute on function guard.replace_recovery_codes(p_ids uuid[], p_hashes bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.request_factor_reset(p_id uuid, p_user uuid, p_delay_hours integer)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
  due timestamptz := pg_catalog.now() + pg_catalog.make_interval(hours => p_delay_hours);
begin
  if who.role <> 'admin' or p_user = who.actor or p_delay_hours not between 1 and 720 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  if not guard.stepped_up() then
    raise exception using errcode = 'RD409', message = 'step_up_required';
  end if;
  perform from redoubt.users u where u.id = p_user and u.tenant = who.tenant and u.status <> 'deleted' for no key update;
  if not found or not guard.has_factor(p_user) then
    raise exception using errcode = 'RD404', message = 'not found';
  end if;
  update redoubt.factor_resets r set cancelled_at = pg_catalog.now()
    where r.user_id = p_user and r.cancelled_at is null and r.applied_at is null and r.expires_at <= pg_catalog.now();
  insert into redoubt.factor_resets (id, user_id, tenant, requested_by, effective_at, expires_at)
    values (p_id, p_user, who.tenant, who.actor, due, due + interval '7 days');
  return due;
end $function$;
alter function guard.request_factor_reset(p_id uuid, p_user uuid, p_delay_hours integer) owner to {guard};
grant execute on function guard.request_factor_reset(p_id uuid, p_user uuid, p_delay_hours integer) to {app};

CREATE OR REPLACE FUNCTION guard.require_tombstone()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  gone uuid := case when tg_table_name = 'audit_logs' then (to_jsonb(old) ->> 'id')::uuid else (to_jsonb(old) ->> 'entry_id')::uuid end;
begin
  perform 1 from redoubt.audit_tombstones t where t.entry_id = gone;
  if not found then
    raise exception using errcode = 'RD403', message = 'the audit record is append only';
  end if;
  return old;
end $function$;
alter function guard.require_tombstone() owner to {guard};
grant execute on function guard.require_tombstone() to {owner};

CREATE OR REPLACE FUNCTION guard.reset_password(p_code uuid, p_hash text)
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  whose uuid := guard.redeem_code(p_code, 'reset');
begin
  update redoubt.users u set password_hash = p_hash, password_changed_at = pg_catalog.now(), version = u.version + 1 where u.id = whose and u.status = 'active' and (u.realm = 'tenant' or guard.recovery_holds(u.id));
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  perform guard.end_sessions_of(whose, 'password_changed');
  return whose;
end $function$;
alter function guard.reset_password(p_code uuid, p_hash text) owner to {guard};
grant execute on function guard.reset_password(p_code uuid, p_hash text) to {app};

CREATE OR REPLACE FUNCTION guard.resume_audit(reason text, lost_seq bigint, lost_link bytea)
 RETURNS TABLE(seq bigint, link bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  head redoubt.audit_head;
  now_seen pg_snapshot;
  id uuid := gen_random_uuid();
  ids uuid[];
begin
  if resume_audit.reason is null or octet_length(resume_audit.reason) not between 3 and 200 then
    raise exception using errcode = '22023', message = 'reason must have 3 to 200 bytes';
  end if;
  select h.* into head from redoubt.audit_head h for update;
  now_seen := pg_current_snapshot();
  perform 1 from redoubt.audit_chain c where c.seq = lost_seq and c.link = lost_link;
  if (found or lost_seq is null) and coalesce(head.cluster = guard.cluster(), true) and head.horizon <= pg_snapshot_xmax(now_seen) then
    raise exception using errcode = 'RD409', message = 'audit_not_interrupted';
  end if;
  perform set_config('synchronous_commit', 'on', true);
  insert into redoubt.audit_logs (id, xid, occurred_at, actor_type, actor_role, tenant_id, action, outcome, request_id,
      metadata, retention_class, retain_until)
    values (id, pg_current_xact_id(), transaction_timestamp(), 'system', 'system.audit', '{service}', 'audit.resumed', 'done', 'resume',
      jsonb_build_object('reason', resume_audit.reason, 'horizon', head.horizon::text, 'cluster', head.cluster::text,
        'head', head.seq::text, 'lost_seq', lost_seq::text, 'lost_link', encode(lost_link, 'hex')),
      'chain', '9999-12-31 00:00:00+00');
  select a.seq, a.link into head.seq, head.link from guard.append_links(array[id], head.seq, head.link, 'discontinuity') a;
  seq := head.seq;
  link := head.link;
  ids := array(
    select e.id from redoubt.audit_logs e
      where (e.xid < pg_snapshot_xmin(now_seen) or e.xid >= pg_snapshot_xmax(pg_current_snapshot()))
        and not exists (select from redoubt.audit_chain c where c.entry_id = e.id)
      order by e.xid, e.id);
  if cardinality(ids) > 0 then
    select a.seq, a.link into head.seq, head.link from guard.append_links(ids, head.seq, head.link, 'entry') a;
  end if;
  update redoubt.audit_head h set seq = head.seq, link = head.link, horizon = pg_snapshot_xmin(now_seen), cluster = guard.cluster();
  return next;
end $function$;
alter function guard.resume_audit(reason text, lost_seq bigint, lost_link bytea) owner to {guard};
grant execute on function guard.resume_audit(reason text, lost_seq bigint, lost_link bytea) to {worker};

CREATE OR REPLACE FUNCTION guard.revoke_api_client(p_client uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  if who.role not in ('admin', 'system.api-clients') then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.api_clients c set revoked_at = pg_catalog.now() where c.id = p_client and c.tenant = who.tenant and c.revoked_at is null;
  if not found then
    return false;
  end if;
  update redoubt.sessions s set revoked_at = pg_catalog.now(), revoke_reason = 'ended_by_admin' where s.user_id = p_client and s.revoked_at is null;
  return true;
end $function$;
alter function guard.revoke_api_client(p_client uuid) owner to {guard};
grant execute on function guard.revoke_api_client(p_client uuid) to {app};

CREATE OR REPLACE FUNCTION guard.role()
 RETURNS text
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ begin return (guard.caller(false)).role; end $function$;
alter function guard.role() owner to {guard};
grant execute on function guard.role() to {app};
grant execute on function guard.role() to {auditor};
grant execute on function guard.role() to {ingest};
grant execute on function guard.role() to {worker};

CREATE OR REPLACE FUNCTION guard.rotate_api_client(p_client uuid, p_secret_hash bytea, p_binding bytea, p_overlap_seconds integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  if who.role not in ('admin', 'system.api-clients') or p_overlap_seconds not between 0 and 2592000 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  update redoubt.api_clients c set previous_hash = c.secret_hash, previous_binding = c.binding, secret_hash = p_secret_hash, binding = p_binding, rotated_at = pg_catalog.now(),
      previous_until = pg_catalog.now() + pg_catalog.make_interval(secs => p_overlap_seconds)
    where c.id = p_client and c.tenant = who.tenant and c.revoked_at is null;
  return found;
end $function$;
alter function guard.rotate_api_client(p_client uuid, p_secret_hash bytea, p_binding bytea, p_overlap_seconds integer) owner to {guard};
grant execute on function guard.rotate_api_client(p_client uuid, p_secret_hash bytea, p_binding bytea, p_overlap_seconds integer) to {app};

CREATE OR REPLACE FUNCTION guard.seal_audit(max_entries integer)
 RETURNS TABLE(sealed integer, seq bigint, link bytea, oldest_unsealed double precision)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  head redoubt.audit_head;
  now_seen pg_snapshot;
  ids uuid[];
begin
  if max_entries not between 1 and 100000 then
    raise exception using errcode = '22023', message = 'max_entries must be 1 to 100000';
  end if;
  -- Looked at without the lock first: an idle service writes nothing.
  select h.* into head from redoubt.audit_head h;
  now_seen := pg_current_snapshot();
  if head.cluster is not null and (head.cluster <> guard.cluster() or head.horizon > pg_snapshot_xmax(now_seen)) then
    raise exception using errcode = 'RD409', message = 'audit_interrupted';
  end if;
  perform 1 from redoubt.audit_logs e where e.xid >= head.horizon and e.xid < pg_snapshot_xmin(now_seen) limit 1;
  if found then
    select h.* into head from redoubt.audit_head h for update;
    now_seen := pg_current_snapshot();
    ids := array(
      select e.id from redoubt.audit_logs e
        where e.xid >= head.horizon and e.xid < pg_snapshot_xmin(now_seen)
          and (select c.seq from redoubt.audit_chain c where c.entry_id = e.id) is null
        order by e.xid, e.id limit max_entries);
  end if;
  sealed := coalesce(cardinality(ids), 0);
  if sealed > 0 then
    -- An anchor must never be ahead of what a crash leaves: the head is on disk before it is signed.
    if current_setting('synchronous_commit') = 'off' then
      perform set_config('synchronous_commit', 'on', true);
    end if;
    select a.seq, a.link into head.seq, head.link from guard.append_links(ids, head.seq, head.link, 'entry') a;
    if sealed = max_entries then
      select e.xid into head.horizon from redoubt.audit_logs e where e.id = ids[sealed];
    else
      head.horizon := pg_snapshot_xmin(now_seen);
    end if;
    update redoubt.audit_head h set seq = head.seq, link = head.link, horizon = head.horizon, cluster = guard.cluster();
  elsif ids is not null and head.horizon < pg_snapshot_xmin(now_seen) then
    head.horizon := pg_snapshot_xmin(now_seen);
    update redoubt.audit_head h set horizon = head.horizon;
  end if;
  seq := head.seq;
  link := head.link;
  select extract(epoch from clock_timestamp() - e.occurred_at) into oldest_unsealed from redoubt.audit_logs e
    where e.xid >= head.horizon and e.xid < pg_snapshot_xmax(now_seen)
      and (select c.seq from redoubt.audit_chain c where c.entry_id = e.id) is null
    order by e.xid, e.id limit 1;
  oldest_unsealed := coalesce(oldest_unsealed, 0);
  return next;
end $function$;
alter function guard.seal_audit(max_entries integer) owner to {guard};
grant execute on function guard.seal_audit(max_entries integer) to {worker};

CREATE OR REPLACE FUNCTION guard.set_account_role(p_user uuid, p_role text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.set_account_role(p_user uuid, p_role text) owner to {guard};
grant execute on function guard.set_account_role(p_user uuid, p_role text) to {app};

CREATE OR REPLACE FUNCTION guard.set_account_status(p_user uuid, p_status text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.set_account_status(p_user uuid, p_status text) owner to {guard};
grant execute on function guard.set_account_status(p_user uuid, p_status text) to {app};

CREATE OR REPLACE FUNCTION guard.sign_in_factors(p_account uuid, p_email_bidx bytea[])
 RETURNS TABLE(kind text, credential_id bytea, transports text[])
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.sign_in_factors(p_account uuid, p_email_bidx bytea[]) owner to {guard};
grant execute on function guard.sign_in_factors(p_account uuid, p_email_bidx bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.sign_in_lookup(p_email_bidx bytea[], p_realm text)
 RETURNS TABLE(id uuid, password_hash text, status text, role text, tenant text, factors boolean)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (guard.caller()).role <> 'system.sign-in' or pg_catalog.cardinality(p_email_bidx) > 4 then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query select u.id, u.password_hash, u.status, u.role, u.tenant, guard.has_factor(u.id) from redoubt.users u
    where u.email_bidx = any(p_email_bidx) and u.realm = p_realm and u.status <> 'pending' limit 1;
end $function$;
alter function guard.sign_in_lookup(p_email_bidx bytea[], p_realm text) owner to {guard};
grant execute on function guard.sign_in_lookup(p_email_bidx bytea[], p_realm text) to {app};

CREATE OR REPLACE FUNCTION guard.spend_proof(p_user uuid, p_factor uuid, p_step bigint, p_count bigint, p_recovery bytea[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.spend_proof(p_user uuid, p_factor uuid, p_step bigint, p_count bigint, p_recovery bytea[]) owner to {guard};

CREATE OR REPLACE FUNCTION guard.stepped_up()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  return exists (select from redoubt.one_time_codes c
    where c.user_id = (guard.caller()).actor and c.purpose = 'step_up' and c.redeemed_at = pg_catalog.transaction_timestamp());
end $function$;
alter function guard.stepped_up() owner to {guard};

CREATE OR REPLACE FUNCTION guard.tenant()
 RETURNS text
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ begin return (guard.caller(false)).tenant; end $function$;
alter function guard.tenant() owner to {guard};
grant execute on function guard.tenant() to {app};
grant execute on function guard.tenant() to {auditor};
grant execute on function guard.tenant() to {ingest};
grant execute on function guard.tenant() to {worker};

CREATE OR REPLACE FUNCTION guard.try_code(p_purpose text, p_handles bytea[], p_codes bytea[], p_contexts bytea[])
 RETURNS TABLE(answer text, id uuid, user_id uuid, tenant text, handle_hash bytea, code_hash bytea, context_hash bytea, binding bytea, expires_at timestamp with time zone)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  who guard.verified := guard.caller();
begin
  if not guard.code_rule(p_purpose, who.actor) then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return query
    with tried as (
      update redoubt.one_time_codes c
      set attempts = c.attempts + 1,
        consumed_at = case when c.code_hash = any(p_codes) and (c.context_hash is null and p_contexts is null or c.context_hash = any(p_contexts)) then pg_catalog.now() end
      where c.handle_hash = any(p_handles) and c.purpose = p_purpose and c.tenant = who.tenant and (who.actor is null or c.user_id = who.actor)
        and c.consumed_at is null and c.redeemed_at is null and c.attempts < c.max_attempts and c.expires_at > pg_catalog.now()
      returning c.*)
    select case when (t.code_hash is null and p_codes is null or t.code_hash = any(p_codes))
        and (t.context_hash is null and p_contexts is null or t.context_hash = any(p_contexts)) then 'right' else 'wrong' end,
      t.id, t.user_id, t.tenant, t.handle_hash, t.code_hash, t.context_hash, t.binding, t.expires_at
    from tried t;
  -- A handle of nobody costs a commit that waits for the disk too: whoever asked for somebody else's code would learn by
  -- the time of its refusal whether there is one, and so an account.
  if not found then
    perform pg_catalog.pg_logical_emit_message(true, 'redoubt', 'no such code');
  end if;
end $function$;
alter function guard.try_code(p_purpose text, p_handles bytea[], p_codes bytea[], p_contexts bytea[]) owner to {guard};
grant execute on function guard.try_code(p_purpose text, p_handles bytea[], p_codes bytea[], p_contexts bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.undo_email(p_code uuid, p_email_enc bytea, p_email_bidx bytea[])
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;
alter function guard.undo_email(p_code uuid, p_email_enc bytea, p_email_bidx bytea[]) owner to {guard};
grant execute on function guard.undo_email(p_code uuid, p_email_enc bytea, p_email_bidx bytea[]) to {app};

CREATE OR REPLACE FUNCTION guard.verify_email(p_code uuid, p_email_bidx bytea[])
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  whose uuid := guard.redeem_code(p_code, 'email_verify');
begin
  perform guard.claim_for(whose, p_email_bidx);
  update redoubt.users u set status = 'active', email_bidx = p_email_bidx[1], version = u.version + 1 where u.id = whose and u.status = 'pending';
  if not found then
    raise exception using errcode = 'RD403', message = 'forbidden';
  end if;
  return whose;
end $function$;
alter function guard.verify_email(p_code uuid, p_email_bidx bytea[]) owner to {guard};
grant execute on function guard.verify_email(p_code uuid, p_email_bidx bytea[]) to {app};

CREATE OR REPLACE FUNCTION keys.close_data_keys(p_ids bytea[], p_seconds integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  closed int;
begin
  perform 1 from keys.data_keys d where d.key_id = any (p_ids) order by d.key_id for update;
  update keys.data_keys d set state = 'retiring', closed_at = clock_timestamp()
    where d.key_id = any (p_ids) and d.state = 'decrypt_only' and exists (
      select from keys.data_keys n where n.tenant = d.tenant and n.subject = d.subject and n.keep = d.keep and n.version > d.version
        and n.created_at <= now() - make_interval(secs => p_seconds));
  get diagnostics closed = row_count;
  return closed;
end $function$;
alter function keys.close_data_keys(p_ids bytea[], p_seconds integer) owner to {owner};
grant execute on function keys.close_data_keys(p_ids bytea[], p_seconds integer) to {keys};

CREATE OR REPLACE FUNCTION keys.destroy_data_keys(p_tenant text, p_subject uuid, p_keep text)
 RETURNS SETOF bytea
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception using errcode = '25001', message = 'keys are destroyed at read committed';
  end if;
  insert into keys.erased (tenant, subject, keep) values (p_tenant, p_subject, p_keep) on conflict do nothing;
  return query delete from keys.data_keys d
    where d.tenant = p_tenant and d.subject = p_subject and d.keep = p_keep returning d.key_id;
end $function$;
alter function keys.destroy_data_keys(p_tenant text, p_subject uuid, p_keep text) owner to {owner};
grant execute on function keys.destroy_data_keys(p_tenant text, p_subject uuid, p_keep text) to {keys};

CREATE OR REPLACE FUNCTION keys.kek_dependants(p_id bytea)
 RETURNS TABLE(data_keys bigint, index_keys bigint, purpose_keys bigint)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select (select pg_catalog.count(*) from keys.data_keys d where d.kek_id = p_id), (select pg_catalog.count(*) from keys.index_keys i where i.kek_id = p_id),
    (select pg_catalog.count(*) from keys.purpose_keys p where p.kek_id = p_id)
$function$;
alter function keys.kek_dependants(p_id bytea) owner to {owner};
grant execute on function keys.kek_dependants(p_id bytea) to {keys};

CREATE OR REPLACE FUNCTION keys.retire_data_keys(p_proven timestamp with time zone, p_most integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  gone int;
begin
  delete from keys.data_keys d where d.key_id in (
    select o.key_id from keys.data_keys o where o.state = 'retiring' and o.closed_at < p_proven order by o.key_id limit p_most for update skip locked);
  get diagnostics gone = row_count;
  if gone > 0 then
    perform guard.note_key('key.retired', 'data', null, jsonb_build_object('keys', gone));
  end if;
  return gone;
end $function$;
alter function keys.retire_data_keys(p_proven timestamp with time zone, p_most integer) owner to {owner};
grant execute on function keys.retire_data_keys(p_proven timestamp with time zone, p_most integer) to {keys};

CREATE OR REPLACE FUNCTION keys.retire_index_key(p_table integer, p_column integer, p_version integer, p_seconds integer, p_proven timestamp with time zone)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  delete from keys.index_keys i where i.table_id = p_table and i.column_id = p_column and i.version = p_version and exists (
    select from keys.index_keys n where n.table_id = p_table and n.column_id = p_column and n.version > p_version
      and n.use_from + make_interval(secs => p_seconds) <= p_proven);
  if not found then
    return false;
  end if;
  perform guard.note_key('key.retired', 'index:' || p_table || '.' || p_column, null, jsonb_build_object('version', p_version));
  return true;
end $function$;
alter function keys.retire_index_key(p_table integer, p_column integer, p_version integer, p_seconds integer, p_proven timestamp with time zone) owner to {owner};
grant execute on function keys.retire_index_key(p_table integer, p_column integer, p_version integer, p_seconds integer, p_proven timestamp with time zone) to {keys};

CREATE OR REPLACE FUNCTION keys.retire_kek(p_id bytea)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  row keys.key_encryption_keys;
begin
  select k.* into row from keys.key_encryption_keys k where k.id = p_id and k.state = 'decrypt_only' for update;
  if not found then
    return false;
  end if;
  if exists (select from keys.data_keys d where d.kek_id = p_id) or exists (select from keys.index_keys i where i.kek_id = p_id)
     or exists (select from keys.purpose_keys p where p.kek_id = p_id) then
    return false;
  end if;
  update keys.key_encryption_keys k set state = 'destroyed', wrapped = null where k.id = p_id;
  perform guard.note_key('key.retired', 'kek:' || row.purpose, pg_catalog.encode(p_id, 'hex'), pg_catalog.jsonb_build_object('version', row.version));
  return true;
end $function$;
alter function keys.retire_kek(p_id bytea) owner to {owner};
grant execute on function keys.retire_kek(p_id bytea) to {keys};

CREATE OR REPLACE FUNCTION keys.retire_purpose_key(p_purpose text, p_kid text, p_kek bytea, p_public bytea, p_seconds integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  old keys.purpose_keys;
begin
  select p.* into old from keys.purpose_keys p where p.purpose = p_purpose and p.kid = p_kid and p.holds = 'private' for update;
  if not found or not exists (select from keys.purpose_keys n where n.purpose = p_purpose and n.version > old.version
      and n.use_from <= now() - make_interval(secs => p_seconds)) then
    return false;
  end if;
  if p_public is null then
    delete from keys.purpose_keys p where p.purpose = p_purpose and p.kid = p_kid;
  else
    update keys.purpose_keys p set holds = 'public', kek_id = p_kek, wrapped = p_public where p.purpose = p_purpose and p.kid = p_kid;
  end if;
  perform guard.note_key('key.retired', p_purpose, p_kid, jsonb_build_object('version', old.version, 'public_half_stays', p_public is not null));
  return true;
end $function$;
alter function keys.retire_purpose_key(p_purpose text, p_kid text, p_kek bytea, p_public bytea, p_seconds integer) owner to {owner};
grant execute on function keys.retire_purpose_key(p_purpose text, p_kid text, p_kek bytea, p_public bytea, p_seconds integer) to {keys};

CREATE OR REPLACE FUNCTION keys.rotate_data_keys(p_old bytea[], p_new bytea[], p_wrapped bytea[], p_kek bytea)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  made int;
begin
  insert into keys.data_keys (key_id, tenant, subject, keep, version, kek_id, wrapped, state)
    select m.new, d.tenant, d.subject, d.keep, d.version + 1, p_kek, m.wrapped, 'decrypt_only'
    from unnest(p_old, p_new, p_wrapped) as m (old, new, wrapped) join keys.data_keys d on d.key_id = m.old and d.state = 'active'
    order by d.tenant, d.subject, d.keep;
  update keys.data_keys d set state = 'decrypt_only' from keys.data_keys n
    where n.key_id = any (p_new) and d.key_id = any (p_old) and d.tenant = n.tenant and d.subject = n.subject and d.keep = n.keep and d.state = 'active';
  update keys.data_keys d set state = 'active' where d.key_id = any (p_new);
  get diagnostics made = row_count;
  if made > 0 then
    perform guard.note_key('key.rotated', 'data', null, pg_catalog.jsonb_build_object('keys', made));
  end if;
  return made;
end $function$;
alter function keys.rotate_data_keys(p_old bytea[], p_new bytea[], p_wrapped bytea[], p_kek bytea) owner to {owner};
grant execute on function keys.rotate_data_keys(p_old bytea[], p_new bytea[], p_wrapped bytea[], p_kek bytea) to {keys};

CREATE OR REPLACE FUNCTION keys.rotate_index_key(p_table integer, p_column integer, p_version integer, p_key bytea, p_kek bytea, p_wrapped bytea, p_seconds integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (select count(*) <> 1 or max(i.version) <> p_version - 1 from keys.index_keys i where i.table_id = p_table and i.column_id = p_column) then
    return false;
  end if;
  insert into keys.index_keys (table_id, column_id, version, key_id, kek_id, wrapped, use_from)
    values (p_table, p_column, p_version, p_key, p_kek, p_wrapped, now() + make_interval(secs => p_seconds)) on conflict do nothing;
  if not found then
    return false;
  end if;
  perform guard.note_key('key.rotated', 'index:' || p_table || '.' || p_column, encode(p_key, 'hex'), jsonb_build_object('version', p_version, 'use_in_seconds', p_seconds));
  return true;
end $function$;
alter function keys.rotate_index_key(p_table integer, p_column integer, p_version integer, p_key bytea, p_kek bytea, p_wrapped bytea, p_seconds integer) owner to {owner};
grant execute on function keys.rotate_index_key(p_table integer, p_column integer, p_version integer, p_key bytea, p_kek bytea, p_wrapped bytea, p_seconds integer) to {keys};

CREATE OR REPLACE FUNCTION keys.rotate_kek(p_id bytea, p_purpose text, p_version integer, p_provider text, p_key_ref text, p_wrapped bytea)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  update keys.key_encryption_keys k set state = 'decrypt_only' where k.purpose = p_purpose and k.version = p_version - 1 and k.state = 'active';
  if not found then
    return false;
  end if;
  insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped) values (p_id, p_purpose, p_version, p_provider, p_key_ref, p_wrapped);
  perform guard.note_key('key.rotated', 'kek:' || p_purpose, pg_catalog.encode(p_id, 'hex'), pg_catalog.jsonb_build_object('version', p_version));
  return true;
end $function$;
alter function keys.rotate_kek(p_id bytea, p_purpose text, p_version integer, p_provider text, p_key_ref text, p_wrapped bytea) owner to {owner};
grant execute on function keys.rotate_kek(p_id bytea, p_purpose text, p_version integer, p_provider text, p_key_ref text, p_wrapped bytea) to {keys};

CREATE OR REPLACE FUNCTION keys.rotate_purpose_key(p_purpose text, p_kid text, p_version integer, p_kek bytea, p_wrapped bytea, p_public bytea, p_seconds integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if (select max(p.version) is distinct from p_version - 1 from keys.purpose_keys p where p.purpose = p_purpose) then
    return false;
  end if;
  insert into keys.purpose_keys (purpose, kid, version, kek_id, wrapped, public_key, use_from)
    values (p_purpose, p_kid, p_version, p_kek, p_wrapped, p_public, now() + make_interval(secs => p_seconds)) on conflict do nothing;
  if not found then
    return false;
  end if;
  perform guard.note_key('key.rotated', p_purpose, p_kid, jsonb_build_object('version', p_version, 'use_in_seconds', p_seconds));
  return true;
end $function$;
alter function keys.rotate_purpose_key(p_purpose text, p_kid text, p_version integer, p_kek bytea, p_wrapped bytea, p_public bytea, p_seconds integer) owner to {owner};
grant execute on function keys.rotate_purpose_key(p_purpose text, p_kid text, p_version integer, p_kek bytea, p_wrapped bytea, p_public bytea, p_seconds integer) to {keys};

CREATE OR REPLACE FUNCTION keys.under_active_key()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform 1 from keys.key_encryption_keys k where k.id = new.kek_id and k.state = 'active' for share;
  if not found then
    raise exception using errcode = 'RD409', message = 'conflict';
  end if;
  return new;
end $function$;
alter function keys.under_active_key() owner to {owner};

CREATE OR REPLACE FUNCTION redoubt.hold_crypto_range(p_job uuid, p_round integer, p_range integer, p_holder uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform 1 from redoubt.crypto_job_cursors c
    where c.job_id = p_job and c.round = p_round and c.range_no = p_range and c.holder = p_holder and c.done_at is null for update;
  if not found then
    raise exception using errcode = 'RD409', message = 'conflict';
  end if;
end $function$;
alter function redoubt.hold_crypto_range(p_job uuid, p_round integer, p_range integer, p_holder uuid) owner to {owner};
grant execute on function redoubt.hold_crypto_range(p_job uuid, p_round integer, p_range integer, p_holder uuid) to {migrator};

