import {
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  DummyDriver,
} from 'kysely'
import type { Database, Tables } from '../tables.ts'

/**
 * A Kysely that can only compile: its driver executes nothing, so a query reaches the database through a `Tx` alone.
 * Column names and types come from the declaration; what is not classified does not compile.
 */
export function queryBuilder<D extends Tables>(): Kysely<Database<D>> {
  return new Kysely<Database<D>>({
    dialect: {
      createAdapter: () => new PostgresAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new PostgresIntrospector(db),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    },
  })
}
