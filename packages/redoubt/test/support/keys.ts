import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { keyId, secretKey } from '../../src/aead.ts'
import type { Event } from '../../src/events.ts'
import { openKeyring, type DataKey, type Keyring, type KeyringSettings, type KeyScope } from '../../src/keyring.ts'
import { unrecorded } from './unrecorded.ts'
import { openKeyService, type KeyService } from '../../src/kms.ts'
import { openPool } from '../../src/pg.ts'
import type { TestDatabase } from './database.ts'
import { patience } from './gate.ts'

/** A data key of given or random bytes, without a database. */
export function dataKeyOf(scope: KeyScope, bytes: Buffer = randomBytes(32)): DataKey {
  const key = secretKey(Buffer.from(bytes))
  return { id: keyId(key), key, scope }
}

/** A folder 0700 that is removed when the callback of the caller's `after` runs. */
export async function secretFolder(): Promise<{ readonly path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'redoubt-keys-'))
  return { path, remove: () => rm(path, { recursive: true, force: true }) }
}

/** A key service in front of another that counts its calls and can be made to fail or to wait. */
export type CountedService = KeyService & { readonly calls: { generate: number; wrap: number; unwrap: number }; failWith(error: Error | null): void }

export function counted(inner: KeyService): CountedService {
  const calls = { generate: 0, wrap: 0, unwrap: 0 }
  let failure: Error | null = null
  async function through<T>(name: keyof typeof calls, work: () => Promise<T>): Promise<T> {
    calls[name]++
    if (failure !== null) throw failure
    return work()
  }
  return {
    ...inner,
    calls,
    failWith: (error) => {
      failure = error
    },
    generate: (context) => through('generate', () => inner.generate(context)),
    wrap: (key, context) => through('wrap', () => inner.wrap(key, context)),
    unwrap: (wrapped, context) => through('unwrap', () => inner.unwrap(wrapped, context)),
  }
}

export type KeysWorld = {
  readonly service: CountedService
  /** File of the root key. */
  readonly root: string
  readonly events: Event[]
  /** Texts of the statements that went to the database. */
  readonly statements: string[]
  /** A keyring as another process would have it: own cache, own pool, same root. */
  keyring(more?: Partial<KeyringSettings>): Keyring
  close(): Promise<void>
}

/** A root key in a temporary folder and keyrings over a test database. */
export async function keysWorld(database: TestDatabase): Promise<KeysWorld> {
  const folder = await secretFolder()
  const service = counted(await openKeyService(`local:${folder.path}/root.key`, { production: false, create: true, dataExists: () => Promise.resolve(false) }))
  const events: Event[] = []
  const statements: string[] = []
  const pools: { close(): Promise<void> }[] = []
  return {
    service,
    root: `${folder.path}/root.key`,
    events,
    statements,
    keyring(more = {}) {
      const pool = openPool({ url: database.url('keys'), max: 4, connectTimeout: patience, emit: (event) => events.push(event) })
      pools.push(pool)
      return openKeyring({
        pool: {
          query: (statement) => {
            statements.push(statement.text)
            return pool.query(statement)
          },
        },
        service,
        realm: database.service,
        emit: (event) => events.push(event),
        usage: unrecorded,
        ...more,
      })
    },
    async close() {
      await Promise.all(pools.map((pool) => pool.close()))
      service.close()
      await folder.remove()
    },
  }
}
