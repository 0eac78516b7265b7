import { openKeyring } from '../../../src/keyring.ts'
import { unrecorded } from '../../support/unrecorded.ts'
import { openKeyService } from '../../../src/kms.ts'
import { openPool } from '../../../src/pg.ts'
import { runJobs, type Kind } from '../../../src/reencrypt.ts'
import type { LegacyForm } from '../../../src/tables.ts'
import { oldSecrets, shopTables } from '../../support/reencrypt.ts'

/** A process of its own that works on a job, to be killed at any moment. */
const { service, migrator, keys, root, kind, forms } = JSON.parse(process.argv[2] ?? '{}') as { service: string; migrator: string; keys: string; root: string; kind: Kind; forms: readonly LegacyForm[] }
const emit = (): void => undefined
const pool = openPool({ url: migrator, max: 3, statementTimeout: 60_000, emit })
const keysPool = openPool({ url: keys, max: 2, emit })
const keyService = await openKeyService(`local:${root}`, { production: false })
const keyring = openKeyring({ pool: keysPool, service: keyService, realm: service, emit, usage: unrecorded })
process.send?.('working')
const [result] = await runJobs({ tables: shopTables(service, forms), pool, keysPool, keyring, secrets: (name) => oldSecrets[name] ?? '', emit, leaseSeconds: 2 }, kind)
process.send?.(result)
await pool.close()
await keysPool.close()
process.disconnect()
