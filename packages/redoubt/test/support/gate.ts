import type { Event } from '../../src/events.ts'
import { openPool, type Pool, type PoolSettings } from '../../src/pg.ts'
import { kernelRetention } from '../../src/tables/kernel.ts'
import type { Gate } from '../../src/transaction.ts'
import { openSigner, type Signer } from '../../src/transaction/signer.ts'
import type { TestDatabase } from './database.ts'
import { wayTo } from './way.ts'

/** Actions of the tests: one that leaves an entry, one that does not. */
export const testActions = {
  'test.read': { audited: true, purpose: 'test' },
  'test.write': { audited: true, purpose: 'test', keep: 'change' },
  'test.look': { audited: false },
} as const

/** Milliseconds to wait for a connection: on a machine that runs other suites too, the 5 seconds of a service can be short. */
export const patience = 30_000

export type TestGate = {
  readonly gate: Gate<typeof testActions>
  readonly pool: Pool
  readonly signer: Signer
  readonly events: Event[]
  close(): Promise<void>
}

/**
 * A gate over a test database, as a process of the service opens it.
 * @param settings.url another way to the same database, for example through a pooler
 */
export async function openTestGate(database: TestDatabase, settings: Partial<Omit<PoolSettings, 'emit'>> = {}): Promise<TestGate> {
  const events: Event[] = []
  const emit = (event: Event): void => void events.push(event)
  const { url, namedStatements, close } = await wayTo(database)
  const keys = openPool({ url: url('keys'), max: 1, connectTimeout: patience, namedStatements, emit })
  const signer = await openSigner(keys, database.service)
  const pool = openPool({ url: url('app'), max: 4, connectTimeout: patience, namedStatements, emit, ...settings })
  return {
    gate: { pool, signer, actions: testActions, retention: kernelRetention, personal: undefined, emit },
    pool,
    signer,
    events,
    async close() {
      await pool.close()
      await signer.close()
      await keys.close()
      await close()
    },
  }
}
