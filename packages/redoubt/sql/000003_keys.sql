-- Wrapped keys. Only the keys role reads them, by a pool of its own; excluded from data backups and dumped as a key
-- bag of their own. A key is destroyed by deleting its wrapped row. Nothing here is secret without the key service,
-- and nothing here is believed: every row is authenticated when its key is unwrapped (keyring.ts).

set local role {guard};
grant usage on schema guard to {owner};

set local role {owner};
create schema keys;
grant usage on schema keys to {keys}, {guard};

-- Wrapped by the key service under its root. The id names the key bytes; provider and key_ref name the root.
create table keys.key_encryption_keys (
  id bytea primary key check (octet_length(id) = 16),
  purpose text not null check (purpose in ('data', 'index', 'purpose')),
  version int not null check (version > 0),
  provider text not null check (provider in ('local', 'aws', 'azure', 'vault')),
  key_ref text not null check (length(key_ref) between 1 and 2048),
  wrapped bytea check (octet_length(wrapped) between 1 and 6144),
  state text not null default 'active' check (state in ('active', 'decrypt_only', 'destroyed')),
  created_at timestamptz not null default now(),
  unique (purpose, version),
  check ((state = 'destroyed') = (wrapped is null))
);
create unique index key_encryption_keys_one_active on keys.key_encryption_keys (purpose) where state = 'active';

-- One per data subject and retention class, wrapped under a key-encryption key.
create table keys.data_keys (
  key_id bytea primary key check (octet_length(key_id) = 16),
  tenant text not null check (length(tenant) between 1 and 200),
  subject uuid not null,
  keep text not null check (keep ~ '^[a-z][a-z0-9_-]{0,62}$'),
  version int not null default 1 check (version > 0),
  kek_id bytea not null references keys.key_encryption_keys (id),
  wrapped bytea not null check (octet_length(wrapped) between 61 and 512),
  -- retiring: opens what it sealed, and no transaction commits anything new under it (guard.hold_keys).
  state text not null default 'active' check (state in ('active', 'decrypt_only', 'retiring')),
  -- From when on nothing more was committed under it.
  closed_at timestamptz,
  created_at timestamptz not null default now(),
  unique (tenant, subject, keep, version),
  check ((state = 'retiring') = (closed_at is not null))
);
create unique index data_keys_one_active on keys.data_keys (tenant, subject, keep) where state = 'active';
create index data_keys_by_kek on keys.data_keys (kek_id);

-- Who was erased, per retention class: no new key for them. Also the slot that key creation and erasure contend for.
create table keys.erased (
  tenant text not null,
  subject uuid not null,
  keep text not null,
  erased_at timestamptz not null default now(),
  primary key (tenant, subject, keep)
);

-- Keys of blind indexes, per column; the version is the first byte of the index value. The newest one whose use_from has
-- come is written with, all are looked up: a version is known to every process before the first value stands under it.
create table keys.index_keys (
  table_id int not null check (table_id between 1 and 65535),
  column_id int not null check (column_id between 1 and 65535),
  version int not null check (version between 1 and 255),
  key_id bytea not null unique check (octet_length(key_id) = 16),
  kek_id bytea not null references keys.key_encryption_keys (id),
  wrapped bytea not null check (octet_length(wrapped) between 61 and 512),
  use_from timestamptz not null default now(),
  created_at timestamptz not null default now(),
  primary key (table_id, column_id, version)
);
create index index_keys_by_kek on keys.index_keys (kek_id);

-- Signing key pairs of the service itself (Ed25519). The newest one whose use_from has come signs, all verify. `holds`
-- says what `wrapped` is: of a retired pair whose signatures stay (anchors, ledgers) only the public half is left.
create table keys.purpose_keys (
  purpose text not null check (purpose ~ '^[a-z][a-z-]{1,40}$'),
  kid text not null check (kid ~ '^[A-Za-z0-9_-]{43}$'),
  version int not null check (version > 0),
  kek_id bytea not null references keys.key_encryption_keys (id),
  wrapped bytea not null check (octet_length(wrapped) between 61 and 512),
  public_key bytea not null check (octet_length(public_key) between 32 and 512),
  holds text not null default 'private' check (holds in ('private', 'public')),
  use_from timestamptz not null default now(),
  created_at timestamptz not null default now(),
  primary key (purpose, kid),
  unique (purpose, version)
);
create index purpose_keys_by_kek on keys.purpose_keys (kek_id);

alter table keys.key_encryption_keys enable row level security;
alter table keys.key_encryption_keys force row level security;
alter table keys.data_keys enable row level security;
alter table keys.data_keys force row level security;
alter table keys.erased enable row level security;
alter table keys.erased force row level security;
alter table keys.index_keys enable row level security;
alter table keys.index_keys force row level security;
alter table keys.purpose_keys enable row level security;
alter table keys.purpose_keys force row level security;

