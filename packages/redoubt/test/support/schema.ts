import type { TestDatabase } from './database.ts'

/**
 * Each question gives one text per object, in an order that does not depend on oids or on the collation of the server.
 * $1 is the list of schemas. search_path is empty while they are asked, so that every name comes with its schema.
 * Rights on columns and defaults of system catalogues are left out where the server's version decides about them.
 */
const questions: readonly (readonly [title: string, sql: string])[] = [
  ['schemas', `
    select 'create schema ' || n.nspname || ';' || grants.text as line
    from pg_namespace n cross join lateral (
      select coalesce(string_agg(E'\\ngrant ' || g.rights || ' on schema ' || n.nspname || ' to ' || g.who || ';', '' order by g.who collate "C"), '') as text
      from (select pg_get_userbyid(a.grantee) as who, string_agg(lower(a.privilege_type), ', ' order by a.privilege_type) as rights
        from aclexplode(n.nspacl) a where a.grantee <> n.nspowner group by 1) g) grants
    where n.nspname = any($1) order by n.nspname collate "C"`],
  ['types', `
    select 'create type ' || n.nspname || '.' || t.typname || ' as (' ||
      string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum) || ');' as line
    from pg_type t join pg_namespace n on n.oid = t.typnamespace join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where n.nspname = any($1) group by n.nspname, t.typname order by n.nspname collate "C", t.typname collate "C"`],
  ['sequences', `
    select 'create sequence ' || schemaname || '.' || sequencename || ' as ' || data_type::text || ' start ' || start_value || ' increment ' || increment_by || ';' as line
    from pg_sequences where schemaname = any($1) order by schemaname collate "C", sequencename collate "C"`],
  ['tables', `
    select 'create table ' || n.nspname || '.' || c.relname || E' (\\n' || body.text || E'\\n);'
      || case when c.relrowsecurity then E'\\nalter table ' || n.nspname || '.' || c.relname || ' enable row level security;' else '' end
      || case when c.relforcerowsecurity then E'\\nalter table ' || n.nspname || '.' || c.relname || ' force row level security;' else '' end
      || E'\\nalter table ' || n.nspname || '.' || c.relname || ' owner to ' || pg_get_userbyid(c.relowner) || ';'
      || coalesce(indexes.text, '') || coalesce(triggers.text, '') || coalesce(policies.text, '') || coalesce(grants.text, '') || E'\\n' as line
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
      select string_agg(x.line, E',\\n' order by x.kind, x.at, x.line collate "C") as text from (
        select 1 as kind, a.attnum as at, '  ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
          || case when a.attgenerated = 's' then ' generated always as ' || pg_get_expr(d.adbin, d.adrelid) || ' stored'
            when a.attidentity <> '' then ' generated ' || case a.attidentity when 'a' then 'always' else 'by default' end || ' as identity'
            when d.adbin is not null then ' default ' || pg_get_expr(d.adbin, d.adrelid) else '' end
          || case when a.attnotnull then ' not null' else '' end as line
        from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        union all
        select 2, case k.contype when 'p' then 1 when 'u' then 2 when 'f' then 3 when 'x' then 4 else 5 end, '  constraint ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
        from pg_constraint k where k.conrelid = c.oid and k.contype in ('p', 'u', 'f', 'x', 'c')
      ) x) body
    left join lateral (
      select string_agg(E'\\n' || pg_get_indexdef(i.indexrelid) || ';', '' order by ic.relname collate "C") as text
      from pg_index i join pg_class ic on ic.oid = i.indexrelid
      where i.indrelid = c.oid and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))) indexes on true
    left join lateral (
      select string_agg(E'\\n' || pg_get_triggerdef(t.oid) || ';', '' order by t.tgname collate "C") as text
      from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal) triggers on true
    left join lateral (
      select string_agg(E'\\ncreate policy ' || p.polname || ' on ' || n.nspname || '.' || c.relname
        || case when p.polpermissive then '' else ' as restrictive' end
        || ' for ' || case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end
        || ' to ' || (select string_agg(case when r.role = 0 then 'public' else pg_get_userbyid(r.role)::text end, ', ' order by pg_get_userbyid(r.role)::text collate "C") from unnest(p.polroles) as r(role))
        || coalesce(E'\\n  using (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
        || coalesce(E'\\n  with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '') || ';', '' order by p.polname collate "C") as text
      from pg_policy p where p.polrelid = c.oid) policies on true
    left join lateral (
      select string_agg(E'\\ngrant ' || g.rights || ' on ' || n.nspname || '.' || c.relname || ' to ' || g.who || ';', '' order by g.who collate "C", g.rights collate "C") as text
      from (
        select pg_get_userbyid(a.grantee)::text as who, string_agg(lower(a.privilege_type), ', ' order by a.privilege_type collate "C") as rights
        from aclexplode(c.relacl) a where a.grantee <> c.relowner group by 1
        union all
        select case when a.grantee = 0 then 'public' else pg_get_userbyid(a.grantee)::text end,
          lower(a.privilege_type) || ' (' || string_agg(t.attname, ', ' order by t.attnum) || ')'
        from pg_attribute t cross join lateral aclexplode(t.attacl) a where t.attrelid = c.oid and t.attnum > 0 group by a.grantee, a.privilege_type
      ) g) grants on true
    where n.nspname = any($1) and c.relkind in ('r', 'p')
    order by n.nspname collate "C", c.relname collate "C"`],
  ['views', `
    select 'create view ' || n.nspname || '.' || c.relname || coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', '') || E' as\\n' || pg_get_viewdef(c.oid, true) || E'\\n' as line
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = any($1) and c.relkind in ('v', 'm')
    order by n.nspname collate "C", c.relname collate "C"`],
  ['functions', `
    select rtrim(pg_get_functiondef(p.oid), E'\\n') || E';\\nalter function ' || s.signature || ' owner to ' || pg_get_userbyid(p.proowner) || ';'
      || coalesce((select string_agg(E'\\ngrant execute on function ' || s.signature || ' to ' || case when a.grantee = 0 then 'public' else pg_get_userbyid(a.grantee)::text end || ';', '' order by pg_get_userbyid(a.grantee)::text collate "C")
        from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee <> p.proowner), '') || E'\\n' as line
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    cross join lateral (select n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' as signature) s
    where n.nspname = any($1) and p.prokind in ('f', 'p')
      and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
    order by n.nspname collate "C", p.proname collate "C", s.signature collate "C"`],
]

