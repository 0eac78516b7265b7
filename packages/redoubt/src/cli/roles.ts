import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'
import { roleNames } from '../migrate.ts'
import type { RoleName } from '../migrate.ts'
import { openScriptConnection } from '../pg.ts'
import { refusalOf } from '../pg/refusal.ts'

/** The roles that sign in; owner and guard own things and never do (guarantees §5). */
export const logins = ['migrator', 'app', 'keys', 'worker', 'ingest', 'auditor', 'backup'] as const satisfies readonly RoleName[]
export type Login = (typeof logins)[number]

/**
 * Name of a role of a service in its cluster, unquoted.
 * @throws TypeError when the service name would not be a plain SQL identifier
 */
export function roleName(service: string, role: RoleName): string {
  if (!/^[a-z][a-z0-9_]{1,30}$/.test(service)) {
    throw new TypeError('roleName: service must be small letters, digits and underscores, 2 to 31 characters')
  }
  return `${service}_${role}`
}

/**
 * The SQL that an administrator runs once per cluster and database, connected to the database of the service. It may be
 * run again. It sets no password: see `passwordsSql`.
 *
 * As superuser it also closes what PUBLIC may do by default and what would let SQL injected into one transaction reach
 * the next caller of the pooled connection (guarantees §1). Elsewhere (managed servers) it does what it can and says
 * by a warning what it could not.
 * @param service prefix of the role names
 * @throws TypeError for a service name that is not a plain SQL identifier
 */
export function rolesSql(service: string): string {
  const name = (role: RoleName): string => roleName(service, role)
  const wanted = roleNames.map(
    (role) => `('${name(role)}', ${role !== 'owner' && role !== 'guard'}, ${role !== 'migrator'}, ${role === 'backup'})`,
  )
  return `-- Roles of the service "${service}", and what PUBLIC loses in its database. May be run again.
do $redoubt$
declare
  super boolean := (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user);
  wanted record;
  thing record;
  here text := pg_catalog.current_database();
begin
  for wanted in
    select * from (values
      ${wanted.join(',\n      ')}
    ) as w (name, login, inherit, bypass)
  loop
    if not exists (select from pg_catalog.pg_roles r where r.rolname = wanted.name) then
      execute pg_catalog.format('create role %I', wanted.name);
    end if;
    -- Only what differs: an idle rewrite of a cluster-wide row collides with the same script in another database.
    if exists (select from pg_catalog.pg_roles r where r.rolname = wanted.name
        and (r.rolcanlogin, r.rolinherit) is distinct from (wanted.login, wanted.inherit)) then
      execute pg_catalog.format('alter role %I %s %s', wanted.name,
        case when wanted.login then 'login' else 'nologin' end, case when wanted.inherit then 'inherit' else 'noinherit' end);
    end if;
    if super and exists (select from pg_catalog.pg_roles r where r.rolname = wanted.name
        and (r.rolsuper or r.rolcreatedb or r.rolcreaterole or r.rolreplication)) then
      execute pg_catalog.format('alter role %I nosuperuser nocreatedb nocreaterole noreplication', wanted.name);
    end if;
    if exists (select from pg_catalog.pg_roles r where r.rolname = wanted.name and r.rolbypassrls <> wanted.bypass) then
      begin
        execute pg_catalog.format('alter role %I %s', wanted.name, case when wanted.bypass then 'bypassrls' else 'nobypassrls' end);
      exception when insufficient_privilege then
        raise warning '%: BYPASSRLS could not be set, so backups need the read policies of this role', wanted.name;
      end;
    end if;
  end loop;

  -- The migrator becomes owner or guard by SET ROLE only: without it, it can read nothing.
  for thing in select * from (values ('${name('owner')}'), ('${name('guard')}')) as o (name) loop
    if not exists (select from pg_catalog.pg_auth_members m
        join pg_catalog.pg_roles o on o.oid = m.roleid join pg_catalog.pg_roles r on r.oid = m.member
        where o.rolname = thing.name and r.rolname = '${name('migrator')}') then
      execute pg_catalog.format('grant %I to ${name('migrator')}', thing.name);
    end if;
    begin
      execute pg_catalog.format('alter default privileges for role %I revoke execute on functions from public', thing.name);
    exception when insufficient_privilege then
      raise warning '%: default privileges of functions stay as they are', thing.name;
    end;
  end loop;

  execute pg_catalog.format('revoke all on database %I from public', here);
  execute pg_catalog.format('grant connect on database %I to ${logins.map(name).join(', ')}', here);
  execute pg_catalog.format('grant create on database %I to ${name('owner')}, ${name('guard')}', here);
  begin
    revoke all on schema public from public;
  exception when insufficient_privilege then
    raise warning 'schema public belongs to somebody else: revoke CREATE on it from PUBLIC';
  end;

  if not super then
    raise warning 'not a superuser: large objects, session locks and pg_terminate_backend stay open to PUBLIC';
    return;
  end if;
  -- Without USAGE nobody can run a DO block; functions that exist are not concerned.
  revoke usage on language plpgsql from public;
  grant usage on language plpgsql to ${name('owner')}, ${name('guard')};
  -- Large objects carry data past row level security, session locks outlive the transaction, and a terminated
  -- backend is somebody else's.
  for thing in
    select p.oid::pg_catalog.regprocedure as name, p.proname like '%advisory%' as lock from pg_catalog.pg_proc p
    where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace and (
      p.proname like 'lo\\_%' or p.proname in ('loread', 'lowrite', 'pg_terminate_backend', 'pg_cancel_backend')
      or (p.proname ~ '^pg_(try_)?advisory_' and p.proname not like '%xact%'))
  loop
    execute pg_catalog.format('revoke all on function %s from public', thing.name);
    if thing.lock then
      execute pg_catalog.format('grant execute on function %s to ${name('migrator')}', thing.name);
    end if;
  end loop;
  revoke update on pg_catalog.pg_settings from public;
end
$redoubt$;
`
}

