/**
 * Catalogue questions of the database check. $1 is the list of the service's schemas. Those that end in `what, todo`
 * return findings themselves; a right answer is no row. All are asked as the runtime role.
 */
export const catalogueQueries = {
  columns: `
    select n.nspname || '.' || c.relname as table_name, a.attname as column_name,
      case when t.typelem <> 0 and t.typcategory = 'A' then e.typname || '[]' else t.typname end as type,
      not a.attnotnull as nullable, a.atthasdef as generated
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_catalog.pg_type t on t.oid = a.atttypid
    left join pg_catalog.pg_type e on e.oid = t.typelem
    where n.nspname = any($1) and c.relkind in ('r', 'p')`,

  relations: `
    select n.nspname || '.' || c.relname as name, c.relkind::text as kind, c.relrowsecurity as enabled, c.relforcerowsecurity as forced,
      coalesce((select string_agg(p.polcmd::text, '') from pg_catalog.pg_policy p where p.polrelid = c.oid
        and p.polroles && array[0::pg_catalog.oid, (select oid from pg_catalog.pg_roles where rolname = session_user)]), '') as commands,
      coalesce('security_invoker=true' = any(c.reloptions), false) as invoker,
      c.relowner = (select oid from pg_catalog.pg_roles where rolname = session_user) as owned_by_runtime,
      pg_catalog.has_any_column_privilege(session_user, c.oid, 'SELECT, INSERT, UPDATE') as reached
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any($1) and c.relkind in ('r', 'p', 'v', 'm')`,

  policies: `
    select n.nspname || '.' || c.relname as "table", p.polname as name,
      coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') as seen, coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '') as written
    from pg_catalog.pg_policy p join pg_catalog.pg_class c on c.oid = p.polrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any($1) and p.polroles && array[0::pg_catalog.oid, (select oid from pg_catalog.pg_roles where rolname = session_user)]`,

  jobs: `
    select 'policy ' || p.polname || ' of ' || n.nspname || '.' || c.relname || ' is for others than the migrator, or for more than to read and update' as what,
      'redoubt reencrypt withdraw takes it away, allow makes it as it should be' as todo
    from pg_catalog.pg_policy p join pg_catalog.pg_class c on c.oid = p.polrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any($1) and p.polname in ('reencrypt_select', 'reencrypt_update') and (p.polcmd not in ('r', 'w')
      or p.polroles <> array(select r.oid from pg_catalog.pg_roles r where r.rolname = regexp_replace(session_user::text, '_app$', '_migrator')))`,

  role: `
    select 'runtime role ' || r.rolname || ' ' || f.fault as what, f.todo
    from pg_catalog.pg_roles r
    cross join lateral (values
      (r.rolsuper, 'is a superuser', 'connect with the app role, not with the administrator'),
      (r.rolbypassrls, 'bypasses row security', 'alter role … nobypassrls'),
      (r.rolcreaterole or r.rolcreatedb or r.rolreplication, 'may create roles or databases, or replicate', 'alter role … nocreaterole nocreatedb noreplication'),
      (exists (select from pg_catalog.pg_auth_members m where m.member = r.oid), 'is a member of another role', 'revoke the membership: SET ROLE would use it')
    ) f(bad, fault, todo)
    where r.rolname = session_user and f.bad and $1::text[] is not null
    union all
    -- PostgreSQL lets every role alter its own settings, and no grant takes that away: what an intruder left there would
    -- meet each new connection.
    select 'runtime role ' || r.rolname || ' has settings of its own (' || pg_catalog.split_part(s.setting, '=', 1) || ')', 'alter role ' || r.rolname || ' reset ' || pg_catalog.split_part(s.setting, '=', 1) || '; settings belong to the server or the database'
    from pg_catalog.pg_roles r join pg_catalog.pg_db_role_setting d on d.setrole = r.oid cross join lateral pg_catalog.unnest(d.setconfig) s(setting)
    where r.rolname = session_user and $1::text[] is not null`,

  grants: `
    select 'runtime role may ' || a.privilege_type || ' on ' || n.nspname || '.' || c.relname as what,
      'revoke it: only SELECT, INSERT, UPDATE and DELETE are its business' as todo
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral pg_catalog.aclexplode(c.relacl) a
    where n.nspname = any($1) and a.privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
      and (a.grantee = 0 or a.grantee = (select oid from pg_catalog.pg_roles where rolname = session_user))
    union all
    select 'PUBLIC may ' || a.privilege_type || ' on ' || n.nspname || '.' || c.relname, 'revoke it'
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral pg_catalog.aclexplode(c.relacl) a
    where n.nspname = any($1) and a.grantee = 0
    union all
    select 'runtime role may touch ' || n.nspname || '.' || c.relname, 'revoke all on it: keys are reached by the keys role and by guard alone'
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and (n.nspname = 'keys' or (n.nspname, c.relname) = ('guard', 'caller_keys'))
      and pg_catalog.has_any_column_privilege(session_user, c.oid, 'SELECT, INSERT, UPDATE')`,

  elsewhere: `
    select 'runtime role may touch ' || n.nspname || '.' || c.relname || ', which no declaration knows' as what,
      'declare it in tables.ts, or revoke all on it: nobody asks there who is calling' as todo
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname <> all($1) and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
      and pg_catalog.has_any_column_privilege(session_user, c.oid, 'SELECT, INSERT, UPDATE')
      -- What an extension brings for everybody (pg_stat_statements) holds no data of the service.
      and not exists (select from pg_catalog.pg_depend d where d.objid = c.oid and d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype = 'e')`,

  cascades: `
    select 'foreign key ' || k.conname || ' of ' || n.nspname || '.' || c.relname || ' cascades' as what,
      'use ON DELETE/UPDATE NO ACTION: a cascade runs past the policies of the other table' as todo
    from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any($1) and k.contype = 'f' and (k.confdeltype in ('c', 'n', 'd') or k.confupdtype in ('c', 'n', 'd'))`,

  publicRights: `
    select 'PUBLIC may execute ' || n.nspname || '.' || p.proname as what, 'revoke all on function … from public' as todo
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    cross join lateral pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
    where n.nspname = any($1) and a.grantee = 0
      and not exists (select from pg_catalog.pg_depend d where d.objid = p.oid and d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.deptype = 'e')
    union all
    select 'runtime role may create in schema ' || n.nspname, 'revoke create on schema ' || n.nspname || ' from public'
    from pg_catalog.pg_namespace n where pg_catalog.has_schema_privilege(session_user, n.oid, 'CREATE') and n.nspname not like 'pg_temp%' and n.nspname not like 'pg_toast%'
    union all
    select 'runtime role may create ' || right_name || ' in the database', 'revoke temp, create on database ' || pg_catalog.current_database() || ' from public'
    from (values ('TEMP', 'temporary tables'), ('CREATE', 'schemas')) v(right_code, right_name)
    where pg_catalog.has_database_privilege(session_user, pg_catalog.current_database(), right_code)
    union all
    select 'runtime role may write functions in ' || l.lanname, 'revoke usage on language ' || l.lanname || ' from public'
    from pg_catalog.pg_language l where l.lanname not in ('internal', 'c', 'sql') and pg_catalog.has_language_privilege(session_user, l.oid, 'USAGE')`,

  settings: `
    select 'the server logs bind parameters (' || s.name || ' = ' || s.setting || ')' as what, 'set ' || s.name || ' = 0: they carry signatures and sealed values' as todo
    from pg_catalog.pg_settings s
    where s.name in ('log_parameter_max_length', 'log_parameter_max_length_on_error', 'auto_explain.log_parameter_max_length') and s.setting <> '0' and $1::text[] is not null
    union all
    select 'commits do not wait for the disk (synchronous_commit = off)', 'leave it on: a commit without an entry is acknowledged by the server''s own setting'
    from pg_catalog.pg_settings s where s.name = 'synchronous_commit' and s.reset_val = 'off'`,

  definers: `
    select n.nspname || '.' || p.proname as name, pg_catalog.pg_get_userbyid(p.proowner)::text as owner,
      coalesce(p.proconfig @> array['search_path=pg_catalog, pg_temp'], false) as pinned,
      pg_catalog.has_function_privilege(session_user, p.oid, 'EXECUTE') as for_app
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where p.prosecdef and n.nspname not in ('pg_catalog', 'information_schema') and $1::text[] is not null`,
} as const