-- What a key is and whose it is never changes; only its wrapping and state do.
grant select, insert, delete on keys.key_encryption_keys, keys.data_keys, keys.index_keys, keys.purpose_keys to {keys};
grant update (provider, key_ref, wrapped, state) on keys.key_encryption_keys to {keys};
grant update (kek_id, wrapped, state, closed_at) on keys.data_keys to {keys};
grant update (kek_id, wrapped) on keys.index_keys to {keys};
grant update (kek_id, wrapped, holds) on keys.purpose_keys to {keys};
-- An erasure is not taken back.
grant select, insert on keys.erased to {keys};

create policy keys_select on keys.key_encryption_keys for select to {keys} using (true);
create policy keys_insert on keys.key_encryption_keys for insert to {keys} with check (true);
create policy keys_update on keys.key_encryption_keys for update to {keys} using (true) with check (true);
create policy keys_delete on keys.key_encryption_keys for delete to {keys} using (state = 'destroyed');
create policy keys_select on keys.data_keys for select to {keys} using (true);
create policy keys_insert on keys.data_keys for insert to {keys} with check (true);
create policy keys_update on keys.data_keys for update to {keys} using (true) with check (true);
create policy keys_delete on keys.data_keys for delete to {keys} using (true);
create policy keys_select on keys.erased for select to {keys} using (true);
create policy keys_insert on keys.erased for insert to {keys} with check (true);
create policy keys_update on keys.erased for update to {keys} using (false) with check (false);
create policy keys_delete on keys.erased for delete to {keys} using (false);
create policy keys_select on keys.index_keys for select to {keys} using (true);
create policy keys_insert on keys.index_keys for insert to {keys} with check (true);
create policy keys_update on keys.index_keys for update to {keys} using (true) with check (true);
create policy keys_delete on keys.index_keys for delete to {keys} using (true);
create policy keys_select on keys.purpose_keys for select to {keys} using (true);
create policy keys_insert on keys.purpose_keys for insert to {keys} with check (true);
create policy keys_update on keys.purpose_keys for update to {keys} using (true) with check (true);
create policy keys_delete on keys.purpose_keys for delete to {keys} using (true);

-- Locking a row FOR KEY SHARE needs UPDATE on one column and an update policy that shows the row; no update passes it.
grant select (key_id, state), update (state) on keys.data_keys to {guard};
create policy guard_select on keys.data_keys for select to {guard} using (true);
create policy guard_update on keys.data_keys for update to {guard} using (true) with check (false);
grant select, insert, delete on keys.erased to {guard};
create policy guard_select on keys.erased for select to {guard} using (true);
create policy guard_insert on keys.erased for insert to {guard} with check (true);
create policy guard_delete on keys.erased for delete to {guard} using (true);

set local role {guard};

-- No new key for somebody erased. A plain "not exists" would not see an erasure that commits a moment later, so the
-- maker of a key takes the slot in keys.erased and gives it back: the unique index makes the two wait for each other,
-- at every isolation level and without an advisory lock that other roles could hold.
create function guard.refuse_erased() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into keys.erased (tenant, subject, keep) values (new.tenant, new.subject, new.keep) on conflict do nothing;
  if not found then
    raise exception using errcode = 'RD410', message = 'key destroyed';
  end if;
  delete from keys.erased e where e.tenant = new.tenant and e.subject = new.subject and e.keep = new.keep;
  return new;
end $$;

-- The gate calls this before COMMIT with the keys it sealed under: a key that is gone fails the transaction, a key that
-- is there cannot be destroyed until the transaction has ended, so no value commits under a destroyed key.
create function guard.hold_keys(key_ids bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  wanted int := (select pg_catalog.count(distinct k) from pg_catalog.unnest(key_ids) k);
  held int;
begin
  perform 1 from keys.data_keys d where d.key_id = any (key_ids) and d.state <> 'retiring' order by d.key_id for key share;
  get diagnostics held = row_count;
  if key_ids is null or pg_catalog.array_position(key_ids, null) is not null or held <> wanted then
    raise exception using errcode = 'RD410', message = 'key destroyed';
  end if;
end $$;

revoke all on function guard.refuse_erased(), guard.hold_keys(bytea[]) from public;
grant execute on function guard.refuse_erased() to {owner};
grant execute on function guard.hold_keys(bytea[]) to {app}, {worker};

set local role {owner};

create trigger refuse_erased before insert on keys.data_keys for each row execute function guard.refuse_erased();

-- Erases a scope: takes its slot for good, then deletes its keys with a snapshot taken after that. Waits for every
-- transaction that holds one of the keys. With an older snapshot the delete would miss a key made meanwhile.
create function keys.destroy_data_keys(p_tenant text, p_subject uuid, p_keep text) returns setof bytea
language plpgsql security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception using errcode = '25001', message = 'keys are destroyed at read committed';
  end if;
  insert into keys.erased (tenant, subject, keep) values (p_tenant, p_subject, p_keep) on conflict do nothing;
  return query delete from keys.data_keys d
    where d.tenant = p_tenant and d.subject = p_subject and d.keep = p_keep returning d.key_id;
end $$;

revoke all on function keys.destroy_data_keys(text, uuid, text) from public;
grant execute on function keys.destroy_data_keys(text, uuid, text) to {keys};