/** The objects of one kind, each as the text that would make it. */
export type SchemaPart = { readonly title: string; readonly objects: readonly string[] }

/**
 * The schemas of a database as the catalogue tells them, the same on every supported version of PostgreSQL. Role names
 * are written as the migrations write them, so that the text does not depend on the service.
 * @param database its own connection as administrator is used
 */
export async function schemaOf(database: TestDatabase, schemas: readonly string[]): Promise<readonly SchemaPart[]> {
  const neutral = (text: string): string =>
    text
      .replaceAll(new RegExp(`"?\\b${database.service}_(owner|guard|migrator|app|keys|worker|ingest|auditor|backup)\\b"?`, 'g'), '{$1}')
      .replaceAll(new RegExp(`\\b${database.service}\\b`, 'g'), '{service}')
      .replaceAll(/[ \t]+$/gm, '')
  const parts: SchemaPart[] = []
  await database.admin(`select pg_catalog.set_config('search_path', '', false)`)
  try {
    for (const [title, sql] of questions) {
      const rows = await database.admin<{ line: string }>(sql, [schemas])
      parts.push({ title, objects: rows.map(({ line }) => neutral(line)) })
    }
  } finally {
    await database.admin('reset search_path')
  }
  return parts
}

/** The parts as one text. @param without objects that stand elsewhere already, letter for letter */
export function schemaText(parts: readonly SchemaPart[], without: readonly SchemaPart[] = []): string {
  const known = new Set(without.flatMap(({ objects }) => objects))
  return parts
    .map(({ title, objects }) => ({ title, objects: objects.filter((object) => !known.has(object)) }))
    .filter(({ objects }) => objects.length > 0)
    .map(({ title, objects }) => `-- ${title}\n\n${objects.join('\n')}\n`)
    .join('\n')
    .replaceAll(/\n{3,}/g, '\n\n')
}
