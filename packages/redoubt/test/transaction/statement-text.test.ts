import assert from 'node:assert/strict'
import { test } from 'node:test'
import { factsOf, keepsSettings, mustGiveRow } from '../../src/transaction/statement-text.ts'

test('what a sound app sends is sound, whatever it reads', () => {
  for (const text of [
    'select 1', 'SELECT "id" FROM "app"."notes"', ' (select 1) union (select 2)', 'with a as (select 1) select * from a', 'values (1)', 'insert into app.notes (body) values ($1)',
    'update app.notes set body = $1', 'delete from app.notes', 'merge into app.notes n using (values (1)) v (id) on n.id = v.id when matched then delete', 'select current_setting($1)', `select u & 1, 'set config' from app.notes u`,
  ]) assert.ok(factsOf(text).sound, text)
})

test('commands, and queries that can change a setting, are not', () => {
  for (const text of ['', 'commit', 'set x = 1', 'do $$ begin end $$', 'explain select 1', 'copy a to stdout', 'select set_config($1, $2, true)', 'select SET_CONFIG($1, $2, true)', 'select U&"set\\005fconfig"($1, $2, true)', 'select ts_stat($1)']) {
    assert.ok(!factsOf(text).sound, text)
  }
})

test('columns alone, of a relation by its full name, are its rows', () => {
  for (const text of [
    'select id from app.notes', 'SELECT "id", "body" FROM "app"."notes" AS "n" WHERE ("id" = $1 or "at" > $2) and not ("id" in ($3, $4)) order by "id" desc limit $5', 'select * from app.notes n where id = any($1) order by id limit $2',
    'select distinct id::text as id\n from app.notes for update', 'select from app.notes', 'select id from app.notes for no key update',
  ]) assert.ok(factsOf(text).rows, text)
})

test('what can give a row of its own is not taken for them', () => {
  for (const text of [
    'select 1', 'select count(*) from app.notes', 'select "count"(*) from app.notes', 'select 1 as one from app.notes order by count(*)', 'select 1 as one from app.notes having true', 'select 1 as one from app.notes order by max/**/(id)',
    `select 'x from app.notes'`, 'select 1 as " from app.notes "', 'select 1 -- from app.notes', 'select 1 /* from app.notes */', 'select c.relname from pg_class c where c.oid is distinct from c.relnamespace', 'select x from y where a is distinct from b.c',
    'select id from app.notes union all select 1', 'select v.x from (values (1)) v left join app.notes n on true', 'select x from app.notes n right join (values (1)) v (x) on true', 'select version from redoubt.schema_migrations', 'select relname from pg_catalog.pg_class',
    'select n from app.numbers(1) n', 'select n from app.numbers (1) n', 'select actor from guard.actor/**/()', 'select id from app.notes limit (select count(*) from pg_class)', 'select n.id, x.v from app.notes n cross join lateral (select version() as v) x', 'select id, body from notes',
  ]) assert.ok(!factsOf(text).rows, text)
})

test('attack: a call without parentheses, or a second query, in what looks like columns of a table', () => {
  for (const text of [
    // A cast to a domain runs its CHECK, one to a type of the app its input function.
    'select body::app.sneaky from app.notes', 'select body::sneaky from app.notes', 'select id from app.notes where body = $$x$$::app.sneaky', 'select id from app.notes where body = $x$y$x$', 'select body::text.sneaky from app.notes', 'select body::textual from app.notes',
    // Attribute notation: a function of one argument, called with the row.
    'select n.count from app.notes n', 'select "n"."json_agg" from app.notes n', 'select id from app.notes n where n.sneaky', 'select a.id, b.id from app.notes a join app.other b on b.id = a.id',
    // Another FROM than the first, and spaces that are letters to the server.
    'select c.relname, c.oid is distinct from c.relnamespace from pg_catalog.pg_class c', 'select relname is distinct from app.notes from pg_catalog.pg_class', 'select from\u00a0app.relname from pg_catalog.pg_class from\u00a0app', 'select id from app.notes where x = (select y from z)',
    'select id from app.notes) insert into app.notes as " in"(body', 'select id from app.notes returning id', 'with q as (select id from app.notes) select id from q',
  ]) {
    for (const each of [text, mustGiveRow(text)]) assert.deepEqual({ rows: factsOf(each).rows, keeps: keepsSettings(each) }, { rows: false, keeps: false }, each)
  }
  for (const text of ['select current_user union all select evtname from guard.code_account($1)', 'select a except select tenant from guard.code_account($1)', 'select a b from guard.x()']) {
    assert.deepEqual({ guarded: factsOf(text).guarded, keeps: keepsSettings(text) }, { guarded: false, keeps: false }, text)
  }
})

test('attack: a query that must be found and writes is none that a sound app sends', () => {
  for (const text of ['select id from app.notes where body = $1) insert into app.notes as " in"(owner, body', 'select id from app.notes) update app.notes set body = (select $1', 'select id from app.notes) delete from app.notes where (true']) {
    assert.ok(!factsOf(mustGiveRow(text)).sound, text)
  }
  for (const text of ['select id from app.notes for update', 'select id from app.notes for no key update of notes']) assert.ok(factsOf(mustGiveRow(text)).sound, text)
})

test('a long text that is none of them is read at once: columns and parameters are cut into no parts', () => {
  const columns = Array.from({ length: 200 }, (_, n) => `a_column_with_a_rather_long_name_${n}`).join(', ')
  const parameters = Array.from({ length: 500 }, (_, n) => `$${n + 10}`).join(', ')
  // Cut into parts, any of these takes longer than the world has been there.
  for (const text of [`select ${columns} from app.notes a join app.other b on true`, `select ${columns}`, `select ${columns} from app.notes where id in (${parameters}) and kind = 'x'`, `insert into app.notes values (${parameters}) on conflict do update set a = 'x'`]) {
    assert.deepEqual({ rows: factsOf(text).rows, keeps: keepsSettings(text) }, { rows: false, keeps: false })
  }
  assert.ok(factsOf(`select ${columns} from app.notes where id in (${parameters})`).rows)
})

test('one call of a function of the guard is its own, but for those that ask nobody', () => {
  assert.ok(factsOf('select id, role from guard.sign_in_lookup($1, $2)').guarded)
  for (const text of ['select actor from guard.actor()', 'select role from guard.caller()', 'select hold_keys from guard.hold_keys($1)', 'select id from guard.sign_in_lookup($1), guard.other()', 'select id from guard.x($1) where true']) assert.ok(!factsOf(text).guarded, text)
})

test('attack: settings are given back behind every statement that calls a function of its own', () => {
  const calm = ['select id, body from app.notes where id = $1', 'select id, role from guard.sign_in_lookup($1, $2)', 'select guard.actor()', mustGiveRow('select id from app.notes where id = $1')]
  for (const text of calm) assert.ok(keepsSettings(text), text)
  for (const text of [
    `select id from app.notes where set_config('datestyle', 'x', false) is null`, 'select count(*) from app.notes', 'select app.sneaky()', 'select n.* from app.sneaky() n',
    'insert into app.notes (id) values ($1)', 'update app.notes set body = $1', 'select id from app.notes where app.sneaky(id)', `select 'x'::app.sneaky from app.notes`,
    // guard.finish() gives settings back, those of a shared session too.
    'select guard.finish($1)', 'select x from guard.finish($1)', mustGiveRow('select app.sneaky()'), `${mustGiveRow('select id from app.notes')} where app.sneaky()`, mustGiveRow('select id from app.notes) select app.sneaky() from (select 1'),
  ]) assert.ok(!keepsSettings(text), text)
})