/**
 * A SCRAM-SHA-256 verifier as PostgreSQL stores it (RFC 5803), made here so that the password itself reaches neither
 * the server nor its log.
 */
function verifier(password: string): string {
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password, salt, 4096, 32, 'sha256')
  const client = createHmac('sha256', salted).update('Client Key').digest()
  const stored = createHash('sha256').update(client).digest('base64')
  const server = createHmac('sha256', salted).update('Server Key').digest('base64')
  return `SCRAM-SHA-256$4096:${salt.toString('base64')}$${stored}:${server}`
}

/**
 * The SQL that gives logins their passwords; not for printing.
 * @param passwords by role, printable ASCII (anything else would need the normalisation of RFC 4013), at least 16
 * characters: they are generated, not remembered
 * @throws TypeError for a password that is shorter or not printable ASCII; it names the role, never the value
 */
export function passwordsSql(service: string, passwords: Partial<Readonly<Record<Login, string>>>): string {
  return logins
    .flatMap((login) => {
      const password = passwords[login]
      if (password === undefined) return []
      if (!/^[\x21-\x7e]{16,}$/.test(password)) {
        throw new TypeError(`passwordsSql: the password of ${login} must be at least 16 printable ASCII characters`)
      }
      return [`alter role ${roleName(service, login)} password '${verifier(password)}';\n`]
    })
    .join('')
}

/** Names of the service's roles that the server lacks. Any login may ask. @throws Refusal database_unavailable when there is no connection */
export async function missingRoles(url: string, service: string): Promise<readonly string[]> {
  const wanted = roleNames.map((role) => roleName(service, role))
  const connection = await openScriptConnection(url).catch((error: unknown) => {
    throw refusalOf(error).refusal
  })
  try {
    const rows = await connection.query<{ readonly rolname: string }>('select rolname::text from pg_catalog.pg_roles where rolname = any($1::text[])', [wanted])
    return wanted.filter((name) => !rows.some((row) => row.rolname === name))
  } finally {
    await connection.close()
  }
}
