import { createSecretKey, randomBytes } from 'node:crypto'
import pg from 'pg'
import { benchDatabase } from './database.ts'
import { rounds } from './rounds.ts'
import { blindIndex } from 'redoubt/seal'

/**
 * Equality on a sealed e-mail by its blind index against a plain text column, 1,000,000 rows each, HMAC included. One value
 * a version of the index key, as `where('email_bidx', 'in', await columns.lookup(…))` compiles; outside a rotation, one.
 * With the value: the sealed one is some fifty bytes longer, and twice that on the wire.
 */
const many = 1_000_000

export async function run(): Promise<void> {
  const database = await benchDatabase()
  try {
    const client = new pg.Client({ connectionString: database.adminUrl })
    await client.connect()
    await client.query('create schema search; create table search.plain (id int primary key, email text not null); create table search.sealed (id int primary key, email_enc bytea not null, email_bidx bytea not null)')
    const key = { version: 1, key: createSecretKey(randomBytes(32)), id: randomBytes(16) }
    const place = { tenant: 'therapy', table: 1, column: 2 }
    const address = (n: number): string => `person.${n}@mail-${n % 1000}.example.org`
    await client.query(`insert into search.plain select n, 'person.' || n || '@mail-' || n % 1000 || '.example.org' from generate_series(1, ${many}) n`)
    const step = 20_000
    for (let from = 1; from <= many; from += step) {
      const ids = Array.from({ length: step }, (_, i) => from + i)
      await client.query(`insert into search.sealed select i, decode(repeat('ab', 80), 'hex'), b from unnest($1::int[], $2::bytea[]) t (i, b)`, [ids, ids.map((n) => blindIndex(key, place, address(n)))])
    }
    await client.query('create unique index on search.plain (email); create unique index on search.sealed (email_bidx)')
    await client.query('vacuum analyze search.plain, search.sealed')
    const plan = await client.query<Record<string, string>>(`explain select id from search.sealed where email_bidx in ($1)`, [blindIndex(key, place, address(7))])
    process.stdout.write(`${plan.rows.map((row) => row['QUERY PLAN']).join('\n')}\n`)
    const rate = async (once: (n: number) => Promise<unknown>): Promise<number> => {
      const count = 4_000
      const started = performance.now()
      for (let i = 0; i < count; i += 1) await once(1 + Math.floor(Math.random() * many))
      return (count * 1000) / (performance.now() - started)
    }
    await rounds({
      title: `equality on an e-mail, ${many.toLocaleString('en')} rows`,
      rounds: 7,
      variants: {
        'blind index': () => rate((n) => client.query({ name: 'sealed', text: 'select id from search.sealed where email_bidx in ($1)', values: [blindIndex(key, place, address(n))] })),
        'plain column': () => rate((n) => client.query({ name: 'plain', text: 'select id from search.plain where email = $1', values: [address(n)] })),
        'blind index, value with it': () => rate((n) => client.query({ name: 'sealed_value', text: 'select id, email_enc from search.sealed where email_bidx in ($1)', values: [blindIndex(key, place, address(n))] })),
        'plain column, value with it': () => rate((n) => client.query({ name: 'plain_value', text: 'select id, email from search.plain where email = $1', values: [address(n)] })),
      },
      ratios: [['blind index', 'plain column'], ['blind index, value with it', 'plain column, value with it']],
    })
    await client.end()
  } finally {
    await database.close()
  }
}
