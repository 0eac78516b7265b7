-- Recovery codes on paper cannot be hashed anew: whoever retires their key ends the codes that are left under it. A
-- spent one depends on nothing. The operator decides that; the keys role may destroy every key anyway.

set local role {guard};

create function guard.end_recovery_codes(p_version int) returns table (codes int, people int)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  with gone as (delete from redoubt.recovery_codes r where pg_catalog.get_byte(r.code_hash, 0) = p_version and r.last_used_at is null returning r.user_id)
    select pg_catalog.count(*), pg_catalog.count(distinct g.user_id) into codes, people from gone g;
  if codes > 0 then
    perform guard.note_key('key.retired', 'recovery-codes', null, pg_catalog.jsonb_build_object('version', p_version, 'codes', codes, 'people', people));
  end if;
  return next;
end $$;

revoke all on function guard.end_recovery_codes(int) from public;
grant execute on function guard.end_recovery_codes(int) to {keys};
