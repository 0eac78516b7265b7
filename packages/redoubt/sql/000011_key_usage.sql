-- Who used which key: one row per call of the key service, and counts per hour of what was done in memory with its keys.
-- Written by functions of guard alone, so that nobody who holds the keys can take a count back. In the schema of the
-- audit and not in that of the keys: it is evidence, and evidence belongs into the backups of the data.

set local role {owner};

create table redoubt.key_usage (
  hour timestamptz not null,
  actor text not null,
  purpose text not null,
  data_class text not null,
  operation text not null check (operation in ('open', 'unwrap', 'wrap')),
  -- Hex id of a data key or key-encryption key, kid of a signing key, 'index <table>.<column>', or 'other'.
  key text not null,
  uses bigint not null check (uses > 0),
  primary key (hour, actor, purpose, data_class, operation, key)
);
create index key_usage_by_key on redoubt.key_usage (key, hour);

create table redoubt.key_calls (
  id bigint generated always as identity primary key,
  at timestamptz not null,
  actor text not null,
  purpose text not null,
  data_class text not null,
  operation text not null check (operation in ('generate', 'wrap', 'unwrap', 'rewrap', 'check')),
  provider text not null,
  outcome text not null,
  milliseconds bigint not null check (milliseconds >= 0),
  -- More than 1 for checks, and for calls that failed alike within seconds.
  times int not null check (times > 0)
);
create index key_calls_by_time on redoubt.key_calls (at);

-- Batches that were written: one that is sent again, because its answer got lost, is not counted twice.
create table redoubt.key_usage_batches (
  batch uuid primary key,
  at timestamptz not null default now()
);

create table redoubt.key_use_unusual (
  hour timestamptz not null,
  actor text not null,
  purpose text not null,
  data_class text not null,
  uses bigint not null,
  baseline bigint not null,
  primary key (hour, actor, purpose, data_class)
);

alter table redoubt.key_usage enable row level security;
alter table redoubt.key_usage force row level security;
alter table redoubt.key_calls enable row level security;
alter table redoubt.key_calls force row level security;
alter table redoubt.key_usage_batches enable row level security;
alter table redoubt.key_usage_batches force row level security;
alter table redoubt.key_use_unusual enable row level security;
alter table redoubt.key_use_unusual force row level security;

grant select on redoubt.key_usage, redoubt.key_calls, redoubt.key_use_unusual to {auditor}, {backup};
create policy auditor_select on redoubt.key_usage for select to {auditor}, {backup} using (true);
create policy auditor_select on redoubt.key_calls for select to {auditor}, {backup} using (true);
create policy auditor_select on redoubt.key_use_unusual for select to {auditor}, {backup} using (true);

grant select, insert, delete on redoubt.key_usage, redoubt.key_calls, redoubt.key_usage_batches, redoubt.key_use_unusual to {guard};
grant update (uses) on redoubt.key_usage to {guard};
create policy guard_select on redoubt.key_usage for select to {guard} using (true);
create policy guard_insert on redoubt.key_usage for insert to {guard} with check (true);
create policy guard_update on redoubt.key_usage for update to {guard} using (true) with check (true);
create policy guard_delete on redoubt.key_usage for delete to {guard} using (true);
create policy guard_select on redoubt.key_calls for select to {guard} using (true);
create policy guard_insert on redoubt.key_calls for insert to {guard} with check (true);
create policy guard_delete on redoubt.key_calls for delete to {guard} using (true);
create policy guard_select on redoubt.key_usage_batches for select to {guard} using (true);
create policy guard_insert on redoubt.key_usage_batches for insert to {guard} with check (true);
create policy guard_delete on redoubt.key_usage_batches for delete to {guard} using (true);
create policy guard_select on redoubt.key_use_unusual for select to {guard} using (true);
create policy guard_insert on redoubt.key_use_unusual for insert to {guard} with check (true);
create policy guard_delete on redoubt.key_use_unusual for delete to {guard} using (true);

set local role {guard};

-- One batch of a process, in one statement. Times come as ages: the clock of a process decides nothing.
-- Rows in one order for everybody: two processes that count the same keys must not wait for each other in a circle.
create function guard.record_key_usage(p_batch uuid, p_age_ms bigint, p_uses jsonb, p_calls jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
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
end $$;

-- Unusual: in this hour or the one before, an actor class has opened keys of a data class for a purpose more than
-- p_times as often as its baseline. The baseline is the mean of the same hour of the day over the last seven days (over
-- those since the recording began), and never below p_least, so that the first visitor of a quiet night alarms nobody.
-- Each hour is told once, whichever worker asks.
create function guard.find_unusual_key_use(p_times numeric, p_least bigint)
returns table (hour timestamptz, actor text, purpose text, data_class text, uses bigint, baseline bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
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
end $$;

-- What is older than 400 days goes, at most p_most rows of each table at once; batches after a fortnight.
create function guard.forget_key_usage(p_most int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
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
end $$;

revoke all on function guard.record_key_usage(uuid, bigint, jsonb, jsonb), guard.find_unusual_key_use(numeric, bigint), guard.forget_key_usage(int) from public;
grant execute on function guard.record_key_usage(uuid, bigint, jsonb, jsonb) to {keys};
grant execute on function guard.find_unusual_key_use(numeric, bigint), guard.forget_key_usage(int) to {worker};
